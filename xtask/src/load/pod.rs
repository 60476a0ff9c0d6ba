//! The objects of the load: a pod as a Deployment of a web service makes it, 2.6 KB in the answer.

use bytes::Bytes;
use serde_json::json;

/// The body of a creation.
pub(crate) fn creation(name: &str) -> Bytes {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "load", "pod-template-hash": "5d4f8c7b9d"},
            "annotations": {"example.com/configuration": "x".repeat(600)},
        },
        "spec": {
            // A node that nobody runs: the pod is written and read, and nothing else happens to it.
            "nodeName": "load-node",
            "containers": [{
                "name": "web", "image": "registry.example.com/team/web:1.2.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            }],
        },
    });
    pod.to_string().into()
}

/// The body of a status patch, as an agent sends it when a pod has started.
pub(crate) fn status(count: u64) -> Bytes {
    let time = format!("2026-01-01T{:02}:{:02}:{:02}Z", count / 3600 % 24, count / 60 % 60, count % 60);
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": time});
    let patch = json!({"status": {
        "phase": "Running", "message": format!("change {count}"), "conditions": [condition("Ready")],
    }});
    patch.to_string().into()
}

/// What stands behind `"resourceVersion":"` first in some JSON.
pub(crate) fn version_in(json: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"resourceVersion\":\"";
    let start = memchr::memmem::find(json, NAME)? + NAME.len();
    let digits = memchr::memchr(b'"', &json[start..])?;
    std::str::from_utf8(&json[start..start + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert_eq!(version_in(br#"{"metadata":{"uid":"x","resourceVersion":"17"}}"#), Some(17));
        assert_eq!(version_in(br#"{"metadata":{"uid":"resourceVersion"}}"#), None);
        assert_eq!(version_in(br#"{"resourceVersion":"1"#), None);
    }
}
