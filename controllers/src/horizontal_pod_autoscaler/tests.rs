//! Decisions about autoscalers, in tables.

use std::sync::Arc;

use manifests::k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testkit::pod;

use super::decide::{Observed, Plan, Pods, Target, decide};
use super::limits::{Bounds, History};
use super::observe::{Metrics, NotFetched};
use super::usage::{Question, Sample, Samples, Tolerances};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn now() -> Timestamp {
    "2024-06-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

/// A pod that has been ready for an hour, and requests a tenth of a core.
fn ready(name: &str) -> Pod {
    pod(name)
        .label("app", "web")
        .phase("Running")
        .request("cpu", "100m")
        .with(|pod| since(pod, "True", 3600, 3600))
        .build()
}

/// How long ago it started, and since when it is ready or not.
fn since(pod: &mut Pod, ready: &str, started: i64, changed: i64) {
    let status = pod.status.get_or_insert_default();
    status.start_time = Some(Time(ago(started)));
    status.conditions = Some(vec![manifests::k8s_openapi::api::core::v1::PodCondition {
        type_: "Ready".to_owned(),
        status: ready.to_owned(),
        last_transition_time: Some(Time(ago(changed))),
        ..Default::default()
    }]);
}

fn samples(all: &[(&str, i64)]) -> Samples {
    let sample = |value| Sample { value, at: now(), window: SignedDuration::from_secs(15) };
    all.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
}

fn pods(all: Vec<Pod>) -> Vec<Arc<Pod>> {
    all.into_iter().map(Arc::new).collect()
}

/// The replicas that a target of 50 percent of the CPU asks for.
#[track_caller]
fn asks(pods: &[Arc<Pod>], replicas: i32, used: &[(&str, i64)], expected: Result<i32, &str>) {
    let question = Question {
        resource: "cpu",
        container: "",
        pods,
        replicas,
        tolerances: Tolerances::default(),
        now: now(),
    };
    let answer = question.for_utilization(&samples(used), 50).map(|answer| answer.replicas);
    assert_eq!(answer, expected.map_err(str::to_owned));
}

#[test]
fn what_pods_use_asks_for_replicas() {
    let two = pods(vec![ready("a"), ready("b")]);
    asks(&two, 2, &[("a", 100), ("b", 100)], Ok(4));
    asks(&two, 2, &[("a", 60), ("b", 41)], Ok(2)); // 50 %
    asks(&two, 2, &[("a", 55), ("b", 55)], Ok(2)); // within the tolerance
    asks(&two, 2, &[("a", 56), ("b", 56)], Ok(3));
    asks(&two, 2, &[("a", 20), ("b", 20)], Ok(1));
    asks(&two, 2, &[("a", 0), ("b", 0)], Ok(0));
    asks(&[], 2, &[("a", 100)], Err("no pods returned by selector while calculating replica count"));
    asks(&two, 2, &[], Err("did not receive metrics for any ready pods"));
    asks(&two, 2, &[("x", 100)], Err("no metrics returned matched known pods"));
    let none = pods(vec![pod("a").phase("Running").with(|pod| since(pod, "True", 3600, 3600)).build()]);
    asks(&none, 1, &[("a", 1)], Err("missing request for cpu in container main of Pod a"));
}

#[test]
fn pods_of_which_nothing_is_known() {
    // Growing, they are taken for idle; shrinking, for busy.
    let three = pods(vec![ready("a"), ready("b"), ready("c")]);
    asks(&three, 3, &[("a", 100), ("b", 100)], Ok(4)); // 200 of 300: 66 %
    asks(&three, 3, &[("a", 60), ("b", 60)], Ok(3)); // 120 of 300 would turn round
    asks(&three, 3, &[("a", 10), ("b", 10)], Ok(3)); // 120 of 300: 40 %, three times 0.8
    asks(&three, 3, &[("a", 0), ("b", 0)], Ok(2)); // 100 of 300: 33 %
    // Those that end do not count.
    let ending =
        pods(vec![ready("a"), pod("b").request("cpu", "100m").phase("Running").terminating().build()]);
    asks(&ending, 2, &[("a", 100)], Ok(2));
}

#[test]
fn pods_that_have_just_started() {
    let young = |name: &str, state: &'static str, started, changed| {
        pod(name)
            .request("cpu", "100m")
            .phase("Running")
            .with(move |pod| since(pod, state, started, changed))
            .build()
    };
    let check = |other: Pod, expected| {
        asks(&pods(vec![ready("a"), other]), 2, &[("a", 100), ("b", 100)], Ok(expected));
    };
    // What is ignored counts as idle when replicas are to grow: 100 of 200 is just right.
    check(young("b", "False", 60, 60), 2);
    check(young("b", "True", 60, 5), 2); // not a whole window since it is ready
    check(young("b", "True", 60, 30), 4);
    check(young("b", "False", 600, 590), 2); // never ready
    check(young("b", "False", 600, 100), 4); // it was ready
    check(pod("b").request("cpu", "100m").phase("Pending").build(), 2);
    // Memory is used from the start.
    let both = pods(vec![ready("a"), young("b", "False", 60, 60)]);
    let question = Question {
        resource: "memory",
        container: "",
        pods: &both,
        replicas: 2,
        tolerances: Tolerances::default(),
        now: now(),
    };
    assert_eq!(question.for_average(&samples(&[("a", 100), ("b", 100)]), 50).unwrap().replicas, 4);
}

