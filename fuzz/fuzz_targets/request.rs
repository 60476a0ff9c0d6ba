//! Requests that write: JSON, YAML, protobuf, every kind of patch, apply, and the bodies of subresources. The first byte says
//! which request, the rest is its body. Nothing is kept (`dryRun`), so that each input stands for itself.
#![no_main]

use fuzz::Cluster;

const POD: &str = "/api/v1/namespaces/default/pods/p";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/d";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Method, path, query and content type; `{}` in a path is the pod.
const REQUESTS: [(&str, &str, &str, &str); 26] = [
    ("POST", "/api/v1/namespaces/default/pods", "fieldValidation=Warn", JSON),
    ("POST", "/api/v1/namespaces/default/pods", "fieldValidation=Strict", YAML),
    ("POST", "/api/v1/namespaces/default/pods", "", PROTOBUF),
    ("POST", "/api/v1/namespaces/default/configmaps", "", PROTOBUF),
    ("POST", "/api/v1/namespaces/default/services", "", JSON),
    ("POST", "/apis/apps/v1/namespaces/default/deployments", "", JSON),
    ("POST", "/apis/apps/v1/namespaces/default/statefulsets", "", JSON),
    ("POST", "/apis/batch/v1/namespaces/default/cronjobs", "", JSON),
    ("POST", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "", JSON),
    ("POST", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", "", JSON),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", JSON),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "", JSON),
    ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", "", JSON),
    ("PUT", POD, "", JSON),
    ("PUT", DEPLOYMENT, "", PROTOBUF),
    ("PATCH", POD, "", MERGE),
    ("PATCH", POD, "", JSON_PATCH),
    ("PATCH", POD, "", STRATEGIC),
    ("PATCH", "/api/v1/namespaces/default/pods/p/status", "", STRATEGIC),
    ("PATCH", DEPLOYMENT, "", STRATEGIC),
    ("PATCH", POD, "fieldManager=m&force=true", APPLY),
    ("PATCH", DEPLOYMENT, "fieldManager=n", APPLY),
    ("PATCH", "/apis/apps/v1/namespaces/default/deployments/d/scale", "fieldManager=s", APPLY),
    ("DELETE", POD, "", JSON),
    ("POST", "/api/v1/namespaces/default/pods/p/eviction", "", JSON),
    ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", "", JSON),
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let (method, path, query, content_type) = REQUESTS[usize::from(*first) % REQUESTS.len()];
    let query = if query.is_empty() { "dryRun=All".to_owned() } else { format!("dryRun=All&{query}") };
    Cluster::with(|cluster| cluster.ask(method, &format!("{path}?{query}"), content_type, body));
});
