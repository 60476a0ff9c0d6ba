//! Tables over updates and applies.

use manifests::kinds;
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn writer(name: &str) -> Writer {
    Writer::new(name.to_owned(), &kinds::DEPLOYMENT, "")
}

/// An object with its owners, as writes make it.
#[derive(Clone, Default)]
struct State {
    object: Option<Value>,
    owners: Option<Vec<ManagedFieldsEntry>>,
}

impl State {
    fn update(&mut self, manager: &str, object: Value) -> &mut State {
        let owners =
            writer(manager).updated(self.object.as_ref(), &object, None, self.owners.as_deref(), at(1));
        *self = State { object: Some(object), owners };
        self
    }

    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        let applied =
            writer(manager).apply(self.object.as_ref(), &config, self.owners.as_deref(), force, at(2))?;
        *self = State { object: Some(applied.object), owners: applied.managers };
        Ok(())
    }

    #[track_caller]
    fn refused(&mut self, manager: &str, config: Value) -> String {
        match self.apply(manager, config, false) {
            Err(error) => ApiError::from(error).message().to_owned(),
            Ok(()) => panic!("applied: {:#?}", self.object),
        }
    }

    /// `manager Operation` and the paths that it owns.
    fn owners(&self) -> Vec<(String, Vec<String>)> {
        let owned = Managers::decode(self.owners.as_deref().unwrap_or_default()).unwrap().0;
        owned
            .iter()
            .map(|owned| {
                (format!("{} {:?}", owned.manager.name, owned.manager.operation), owned.fields.paths())
            })
            .collect()
    }

    fn fields(&self, manager: &str) -> Vec<String> {
        self.owners()
            .into_iter()
            .find(|(name, _)| name == manager)
            .map(|(_, paths)| paths)
            .unwrap_or_default()
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"}, "spec": spec})
}

fn containers(of: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": of}}}))
}

/// What upstream records of `kubectl create deployment web --image=nginx`.
#[test]
fn a_creation_owns_what_it_sets() {
    let mut state = State::default();
    let mut object = deployment(json!({
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "nginx", "image": "nginx", "resources": {}, "args": ["a"],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "securityContext": {}, "dnsPolicy": "ClusterFirst",
            },
        },
    }));
    object["metadata"]["labels"] = json!({"app": "web"});
    object["metadata"]["uid"] = "u".into();
    state.update("kubectl-create", object);
    let entry = &state.owners.as_ref().unwrap()[0];
    assert_eq!(
        entry.fields_v1.as_ref().unwrap().0,
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"nginx\"}": {
                            ".": {}, "f:name": {}, "f:image": {}, "f:resources": {}, "f:args": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {}, "f:protocol": {},
                            }},
                        }},
                        "f:dnsPolicy": {}, "f:securityContext": {},
                    },
                },
            },
        })
    );
    assert_eq!(
        (entry.manager.as_deref(), entry.operation.as_deref()),
        (Some("kubectl-create"), Some("Update"))
    );
}

#[test]
fn who_changes_a_field_owns_it() {
    let mut state = State::default();
    state.update("a", deployment(json!({"replicas": 1, "paused": true})));
    state.update("b", deployment(json!({"replicas": 2, "paused": true})));
    assert_eq!(
        state.owners(),
        [
            ("a Update".to_owned(), vec![".spec.paused".to_owned()]),
            ("b Update".to_owned(), vec![".spec.replicas".to_owned()])
        ]
    );
    let before = state.owners.clone();
    state.update("c", deployment(json!({"replicas": 2, "paused": true})));
    assert_eq!(state.owners, before, "who changes nothing owns nothing");
    state.update("c", deployment(json!({"replicas": 2})));
    assert_eq!(state.owners(), [("b Update".to_owned(), vec![".spec.replicas".to_owned()])]);
}

#[test]
fn what_is_not_applied_any_more_goes() {
    let mut state = State::default();
    state
        .apply("a", deployment(json!({"replicas": 1, "paused": true, "minReadySeconds": 3})), false)
        .unwrap();
    assert_eq!(state.fields("a Apply"), [".spec.minReadySeconds", ".spec.paused", ".spec.replicas"]);
    // Both own what both apply with the same value.
    state.apply("b", deployment(json!({"paused": true})), false).unwrap();
    state.apply("a", deployment(json!({"replicas": 1})), false).unwrap();
    assert_eq!(state.object, Some(deployment(json!({"replicas": 1, "paused": true}))));
    state.apply("b", deployment(json!({})), false).unwrap();
    assert_eq!(state.object.as_ref().unwrap()["spec"], json!({"replicas": 1}));
}

#[test]
fn conflicts() {
    let mut state = State::default();
    state.update("a", deployment(json!({"replicas": 1, "paused": true})));
    assert_eq!(
        state.refused("b", deployment(json!({"replicas": 2}))),
        "Apply failed with 1 conflict: conflict with \"a\" using apps/v1: .spec.replicas"
    );
    state.apply("b", deployment(json!({"replicas": 1})), false).unwrap();
    assert_eq!(
        state.refused("c", deployment(json!({"replicas": 2, "paused": false}))),
        "Apply failed with 3 conflicts: conflicts with \"a\" using apps/v1:\n- .spec.paused\n- .spec.replicas\n\
         conflicts with \"b\":\n- .spec.replicas"
    );
    let error = ApiError::from(state.apply("c", deployment(json!({"replicas": 2})), false).unwrap_err());
    let causes = error.status().details.clone().unwrap().causes.unwrap();
    assert_eq!((error.code(), error.reason()), (409, "Conflict"));
    assert_eq!(causes[0].reason.as_deref(), Some("FieldManagerConflict"));
    assert_eq!(causes[0].field.as_deref(), Some(".spec.replicas"));
    state.apply("c", deployment(json!({"replicas": 2})), true).unwrap();
    assert_eq!(state.fields("a Update"), [".spec.paused"]);
    assert_eq!(state.fields("b Apply"), [""; 0]);
    assert_eq!(state.fields("c Apply"), [".spec.replicas"]);
}