fn autoscaler(spec: Value) -> Arc<HorizontalPodAutoscaler> {
    let mut whole = json!({"metadata": {"name": "h", "namespace": "default"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
    }});
    for (name, value) in spec.as_object().unwrap() {
        whole["spec"][name] = value.clone();
    }
    Arc::new(serde_json::from_value(whole).unwrap())
}

/// Two pods that use so much of a tenth of a core.
fn two_that_use(millis: i64) -> Pods {
    let item = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "default"}, "timestamp": now().to_string(), "window": "15.000s",
            "containers": [{"name": "main", "usage": {"cpu": format!("{}n", millis * 1_000_000), "memory": "1Mi"}}]})
    };
    let metrics = Ok(Metrics::of(json!({"items": [item("a"), item("b")]})));
    Pods::Selected { pods: pods(vec![ready("a"), ready("b")]), metrics }
}

fn plan(spec: Value, replicas: i32, pods: Pods) -> Plan {
    let observed = Observed { autoscaler: autoscaler(spec), target: Target::Found { replicas, pods } };
    decide(&observed, &mut History::default(), now())
}

/// Conditions as `Type Status Reason`.
fn conditions(plan: &Plan) -> Vec<String> {
    let all = plan.status.conditions.iter().flatten();
    all.map(|one| format!("{} {} {}", one.type_, one.status, one.reason.as_deref().unwrap_or_default()))
        .collect()
}

#[test]
fn growing() {
    let mut plan = plan(json!({}), 2, two_that_use(100));
    assert_eq!(
        plan.rescale,
        Some((4, "cpu resource utilization (percentage of request) above target".to_owned()))
    );
    assert_eq!(
        conditions(&plan),
        [
            "AbleToScale True ReadyForNewScale",
            "ScalingActive True ValidMetricFound",
            "ScalingLimited False DesiredWithinRange"
        ]
    );
    let metric = &plan.status.current_metrics.as_ref().unwrap()[0].resource.as_ref().unwrap().current;
    assert_eq!(metric.average_utilization, Some(100));
    assert_eq!(metric.average_value.as_ref().unwrap().0, "100m");
    plan.rescaled(4, "x", None, now());
    assert_eq!((plan.status.current_replicas, plan.status.desired_replicas), (Some(2), 4));
    assert_eq!(plan.events.last().unwrap().2, "New size: 4; reason: x");
    assert_eq!(conditions(&plan)[0], "AbleToScale True SucceededRescale");
}

#[test]
fn bounds_come_first() {
    let out_of = plan(json!({"maxReplicas": 3}), 5, Pods::NoSelector);
    assert_eq!(out_of.rescale, Some((3, "Current number of replicas above Spec.MaxReplicas".to_owned())));
    let below = plan(json!({"minReplicas": 3}), 2, Pods::NoSelector);
    assert_eq!(below.rescale, Some((3, "Current number of replicas below Spec.MinReplicas".to_owned())));
    let off = plan(json!({}), 0, Pods::NoSelector);
    assert_eq!(off.rescale, None);
    assert_eq!(conditions(&off)[1], "ScalingActive False ScalingDisabled");
    let capped = plan(json!({"maxReplicas": 3}), 2, two_that_use(100));
    assert_eq!(capped.rescale.as_ref().map(|(replicas, _)| *replicas), Some(3));
    assert_eq!(conditions(&capped)[2], "ScalingLimited True TooManyReplicas");
}

