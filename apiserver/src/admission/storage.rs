//! What claims and volumes get when they are made: a storage class, and a finalizer that keeps them while they are used.
//!
//! Follows upstream's `DefaultStorageClass` and `StorageObjectInUseProtection` plugins.

use manifests::k8s_openapi::api::core::v1::PersistentVolumeClaim;
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::volumes::{claim_class, default_class};

/// Adds a finalizer that a controller takes away again.
pub(crate) fn protect(meta: &mut ObjectMeta, finalizer: &str) {
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|have| have == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}

/// A claim that names no class gets the default one, if there is one. An empty name asks for none.
pub(crate) fn choose_class(claim: &mut PersistentVolumeClaim, classes: impl FnOnce() -> Vec<StorageClass>) {
    if claim_class(claim).is_some() {
        return;
    }
    if let Some(class) = default_class(&classes()) {
        claim.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_get_the_default_class() {
        let class = json!({"provisioner": "p", "metadata": {
            "name": "usual", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        }});
        let class: StorageClass = serde_json::from_value(class).unwrap();
        let check = |own: Option<&str>, classes: &[StorageClass], expected: Option<&str>| {
            let mut claim = PersistentVolumeClaim::default();
            claim.spec.get_or_insert_default().storage_class_name = own.map(str::to_owned);
            choose_class(&mut claim, || classes.to_vec());
            assert_eq!(claim_class(&claim), expected);
        };
        let classes = [class];
        check(None, &classes, Some("usual"));
        check(Some(""), &classes, Some(""));
        check(Some("other"), &classes, Some("other"));
        check(None, &[], None);
        let mut meta = ObjectMeta::default();
        protect(&mut meta, "a");
        protect(&mut meta, "a");
        assert_eq!(meta.finalizers.unwrap(), ["a"]);
    }
}
