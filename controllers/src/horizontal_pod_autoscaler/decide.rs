//! What to do about an autoscaler: no clock, no I/O.

use std::sync::Arc;

use client::EventType;
use manifests::k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::quantity::Quantity;

use super::limits::{Bounds, History, Limited};
use super::observe::{Metrics, NotFetched};
use super::usage::{Answer, Question, Tolerances};

/// What there is to know.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) autoscaler: Arc<HorizontalPodAutoscaler>,
    pub(super) target: Target,
}

/// What is scaled.
#[derive(Debug)]
pub(super) enum Target {
    /// Its scale cannot be read, and why.
    Unreachable(String),
    Found {
        /// Wanted by its spec.
        replicas: i32,
        pods: Pods,
    },
}

/// The pods of the target.
#[derive(Debug)]
pub(super) enum Pods {
    /// The scale says nothing of them.
    NoSelector,
    /// What it says cannot be read, and why.
    BadSelector(String),
    /// Other autoscalers act on them, too.
    Ambiguous {
        selector: String,
        autoscalers: Vec<String>,
    },
    Selected {
        pods: Vec<Arc<Pod>>,
        metrics: Result<Metrics, NotFetched>,
    },
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// So many replicas instead of those that there are, and why.
    pub(super) rescale: Option<(i32, String)>,
}

impl Plan {
    fn warn(&mut self, reason: &'static str, message: &str) {
        self.events.push((EventType::Warning, reason, message.to_owned()));
    }

    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
        let conditions = self.status.conditions.get_or_insert_default();
        let status = if holds { "True" } else { "False" };
        let index = conditions.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
            let new = HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() };
            conditions.push(new);
            conditions.len() - 1
        });
        let condition = &mut conditions[index];
        if condition.status != status {
            condition.last_transition_time = Some(Time(now));
        }
        status.clone_into(&mut condition.status);
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.to_owned());
    }

    /// The target was told; or was not, and why.
    pub(super) fn rescaled(&mut self, replicas: i32, why: &str, failure: Option<&str>, now: Timestamp) {
        match failure {
            None => {
                let message = format!("the HPA controller was able to update the target scale to {replicas}");
                self.condition("AbleToScale", true, "SucceededRescale", &message, now);
                let message = format!("New size: {replicas}; reason: {why}");
                self.events.push((EventType::Normal, "SuccessfulRescale", message));
                self.status.desired_replicas = replicas;
                self.status.last_scale_time = Some(Time(now));
            }
            Some(error) => {
                self.warn("FailedRescale", &format!("New size: {replicas}; reason: {why}; error: {error}"));
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                self.condition("AbleToScale", false, "FailedUpdateScale", &message, now);
            }
        }
    }
}

pub(super) fn bounds(autoscaler: &HorizontalPodAutoscaler, current: i32) -> Bounds<'_> {
    let spec = &autoscaler.spec;
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    Bounds { current, min, max, behavior: spec.behavior.as_ref() }
}

pub(super) fn decide(observed: &Observed, history: &mut History, now: Timestamp) -> Plan {
    let autoscaler = &observed.autoscaler;
    let before = autoscaler.status.clone().unwrap_or_default();
    let mut plan = Plan { status: before, ..Plan::default() };
    let (current, pods) = match &observed.target {
        Target::Unreachable(why) => {
            plan.warn("FailedGetScale", why);
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            plan.condition("AbleToScale", false, "FailedGetScale", &message, now);
            return plan;
        }
        Target::Found { replicas, pods } => (*replicas, pods),
    };
    let message = "the HPA controller was able to get the target's current scale";
    plan.condition("AbleToScale", true, "SucceededGetScale", message, now);
    history.begin(current, now);
    plan.status.current_replicas = Some(current);
    let bounds = bounds(autoscaler, current);

    let wanted = if current == 0 && bounds.min != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        plan.condition("ScalingActive", false, "ScalingDisabled", message, now);
        plan.status.current_metrics = None;
        None
    } else if current > bounds.max {
        plan.status.current_metrics = None;
        Some((bounds.max, "Current number of replicas above Spec.MaxReplicas".to_owned()))
    } else if current < bounds.min {
        plan.status.current_metrics = None;
        Some((bounds.min, "Current number of replicas below Spec.MinReplicas".to_owned()))
    } else {
        let Some((asked, metric)) = ask(autoscaler, current, pods, &mut plan, now) else { return plan };
        let why = match asked {
            asked if asked > current => format!("{metric} above target"),
            _ => "All metrics below target".to_owned(),
        };
        let Limited { replicas, able, limited, why: limit } = history.limit(&bounds, asked, now);
        plan.condition("AbleToScale", true, able.0, able.1, now);
        plan.condition("ScalingLimited", limited, limit.0, limit.1, now);
        (replicas != current).then_some((replicas, why))
    };
    plan.status.desired_replicas = current;
    plan.rescale = wanted;
    plan
}

