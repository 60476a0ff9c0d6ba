//! What is checked of every object, whatever its kind.

use manifests::field::{ErrorList, FieldError, Path};
use manifests::k8s_openapi::Metadata;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn meta<T: Metadata<Ty = ObjectMeta>>(object: &T) -> ErrorList {
    let path = Path::new("metadata").child("name");
    let name = object.metadata().name.as_deref().unwrap_or_default();
    let mut errors = ErrorList::new();
    if name.is_empty() {
        errors.push(FieldError::required(&path, "name or generateName is required"));
    } else {
        errors.push_invalid(&path, name, manifests::names::path_segment(name));
    }
    errors
}

macro_rules! checks {
    ($($create:ident $($update:ident)*: $type:ty;)*) => {$(
        pub(super) fn $create(object: &$type) -> ErrorList {
            meta(object)
        }
        $(pub(super) fn $update(new: &$type, _: &$type) -> ErrorList {
            meta(new)
        })*
    )*};
}

use manifests::k8s_openapi::api;
checks! {
    config_map config_map_update: api::core::v1::ConfigMap;
    secret secret_update: api::core::v1::Secret;
    service_account service_account_update: api::core::v1::ServiceAccount;
    namespace namespace_update namespace_status_update namespace_finalize_update: api::core::v1::Namespace;
    node node_update node_status_update: api::core::v1::Node;
    pod pod_update pod_status_update pod_ephemeral_containers_update: api::core::v1::Pod;
    service service_update service_status_update: api::core::v1::Service;
    endpoints endpoints_update: api::core::v1::Endpoints;
    endpoint_slice endpoint_slice_update: api::discovery::v1::EndpointSlice;
    event event_update: api::core::v1::Event;
    lease lease_update: api::coordination::v1::Lease;
    replica_set replica_set_update replica_set_status_update: api::apps::v1::ReplicaSet;
    deployment deployment_update deployment_status_update: api::apps::v1::Deployment;
    priority_class priority_class_update: api::scheduling::v1::PriorityClass;
}
