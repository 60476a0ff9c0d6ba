//! A Deployment's status: counts, availability, and how the rollout goes.

use manifests::k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition,
};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::time;

use client::Object;

use super::fleet::{Fleet, Member};
use super::limits;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(super) const NEW_REPLICA_SET_CREATED: &str = "NewReplicaSetCreated";
pub(super) const NEW_REPLICA_SET_FOUND: &str = "FoundNewReplicaSet";
const NEW_REPLICA_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";
const UPDATED: &str = "ReplicaSetUpdated";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// Conditions of one status, changed by upstream's rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    pub(super) fn of(deployment: &Deployment, now: Timestamp) -> Self {
        let list =
            deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        Self { list, now }
    }

    pub(super) fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_.as_deref() == Some(kind))
    }

    pub(super) fn into_list(self) -> Vec<DeploymentCondition> {
        self.list
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        self.get(kind)?.reason.as_deref()
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_.as_deref() != Some(kind));
    }

    /// Sets a condition. The same status and reason again change nothing; the same status alone keeps the
    /// time of its transition.
    pub(super) fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        if let Some(current) = self.get(kind)
            && current.status.as_deref() == Some(status)
            && current.reason.as_deref() == Some(reason)
        {
            return;
        }
        self.replace(kind, status, reason, message);
    }

    /// Sets a condition and the time of its update, even if it says the same.
    fn replace(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let now = time::time(self.now);
        let since = self
            .get(kind)
            .filter(|current| current.status.as_deref() == Some(status))
            .and_then(|current| current.last_transition_time.clone());
        self.remove(kind);
        self.list.push(DeploymentCondition {
            type_: Some(kind.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or(now)),
        });
    }
}

/// Whether the Deployment wants to know when a rollout takes too long.
pub(super) fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(i64::from(seconds)))
}

/// Says that the rollout is paused, or goes on.
pub(super) fn note_pause(deployment: &Deployment, conditions: &mut Conditions) {
    if !has_deadline(deployment) {
        return;
    }
    let paused = deployment.spec.paused.unwrap_or(false);
    match conditions.reason(PROGRESSING) {
        // What has timed out has said the more important thing.
        Some(TIMED_OUT) => {}
        Some(PAUSED) if !paused => {
            conditions.set(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed".to_owned());
        }
        Some(PAUSED) => {}
        _ if paused => conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned()),
        _ => {}
    }
}

/// Says that there is a new ReplicaSet.
pub(super) fn note_new(deployment: &Deployment, name: &str, created: bool, conditions: &mut Conditions) {
    if !has_deadline(deployment) {
        return;
    }
    if created {
        let message = format!("Created new replica set {name:?}");
        conditions.set(PROGRESSING, "True", NEW_REPLICA_SET_CREATED, message);
    } else if conditions.get(PROGRESSING).is_none() {
        let message = format!("Found new replica set {name:?}");
        conditions.set(PROGRESSING, "True", NEW_REPLICA_SET_FOUND, message);
    }
}

/// Counts and availability.
pub(super) fn count(deployment: &Deployment, fleet: &Fleet, mut conditions: Conditions) -> DeploymentStatus {
    let before = deployment.status.as_ref();
    let sum = |value: &dyn Fn(&Member) -> i32| fleet.all().map(value).sum::<i32>();
    let ready =
        |member: &Member| member.seen.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let leaving = |member: &Member| {
        member.seen.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
    };
    let available = fleet.available();
    if available >= limits::replicas(deployment) - limits::max_unavailable(deployment) {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: given(sum(&Member::actual)),
        updated_replicas: given(fleet.new.as_ref().map_or(0, Member::actual)),
        ready_replicas: given(sum(&ready)),
        available_replicas: given(available),
        unavailable_replicas: given((fleet.total() - available).max(0)),
        terminating_replicas: Some(sum(&leaving)),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: Some(conditions.list),
    }
}

/// Counts, availability, and how the rollout goes.
pub(super) fn rollout(
    deployment: &Deployment,
    fleet: &Fleet,
    conditions: Conditions,
    now: Timestamp,
) -> DeploymentStatus {
    let current = conditions.get(PROGRESSING).cloned();
    let mut status = count(deployment, fleet, conditions);
    let mut conditions = Conditions { list: status.conditions.take().unwrap_or_default(), now };
    let finished_before =
        current.as_ref().is_some_and(|current| current.reason.as_deref() == Some(NEW_REPLICA_SET_AVAILABLE));
    let finished = status.replicas == status.updated_replicas && finished_before;
    let subject = match &fleet.new {
        Some(new) => format!("ReplicaSet {:?}", new.seen.name()),
        None => format!("Deployment {:?}", deployment.name()),
    };
    if !has_deadline(deployment) {
        conditions.remove(PROGRESSING);
    } else if !finished {
        if is_complete(deployment, &status) {
            let message = format!("{subject} has successfully progressed.");
            conditions.set(PROGRESSING, "True", NEW_REPLICA_SET_AVAILABLE, message);
        } else if has_progressed(deployment, &status) {
            // Every step restarts the deadline, which counts from the last update.
            conditions.replace(PROGRESSING, "True", UPDATED, format!("{subject} is progressing."));
        } else if has_timed_out(deployment, conditions.get(PROGRESSING), now) {
            let message = format!("{subject} has timed out progressing.");
            conditions.set(PROGRESSING, "False", TIMED_OUT, message);
        }
    }
    match replica_failure(fleet) {
        Some(failure) => {
            let (status, reason) = (failure.status.unwrap_or_default(), failure.reason.unwrap_or_default());
            conditions.set(REPLICA_FAILURE, &status, &reason, failure.message.unwrap_or_default());
        }
        None => conditions.remove(REPLICA_FAILURE),
    }
    status.conditions = Some(conditions.list);
    status
}

fn replica_failure(fleet: &Fleet) -> Option<ReplicaSetCondition> {
    let failure = |member: &Member| {
        let conditions = member.seen.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE)).cloned()
    };
    fleet.new.as_ref().and_then(failure).or_else(|| fleet.old.iter().find_map(failure))
}

/// Whether every pod is new and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = limits::replicas(deployment);
    let is_wanted = |count: Option<i32>| count.unwrap_or(0) == wanted;
    is_wanted(status.updated_replicas)
        && is_wanted(status.replicas)
        && is_wanted(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let before = deployment.status.as_ref().unwrap_or(&none);
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    status.updated_replicas > before.updated_replicas
        || old(status) < old(before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

fn has_timed_out(deployment: &Deployment, progressing: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let (Some(deadline), Some(progressing)) = (deadline(deployment), progressing) else { return false };
    match progressing.reason.as_deref() {
        Some(NEW_REPLICA_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let from = progressing.last_update_time.as_ref().map(|time| time.0);
            from.is_some_and(|from| now.duration_since(from) > deadline)
        }
    }
}

/// When a rollout that makes no progress will have timed out: nothing but the clock tells.
pub(super) fn times_out_in(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<SignedDuration> {
    let deadline = deadline(deployment)?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let progressing = conditions.iter().find(|condition| condition.type_.as_deref() == Some(PROGRESSING))?;
    if is_complete(deployment, status)
        || matches!(progressing.reason.as_deref(), Some(TIMED_OUT | NEW_REPLICA_SET_AVAILABLE))
    {
        return None;
    }
    let from = progressing.last_update_time.as_ref()?.0;
    let left = deadline - now.duration_since(from);
    Some(left.max(SignedDuration::ZERO) + SignedDuration::from_secs(1))
}

/// Upstream leaves counts of zero out.
fn given(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
