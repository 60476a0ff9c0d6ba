//! What the sources want of the pod, and what that means for a pod that is running: ends are only ever moved forward.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::decide::{PodFailure, grace_period};
use super::super::observe::{Intent, StepSeen, Stop};
use super::super::resize;
use super::super::status::is_terminal;
use super::Worker;
use crate::names;
use crate::objects::references;
use crate::sources::Source;

/// What a pod is to be, as its sources have it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it comes from.
    pub source: Source,
    /// Its definition.
    pub pod: Arc<Pod>,
    /// The pod in the API that stands for it, if it comes from elsewhere.
    pub mirror: Option<Arc<Pod>>,
    /// No source wants it any more, since then.
    pub removed: Option<Timestamp>,
    /// It has to go although it is wanted.
    pub evicted: Option<PodFailure>,
}

impl Worker {
    pub(super) fn take_target(&mut self) {
        let target = self.target.borrow_and_update().clone();
        let object = match target.source {
            Source::Api => target.removed.is_none().then(|| target.pod.clone()),
            Source::File | Source::Http => target.mirror.clone(),
        };
        self.publisher.object(object);
        if !Arc::ptr_eq(&self.facts.wanted, &target.pod) {
            let changed = self.facts.pod.metadata.labels != target.pod.metadata.labels
                || self.facts.pod.metadata.annotations != target.pod.metadata.annotations;
            let given = resize::with_resources_of(&target.pod, &self.facts.pod);
            self.facts.wanted = target.pod.clone();
            let before = std::mem::replace(&mut self.facts.pod, given);
            let passing = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
            if passing(&before) != passing(&target.pod) {
                // The new ones may refer to objects that nobody follows yet.
                let dir = self.context.layout.pod(names::uid(&target.pod));
                self.subscription =
                    self.context.objects.subscribe(&target.pod, &references(&target.pod), &dir);
            }
            // Labels and annotations may be in files of the pod.
            if changed && self.facts.volumes == StepSeen::Done {
                self.facts.volumes = StepSeen::Stale { retry_at: Timestamp::now() };
            }
        }
        // There is no way back: what was begun to end cannot be called off.
        if self.facts.evicted.is_none() {
            self.facts.evicted.clone_from(&target.evicted);
        }
        self.take_end(&target);
        self.take_stop(&target);
    }

    /// Somebody else may say that a pod is over, for example who evicts it: then it is.
    fn take_end(&mut self, target: &Target) {
        let said = target.pod.status.as_ref().filter(|_| target.source == Source::Api);
        let Some(said) = said.filter(|status| status.phase.as_deref().is_some_and(is_terminal)) else {
            return;
        };
        let own = &mut self.facts.last_status;
        if !own.phase.as_deref().is_some_and(is_terminal) {
            own.phase.clone_from(&said.phase);
            own.reason.clone_from(&said.reason);
            own.message.clone_from(&said.message);
        }
    }

    fn take_stop(&mut self, target: &Target) {
        let meta = &target.pod.metadata;
        let own = target.pod.spec.as_ref().map_or(SignedDuration::ZERO, grace_period);
        let next = match (target.removed, &meta.deletion_timestamp) {
            // A pod that has left the API without our word was forced out: nobody waits for it any more.
            (Some(since), _) if target.source == Source::Api => {
                Stop { since, grace: SignedDuration::ZERO, removed: true }
            }
            (Some(since), _) => Stop { since, grace: own, removed: true },
            (None, Some(_)) => {
                let grace = meta.deletion_grace_period_seconds.map_or(own, SignedDuration::from_secs);
                Stop { since: Timestamp::now(), grace, removed: false }
            }
            (None, None) => return,
        };
        let next = match self.stop {
            // Only shorter: a pod that is going does not come back.
            Some(stop) => {
                Stop { since: stop.since, grace: stop.grace.min(next.grace), removed: next.removed }
            }
            None => next,
        };
        if self.stop != Some(next) {
            self.stop = Some(next);
            for deadline in self.stop_deadline.values() {
                deadline.send_if_modified(|at| {
                    let earlier = next.deadline() < *at;
                    if earlier {
                        *at = next.deadline();
                    }
                    earlier
                });
            }
        }
    }

    pub(super) fn intent(&self, _now: Timestamp) -> Intent {
        self.stop.map_or(Intent::Run, Intent::Stop)
    }
}