/// Asks all metrics; the greatest number of replicas and the metric that asks for it. None when nothing can be done.
fn ask(
    autoscaler: &HorizontalPodAutoscaler,
    current: i32,
    pods: &Pods,
    plan: &mut Plan,
    now: Timestamp,
) -> Option<(i32, String)> {
    let specs = autoscaler.spec.metrics.as_deref().unwrap_or_default();
    let (pods, metrics) = match pods {
        Pods::Selected { pods, metrics } => (pods, metrics),
        Pods::NoSelector => {
            let why = "selector is required";
            plan.warn("SelectorRequired", why);
            let message = "the HPA target's scale is missing a selector";
            plan.condition("ScalingActive", false, "InvalidSelector", message, now);
            plan.warn("FailedComputeMetricsReplicas", why);
            return None;
        }
        Pods::BadSelector(why) => {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {why}");
            plan.warn("InvalidSelector", &why);
            plan.condition("ScalingActive", false, "InvalidSelector", &why, now);
            plan.warn("FailedComputeMetricsReplicas", &why);
            return None;
        }
        Pods::Ambiguous { selector, autoscalers } => {
            let all = autoscalers.join(" ");
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
            plan.warn("AmbiguousSelector", &why);
            plan.condition("ScalingActive", false, "AmbiguousSelector", &why, now);
            plan.warn("FailedComputeMetricsReplicas", &why);
            return None;
        }
    };
    let tolerances = tolerances(autoscaler);
    let mut statuses = Vec::new();
    let (mut best, mut first_failure, mut failures): (Option<(i32, String)>, Option<Failure>, usize) =
        (None, None, 0);
    for spec in specs {
        match ask_one(spec, metrics, pods, current, tolerances, now) {
            Ok((replicas, name, status)) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                    best = Some((replicas, name));
                }
            }
            Err(failure) => {
                plan.warn(failure.reason, &failure.why);
                failures += 1;
                first_failure.get_or_insert(failure);
            }
        }
    }
    // Nobody says that there is too much as long as one metric does not say anything.
    plan.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
    let enough = best.filter(|(replicas, _)| failures == 0 || *replicas >= current);
    if let Some(Failure { reason, why, metric }) = &first_failure {
        if enough.is_none() {
            let message = format!("the HPA was unable to compute the replica count: {why}");
            plan.condition("ScalingActive", false, reason, &message, now);
        }
        let all = specs.len();
        let why = format!(
            "invalid metrics ({failures} invalid out of {all}), first error is: failed to get {metric}: {why}"
        );
        if enough.is_none() {
            plan.warn("FailedComputeMetricsReplicas", &why);
        }
    }
    let (replicas, metric) = enough?;
    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
    plan.condition("ScalingActive", true, "ValidMetricFound", &message, now);
    Some((replicas, metric))
}

/// Why a metric says nothing.
struct Failure {
    /// Of the condition and the event.
    reason: &'static str,
    why: String,
    /// In the words of the sum of all failures.
    metric: String,
}

