//! What is to be done about a DaemonSet: no clock, no I/O.
//!
//! ```text
//!                wanted ──┬─ no pod ───────────────▶ make one
//!   each node ─┤          ├─ pod ended ────────────▶ delete it, the next pass makes another
//!                         ├─ several ──────────────▶ the oldest stays
//!                         └─ of an old template ───▶ replace it, so many nodes at a time
//!              unwanted ──── any pod ──────────────▶ delete it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Next, Object as _};
use manifests::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::selector::Selector;

use super::nodes::{Place, place, target, with_tolerations};
use crate::history::{HASH, History, Present, history};
use crate::ownership::{Claim, Ref, claim};
use crate::pod_state;

/// So many pods are made or deleted in one pass.
const BURST: usize = 250;
/// A pod that has failed makes room for another after this, so that a node is not kept busy with failures.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// A DaemonSet and what is around it.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    /// Pods whose controller it is, and pods of the namespace without a controller.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) nodes: &'a [Arc<Node>],
    /// Its own.
    pub(super) revisions: &'a [Arc<ControllerRevision>],
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) adopt: Vec<Ref>,
    pub(super) release: Vec<Ref>,
    pub(super) history: History,
    pub(super) delete: Vec<Ref>,
    /// Nodes that need a pod.
    pub(super) create: Vec<String>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// The status as it is to be.
    pub(super) status: DaemonSetStatus,
    pub(super) next: Next,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let set = observed.set;
    let hashes = observed.pods.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH));
    let present = Present {
        template: &set.spec.template,
        collisions: set.status.as_ref().and_then(|status| status.collision_count),
        limit: set.spec.revision_history_limit,
        used: hashes.map(String::as_str).collect(),
    };
    let mut plan = Plan {
        adopt: Vec::new(),
        release: Vec::new(),
        history: history(set, &present, observed.revisions),
        delete: Vec::new(),
        create: Vec::new(),
        events: Vec::new(),
        status: set.status.clone().unwrap_or_default(),
        next: Next::Wait,
    };
    let own = own_pods(observed, &mut plan);
    if set.metadata.deletion_timestamp.is_some() {
        plan.history.steps.clear();
        return plan;
    }
    let spec = with_tolerations(set.spec.template.spec.clone().unwrap_or_default());
    let places: BTreeMap<&str, Place> =
        observed.nodes.iter().map(|node| (node.name(), place(&spec, node))).collect();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in &own {
        let node = pod.spec.as_ref().and_then(target).unwrap_or_default();
        by_node.entry(node).or_default().push(pod);
    }
    manage(set, &places, &by_node, now, &mut plan);
    let rolling = set
        .spec
        .update_strategy
        .as_ref()
        .is_none_or(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
    if rolling {
        update(set, &places, &by_node, now, &mut plan);
    }
    plan.delete.truncate(BURST);
    plan.create.truncate(BURST);
    count(set, &places, &by_node, now, &mut plan);
    plan
}

/// Whose pods they are: those that it keeps or will have adopted.
fn own_pods(observed: &Observed<'_>, plan: &mut Plan) -> Vec<Arc<Pod>> {
    let selector = Selector::from_label_selector(Some(&observed.set.spec.selector));
    let selector = selector.unwrap_or_else(|_| Selector::nothing());
    let mut own = Vec::new();
    for pod in observed.pods {
        match claim(&observed.set.metadata, &selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            Claim::Adopt if pod_state::is_active(pod) => {
                plan.adopt.push(Ref::to(&**pod));
                own.push(pod.clone());
            }
            Claim::Release => plan.release.push(Ref::to(&**pod)),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    own
}

type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Arc<Pod>>>;

/// One pod on each wanted node, none elsewhere.
fn manage(
    set: &DaemonSet,
    places: &BTreeMap<&str, Place>,
    by_node: &ByNode<'_>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let none = Vec::new();
    let surge = max_surge(set, places);
    for (node, place) in places {
        let pods = by_node.get(node).unwrap_or(&none);
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| *place != Place::Unwanted && !pod_state::is_deleting(pod)) {
            if !pod_state::has_ended(pod) {
                running.push(*pod);
                continue;
            }
            let at = ended_at(pod).saturating_add(PAUSE).unwrap_or(Timestamp::MAX);
            if at > now {
                plan.wake(at, now);
                continue;
            }
            let (kind, reason, how) = match pod_state::phase(pod) {
                "Failed" => (EventType::Warning, "FailedDaemonPod", "failed"),
                _ => (EventType::Normal, "SucceededDaemonPod", "succeeded"),
            };
            let (namespace, name) = (pod.namespace(), pod.name());
            let message =
                format!("Found {how} daemon pod {namespace}/{name} on node {node}, will try to kill it");
            plan.events.push((kind, reason, message));
            plan.delete.push(Ref::to(&***pod));
        }
        match place {
            Place::Unwanted => {
                let going = pods.iter().filter(|pod| !pod_state::is_deleting(pod));
                plan.delete.extend(going.map(|pod| Ref::to(&***pod)));
            }
            Place::Wanted if pods.is_empty() => plan.create.push((*node).to_owned()),
            Place::Wanted | Place::Tolerated => {
                // One of each template may be there while one takes the other's place.
                running.sort_by_key(|pod| {
                    (pod.metadata.creation_timestamp.clone().map(|time| time.0), pod.name().to_owned())
                });
                let mut seen = BTreeSet::new();
                for pod in running {
                    let kind = surge > 0 && is_new(pod, plan.history.hash());
                    if !seen.insert(kind) {
                        plan.delete.push(Ref::to(&**pod));
                    }
                }
            }
        }
    }
    // Pods of nodes that are gone: those that are bound are collected with their node, the others never will be.
    for (node, pods) in by_node.iter().filter(|(node, _)| !places.contains_key(**node)) {
        let unbound = |pod: &&&Arc<Pod>| {
            pod_state::node(pod).is_none() && !node.is_empty() && !pod_state::is_deleting(pod)
        };
        plan.delete.extend(pods.iter().filter(unbound).map(|pod| Ref::to(&***pod)));
    }
}

/// When a pod has ended, as far as it says.
fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    ends.map(|time| time.0).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).is_some_and(|label| label == hash)
}

