//! Short ways to write objects in tests.

use manifests::k8s_openapi::api::core::v1::{Pod, PodSpec};

/// A defaulted pod `default/web` with uid `u1` and this spec, in YAML.
pub(crate) fn pod(spec: &str) -> Pod {
    let spec: PodSpec = serde_yaml::from_str(spec).expect("a pod spec in YAML");
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    pod.metadata.name = Some("web".into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some("u1".into());
    manifests::default::pod(&mut pod);
    pod
}
