//! Whose object is it? Controller references, adoption and release.

use client::{Client, DeleteParams, Error, Index, Object, ObjectKey, Patch};
use manifests::k8s_openapi;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use manifests::selector::Selector;
use serde_json::json;

/// Name of the index made by [`by_controller`].
pub(crate) const BY_CONTROLLER: &str = "controller";

/// Finds objects by the uid of their controller, and those without one by [`orphans_of`].
pub(crate) fn by_controller<K: Object>() -> Index<K> {
    Index { name: BY_CONTROLLER, values: |object| vec![place(object.meta())] }
}

fn place(meta: &ObjectMeta) -> String {
    match controller_of(meta) {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(meta.namespace.as_deref().unwrap_or_default()),
    }
}

/// The index value of a namespace's objects that have no controller.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("none in {namespace}")
}

/// The owner that is the object's controller.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The controller of an object if it is of this kind.
pub(crate) fn controller_key<K: k8s_openapi::Resource>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta)?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    (owner.kind == K::KIND && group == K::GROUP).then(|| ObjectKey::new(namespace, owner.name.clone()))
}

/// A reference to an object as the controller of another.
pub(crate) fn controller_reference<K: Object + k8s_openapi::Resource>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// One object, by name and by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ref {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
}

impl Ref {
    pub(crate) fn to<K: Object>(object: &K) -> Self {
        Self { key: object.key(), uid: object.uid().to_owned() }
    }

    /// Parameters that delete this object and no later one of its name.
    pub(crate) fn delete_params(&self) -> DeleteParams {
        DeleteParams::uid(self.uid.clone())
    }
}

/// What an owner does about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the owner's.
    Keep,
    /// It has no owner, and the owner's selector wants it.
    Adopt,
    /// It is the owner's, but the selector no longer wants it.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Decides about one object. `selector` is the owner's.
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let matches = selector.matches_meta(object.labels.as_ref());
    let deleting = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches || deleting(owner) => Claim::Keep,
        Some(_) => Claim::Release,
        None if matches && !deleting(owner) && !deleting(object) => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Makes the owner the object's controller, unless the owner is about to go.
pub(crate) async fn adopt<K, O>(client: &Client, owner: &O, object: &Ref) -> Result<(), Error>
where
    K: Object
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    O: Object
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    // The cache may not show yet that the owner is being deleted; what it adopts now would never be released.
    let newest = client.namespaced::<O>(owner.namespace()).get_opt(owner.name()).await?;
    let stays = newest
        .is_some_and(|newest| newest.uid() == owner.uid() && newest.meta().deletion_timestamp.is_none());
    if !stays {
        return Ok(());
    }
    let reference = controller_reference(owner);
    let patch = json!({"metadata": {"ownerReferences": [reference], "uid": object.uid}});
    gone_is_fine(
        client.namespaced::<K>(&object.key.namespace).patch(&object.key.name, &Patch::Strategic(patch)).await,
    )
}

/// Makes the owner no longer the object's controller.
pub(crate) async fn release<K>(client: &Client, owner_uid: &str, object: &Ref) -> Result<(), Error>
where
    K: Object
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
        "uid": object.uid,
    }});
    gone_is_fine(
        client.namespaced::<K>(&object.key.namespace).patch(&object.key.name, &Patch::Strategic(patch)).await,
    )
}

fn gone_is_fine<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use testkit::pod;

    use super::*;

    #[test]
    fn claims() {
        let owner = |deleting: bool| {
            let mut meta = ObjectMeta { uid: Some("me".into()), ..ObjectMeta::default() };
            if deleting {
                meta.deletion_timestamp = pod("x").terminating().build().metadata.deletion_timestamp;
            }
            meta
        };
        let selector = Selector::parse("app=web").unwrap();
        let check = |pod: testkit::PodBuilder, deleting: bool, expected: Claim| {
            assert_eq!(claim(&owner(deleting), &selector, &pod.build().metadata), expected);
        };
        let web = || pod("p").label("app", "web");
        let mine = |pod: testkit::PodBuilder| pod.controlled_by("apps/v1", "ReplicaSet", "rs", "me");
        let theirs = |pod: testkit::PodBuilder| pod.controlled_by("apps/v1", "ReplicaSet", "rs", "other");
        check(mine(web()), false, Claim::Keep);
        check(mine(pod("p")), false, Claim::Release);
        check(mine(pod("p")), true, Claim::Keep);
        check(web(), false, Claim::Adopt);
        check(web(), true, Claim::Ignore);
        check(web().terminating(), false, Claim::Ignore);
        check(pod("p"), false, Claim::Ignore);
        check(theirs(web()), false, Claim::Ignore);
    }
}
