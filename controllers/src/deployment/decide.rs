//! What a Deployment does next: no clock, no I/O. One pass is one step of the rollout; the change that it makes
//! leads to the next.

use std::sync::Arc;
use std::time::Duration;

use client::{Next, Object};
use manifests::hash;
use manifests::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use super::annotations;
use super::fleet::{Fleet, HASH_LABEL, Member};
use super::limits::{self, Strategy};
use super::observe::Observed;
use super::rollout;
use super::status::{self, Conditions};
use crate::ownership::{Claim, Ref, claim, controller_reference};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Become the ReplicaSet's controller.
    Adopt(Ref),
    /// Be the ReplicaSet's controller no longer.
    Release(Ref),
    /// Make a ReplicaSet.
    Create(Box<ReplicaSet>),
    /// Change a ReplicaSet that is still as it was seen; an event says how it was scaled.
    Update { replica_set: Box<ReplicaSet>, event: Option<String> },
    /// Remove a ReplicaSet that nobody can want to go back to.
    Delete(Ref),
    /// Write the revision on the Deployment.
    SetRevision(i64),
}

/// What to do, and what the status then is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: DeploymentStatus,
    pub(super) next: Next,
}

/// A plan in the making.
struct Draft<'a> {
    observed: &'a Observed,
    deployment: &'a Deployment,
    fleet: Fleet,
    conditions: Conditions,
    actions: Vec<Action>,
    created: Option<ReplicaSet>,
    collision: bool,
    now: Timestamp,
}

pub(super) fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let deployment = &*observed.deployment;
    let (own, actions) = claim_all(observed);
    let mut draft = Draft {
        observed,
        deployment,
        fleet: Fleet::sort(deployment, own),
        conditions: Conditions::of(deployment, now),
        actions,
        created: None,
        collision: false,
        now,
    };
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = status::count(deployment, &draft.fleet, draft.conditions);
        return Plan { actions: draft.actions, status, next: Next::Wait };
    }
    status::note_pause(deployment, &mut draft.conditions);
    let paused = deployment.spec.paused.unwrap_or(false);
    if paused || rollout::is_scaling(deployment, &draft.fleet) {
        draft.keep_new();
        rollout::scale(deployment, &mut draft.fleet);
        if paused {
            draft.clean_up();
        }
        let status = status::count(deployment, &draft.fleet, draft.conditions.clone());
        return draft.finish(status);
    }
    match limits::strategy(deployment) {
        Strategy::RollingUpdate { .. } => draft.roll(),
        Strategy::Recreate => draft.recreate(),
    }
    if draft.is_complete() {
        draft.clean_up();
    }
    let status = status::rollout(deployment, &draft.fleet, draft.conditions.clone(), now);
    draft.finish(status)
}

fn claim_all(observed: &Observed) -> (Vec<Arc<ReplicaSet>>, Vec<Action>) {
    let deployment = &observed.deployment;
    let selector = Selector::from_label_selector(Some(&deployment.spec.selector))
        .unwrap_or_else(|_| Selector::nothing());
    let (mut own, mut actions) = (Vec::new(), Vec::new());
    for set in &observed.replica_sets {
        match claim(&deployment.metadata, &selector, &set.metadata) {
            Claim::Keep => own.push(set.clone()),
            Claim::Adopt => {
                actions.push(Action::Adopt(Ref::to(&**set)));
                own.push(set.clone());
            }
            Claim::Release => actions.push(Action::Release(Ref::to(&**set))),
            Claim::Ignore => {}
        }
    }
    (own, actions)
}