#[test]
fn what_cannot_be_measured() {
    let check = |pods: Pods, condition: &str, last: &str| {
        let plan = plan(json!({}), 2, pods);
        assert_eq!(plan.rescale, None);
        assert_eq!(conditions(&plan)[1], condition);
        let (_, reason, message) = plan.events.last().unwrap();
        assert_eq!((*reason, message.as_str()), ("FailedComputeMetricsReplicas", last));
    };
    let lost = Err(NotFetched("no metrics returned from resource metrics API".to_owned()));
    check(
        Pods::Selected { pods: pods(vec![ready("a")]), metrics: lost },
        "ScalingActive False FailedGetResourceMetric",
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu \
         utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
    );
    check(Pods::NoSelector, "ScalingActive False InvalidSelector", "selector is required");
    check(
        Pods::Ambiguous {
            selector: "app=web".to_owned(),
            autoscalers: vec!["n/a".to_owned(), "n/b".to_owned()],
        },
        "ScalingActive False AmbiguousSelector",
        "pods by selector app=web are controlled by multiple HPAs: [n/a n/b]",
    );
    // One metric of two is enough to grow, and not to shrink.
    let two = json!({"metrics": [
        {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
    ]});
    assert_eq!(plan(two.clone(), 2, two_that_use(100)).rescale.map(|(replicas, _)| replicas), Some(4));
    let down = plan(two, 2, two_that_use(1));
    assert_eq!(
        (down.rescale.is_none(), conditions(&down)[1].as_str()),
        (true, "ScalingActive False FailedGetPodsMetric")
    );
    let gone =
        Observed { autoscaler: autoscaler(json!({})), target: Target::Unreachable("not found".to_owned()) };
    let gone = decide(&gone, &mut History::default(), now());
    assert_eq!(conditions(&gone), ["AbleToScale False FailedGetScale"]);
}

fn limits(current: i32, behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Bounds<'_> {
    Bounds { current, min: 1, max: 100, behavior }
}

#[test]
fn replicas_go_late_and_come_at_once() {
    let mut history = History::default();
    history.begin(10, ago(290));
    let limited = history.limit(&limits(10, None), 3, now());
    assert_eq!((limited.replicas, limited.able.0), (10, "ScaleDownStabilized"));
    let limited = history.limit(&limits(10, None), 3, now() + SignedDuration::from_secs(60));
    assert_eq!((limited.replicas, limited.able.0, limited.limited), (3, "ReadyForNewScale", false));
    let limited = history.limit(&limits(3, None), 50, now() + HOUR);
    assert_eq!((limited.replicas, limited.why.0, limited.limited), (6, "ScaleUpLimit", true));
    let limited = history.limit(&limits(3, None), 0, now() + HOUR + HOUR);
    assert_eq!((limited.replicas, limited.why.0), (1, "TooFewReplicas"));
}

#[test]
fn behavior() {
    let parse = |value: Value| serde_json::from_value::<HorizontalPodAutoscalerBehavior>(value).unwrap();
    let rules = |select: &str, window: i32, policies: Value| json!({"selectPolicy": select, "stabilizationWindowSeconds": window, "policies": policies});
    let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
    let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
    let check = |up: Value, down: Value, current: i32, wanted: i32, expected: (i32, &str)| {
        let behavior = parse(json!({"scaleUp": up, "scaleDown": down}));
        let mut history = History::default();
        let limited = history.limit(&limits(current, Some(&behavior)), wanted, now());
        assert_eq!((limited.replicas, limited.why.0), expected, "{current} to {wanted}");
    };
    let free = || rules("Max", 0, json!([percent(1000)]));
    let both = json!([pods(3), percent(50)]);
    check(rules("Max", 0, both.clone()), free(), 10, 40, (15, "ScaleUpLimit"));
    check(rules("Min", 0, both.clone()), free(), 10, 40, (13, "ScaleUpLimit"));
    check(rules("Disabled", 0, both.clone()), free(), 10, 40, (10, "ScaleUpLimit"));
    check(rules("Max", 0, json!([percent(1000)])), free(), 10, 150, (100, "TooManyReplicas"));
    check(free(), rules("Max", 0, both.clone()), 10, 1, (5, "ScaleDownLimit"));
    check(free(), rules("Min", 0, both.clone()), 10, 1, (7, "ScaleDownLimit"));
    check(free(), rules("Disabled", 0, both), 10, 1, (10, "ScaleDownLimit"));
    check(free(), rules("Max", 0, json!([percent(100)])), 10, 0, (1, "TooFewReplicas"));
    check(free(), free(), 10, 12, (12, "DesiredWithinRange"));

    // What was done within a period counts against it, until the period is over.
    let behavior = parse(json!({"scaleUp": rules("Max", 0, json!([pods(4)])), "scaleDown": free()}));
    let mut history = History::default();
    let bounds = limits(10, Some(&behavior));
    assert_eq!(history.limit(&bounds, 40, now()).replicas, 14);
    history.done(&bounds, 14, now());
    let bounds = limits(14, Some(&behavior));
    assert_eq!(history.limit(&bounds, 40, now() + SignedDuration::from_secs(30)).replicas, 14);
    assert_eq!(history.limit(&bounds, 40, now() + SignedDuration::from_secs(61)).replicas, 18);

    // A window upwards waits until all have asked for more.
    let behavior = parse(
        json!({"scaleUp": rules("Max", 60, json!([pods(40)])), "scaleDown": rules("Max", 0, json!([pods(40)]))}),
    );
    let mut history = History::default();
    history.begin(10, now());
    let bounds = limits(10, Some(&behavior));
    let limited = history.limit(&bounds, 20, now() + SignedDuration::from_secs(30));
    assert_eq!((limited.replicas, limited.able.0), (10, "ScaleUpStabilized"));
    let limited = history.limit(&bounds, 20, now() + SignedDuration::from_secs(61));
    assert_eq!((limited.replicas, limited.able.0), (20, "ReadyForNewScale"));
}
