//! Mirror pods: what a pod from a file or URL looks like in the API.
//!
//! The API server cannot stop such a pod; it can only show it. A mirror that was deleted, or that shows an
//! older definition, is made anew.

use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::names::annotation;

/// What to do about the mirror of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum MirrorAction {
    /// It is right.
    Keep,
    /// Delete the one with this uid; a new one follows when it is gone.
    Delete {
        /// Of the mirror.
        uid: String,
    },
    /// Make one.
    Create(Box<Pod>),
}

/// Decides about the mirror of `pod`, which comes from a file or URL.
pub fn decide(pod: &Pod, mirror: Option<&Pod>, node: Option<&Node>) -> MirrorAction {
    let hash = crate::names::annotation(pod, annotation::HASH).unwrap_or_default();
    match mirror {
        Some(mirror) => {
            let same = crate::names::annotation(mirror, annotation::MIRROR) == Some(hash);
            if same && mirror.metadata.deletion_timestamp.is_none() {
                MirrorAction::Keep
            } else {
                MirrorAction::Delete { uid: mirror.metadata.uid.clone().unwrap_or_default() }
            }
        }
        None => MirrorAction::Create(Box::new(mirror_of(pod, hash, node))),
    }
}

fn mirror_of(pod: &Pod, hash: &str, node: Option<&Node>) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    let meta = &mut mirror.metadata;
    meta.uid = None;
    meta.resource_version = None;
    meta.creation_timestamp = None;
    meta.annotations.get_or_insert_default().insert(annotation::MIRROR.to_owned(), hash.to_owned());
    // With the node as owner, the mirror goes when the node does.
    if let Some(node) = node {
        meta.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.metadata.name.clone().unwrap_or_default(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
    }
    mirror
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture;

    fn with(key: &str, value: &str) -> Pod {
        let mut pod = fixture::pod("containers: [{name: a, image: i}]");
        pod.metadata.annotations = Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        pod
    }

    #[test]
    fn mirrors() {
        let pod = with(annotation::HASH, "h1");
        let MirrorAction::Create(mirror) = decide(&pod, None, None) else { panic!("no mirror is made") };
        assert_eq!(crate::names::annotation(&mirror, annotation::MIRROR), Some("h1"));
        assert_eq!(mirror.metadata.uid, None);

        let right = with(annotation::MIRROR, "h1");
        assert_eq!(decide(&pod, Some(&right), None), MirrorAction::Keep);
        let stale = with(annotation::MIRROR, "h0");
        assert_eq!(decide(&pod, Some(&stale), None), MirrorAction::Delete { uid: "u1".into() });
        let mut going = right;
        going.metadata.deletion_timestamp = Some(
            manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
        );
        assert_eq!(decide(&pod, Some(&going), None), MirrorAction::Delete { uid: "u1".into() });
    }
}
