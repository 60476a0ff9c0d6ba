//! From a typed object to JSON as Kubernetes writes it.
//!
//! Go leaves a field out when it is empty: an empty list, an empty map, and `false`, `0` or `""` where the field is no
//! pointer. `k8s-openapi` has options everywhere and writes whatever they hold. The difference shows: a client that
//! reads an object and sends it back without `hostNetwork: false` must not have changed it, or a Deployment would roll
//! out for nothing. So objects are written here, by Go's rules, before they are stored, compared or hashed.

mod serializer;

use serde::Serialize;
use serde_json::Value;

/// An object that cannot be written as JSON. No type of the API does that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(String);

/// The object as a value.
pub fn to_value<T: Serialize + ?Sized>(object: &T) -> Result<Value, EncodeError> {
    Ok(object.serialize(serializer::Encoder { of: "", field: "" })?.value)
}

/// The object as text.
pub fn to_vec<T: Serialize + ?Sized>(object: &T) -> Result<Vec<u8>, EncodeError> {
    serde_json::to_vec(&to_value(object)?).map_err(|error| EncodeError(error.to_string()))
}

/// Whether two objects say the same: upstream's semantic equality, in which what is empty equals what is missing.
pub fn same<T: Serialize + ?Sized>(a: &T, b: &T) -> bool {
    match (to_value(a), to_value(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Scalars that are no pointers in Go and are left out when they are zero, by struct.
#[rustfmt::skip]
const OMITTED_WHEN_ZERO: &[(&str, &[&str])] = &[
    ("ConfigMapEnvSource", &["name"]),
    ("ConfigMapKeySelector", &["name"]),
    ("ConfigMapProjection", &["name"]),
    ("ConfigMapVolumeSource", &["name"]),
    ("Container", &["image", "workingDir", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "stdin", "stdinOnce", "tty"]),
    ("ContainerImage", &["sizeBytes"]),
    ("ContainerPort", &["name", "hostPort", "protocol", "hostIP"]),
    ("ContainerStateTerminated", &["signal", "reason", "message", "containerID"]),
    ("ContainerStateWaiting", &["reason", "message"]),
    ("ContainerStatus", &["containerID"]),
    ("CrossVersionObjectReference", &["apiVersion"]),
    ("DeploymentCondition", &["reason", "message"]),
    ("DeploymentSpec", &["minReadySeconds", "paused"]),
    ("DeploymentStatus", &["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]),
    ("DeploymentStrategy", &["type"]),
    ("EmptyDirVolumeSource", &["medium"]),
    ("EndpointAddress", &["hostname"]),
    ("EnvFromSource", &["prefix"]),
    ("EnvVar", &["value"]),
    ("EphemeralContainer", &["image", "workingDir", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "stdin", "stdinOnce", "tty", "targetContainerName"]),
    ("Event", &["reason", "message", "count", "type", "action"]),
    ("EventSeries", &["count"]),
    ("EventSource", &["component", "host"]),
    ("HTTPGetAction", &["path", "host", "scheme"]),
    ("ImageVolumeSource", &["reference", "pullPolicy"]),
    ("ListMeta", &["selfLink", "resourceVersion", "continue"]),
    ("LoadBalancerIngress", &["ip", "hostname"]),
    ("LocalObjectReference", &["name"]),
    ("ManagedFieldsEntry", &["manager", "operation", "apiVersion", "fieldsType", "subresource"]),
    ("NFSVolumeSource", &["readOnly"]),
    ("NamespaceCondition", &["reason", "message"]),
    ("NamespaceStatus", &["phase"]),
    ("NodeCondition", &["reason", "message"]),
    ("NodeSpec", &["podCIDR", "providerID", "unschedulable", "externalID"]),
    ("NodeStatus", &["phase"]),
    ("ObjectFieldSelector", &["apiVersion"]),
    ("ObjectMeta", &["name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation"]),
    ("ObjectReference", &["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"]),
    ("PersistentVolumeClaimVolumeSource", &["readOnly"]),
    ("PodCondition", &["observedGeneration", "reason", "message"]),
    ("PodDNSConfigOption", &["name"]),
    ("PodSpec", &["restartPolicy", "dnsPolicy", "serviceAccountName", "serviceAccount", "nodeName", "hostNetwork", "hostPID", "hostIPC", "hostname", "subdomain", "schedulerName", "priorityClassName"]),
    ("PodStatus", &["observedGeneration", "phase", "message", "reason", "nominatedNodeName", "hostIP", "podIP", "qosClass", "resize"]),
    ("PriorityClass", &["globalDefault", "description"]),
    ("Probe", &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]),
    ("ReplicaSetCondition", &["reason", "message"]),
    ("ReplicaSetSpec", &["minReadySeconds"]),
    ("ReplicaSetStatus", &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]),
    ("ResourceClaim", &["request"]),
    ("ResourceFieldSelector", &["containerName"]),
    ("SELinuxOptions", &["user", "role", "type", "level"]),
    ("ScaleSpec", &["replicas"]),
    ("ScaleStatus", &["selector"]),
    ("Secret", &["type"]),
    ("SecretEnvSource", &["name"]),
    ("SecretKeySelector", &["name"]),
    ("SecretProjection", &["name"]),
    ("SecretReference", &["name", "namespace"]),
    ("SecretVolumeSource", &["secretName"]),
    ("ServiceAccountTokenProjection", &["audience"]),
    ("ServicePort", &["name", "protocol", "nodePort"]),
    ("ServiceSpec", &["clusterIP", "type", "sessionAffinity", "loadBalancerIP", "externalName", "externalTrafficPolicy", "healthCheckNodePort", "publishNotReadyAddresses"]),
    ("Status", &["status", "message", "reason", "code"]),
    ("StatusCause", &["reason", "message", "field"]),
    ("StatusDetails", &["name", "group", "kind", "uid", "retryAfterSeconds"]),
    ("TCPSocketAction", &["host"]),
    ("Taint", &["value"]),
    ("Toleration", &["key", "operator", "value", "effect"]),
    ("VolumeMount", &["readOnly", "subPath", "subPathExpr"]),
    ("VolumeMountStatus", &["readOnly"]),
];

/// Lists that are written although they are empty, because they are required.
const WRITTEN_WHEN_EMPTY: &[(&str, &str)] = &[
    ("ContainerImage", "names"),
    ("Endpoint", "addresses"),
    ("EndpointSlice", "endpoints"),
    ("EndpointSlice", "ports"),
    ("NodeSelector", "nodeSelectorTerms"),
    ("PodSpec", "containers"),
    ("ProjectedVolumeSource", "sources"),
];

fn is_omitted_when_zero(of: &str, field: &str) -> bool {
    OMITTED_WHEN_ZERO
        .binary_search_by_key(&of, |(name, _)| name)
        .is_ok_and(|index| OMITTED_WHEN_ZERO[index].1.contains(&field))
}

fn is_written_when_empty(of: &str, field: &str) -> bool {
    field == "items" || WRITTEN_WHEN_EMPTY.contains(&(of, field))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn check<T: DeserializeOwned + Serialize>(given: Value, expected: Value) {
        let object: T = serde_json::from_value(given.clone()).unwrap();
        assert_eq!(to_value(&object).unwrap(), expected, "{given}");
    }

    #[test]
    fn table_is_sorted() {
        let mut sorted = OMITTED_WHEN_ZERO.to_vec();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        let difference = OMITTED_WHEN_ZERO.iter().zip(&sorted).find(|(a, b)| a.0 != b.0);
        assert_eq!(difference, None);
    }

    #[test]
    fn empty_is_left_out_where_go_leaves_it_out() {
        check::<Pod>(
            json!({
                "metadata": {"name": "a", "labels": {}, "creationTimestamp": null, "generation": 0},
                "spec": {
                    "hostNetwork": false, "hostPID": true, "automountServiceAccountToken": false,
                    "nodeSelector": {}, "tolerations": [], "securityContext": {},
                    "containers": [{"name": "", "env": [{"name": "A", "value": ""}], "tty": false, "args": [], "command": ["", "a"]}],
                    "volumes": [{"name": "v", "emptyDir": {"medium": ""}}],
                },
                "status": {"containerStatuses": [{"name": "a", "ready": false, "restartCount": 0, "image": "", "imageID": "", "started": false}]},
            }),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a"},
                "spec": {
                    "hostPID": true, "automountServiceAccountToken": false, "securityContext": {},
                    "containers": [{"name": "", "env": [{"name": "A"}], "command": ["", "a"]}],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
                "status": {"containerStatuses": [{"name": "a", "ready": false, "restartCount": 0, "image": "", "imageID": "", "started": false}]},
            }),
        );
        check::<ConfigMap>(
            json!({"data": {"a": ""}, "binaryData": {}, "immutable": false}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"a": ""}, "immutable": false}),
        );
        check::<Deployment>(
            json!({"spec": {"replicas": 0, "paused": false, "selector": {"matchLabels": {}}, "template": {}, "strategy": {"rollingUpdate": {"maxSurge": 0}}}}),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
                "spec": {"replicas": 0, "selector": {}, "template": {}, "strategy": {"rollingUpdate": {"maxSurge": 0}}},
            }),
        );
        check::<EndpointSlice>(
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"name": "", "port": 80}]}),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {},
                "addressType": "IPv4", "endpoints": [], "ports": [{"name": "", "port": 80}],
            }),
        );
    }

    #[test]
    fn sameness() {
        let pod = |value: Value| serde_json::from_value::<Pod>(value).unwrap();
        let a = pod(json!({"spec": {"containers": [], "hostNetwork": false, "tolerations": []}}));
        let b = pod(json!({"spec": {"containers": []}}));
        let c = pod(json!({"spec": {"containers": [], "hostNetwork": true}}));
        assert!(same(&a, &b));
        assert!(!same(&a, &c));
    }
}
