//! Kinds whose hooks are few.

use manifests::k8s_openapi::api::core::v1 as core;
use manifests::kinds;

use super::{Kind, Row, Typed};

struct ConfigMap;

impl Kind for ConfigMap {
    type Object = core::ConfigMap;
}

struct Pod;

impl Kind for Pod {
    type Object = core::Pod;
    const RETURNS_DELETED: bool = true;
}

struct Namespace;

impl Kind for Namespace {
    type Object = core::Namespace;
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(&kinds::CONFIG_MAP, Typed::<ConfigMap>::HOOKS),
        Row::new(&kinds::POD, Typed::<Pod>::HOOKS),
        Row::new(&kinds::NAMESPACE, Typed::<Namespace>::HOOKS),
    ]
}