impl Draft<'_> {
    fn roll(&mut self) {
        if self.keep_or_make_new() {
            rollout::roll(self.deployment, &mut self.fleet);
        }
    }

    fn recreate(&mut self) {
        self.keep_new();
        if rollout::stop_old(self.deployment, &mut self.fleet) || self.old_pods_remain() {
            return;
        }
        if self.keep_or_make_new()
            && let Some(new) = &mut self.fleet.new
            && new.replicas() != limits::replicas(self.deployment)
        {
            new.scale(limits::replicas(self.deployment), self.deployment);
        }
    }

    fn old_pods_remain(&self) -> bool {
        self.fleet.old.iter().any(|member| self.observed.with_pods.iter().any(|uid| uid == member.seen.uid()))
    }

    fn is_complete(&self) -> bool {
        self.deployment.status.as_ref().is_some_and(|status| status::is_complete(self.deployment, status))
    }

    /// Brings the newest ReplicaSet's annotations up to date, if there is one.
    fn keep_new(&mut self) {
        let revision = self.fleet.newest_old_revision() + 1;
        let Some(new) = &mut self.fleet.new else { return };
        annotations::set_new(&mut new.planned, self.deployment, revision);
        new.planned.spec.min_ready_seconds = self.deployment.spec.min_ready_seconds;
        status::note_new(self.deployment, new.seen.name(), false, &mut self.conditions);
        let revision = annotations::revision(&new.planned.metadata);
        self.set_revision(revision);
    }

    fn set_revision(&mut self, revision: i64) {
        let known = annotations::revision(&self.deployment.metadata) == revision;
        let planned = self.actions.contains(&Action::SetRevision(revision));
        if !known && !planned {
            self.actions.push(Action::SetRevision(revision));
        }
    }

    /// Says whether there is a newest ReplicaSet that a rollout can go on with.
    fn keep_or_make_new(&mut self) -> bool {
        if self.fleet.new.is_some() {
            self.keep_new();
            return true;
        }
        let new = self.new_replica_set();
        let known = self.observed.replica_sets.iter().map(|set| set.name());
        if known.chain(self.observed.taken.iter().map(String::as_str)).any(|name| name == new.name()) {
            // A ReplicaSet with another template or owner has that name: count the collision, which makes
            // for another hash.
            self.collision = true;
            return false;
        }
        self.set_revision(annotations::revision(&new.metadata));
        status::note_new(self.deployment, new.name(), true, &mut self.conditions);
        self.created = Some(new);
        // It has to be there before old ones shrink.
        false
    }

    fn new_replica_set(&self) -> ReplicaSet {
        let deployment = self.deployment;
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash::pod_template(&deployment.spec.template, collisions);
        let mut template = deployment.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let mut selector = deployment.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
        let mut new = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", deployment.name())),
                namespace: deployment.metadata.namespace.clone(),
                labels: Some(labels.clone()),
                owner_references: Some(vec![controller_reference(deployment)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(rollout::new_size(deployment, 0, self.fleet.total())),
                min_ready_seconds: deployment.spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        annotations::set_new(&mut new, deployment, self.fleet.newest_old_revision() + 1);
        annotations::set_sizes(&mut new, deployment);
        new
    }

    /// Old ReplicaSets beyond the history limit go, oldest revision first, once they are empty.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit.filter(|limit| *limit != i32::MAX)
        else {
            return;
        };
        let mut history: Vec<&Member> = self
            .fleet
            .old
            .iter()
            .filter(|member| member.seen.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = history.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        history.sort_by_key(|member| annotations::revision(&member.seen.metadata));
        for member in history.into_iter().take(surplus) {
            let status = member.seen.status.as_ref();
            let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
            let settled = member.seen.metadata.generation.unwrap_or(0) <= observed;
            if settled
                && member.actual() == 0
                && member.replicas() == 0
                && member.seen.spec.replicas == Some(0)
            {
                self.actions.push(Action::Delete(Ref::to(&*member.seen)));
            }
        }
    }

    fn finish(mut self, mut status: DeploymentStatus) -> Plan {
        if let Some(new) = self.created {
            self.actions.push(Action::Create(Box::new(new)));
        }
        let deleted: Vec<String> = self
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Delete(set) => Some(set.uid.clone()),
                _ => None,
            })
            .collect();
        for member in self.fleet.old.into_iter().chain(self.fleet.new) {
            if member.planned != *member.seen && !deleted.iter().any(|uid| uid == member.seen.uid()) {
                let event = member.scaled;
                self.actions.push(Action::Update { replica_set: Box::new(member.planned), event });
            }
        }
        if self.collision {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        let paused = self.deployment.spec.paused.unwrap_or(false);
        let next = match status::times_out_in(self.deployment, &status, self.now) {
            Some(wait) if !paused => Next::After(Duration::try_from(wait).unwrap_or_default()),
            _ => Next::Wait,
        };
        Plan { actions: self.actions, status, next }
    }
}
