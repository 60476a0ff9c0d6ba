//! From a typed object to JSON as Kubernetes writes it.
//!
//! Go leaves a field out when it is empty: an empty list, an empty map, and `false`, `0` or `""` where the field is no
//! pointer. `k8s-openapi` has options everywhere and writes whatever they hold. The difference shows: a client that
//! reads an object and sends it back without `hostNetwork: false` must not have changed it, or a Deployment would roll
//! out for nothing. So objects are written here, by Go's rules, before they are stored, compared or hashed.

mod parts;
mod serializer;
mod text;

pub use parts::Parts;

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
    let mut out = Vec::with_capacity(1024);
    object.serialize(text::Writer { out: &mut out, of: "", field: "" })?;
    Ok(out)
}

/// The object as text, with its metadata apart and without its type.
pub fn to_parts<T: Serialize + ?Sized>(object: &T) -> Result<Parts, EncodeError> {
    object.serialize(parts::Top)
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
    ("AWSElasticBlockStoreVolumeSource", &["fsType", "partition", "readOnly"]),
    ("ApplyConfiguration", &["expression"]),
    ("AzureFilePersistentVolumeSource", &["readOnly"]),
    ("AzureFileVolumeSource", &["readOnly"]),
    ("BoundObjectReference", &["kind", "apiVersion", "name", "uid"]),
    ("CSIPersistentVolumeSource", &["readOnly", "fsType"]),
    ("CephFSPersistentVolumeSource", &["path", "user", "secretFile", "readOnly"]),
    ("CephFSVolumeSource", &["path", "user", "secretFile", "readOnly"]),
    ("CertificateSigningRequestCondition", &["reason", "message"]),
    ("CertificateSigningRequestSpec", &["username", "uid"]),
    ("CinderPersistentVolumeSource", &["fsType", "readOnly"]),
    ("CinderVolumeSource", &["fsType", "readOnly"]),
    ("ClusterTrustBundleSpec", &["signerName"]),
    ("ComponentCondition", &["message", "error"]),
    ("Condition", &["observedGeneration"]),
    ("ConfigMapEnvSource", &["name"]),
    ("ConfigMapKeySelector", &["name"]),
    ("ConfigMapNodeConfigSource", &["uid", "resourceVersion"]),
    ("ConfigMapProjection", &["name"]),
    ("ConfigMapVolumeSource", &["name"]),
    ("Container", &["image", "workingDir", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "stdin", "stdinOnce", "tty"]),
    ("ContainerImage", &["sizeBytes"]),
    ("ContainerPort", &["name", "hostPort", "protocol", "hostIP"]),
    ("ContainerRestartRule", &["action"]),
    ("ContainerRestartRuleOnExitCodes", &["operator"]),
    ("ContainerStateTerminated", &["signal", "reason", "message", "containerID"]),
    ("ContainerStateWaiting", &["reason", "message"]),
    ("ContainerStatus", &["containerID"]),
    ("CronJobSpec", &["concurrencyPolicy"]),
    ("CrossVersionObjectReference", &["apiVersion"]),
    ("DaemonSetCondition", &["reason", "message"]),
    ("DaemonSetSpec", &["minReadySeconds"]),
    ("DaemonSetStatus", &["observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable"]),
    ("DaemonSetUpdateStrategy", &["type"]),
    ("DeploymentCondition", &["reason", "message"]),
    ("DeploymentSpec", &["minReadySeconds", "paused"]),
    ("DeploymentStatus", &["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]),
    ("DeploymentStrategy", &["type"]),
    ("EmptyDirVolumeSource", &["medium"]),
    ("EndpointAddress", &["hostname"]),
    ("EnvFromSource", &["prefix"]),
    ("EnvVar", &["value"]),
    ("EphemeralContainer", &["image", "workingDir", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "stdin", "stdinOnce", "tty", "targetContainerName"]),
    ("EphemeralContainerCommon", &["image", "workingDir", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "stdin", "stdinOnce", "tty"]),
    ("Event", &["reason", "message", "count", "type", "action"]),
    ("EventSeries", &["count"]),
    ("EventSource", &["component", "host"]),
    ("FCVolumeSource", &["fsType", "readOnly"]),
    ("FieldSelectorAttributes", &["rawSelector"]),
    ("FlexPersistentVolumeSource", &["fsType", "readOnly"]),
    ("FlexVolumeSource", &["fsType", "readOnly"]),
    ("FlockerVolumeSource", &["datasetName", "datasetUUID"]),
    ("FlowSchemaCondition", &["type", "status", "reason", "message"]),
    ("GCEPersistentDiskVolumeSource", &["fsType", "partition", "readOnly"]),
    ("GitRepoVolumeSource", &["revision", "directory"]),
    ("GlusterfsPersistentVolumeSource", &["readOnly"]),
    ("GlusterfsVolumeSource", &["readOnly"]),
    ("HTTPGetAction", &["path", "host", "scheme"]),
    ("HTTPIngressPath", &["path"]),
    ("HorizontalPodAutoscalerCondition", &["reason", "message"]),
    ("ISCSIPersistentVolumeSource", &["iscsiInterface", "fsType", "readOnly", "chapAuthDiscovery", "chapAuthSession"]),
    ("ISCSIVolumeSource", &["iscsiInterface", "fsType", "readOnly", "chapAuthDiscovery", "chapAuthSession"]),
    ("ImageVolumeSource", &["reference", "pullPolicy"]),
    ("ImageVolumeStatus", &["imageRef"]),
    ("IngressClassSpec", &["controller"]),
    ("IngressLoadBalancerIngress", &["ip", "hostname"]),
    ("IngressRule", &["host"]),
    ("IngressTLS", &["secretName"]),
    ("JSONPatch", &["expression"]),
    ("JobCondition", &["reason", "message"]),
    ("JobStatus", &["active", "succeeded", "failed", "completedIndexes"]),
    ("LabelSelectorAttributes", &["rawSelector"]),
    ("ListMeta", &["selfLink", "resourceVersion", "continue"]),
    ("LoadBalancerIngress", &["ip", "hostname"]),
    ("LocalObjectReference", &["name"]),
    ("ManagedFieldsEntry", &["manager", "operation", "apiVersion", "fieldsType", "subresource"]),
    ("ModifyVolumeStatus", &["targetVolumeAttributesClassName"]),
    ("MutatingAdmissionPolicyBindingSpec", &["policyName"]),
    ("MutatingAdmissionPolicySpec", &["reinvocationPolicy"]),
    ("NFSVolumeSource", &["readOnly"]),
    ("NamespaceCondition", &["reason", "message"]),
    ("NamespaceStatus", &["phase"]),
    ("NodeCondition", &["reason", "message"]),
    ("NodeConfigStatus", &["error"]),
    ("NodeProxyOptions", &["path"]),
    ("NodeSpec", &["podCIDR", "providerID", "unschedulable", "externalID"]),
    ("NodeStatus", &["phase"]),
    ("NonResourceAttributes", &["path", "verb"]),
    ("ObjectFieldSelector", &["apiVersion"]),
    ("ObjectMeta", &["name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation"]),
    ("ObjectReference", &["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"]),
    ("ParamKind", &["apiVersion", "kind"]),
    ("ParamRef", &["name", "namespace"]),
    ("ParentReference", &["group", "resource", "namespace", "name"]),
    ("PersistentVolumeClaimCondition", &["reason", "message"]),
    ("PersistentVolumeClaimSpec", &["volumeName"]),
    ("PersistentVolumeClaimStatus", &["phase"]),
    ("PersistentVolumeClaimVolumeSource", &["readOnly"]),
    ("PersistentVolumeSpec", &["persistentVolumeReclaimPolicy", "storageClassName"]),
    ("PersistentVolumeStatus", &["phase", "message", "reason"]),
    ("PhotonPersistentDiskVolumeSource", &["fsType"]),
    ("PodAttachOptions", &["stdin", "stdout", "stderr", "tty", "container"]),
    ("PodCertificateProjection", &["signerName", "keyType", "credentialBundlePath", "keyPath", "certificateChainPath"]),
    ("PodCertificateRequestStatus", &["certificateChain"]),
    ("PodCondition", &["observedGeneration", "reason", "message"]),
    ("PodDNSConfigOption", &["name"]),
    ("PodDisruptionBudgetStatus", &["observedGeneration"]),
    ("PodExecOptions", &["stdin", "stdout", "stderr", "tty", "container"]),
    ("PodLogOptions", &["container", "follow", "previous", "timestamps", "insecureSkipTLSVerifyBackend"]),
    ("PodProxyOptions", &["path"]),
    ("PodSpec", &["restartPolicy", "dnsPolicy", "serviceAccountName", "serviceAccount", "nodeName", "hostNetwork", "hostPID", "hostIPC", "hostname", "subdomain", "schedulerName", "priorityClassName"]),
    ("PodStatus", &["observedGeneration", "phase", "message", "reason", "nominatedNodeName", "hostIP", "podIP", "qosClass", "resize"]),
    ("PortworxVolumeSource", &["fsType", "readOnly"]),
    ("PreferAvoidPodsEntry", &["reason", "message"]),
    ("PriorityClass", &["globalDefault", "description"]),
    ("PriorityLevelConfigurationCondition", &["type", "status", "reason", "message"]),
    ("Probe", &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]),
    ("QuobyteVolumeSource", &["readOnly", "user", "group", "tenant"]),
    ("RBDPersistentVolumeSource", &["fsType", "pool", "user", "keyring", "readOnly"]),
    ("RBDVolumeSource", &["fsType", "pool", "user", "keyring", "readOnly"]),
    ("ReplicaSetCondition", &["reason", "message"]),
    ("ReplicaSetSpec", &["minReadySeconds"]),
    ("ReplicaSetStatus", &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]),
    ("ReplicationControllerCondition", &["reason", "message"]),
    ("ReplicationControllerSpec", &["minReadySeconds"]),
    ("ReplicationControllerStatus", &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]),
    ("ResourceAttributes", &["namespace", "verb", "group", "version", "resource", "subresource", "name"]),
    ("ResourceClaim", &["request"]),
    ("ResourceFieldSelector", &["containerName"]),
    ("ResourceHealth", &["health"]),
    ("ResourcePolicyRule", &["clusterScope"]),
    ("SELinuxOptions", &["user", "role", "type", "level"]),
    ("ScaleIOPersistentVolumeSource", &["sslEnabled", "protectionDomain", "storagePool", "storageMode", "volumeName", "fsType", "readOnly"]),
    ("ScaleIOVolumeSource", &["sslEnabled", "protectionDomain", "storagePool", "storageMode", "volumeName", "fsType", "readOnly"]),
    ("ScaleSpec", &["replicas"]),
    ("ScaleStatus", &["selector"]),
    ("Secret", &["type"]),
    ("SecretEnvSource", &["name"]),
    ("SecretKeySelector", &["name"]),
    ("SecretProjection", &["name"]),
    ("SecretReference", &["name", "namespace"]),
    ("SecretVolumeSource", &["secretName"]),
    ("SelfSubjectRulesReviewSpec", &["namespace"]),
    ("ServiceAccountTokenProjection", &["audience"]),
    ("ServiceBackendPort", &["name", "number"]),
    ("ServicePort", &["name", "protocol", "nodePort"]),
    ("ServiceProxyOptions", &["path"]),
    ("ServiceSpec", &["clusterIP", "type", "sessionAffinity", "loadBalancerIP", "externalName", "externalTrafficPolicy", "healthCheckNodePort", "publishNotReadyAddresses"]),
    ("StatefulSetCondition", &["reason", "message"]),
    ("StatefulSetPersistentVolumeClaimRetentionPolicy", &["whenDeleted", "whenScaled"]),
    ("StatefulSetSpec", &["podManagementPolicy", "minReadySeconds"]),
    ("StatefulSetStatus", &["observedGeneration", "readyReplicas", "currentReplicas", "updatedReplicas", "currentRevision", "updateRevision"]),
    ("StatefulSetUpdateStrategy", &["type"]),
    ("Status", &["status", "message", "reason", "code"]),
    ("StatusCause", &["reason", "message", "field"]),
    ("StatusDetails", &["name", "group", "kind", "uid", "retryAfterSeconds"]),
    ("StorageHealthCondition", &["message"]),
    ("StorageOSPersistentVolumeSource", &["volumeName", "volumeNamespace", "fsType", "readOnly"]),
    ("StorageOSVolumeSource", &["volumeName", "volumeNamespace", "fsType", "readOnly"]),
    ("Subject", &["apiGroup", "namespace"]),
    ("SubjectAccessReviewSpec", &["user", "uid"]),
    ("SubjectAccessReviewStatus", &["denied", "reason", "evaluationError"]),
    ("SubjectRulesReviewStatus", &["evaluationError"]),
    ("TCPSocketAction", &["host"]),
    ("TableRowCondition", &["reason", "message"]),
    ("Taint", &["value"]),
    ("TokenReviewSpec", &["token"]),
    ("TokenReviewStatus", &["authenticated", "error"]),
    ("Toleration", &["key", "operator", "value", "effect"]),
    ("UserInfo", &["username", "uid"]),
    ("ValidatingAdmissionPolicyBindingSpec", &["policyName"]),
    ("ValidatingAdmissionPolicyStatus", &["observedGeneration"]),
    ("Validation", &["message", "messageExpression"]),
    ("VolumeError", &["message"]),
    ("VolumeHealthCondition", &["message"]),
    ("VolumeMount", &["readOnly", "subPath", "subPathExpr"]),
    ("VolumeMountStatus", &["readOnly"]),
    ("VsphereVirtualDiskVolumeSource", &["fsType", "storagePolicyName", "storagePolicyID"]),
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
        let text = to_vec(&object).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected, "{given}");
        let Parts { metadata, rest } = to_parts(&object).unwrap();
        let metadata = if metadata.is_empty() { b"null".to_vec() } else { metadata };
        let whole = [b"{\"metadata\":".to_vec(), metadata, rest, b"}".to_vec()].concat();
        let mut whole: Value = serde_json::from_slice(&whole).unwrap();
        for field in ["apiVersion", "kind", "metadata"] {
            if whole[field].is_null() {
                whole[field] = expected[field].clone();
            }
        }
        assert_eq!(
            whole.as_object().unwrap().values().filter(|value| !value.is_null()).count(),
            expected.as_object().unwrap().len()
        );
        assert!(expected.as_object().unwrap().iter().all(|(key, value)| whole[key] == *value), "{given}");
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
