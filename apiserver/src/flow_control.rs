//! The FlowSchemas and PriorityLevelConfigurations that every cluster has, as upstream's servers make them.
//!
//! Nothing here queues by them: requests are let in in the order in which they come. Tools that list, back up or compare
//! these objects find what they find in any other cluster.

use serde_json::{Value, json};

use crate::registry::Row;
use crate::server::ApiServer;
use manifests::status::ApiError;

pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Whether a server may bring an object up to date.
const UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// An object that every cluster has.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) resource: &'static str,
    name: &'static str,
    /// It is as it is here, whatever anybody writes.
    mandatory: bool,
    spec: Value,
}

impl Wanted {
    fn object(&self) -> Value {
        let kind = if self.resource == LEVELS { "PriorityLevelConfiguration" } else { "FlowSchema" };
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {"name": self.name, "annotations": {UPDATE: "true"}},
            "spec": self.spec,
        })
    }

    /// What to write instead of what is there, if it is out of date and may be touched.
    fn renewed(&self, have: &Value) -> Option<Value> {
        let update = match have["metadata"]["annotations"][UPDATE].as_str() {
            Some(said) => said == "true",
            // Nobody has changed it since it was made.
            None => have["metadata"]["generation"] == 1,
        };
        if have["spec"] == self.spec || !(update || self.mandatory) {
            return None;
        }
        let mut object = have.clone();
        object["spec"] = self.spec.clone();
        Some(object)
    }
}

pub(crate) const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";

/// All of them: levels before the schemas that name them.
pub(crate) fn wanted() -> Vec<Wanted> {
    levels().into_iter().chain(schemas()).collect()
}

fn levels() -> Vec<Wanted> {
    let level = |name, mandatory, spec| Wanted { resource: LEVELS, name, mandatory, spec };
    let queued = |name, shares: i32, lendable: i32, queues: i32, hand: i32| {
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}},
        });
        level(name, false, json!({"type": "Limited", "limited": limited}))
    };
    vec![
        level(
            "exempt",
            true,
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            true,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

fn schemas() -> Vec<Wanted> {
    let schema = |name, level: &str, precedence: i32, distinguisher: &str, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
        });
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        Wanted { resource: SCHEMAS, name, mandatory: matches!(name, "exempt" | "catch-all"), spec }
    };
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let system_accounts =
        json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
    let everybody = [group("system:unauthenticated"), group("system:authenticated")];
    let everything = |subjects: &[Value]| {
        json!({
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        })
    };
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    let manager = user("system:kube-controller-manager");
    let scheduler = user("system:kube-scheduler");
    let nodes = [group("system:nodes")];
    let leases = |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]});
    vec![
        schema("exempt", "exempt", 1, "", everything(&[group("system:masters")])),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!({
                "subjects": everybody,
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
            }),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            by_user,
            json!({
                "subjects": [manager, scheduler, system_accounts],
                "resourceRules": [leases(&["get", "create", "update"])],
            }),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            by_user,
            json!({
                "subjects": nodes,
                "resourceRules": [
                    {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["*"]},
                    leases(&["*"]),
                ],
            }),
        ),
        schema("system-nodes", "system", 500, by_user, everything(&nodes)),
        schema("kube-controller-manager", "workload-high", 800, by_namespace, everything(&[manager])),
        schema("kube-scheduler", "workload-high", 800, by_namespace, everything(&[scheduler])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            everything(&[system_accounts]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            everything(&[group("system:serviceaccounts")]),
        ),
        schema("global-default", "global-default", 9900, by_user, everything(&everybody)),
        schema("catch-all", "catch-all", 10_000, by_user, everything(&everybody)),
    ]
}

impl ApiServer {
    /// Makes or renews one of them.
    pub(crate) async fn want_flow_control(&self, wanted: Wanted) -> Result<(), ApiError> {
        let collection = format!("/apis/{GROUP}/v1/{}", wanted.resource);
        let have = |row: &std::sync::Arc<Row>| row.cache.get(wanted.name);
        let Some(have) = self.registry.find(GROUP, "v1", wanted.resource).and_then(have) else {
            return match self.ask(http::Method::POST, &collection, &wanted.object()).await {
                Err(error) if error.is_already_exists() => Ok(()),
                done => done,
            };
        };
        let have: Value = serde_json::from_slice(have.json_bytes()).map_err(ApiError::internal)?;
        match wanted.renewed(&have) {
            Some(renewed) => {
                self.ask(http::Method::PUT, &format!("{collection}/{}", wanted.name), &renewed).await
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use manifests::decode::{FieldValidation, decode};
    use manifests::k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
    use manifests::{default, encode, validate};

    use super::*;

    /// Defaulting adds nothing to them, so that what is stored is what is wanted; and they are valid.
    #[test]
    fn they_are_whole_and_valid() {
        let all = wanted();
        assert_eq!(all.len(), 8 + 11);
        for wanted in &all {
            let object = wanted.object();
            let (stored, errors) = if wanted.resource == LEVELS {
                let (mut level, _) =
                    decode::<PriorityLevelConfiguration>(&object, FieldValidation::Strict).unwrap();
                default::priority_level_configuration(&mut level);
                (encode::to_value(&level).unwrap(), validate::priority_level_configuration(&level))
            } else {
                let (mut schema, _) = decode::<FlowSchema>(&object, FieldValidation::Strict).unwrap();
                default::flow_schema(&mut schema);
                (encode::to_value(&schema).unwrap(), validate::flow_schema(&schema))
            };
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!((&stored["spec"], errors), (&wanted.spec, Vec::new()), "{}", wanted.name);
            let level = &wanted.spec["priorityLevelConfiguration"]["name"];
            assert!(
                level.is_null() || all.iter().any(|other| other.resource == LEVELS && *level == other.name)
            );
        }
    }

    #[test]
    fn who_may_change_them() {
        let check = |name: &str, annotations: Value, generation: i64, renewed: bool| {
            let wanted =
                wanted().into_iter().find(|wanted| wanted.resource == SCHEMAS && wanted.name == name);
            let wanted = wanted.unwrap();
            let mut have = wanted.object();
            assert_eq!(wanted.renewed(&have), None);
            have["metadata"]["annotations"] = annotations;
            have["metadata"]["generation"] = generation.into();
            have["spec"]["matchingPrecedence"] = 77.into();
            assert_eq!(wanted.renewed(&have).is_some(), renewed, "{name} {have}");
        };
        check("system-nodes", json!({UPDATE: "true"}), 3, true);
        check("system-nodes", json!({UPDATE: "false"}), 1, false);
        check("system-nodes", json!({}), 1, true);
        check("system-nodes", json!({}), 2, false);
        check("catch-all", json!({UPDATE: "false"}), 5, true);
    }
}
