//! The templates that a DaemonSet or a StatefulSet had, kept as ControllerRevisions: what `kubectl rollout history` shows
//! and `undo` goes back to.
//!
//! A revision has a name made from the template's hash. The newest is the one whose template the set has; going back to an
//! older template makes that revision the newest again. All of it is pure but [`carry_out`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Client, Error, Object};
use manifests::hash;
use manifests::k8s_openapi::NamespaceResourceScope;
use manifests::k8s_openapi::api::apps::v1::ControllerRevision;
use manifests::k8s_openapi::api::core::v1::PodTemplateSpec;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use manifests::k8s_openapi::{Metadata, Resource};
use serde_json::{Value, json};

use crate::ownership::{Ref, controller_reference};

/// Says which revision a pod or a revision is of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// What to do about the revisions, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Keep the present template.
    Create(Box<ControllerRevision>),
    /// Make a revision the newest.
    Renumber { revision: Ref, to: i64 },
    /// Forget one that nobody uses.
    Delete(Ref),
}

/// The present revision and the steps that make it so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct History {
    /// The name of the present template's revision.
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

impl History {
    /// The hash in the name of the present revision.
    pub(crate) fn hash(&self) -> &str {
        self.name.rsplit('-').next().unwrap_or_default()
    }
}

/// What a set is asked about.
pub(crate) struct Present<'a> {
    pub(crate) template: &'a PodTemplateSpec,
    pub(crate) collisions: Option<i32>,
    pub(crate) limit: Option<i32>,
    /// Revisions and hashes that pods or the status name.
    pub(crate) used: BTreeSet<&'a str>,
}

/// The part of a set that a revision holds, as a patch that brings it back.
pub(crate) fn data(template: &PodTemplateSpec) -> Value {
    let mut template = manifests::encode::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template in a revision.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(revision.data.0.get("spec")?.get("template")?.clone()).ok()
}

/// Decides about the revisions that are the owner's.
pub(crate) fn history<K>(owner: &K, present: &Present<'_>, revisions: &[Arc<ControllerRevision>]) -> History
where
    K: Object + Metadata<Ty = ObjectMeta> + Resource,
{
    let number = |revision: &ControllerRevision| revision.revision.unwrap_or(0);
    let newest = revisions.iter().map(|revision| number(revision)).max().unwrap_or(0);
    let data = data(present.template);
    let equal =
        revisions.iter().filter(|revision| revision.data.0 == data).max_by_key(|revision| number(revision));
    let mut steps = Vec::new();
    let name = match equal {
        Some(equal) => {
            if number(equal) < newest {
                steps.push(Step::Renumber { revision: Ref::to(&**equal), to: newest + 1 });
            }
            equal.name().to_owned()
        }
        None => {
            let hash = hash::pod_template(present.template, present.collisions);
            let name = format!("{}-{hash}", owner.name());
            let mut labels: BTreeMap<String, String> =
                present.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
            labels.insert(HASH.to_owned(), hash);
            let annotations = owner.meta().annotations.clone().map(|mut annotations| {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                annotations
            });
            steps.push(Step::Create(Box::new(ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: owner.meta().namespace.clone(),
                    labels: Some(labels),
                    annotations: annotations.filter(|annotations| !annotations.is_empty()),
                    owner_references: Some(vec![controller_reference(owner)]),
                    ..ObjectMeta::default()
                },
                data: RawExtension(data),
                revision: Some(newest + 1),
            })));
            name
        }
    };
    let used = |revision: &ControllerRevision| {
        let hash = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
        revision.name() == name
            || present.used.contains(revision.name())
            || hash.is_some_and(|hash| present.used.contains(hash.as_str()))
    };
    let mut unused: Vec<&Arc<ControllerRevision>> =
        revisions.iter().filter(|revision| !used(revision)).collect();
    unused.sort_by_key(|revision| number(revision));
    let limit = usize::try_from(present.limit.unwrap_or(10)).unwrap_or(0);
    let surplus = unused.len().saturating_sub(limit);
    steps.extend(unused[..surplus].iter().map(|revision| Step::Delete(Ref::to(&***revision))));
    History { name, steps }
}

/// What came of the steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Done,
    /// Something else has the name that the revision was to have.
    Collision,
}

/// Carries the steps out.
pub(crate) async fn carry_out(client: &Client, namespace: &str, steps: &[Step]) -> Result<Kept, Error>
where
    ControllerRevision: Resource<Scope = NamespaceResourceScope>,
{
    let api = client.namespaced::<ControllerRevision>(namespace);
    for step in steps {
        match step {
            Step::Create(revision) => match api.create(revision).await {
                Ok(_) => {}
                Err(error) if error.is_already_exists() => {
                    // Ours, from a pass that the cache does not show yet, or somebody else's.
                    let there = api.get_opt(revision.name()).await?;
                    let own = |there: &ControllerRevision| {
                        there.data == revision.data
                            && there.metadata.owner_references == revision.metadata.owner_references
                    };
                    if there.is_some_and(|there| !own(&there)) {
                        return Ok(Kept::Collision);
                    }
                }
                Err(error) => return Err(error),
            },
            Step::Renumber { revision, to } => {
                let patch = client::Patch::Merge(json!({"revision": to, "metadata": {"uid": revision.uid}}));
                api.patch(&revision.key.name, &patch).await?;
            }
            Step::Delete(revision) => api.delete_opt(&revision.key.name, &revision.delete_params()).await?,
        }
    }
    Ok(Kept::Done)
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;

    fn set(image: &str) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "default", "uid": "set"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
        .unwrap()
    }

    fn present<'a>(set: &'a DaemonSet, used: &[&'a str]) -> Present<'a> {
        Present {
            template: &set.spec.template,
            collisions: None,
            limit: Some(1),
            used: used.iter().copied().collect(),
        }
    }

    /// Carries the steps out on a list.
    fn after(revisions: &[Arc<ControllerRevision>], steps: &[Step]) -> Vec<Arc<ControllerRevision>> {
        let mut all: Vec<ControllerRevision> =
            revisions.iter().map(|revision| (**revision).clone()).collect();
        for step in steps {
            match step {
                Step::Create(revision) => all.push((**revision).clone()),
                Step::Renumber { revision, to } => {
                    all.iter_mut().find(|known| known.name() == revision.key.name).unwrap().revision =
                        Some(*to);
                }
                Step::Delete(revision) => all.retain(|known| known.name() != revision.key.name),
            }
        }
        all.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn templates_are_kept_and_come_back() {
        let (one, two, three) = (set("one"), set("two"), set("three"));
        let mut kept = Vec::new();
        let mut names = Vec::new();
        for set in [&one, &two, &one, &three, &two] {
            let decided = history(set, &present(set, &[]), &kept);
            kept = after(&kept, &decided.steps);
            names.push(decided.name.clone());
            // Deciding again changes nothing.
            assert_eq!(
                history(set, &present(set, &[]), &kept),
                History { name: decided.name, steps: vec![] }
            );
        }
        assert_eq!(names[0], names[2]);
        // One is present and one is history; the last-but-one was forgotten and kept anew.
        let numbers: Vec<_> =
            kept.iter().map(|revision| (revision.name(), revision.revision.unwrap())).collect();
        assert_eq!(numbers, [(names[3].as_str(), 4), (names[1].as_str(), 5)]);
        assert_eq!(template(&kept[1]).as_ref(), Some(&two.spec.template));
        // What a pod is of stays.
        let used = history(&one, &present(&one, &[kept[0].name()]), &kept);
        assert!(!used.steps.iter().any(|step| matches!(step, Step::Delete(_))), "{used:?}");
    }
}
