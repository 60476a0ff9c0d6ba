//! What is to be done about a StatefulSet: no clock, no I/O.
//!
//! ```text
//!   1. numbers that are wanted, from the first:  ended ─▶ delete     missing ─▶ make     not healthy ─▶ wait (if in order)
//!   2. numbers that are not, from the last:      delete, and wait until it has gone (if in order)
//!   3. wanted pods of an old template, from the last down to the partition:  delete; not healthy ─▶ wait
//! ```
//!
//! A step that waits ends the pass: what it waits for brings the set back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Next, Object as _};
use manifests::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use manifests::k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use super::identity::{ordinal_of, revision_of, start_of};
use crate::history::{self, History, Present, history};
use crate::ownership::{Claim, Ref, claim};
use crate::pod_state;

/// A StatefulSet and what is around it.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    /// Pods whose controller it is, and pods of the namespace without a controller.
    pub(super) pods: &'a [Arc<Pod>],
    /// Its own.
    pub(super) revisions: &'a [Arc<ControllerRevision>],
}

/// A pod to make.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Make {
    pub(super) ordinal: i32,
    pub(super) template: Box<PodTemplateSpec>,
    pub(super) revision: String,
}

/// A pod to delete, and why if it is to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remove {
    pub(super) pod: Ref,
    /// Reason and message of an event beside the usual one.
    pub(super) warning: Option<(&'static str, String)>,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) adopt: Vec<Ref>,
    pub(super) release: Vec<Ref>,
    pub(super) history: History,
    pub(super) delete: Vec<Remove>,
    pub(super) create: Vec<Make>,
    /// The status as it is to be.
    pub(super) status: StatefulSetStatus,
    pub(super) next: Next,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let set = observed.set;
    let before = set.status.clone().unwrap_or_default();
    let named = [before.current_revision.as_deref(), before.update_revision.as_deref()].into_iter().flatten();
    let present = Present {
        template: &set.spec.template,
        collisions: before.collision_count,
        limit: set.spec.revision_history_limit,
        used: observed.pods.iter().map(|pod| revision_of(pod)).chain(named).collect(),
    };
    let mut plan = Plan {
        adopt: Vec::new(),
        release: Vec::new(),
        history: history(set, &present, observed.revisions),
        delete: Vec::new(),
        create: Vec::new(),
        status: before.clone(),
        next: Next::Wait,
    };
    let own = own_pods(observed, &mut plan);
    let update = plan.history.name.clone();
    let current = before.current_revision.filter(|name| !name.is_empty()).unwrap_or_else(|| update.clone());
    let kept = observed.revisions.iter().find(|revision| revision.name() == current);
    let rollout = Rollout {
        set,
        now,
        // A revision that is gone cannot be gone back to.
        current: kept.and_then(|kept| history::template(kept)).map(|template| (template, current.clone())),
        update: update.clone(),
    };
    if set.metadata.deletion_timestamp.is_none() {
        rollout.step(&own, &mut plan);
    } else {
        plan.history.steps.clear();
    }
    rollout.count(&own, current, &mut plan);
    plan
}

/// Whose pods they are: those that it keeps or will have adopted. A name of another form is none of its own.
fn own_pods(observed: &Observed<'_>, plan: &mut Plan) -> BTreeMap<i32, Arc<Pod>> {
    let set = observed.set;
    let selector = Selector::from_label_selector(Some(&set.spec.selector));
    let selector = selector.unwrap_or_else(|_| Selector::nothing());
    let mut own = BTreeMap::new();
    for pod in observed.pods {
        let ordinal = ordinal_of(set, pod);
        match (claim(&set.metadata, &selector, &pod.metadata), ordinal) {
            (Claim::Keep, Some(ordinal)) => {
                own.insert(ordinal, pod.clone());
            }
            (Claim::Adopt, Some(ordinal)) if pod_state::is_active(pod) => {
                plan.adopt.push(Ref::to(&**pod));
                own.insert(ordinal, pod.clone());
            }
            (Claim::Release, _) | (Claim::Keep, None) => plan.release.push(Ref::to(&**pod)),
            (Claim::Adopt | Claim::Ignore, _) => {}
        }
    }
    own
}

/// Where a set goes to.
struct Rollout<'a> {
    set: &'a StatefulSet,
    now: Timestamp,
    /// What it comes from.
    current: Option<(PodTemplateSpec, String)>,
    /// The name of the present template's revision.
    update: String,
}

