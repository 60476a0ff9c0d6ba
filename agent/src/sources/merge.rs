//! One set of pods from all sources, and what changed in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::Pod;

use super::{Source, Wanted};
use crate::names::{full_name, is_mirror, uid};

/// All pods that are wanted on this node.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// By uid.
    pub pods: BTreeMap<String, Desire>,
    /// Pods in the API that stand for pods from elsewhere, by full name.
    pub mirrors: BTreeMap<String, Arc<Pod>>,
    /// Every source has been read: what is not here is not wanted.
    pub ready: bool,
}

/// One pod and where it comes from.
#[derive(Debug, Clone)]
pub struct Desire {
    /// Where it comes from.
    pub source: Source,
    /// The pod.
    pub pod: Arc<Pod>,
}

/// A step from one set to the next.
#[derive(Debug, Clone)]
pub enum Change {
    /// A pod is wanted that was not.
    Added(Desire),
    /// A pod's definition or status changed.
    Updated(Desire),
    /// A pod is not wanted any more.
    Removed(Desire),
    /// The mirror of the pod with this full name changed, came or went.
    Mirror(String, Option<Arc<Pod>>),
}

/// Merges what the sources want; the first that has a uid wins it.
pub fn merge<'a>(sources: impl IntoIterator<Item = (Source, &'a Wanted)>) -> Desired {
    let mut sources: Vec<_> = sources.into_iter().collect();
    sources.sort_by_key(|(source, _)| *source);
    let mut desired = Desired { ready: sources.iter().all(|(_, wanted)| wanted.ready), ..Desired::default() };
    for (source, wanted) in sources {
        for pod in &wanted.pods {
            if source == Source::Api && is_mirror(pod) {
                desired.mirrors.insert(full_name(pod), pod.clone());
            } else {
                desired
                    .pods
                    .entry(uid(pod).to_owned())
                    .or_insert_with(|| Desire { source, pod: pod.clone() });
            }
        }
    }
    desired
}

/// What changed. Removals come first: a new pod may need what an old one of the same name holds.
pub fn diff(old: &Desired, new: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    for (uid, desire) in &old.pods {
        if !new.pods.contains_key(uid) {
            changes.push(Change::Removed(desire.clone()));
        }
    }
    for (uid, desire) in &new.pods {
        match old.pods.get(uid) {
            None => changes.push(Change::Added(desire.clone())),
            Some(before) if !Arc::ptr_eq(&before.pod, &desire.pod) => {
                changes.push(Change::Updated(desire.clone()));
            }
            Some(_) => {}
        }
    }
    for name in old.mirrors.keys() {
        if !new.mirrors.contains_key(name) {
            changes.push(Change::Mirror(name.clone(), None));
        }
    }
    for (name, pod) in &new.mirrors {
        if !old.mirrors.get(name).is_some_and(|before| Arc::ptr_eq(before, pod)) {
            changes.push(Change::Mirror(name.clone(), Some(pod.clone())));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::annotation;

    fn pod(name: &str, uid: &str, mirror: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.uid = Some(uid.into());
        if mirror {
            pod.metadata.annotations = Some(BTreeMap::from([(annotation::MIRROR.into(), "h".into())]));
        }
        Arc::new(pod)
    }

    fn wanted(pods: &[&Arc<Pod>]) -> Wanted {
        Wanted { ready: true, pods: pods.iter().map(|pod| (*pod).clone()).collect(), ..Wanted::default() }
    }

    fn lines(changes: &[Change]) -> String {
        let line = |change: &Change| match change {
            Change::Added(desire) => format!("+{}/{}", desire.source.as_str(), uid(&desire.pod)),
            Change::Updated(desire) => format!("~{}/{}", desire.source.as_str(), uid(&desire.pod)),
            Change::Removed(desire) => format!("-{}/{}", desire.source.as_str(), uid(&desire.pod)),
            Change::Mirror(name, pod) => format!("{}{name}", if pod.is_some() { "m+" } else { "m-" }),
        };
        changes.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sources_are_merged() {
        let (a, b, c) = (pod("a", "1", false), pod("b", "2", false), pod("c", "1", false));
        let mirror = pod("a", "9", true);
        let (file, api) = (wanted(&[&a]), wanted(&[&b, &c, &mirror]));
        let desired = merge([(Source::Api, &api), (Source::File, &file)]);
        assert_eq!(desired.pods.len(), 2);
        assert!(Arc::ptr_eq(&desired.pods["1"].pod, &a), "the file wins the uid");
        assert!(desired.mirrors.contains_key("a_ns"), "mirrors are not run");
        assert!(desired.ready);
        let unread = Wanted::default();
        assert!(!merge([(Source::Api, &unread), (Source::File, &file)]).ready);
    }

    #[test]
    fn differences() {
        let (a, b) = (pod("a", "1", false), pod("b", "2", false));
        let changed = pod("a", "1", false);
        let mirror = pod("a", "9", true);
        let set = |pods: &[&Arc<Pod>]| merge([(Source::Api, &wanted(pods))]);
        for (name, old, new, expected) in [
            ("nothing", set(&[&a]), set(&[&a]), ""),
            ("one comes", set(&[&a]), set(&[&a, &b]), "+api/2"),
            ("one goes, one comes", set(&[&a]), set(&[&b]), "-api/1 +api/2"),
            ("one changes", set(&[&a]), set(&[&changed]), "~api/1"),
            ("a mirror comes", set(&[]), set(&[&mirror]), "m+a_ns"),
            ("a mirror goes", set(&[&mirror]), set(&[]), "m-a_ns"),
        ] {
            assert_eq!(lines(&diff(&old, &new)), expected, "{name}");
        }
    }
}
