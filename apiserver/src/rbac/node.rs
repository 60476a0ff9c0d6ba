//! What a node's agent may do: what every node may, and to see what its own pods refer to.
//!
//! Follows upstream's node authoriser. What an agent may write is narrowed further by
//! [`crate::admission::node_restriction`], which knows the objects.

use std::collections::BTreeSet;

use manifests::k8s_openapi::api::core::v1::PersistentVolume;
use manifests::k8s_openapi::api::rbac::v1::PolicyRule;
use manifests::volumes::{LOCAL_PATH_NODE, LOCAL_PATH_PROVISIONER, PROVISIONED_BY, annotation};
use serde_json::Value;

use super::{Policy, rule};
use crate::authorize::Action;
use crate::identity::Identity;
use crate::registry::{Env, pod_node};
use crate::server::ApiServer;

const USER: &str = "system:node:";
const NODES: &str = "system:nodes";
/// The role with what every node may.
const ROLE: &str = "system:node";
/// Where nodes keep their heartbeats.
const LEASES: &str = "kube-node-lease";

/// The node that somebody is the agent of.
pub(crate) fn name(identity: &Identity) -> Option<&str> {
    let name = identity.user.strip_prefix(USER).filter(|name| !name.is_empty())?;
    identity.is_in(NODES).then_some(name)
}

/// What a pod refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
    claims: BTreeSet<String>,
}

impl References {
    /// Collects what is referred to anywhere in a pod.
    fn of(pod: &Value) -> References {
        let mut found = References::default();
        found.walk(&pod["spec"]);
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            if let (Some(name), true) = (volume["name"].as_str(), volume["ephemeral"].is_object()) {
                found.claims.insert(format!("{pod_name}-{name}"));
            }
        }
        found
    }

    fn walk(&mut self, value: &Value) {
        let named = |value: &Value| value["name"].as_str().map(str::to_owned);
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(map) => {
                for (key, value) in map {
                    match key.as_str() {
                        "secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "secret" => {
                            self.secrets.extend(named(value));
                        }
                        "imagePullSecrets" => {
                            self.secrets.extend(value.as_array().into_iter().flatten().filter_map(named));
                        }
                        "secretName" => self.secrets.extend(value.as_str().map(str::to_owned)),
                        "configMapRef" | "configMapKeyRef" | "configMap" => {
                            self.config_maps.extend(named(value))
                        }
                        "claimName" => self.claims.extend(value.as_str().map(str::to_owned)),
                        _ => {}
                    }
                    self.walk(value);
                }
            }
            _ => {}
        }
    }
}