impl Rollout<'_> {
    fn in_order(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolls(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy != Some("OnDelete")
    }

    /// Numbers below this keep what they have been made from.
    fn partition(&self) -> i32 {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        start_of(self.set).saturating_add(rolling.and_then(|rolling| rolling.partition).unwrap_or(0))
    }

    /// So many pods may be away during an update.
    fn may_miss(&self) -> usize {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let all = usize::try_from(self.set.spec.replicas.unwrap_or(1)).unwrap_or(0);
        let number = match rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
            Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(1),
            Some(IntOrString::String(text)) => {
                let percent: usize = text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0);
                (all * percent).div_ceil(100)
            }
            None => 1,
        };
        number.max(1)
    }

    fn available(&self, pod: &Pod) -> bool {
        let at = pod_state::available_at(pod, self.set.spec.min_ready_seconds.unwrap_or(0));
        at.is_some_and(|at| at <= self.now)
    }

    fn healthy(&self, pod: &Pod) -> bool {
        pod_state::is_ready(pod) && !pod_state::is_deleting(pod)
    }

    fn make(&self, ordinal: i32) -> Make {
        if let Some((template, revision)) =
            self.current.as_ref().filter(|_| self.rolls() && ordinal < self.partition())
        {
            return Make { ordinal, template: Box::new(template.clone()), revision: revision.clone() };
        }
        let template = Box::new(self.set.spec.template.clone());
        Make { ordinal, template, revision: self.update.clone() }
    }

    /// The next step.
    fn step(&self, own: &BTreeMap<i32, Arc<Pod>>, plan: &mut Plan) {
        let start = start_of(self.set);
        let end = start.saturating_add(self.set.spec.replicas.unwrap_or(1).max(0));
        let mut waits = false;
        for ordinal in start..end {
            let Some(pod) = own.get(&ordinal) else {
                plan.create.push(self.make(ordinal));
                if self.in_order() {
                    return;
                }
                waits = true;
                continue;
            };
            if pod_state::has_ended(pod) && !pod_state::is_deleting(pod) {
                plan.delete.push(self.recreate(pod));
                waits = true;
            } else if pod_state::is_deleting(pod) {
                waits = true;
            } else if self.in_order() && !self.available(pod) {
                self.wake(pod, plan);
                waits = true;
            }
            if waits && self.in_order() {
                return;
            }
        }
        // From the last.
        for pod in
            own.iter().rev().filter(|(ordinal, _)| !(start..end).contains(*ordinal)).map(|(_, pod)| pod)
        {
            if !pod_state::is_deleting(pod) {
                plan.delete.push(Remove { pod: Ref::to(&**pod), warning: None });
            }
            if self.in_order() {
                return;
            }
        }
        if self.rolls() && !waits {
            self.replace(own, start.max(self.partition())..end, plan);
        }
    }

    fn recreate(&self, pod: &Pod) -> Remove {
        let (namespace, set, name) = (self.set.namespace(), self.set.name(), pod.name());
        let (reason, how) = match pod_state::phase(pod) {
            "Failed" => ("RecreatingFailedPod", "failed"),
            _ => ("RecreatingTerminatedPod", "terminated"),
        };
        let message = format!("StatefulSet {namespace}/{set} is recreating {how} Pod {name}");
        Remove { pod: Ref::to(pod), warning: Some((reason, message)) }
    }

    /// Replaces pods of older templates, from the last.
    fn replace(&self, own: &BTreeMap<i32, Arc<Pod>>, numbers: std::ops::Range<i32>, plan: &mut Plan) {
        let mut away = own.values().filter(|pod| !self.healthy(pod) || !self.available(pod)).count();
        let may_miss = self.may_miss();
        for pod in numbers.rev().filter_map(|ordinal| own.get(&ordinal)) {
            let old = revision_of(pod) != self.update;
            if old && !pod_state::is_deleting(pod) {
                let works = self.healthy(pod) && self.available(pod);
                // What does not work is no loss.
                if works && away >= may_miss {
                    return;
                }
                away += usize::from(works);
                plan.delete.push(Remove { pod: Ref::to(&**pod), warning: None });
                if away >= may_miss {
                    return;
                }
            } else if !self.healthy(pod) || !self.available(pod) {
                self.wake(pod, plan);
                if away >= may_miss {
                    return;
                }
            }
        }
    }

    /// Nothing tells when a ready pod has been ready for long enough, except the clock.
    fn wake(&self, pod: &Pod, plan: &mut Plan) {
        let at = pod_state::available_at(pod, self.set.spec.min_ready_seconds.unwrap_or(0));
        if let Some(at) = at.filter(|at| *at > self.now) {
            let wait = Duration::try_from(at.duration_since(self.now)).unwrap_or_default();
            // Times of objects are whole seconds; ours is not.
            plan.next = Next::After(wait + Duration::from_millis(10));
        }
    }

    /// The status, from what was seen.
    fn count(&self, own: &BTreeMap<i32, Arc<Pod>>, current: String, plan: &mut Plan) {
        let number = |of: &dyn Fn(&Pod) -> bool| {
            i32::try_from(own.values().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
        };
        // Counts of zero are left out where upstream leaves them out.
        let some = |number: i32| (number != 0).then_some(number);
        let alive = |pod: &Pod| !pod_state::is_deleting(pod);
        let ready = number(&|pod| pod_state::is_ready(pod));
        let available = number(&|pod| self.available(pod));
        let updated = number(&|pod| alive(pod) && revision_of(pod) == self.update);
        let of_current = number(&|pod| alive(pod) && revision_of(pod) == current);
        for pod in own.values().filter(|pod| !self.available(pod)) {
            self.wake(pod, plan);
        }
        let status = &mut plan.status;
        status.replicas = number(&|_| true);
        status.ready_replicas = some(ready);
        status.available_replicas = Some(available);
        status.updated_replicas = some(updated);
        status.current_replicas = some(of_current);
        status.update_revision = Some(self.update.clone());
        status.current_revision = Some(current);
        status.collision_count.get_or_insert(0);
        status.observed_generation = self.set.metadata.generation.max(status.observed_generation);
        let wanted = self.set.spec.replicas.unwrap_or(1);
        let done = self.rolls() && updated == wanted && status.replicas == wanted && ready == wanted;
        if done {
            status.current_revision = status.update_revision.clone();
            status.current_replicas = status.updated_replicas;
        }
    }
}
