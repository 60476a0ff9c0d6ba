//! How many pods, and which: no clock, no I/O.

use std::sync::Arc;
use std::time::Duration;

use client::{Next, Object};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use super::observe::Observed;
use super::rank::rank;
use crate::ownership::{Claim, Ref, claim};
use crate::pod_state;

/// Upstream's limit of creations and deletions per pass.
const BURST: usize = 500;

/// One step towards the wanted number of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Become the pod's controller.
    Adopt(Ref),
    /// Be the pod's controller no longer.
    Release(Ref),
    /// Make so many pods.
    Create(usize),
    /// Delete these pods.
    Delete(Vec<Ref>),
}

/// What to do, and what is then counted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// The pods that are its own, whatever their state.
    pub(crate) own: Vec<Arc<Pod>>,
    pub(crate) next: Next,
}

pub(crate) fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let replica_set = &observed.replica_set;
    let spec = &replica_set.spec;
    // A selector that cannot be read selects nothing; validation refuses it.
    let selector =
        Selector::from_label_selector(Some(&spec.selector)).unwrap_or_else(|_| Selector::nothing());
    let mut actions = Vec::new();
    let mut own = Vec::new();
    for pod in &observed.pods {
        match claim(&replica_set.metadata, &selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            Claim::Adopt if pod_state::is_active(pod) => {
                actions.push(Action::Adopt(Ref::to(&**pod)));
                own.push(pod.clone());
            }
            Claim::Release if pod_state::is_active(pod) => actions.push(Action::Release(Ref::to(&**pod))),
            Claim::Adopt | Claim::Release | Claim::Ignore => {}
        }
    }
    if replica_set.meta().deletion_timestamp.is_none() {
        actions.extend(scale(observed, &own, now));
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let next = next_availability(&own, min_ready, now);
    Plan { actions, own, next }
}

fn scale(observed: &Observed, own: &[Arc<Pod>], now: Timestamp) -> Option<Action> {
    let wanted = observed.replica_set.spec.replicas.unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let mut active: Vec<&Arc<Pod>> = own.iter().filter(|pod| pod_state::is_active(pod)).collect();
    if active.len() < wanted {
        return Some(Action::Create((wanted - active.len()).min(BURST)));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return None;
    }
    active.sort_by_key(|pod| rank(pod, &observed.related, now));
    Some(Action::Delete(active[..surplus].iter().map(|pod| Ref::to(&***pod)).collect()))
}

/// Nothing tells when a ready pod has been ready for long enough, except the clock.
fn next_availability(own: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Next {
    let active = own.iter().filter(|pod| pod_state::is_active(pod));
    let waiting =
        active.filter_map(|pod| pod_state::available_at(pod, min_ready_seconds)).filter(|at| *at > now);
    match waiting.min() {
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            // Times of objects are whole seconds; ours is not.
            Next::After(wait + Duration::from_millis(10))
        }
        None => Next::Wait,
    }
}