/// The replicas that one metric asks for, its name, and what it shows.
fn ask_one(
    spec: &MetricSpec,
    metrics: &Result<Metrics, NotFetched>,
    pods: &[Arc<Pod>],
    replicas: i32,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<(i32, String, MetricStatus), Failure> {
    let no_api = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    match (spec.type_.as_str(), &spec.resource, &spec.container_resource) {
        ("Resource", Some(source), _) => {
            let fail = |why| Failure {
                reason: "FailedGetResourceMetric",
                why,
                metric: format!("{} resource metric value", source.name),
            };
            let question =
                Question { resource: &source.name, container: "", pods, replicas, tolerances, now };
            let (answer, utilization) = of_resource(&question, &source.target, metrics).map_err(fail)?;
            let status = ResourceMetricStatus { name: source.name.clone(), current: value(&answer) };
            let name = match utilization {
                true => format!("{} resource utilization (percentage of request)", source.name),
                false => format!("{} resource", source.name),
            };
            let status =
                MetricStatus { type_: spec.type_.clone(), resource: Some(status), ..Default::default() };
            Ok((answer.replicas, name, status))
        }
        ("ContainerResource", _, Some(source)) => {
            let fail = |why| Failure {
                reason: "FailedGetContainerResourceMetric",
                why,
                metric: format!("{} container metric value", source.name),
            };
            let container = source.container.as_str();
            let question = Question { resource: &source.name, container, pods, replicas, tolerances, now };
            let (answer, utilization) = of_resource(&question, &source.target, metrics).map_err(fail)?;
            let status = ContainerResourceMetricStatus {
                container: source.container.clone(),
                name: source.name.clone(),
                current: value(&answer),
            };
            let name = match utilization {
                true => format!("{} container resource utilization (percentage of request)", source.name),
                false => format!("{} container resource", source.name),
            };
            let status = MetricStatus {
                type_: spec.type_.clone(),
                container_resource: Some(status),
                ..Default::default()
            };
            Ok((answer.replicas, name, status))
        }
        ("Pods", ..) => {
            let name = spec.pods.as_ref().map(|pods| pods.metric.name.as_str()).unwrap_or_default();
            let why = format!("unable to get metric {name}: {no_api}");
            Err(Failure { reason: "FailedGetPodsMetric", why, metric: "pods metric value".to_owned() })
        }
        ("Object", ..) => {
            let name = spec.object.as_ref().map(|object| object.metric.name.as_str()).unwrap_or_default();
            let why = format!("unable to get metric {name}: {no_api}");
            Err(Failure { reason: "FailedGetObjectMetric", why, metric: "object metric value".to_owned() })
        }
        ("External", ..) => {
            let name = spec.external.as_ref().map(|source| source.metric.name.as_str()).unwrap_or_default();
            let why = format!(
                "unable to get external metric {name}: unable to fetch metrics from external metrics API: the server \
                 could not find the requested resource (get {name}.external.metrics.k8s.io)"
            );
            let metric = format!("{name} external metric value");
            Err(Failure { reason: "FailedGetExternalMetric", why, metric })
        }
        (other, ..) => Err(Failure {
            reason: "InvalidMetricSourceType",
            why: format!("unknown metric source type {}", manifests::go::quote(other)),
            metric: "metric".to_owned(),
        }),
    }
}

/// What a resource asks for, and whether the target is a percentage of what is requested.
fn of_resource(
    question: &Question<'_>,
    target: &MetricTarget,
    metrics: &Result<Metrics, NotFetched>,
) -> Result<(Answer, bool), String> {
    let resource = question.resource;
    let samples = || {
        let samples = match metrics {
            Ok(metrics) => metrics.samples(resource, question.container),
            Err(NotFetched(why)) => Err(why.clone()),
        };
        samples.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))
    };
    if let Some(average) = &target.average_value {
        let answer = samples()
            .and_then(|samples| question.for_average(&samples, Quantity::of(average).milli()))
            .map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        return Ok((answer, false));
    }
    let Some(percent) = target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
    };
    let answer = samples()
        .and_then(|samples| question.for_utilization(&samples, percent))
        .map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
    Ok((answer, true))
}

fn value(answer: &Answer) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: answer.utilization,
        average_value: Some(Quantity::from_milli(answer.average).into()),
        value: None,
    }
}

fn tolerances(autoscaler: &HorizontalPodAutoscaler) -> Tolerances {
    let default = Tolerances::default();
    let behavior = autoscaler.spec.behavior.as_ref();
    let of = |rules: Option<&HPAScalingRules>, default| {
        let tolerance = rules.and_then(|rules| rules.tolerance.as_ref());
        tolerance.map_or(default, |tolerance| Quantity::of(tolerance).to_f64())
    };
    Tolerances {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref()), default.up),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref()), default.down),
    }
}
