//! A Deployment's ReplicaSets as a plan is made: the newest and the old ones, with their planned sizes.

use std::sync::Arc;

use client::Object;
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::PodTemplateSpec;

use super::annotations;

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// One ReplicaSet and what is planned for it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// As observed.
    pub(super) seen: Arc<ReplicaSet>,
    /// As it shall be.
    pub(super) planned: ReplicaSet,
    /// What the plan says about its size, for an event.
    pub(super) scaled: Option<String>,
}

impl Member {
    pub(super) fn new(seen: Arc<ReplicaSet>) -> Self {
        Self { planned: (*seen).clone(), seen, scaled: None }
    }

    /// Planned size.
    pub(super) fn replicas(&self) -> i32 {
        self.planned.spec.replicas.unwrap_or(1)
    }

    /// Pods that were available when last counted.
    pub(super) fn available(&self) -> i32 {
        self.seen.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Pods that were there when last counted.
    pub(super) fn actual(&self) -> i32 {
        self.seen.status.as_ref().map_or(0, |status| status.replicas)
    }

    /// Plans a size and writes the Deployment's sizes beside it. Says whether the size changes.
    pub(super) fn scale(&mut self, replicas: i32, deployment: &Deployment) -> bool {
        let before = self.replicas();
        if before == replicas && annotations::sizes_are_current(&self.planned, deployment) {
            return false;
        }
        self.planned.spec.replicas = Some(replicas);
        annotations::set_sizes(&mut self.planned, deployment);
        if before == replicas {
            return false;
        }
        let direction = if replicas > before { "up" } else { "down" };
        let name = self.planned.name();
        self.scaled = Some(format!("Scaled {direction} replica set {name} from {before} to {replicas}"));
        true
    }
}

/// Oldest first: an order that does not change.
fn age(set: &ReplicaSet) -> impl Ord + use<> {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name().to_owned())
}

/// All of a Deployment's ReplicaSets.
#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    /// The one with the Deployment's template.
    pub(super) new: Option<Member>,
    /// The others, oldest first.
    pub(super) old: Vec<Member>,
}

impl Fleet {
    /// Of several with the Deployment's template the oldest is the newest: an order that does not change.
    pub(super) fn sort(deployment: &Deployment, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        sets.sort_by_key(|set| age(set));
        let mut fleet = Self::default();
        for set in sets {
            let template = set.spec.template.as_ref();
            let current = template.is_some_and(|template| same_template(template, &deployment.spec.template));
            if current && fleet.new.is_none() {
                fleet.new = Some(Member::new(set));
            } else {
                fleet.old.push(Member::new(set));
            }
        }
        fleet
    }

    /// Old ones first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.old.iter().chain(&self.new)
    }

    /// Old ones first.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// Sum of planned sizes.
    pub(super) fn total(&self) -> i32 {
        self.all().map(Member::replicas).sum()
    }

    /// Sum of planned sizes of the old ones.
    pub(super) fn total_old(&self) -> i32 {
        self.old.iter().map(Member::replicas).sum()
    }

    /// Sum of what was available when last counted.
    pub(super) fn available(&self) -> i32 {
        self.all().map(Member::available).sum()
    }

    /// The highest revision of the old ones.
    pub(super) fn newest_old_revision(&self) -> i64 {
        self.old.iter().map(|member| annotations::revision(&member.planned.metadata)).max().unwrap_or(0)
    }
}

/// Whether two templates are the same but for the hash label.
pub(super) fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
        meta
    };
    one.spec == other.spec && bare(one) == bare(other)
}