/// The pods of a node in a namespace in which a word occurs, since whoever refers to a name has it in its text.
fn pods(env: &Env<'_>, node: &str, namespace: &str, word: &str) -> Vec<Value> {
    let Some(row) = env.registry.find("", "v1", "pods") else { return Vec::new() };
    let quoted = format!("\"{word}\"");
    let within = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    row.cache
        .all(&within)
        .iter()
        .filter(|pod| pod_node(pod) == node)
        .filter(|pod| word.is_empty() || contains(pod.json_bytes(), quoted.as_bytes()))
        .filter_map(|pod| serde_json::from_slice(pod.json_bytes()).ok())
        .collect()
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

impl ApiServer {
    /// Whether a node's agent may do something.
    pub(crate) fn node_may(&self, node: &str, action: &Action<'_>) -> bool {
        let env = self.env();
        let name = action.name;
        let read = matches!(action.verb, "get" | "list" | "watch");
        let referred = |of: &dyn Fn(&References) -> bool, word: &str| {
            !name.is_empty()
                && pods(&env, node, action.namespace, word).iter().any(|pod| of(&References::of(pod)))
        };
        match (action.group, action.resource, action.subresource) {
            ("", "secrets", "") => read && referred(&|found| found.secrets.contains(name), name),
            ("", "configmaps", "") => read && referred(&|found| found.config_maps.contains(name), name),
            ("", "persistentvolumeclaims", "") => {
                action.verb == "get" && referred(&|found| found.claims.contains(name), "")
            }
            ("", "persistentvolumeclaims", "status") => {
                matches!(action.verb, "get" | "update" | "patch")
                    && referred(&|found| found.claims.contains(name), "")
            }
            ("", "persistentvolumes", "") => match action.verb {
                // Which of its directories may go: whatever a volume says of its claim, it holds no secrets.
                "list" | "watch" => true,
                "get" => self.claims_volume(&env, node, name),
                "delete" => {
                    env.decode("", "persistentvolumes", name).is_some_and(|found| has_removed(node, &found))
                }
                _ => false,
            },
            ("", "serviceaccounts", "token") => {
                action.verb == "create"
                    && pods(&env, node, action.namespace, name)
                        .iter()
                        .any(|pod| pod["spec"]["serviceAccountName"] == name)
            }
            ("coordination.k8s.io", "leases", "") => {
                action.namespace == LEASES
                    && matches!(action.verb, "get" | "create" | "update" | "patch" | "delete")
                    && (name == node || (name.is_empty() && action.verb == "create"))
            }
            ("storage.k8s.io", "csinodes", "") => {
                matches!(action.verb, "get" | "create" | "update" | "patch" | "delete")
                    && (name == node || (name.is_empty() && action.verb == "create"))
            }
            _ => every_node(&self.policy(), action),
        }
    }

    /// Whether a pod of the node claims a volume.
    fn claims_volume(&self, env: &Env<'_>, node: &str, volume: &str) -> bool {
        let Some(row) = env.registry.find("", "v1", "persistentvolumeclaims") else { return false };
        let claims = row.cache.all("");
        claims.iter().filter(|claim| contains(claim.json_bytes(), volume.as_bytes())).any(|claim| {
            let value: Value = serde_json::from_slice(claim.json_bytes()).unwrap_or_default();
            value["spec"]["volumeName"] == volume
                && pods(env, node, claim.namespace(), "")
                    .iter()
                    .any(|pod| References::of(pod).claims.contains(claim.name()))
        })
    }
}

/// Whether a volume is a directory of the node's, which it removes now that nobody claims it.
fn has_removed(node: &str, volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    annotation(&volume.metadata, LOCAL_PATH_NODE) == Some(node)
        && annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PATH_PROVISIONER)
        && (policy, phase) == (Some("Delete"), Some("Released"))
}

/// What every node may, by the role of that name, which nobody is bound to.
fn every_node(policy: &Policy, action: &Action<'_>) -> bool {
    let rules = policy.cluster_roles.get(ROLE);
    rules.is_some_and(|rules| rules.iter().any(|rule: &PolicyRule| rule::allows(rule, action)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_deletes_its_own_released_volumes() {
        let volume = |node: &str, phase: &str, policy: &str| {
            let annotations =
                json!({"coracle/node": node, "pv.kubernetes.io/provisioned-by": "coracle/local-path"});
            let value = json!({
                "metadata": {"annotations": annotations},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase},
            });
            has_removed("n", &serde_json::from_value(value).unwrap())
        };
        assert!(volume("n", "Released", "Delete"));
        assert!(!volume("m", "Released", "Delete"));
        assert!(!volume("n", "Bound", "Delete"));
        assert!(!volume("n", "Released", "Retain"));
    }

    #[test]
    fn references() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "no", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}},
            ], "envFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "envmap"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "volume"}},
                {"name": "b", "configMap": {"name": "volumemap"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "d", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "e", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "partmap"}}]}},
            ],
        }});
        let found = References::of(&pod);
        let list = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        assert_eq!(list(&found.secrets), "env,key,part,pull,volume");
        assert_eq!(list(&found.config_maps), "envmap,map,partmap,volumemap");
        assert_eq!(list(&found.claims), "claim,p-d");
    }
}