fn is_available(set: &DaemonSet, pod: &Pod, now: Timestamp) -> bool {
    let at = pod_state::available_at(pod, set.spec.min_ready_seconds.unwrap_or(0));
    at.is_some_and(|at| at <= now)
}

fn wanted(places: &BTreeMap<&str, Place>) -> usize {
    places.values().filter(|place| **place == Place::Wanted).count()
}

/// A number, or a part of the wanted pods, rounded up.
fn scaled(value: Option<&IntOrString>, all: usize) -> usize {
    match value {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0);
            (all * percent).div_ceil(100)
        }
        None => 0,
    }
}

fn max_surge(set: &DaemonSet, places: &BTreeMap<&str, Place>) -> usize {
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted(places))
}

/// Replaces pods of old templates, as many as may be missing at a time, or may be there twice.
fn update(
    set: &DaemonSet,
    places: &BTreeMap<&str, Place>,
    by_node: &ByNode<'_>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let may_miss = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted(places));
    let surge = max_surge(set, places);
    let may_miss = if surge == 0 { may_miss.max(1) } else { may_miss };
    let hash = plan.history.hash().to_owned();
    let going: BTreeSet<String> = plan.delete.iter().map(|pod| pod.uid.clone()).collect();
    let (mut missing, mut doubled) = (0, 0);
    let (mut useless, mut candidates, mut to_double) = (Vec::new(), Vec::new(), Vec::new());
    for (node, _) in places.iter().filter(|(_, place)| **place == Place::Wanted) {
        let alive = |pod: &&&Arc<Pod>| pod_state::is_active(pod) && !going.contains(pod.uid());
        let pods: Vec<_> = by_node.get(node).into_iter().flatten().filter(alive).collect();
        let new = pods.iter().find(|pod| is_new(pod, &hash));
        let old = pods.iter().find(|pod| !is_new(pod, &hash));
        let available = |pod: &Arc<Pod>| is_available(set, pod, now);
        match (new, old) {
            // The old one has been waiting for the new one.
            (Some(new), Some(old)) if available(new) => plan.delete.push(Ref::to(&****old)),
            (Some(_), Some(old)) => {
                doubled += 1;
                if !available(old) {
                    plan.delete.push(Ref::to(&****old));
                }
            }
            (Some(new), None) => missing += usize::from(!available(new)),
            (None, Some(old)) if !available(old) => {
                missing += 1;
                useless.push(Ref::to(&****old));
            }
            (None, Some(old)) => {
                candidates.push(Ref::to(&****old));
                to_double.push((*node).to_owned());
            }
            (None, None) => missing += 1,
        }
    }
    // What does not work is no loss.
    plan.delete.extend(useless);
    if surge == 0 {
        plan.delete.extend(candidates.into_iter().take(may_miss.saturating_sub(missing)));
    } else {
        plan.create.extend(to_double.into_iter().take(surge.saturating_sub(doubled)));
    }
}

impl Plan {
    fn wake(&mut self, at: Timestamp, now: Timestamp) {
        // Times of objects are whole seconds; ours is not.
        let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10);
        self.next = match self.next {
            Next::After(known) => Next::After(known.min(wait)),
            _ => Next::After(wait),
        };
    }
}

/// The status, from what was seen.
fn count(
    set: &DaemonSet,
    places: &BTreeMap<&str, Place>,
    by_node: &ByNode<'_>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let hash = plan.history.hash().to_owned();
    let (mut current, mut desired, mut stray, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    for (node, place) in places {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        if *place != Place::Wanted {
            stray += i32::from(!pods.is_empty() && *place == Place::Unwanted);
            continue;
        }
        desired += 1;
        current += i32::from(!pods.is_empty());
        // The newest speaks for the node.
        let made = |pod: &&&Arc<Pod>| {
            (pod.metadata.creation_timestamp.clone().map(|time| time.0), pod.name().to_owned())
        };
        let Some(pod) = pods.iter().max_by_key(made) else { continue };
        if pod_state::is_ready(pod) && !pod_state::is_deleting(pod) {
            ready += 1;
            if is_available(set, pod, now) {
                available += 1;
            } else if let Some(at) = pod_state::available_at(pod, set.spec.min_ready_seconds.unwrap_or(0)) {
                plan.wake(at, now);
            }
        }
        updated += i32::from(is_new(pod, &hash));
    }
    // Counts of zero are left out where upstream leaves them out.
    let some = |number: i32| (number != 0).then_some(number);
    let status = &mut plan.status;
    status.current_number_scheduled = current;
    status.desired_number_scheduled = desired;
    status.number_misscheduled = stray;
    status.number_ready = ready;
    status.number_available = some(available);
    status.number_unavailable = some(desired - available);
    status.updated_number_scheduled = some(updated);
    status.observed_generation = set.metadata.generation.max(status.observed_generation);
}