#[test]
fn lists_merge_by_their_keys() {
    let mut state = State::default();
    state
        .apply("a", containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])), false)
        .unwrap();
    state
        .apply(
            "b",
            containers(
                json!([{"name": "z", "image": "1"}, {"name": "x", "env": [{"name": "E", "value": "1"}]}]),
            ),
            false,
        )
        .unwrap();
    let names = |state: &State| -> Vec<String> {
        let list =
            state.object.as_ref().unwrap()["spec"]["template"]["spec"]["containers"].as_array().cloned();
        list.unwrap_or_default().iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names(&state), ["z", "x", "y"]);
    // An element goes with the last one who applied it; what others set in it stays.
    state.apply("a", containers(json!([{"name": "y", "image": "1"}])), false).unwrap();
    assert_eq!(
        state.object.as_ref().unwrap()["spec"]["template"]["spec"]["containers"],
        json!([{"name": "z", "image": "1"}, {"name": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "y", "image": "1"}])
    );
    state.apply("b", containers(json!([])), false).unwrap();
    assert_eq!(names(&state), ["y"]);
    assert_eq!(
        state.refused("a", containers(json!([{"name": "x"}, {"name": "x"}]))),
        "failed to create typed patch object (n/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: \
         duplicate entries for key [name=\"x\"]"
    );
    assert!(
        state
            .refused("a", containers(json!([1])))
            .contains("associative list with keys may not have non-map elements")
    );
    assert!(state.refused("a", containers(json!({"name": "x"}))).contains("expected list, got"));
}

#[test]
fn from_client_side_to_server_side_apply() {
    let mut state = State::default();
    let config = deployment(json!({"replicas": 1, "paused": true}));
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({ LAST_APPLIED: config.to_string() });
    state.update("kubectl-client-side-apply", live.clone());
    // Somebody else has changed a field since.
    live["spec"]["paused"] = false.into();
    state.update("other", live);
    assert_eq!(
        state.refused("kubectl", deployment(json!({"replicas": 2, "paused": true}))),
        "Apply failed with 1 conflict: conflict with \"other\" using apps/v1: .spec.paused"
    );
    let wanted = deployment(json!({"replicas": 2}));
    assert!(state.refused("somebody", wanted.clone()).contains("kubectl-client-side-apply"));
    state.apply("kubectl", wanted.clone(), false).unwrap();
    let object = state.object.as_ref().unwrap();
    assert_eq!(object["spec"], json!({"replicas": 2, "paused": false}));
    assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], format!("{wanted}\n"));
}

#[test]
fn what_was_there_before_the_first_apply() {
    let mut state = State { object: Some(deployment(json!({"replicas": 1, "paused": true}))), owners: None };
    let object = state.object.clone().unwrap();
    state.update("a", object);
    assert_eq!(state.owners(), [], "nobody has kept account so far");
    let message = state.refused("a", deployment(json!({"replicas": 2})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn a_status_owns_no_spec() {
    let object = json!({"spec": {"replicas": 2}, "status": {"replicas": 1}});
    let before = deployment(json!({"replicas": 1}));
    let mut after = before.clone();
    after["spec"] = object["spec"].clone();
    after["status"] = object["status"].clone();
    let mut state = State::default();
    state.update("a", before.clone());
    let status = Writer::new("b".to_owned(), &kinds::DEPLOYMENT, "status");
    let owners = status.updated(Some(&before), &after, None, state.owners.as_deref(), at(3)).unwrap();
    assert_eq!(owners.len(), 2);
    assert_eq!(owners[1].subresource.as_deref(), Some("status"));
    assert_eq!(owners[1].fields_v1.as_ref().unwrap().0, json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn the_account_can_be_rewritten_and_closed() {
    let mut state = State::default();
    state.update("a", deployment(json!({"replicas": 1})));
    let object = state.object.clone().unwrap();
    let entries = state.owners.clone().unwrap();
    let with = |sent: &[ManagedFieldsEntry]| {
        writer("b").updated(Some(&object), &object, Some(sent), Some(&entries), at(3))
    };
    let mut renamed = entries.clone();
    renamed[0].manager = Some("c".to_owned());
    assert_eq!(with(&renamed), Some(renamed.clone()));
    assert_eq!(with(&[]), None);
    assert_eq!(with(&[ManagedFieldsEntry::default()]), None);
    let mut broken = entries.clone();
    broken[0].operation = None;
    assert_eq!(with(&broken), Some(entries.clone()), "what cannot be read is not taken");
}

#[test]
fn managers_have_names() {
    let mut headers = HeaderMap::new();
    assert_eq!(manager_name("", &headers), "unknown");
    headers.insert(USER_AGENT, "kubectl/v1.36.0 (linux/amd64)".parse().unwrap());
    assert_eq!(manager_name("", &headers), "kubectl");
    assert_eq!(manager_name("me", &headers), "me");
}
