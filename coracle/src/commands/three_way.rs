//! The patch that brings an applied object to its manifest: what the manifest says, and the removal of what the
//! manifest said when it was applied last and says no more. Fields that others set are left alone.
//!
//! The patch is a strategic merge patch, so lists with a merge key are merged element by element.

use manifests::strategic::{self, Field};
use serde_json::{Map, Value, json};

/// Where kubectl keeps what was applied; ours is the same, so both can be used on one object.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Computes the patch. `type_name` is the object's type as OpenAPI names it.
pub(crate) fn patch(type_name: &str, last: &Value, desired: &Value) -> Value {
    object(type_name, last.as_object(), desired.as_object().unwrap_or(&Map::new())).into()
}

/// The document has no map of metadata.
#[derive(Debug, thiserror::Error)]
#[error("metadata is not a map")]
pub(crate) struct NotAnObject;

/// The object with its namespace, and with itself as the annotation that the next apply compares with.
pub(crate) fn annotated(object: &Value, namespaced: bool, namespace: &str) -> Result<Value, NotAnObject> {
    let mut object = object.clone();
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or(NotAnObject)?;
    if namespaced {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    match metadata.entry("annotations").or_insert_with(|| json!({})) {
        Value::Object(annotations) => annotations.remove(LAST_APPLIED),
        other => {
            *other = json!({});
            None
        }
    };
    let text = object.to_string() + "\n";
    object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(object)
}

fn object(of: &str, last: Option<&Map<String, Value>>, desired: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in desired {
        let field = strategic::field(of, name);
        let last = last.and_then(|last| last.get(name));
        out.insert(name.clone(), any(field, last, value));
    }
    for name in last.into_iter().flat_map(Map::keys).filter(|name| !desired.contains_key(*name)) {
        out.insert(name.clone(), Value::Null);
    }
    out
}

fn any(field: Option<&Field>, last: Option<&Value>, desired: &Value) -> Value {
    match desired {
        Value::Object(map) => {
            let of = field.map_or("", |field| field.of);
            let mut out = object(of, last.and_then(Value::as_object), map);
            if field.is_some_and(|field| field.strategy.name() == Some("retainKeys")) {
                out.insert("$retainKeys".to_owned(), retain(map));
            }
            out.into()
        }
        Value::Array(items) => match field {
            Some(field) if field.strategy.merges_list() && !field.merge_key.is_empty() => {
                list(field, last, items)
            }
            Some(field) if field.strategy.merges_list() => desired.clone(),
            _ => desired.clone(),
        },
        scalar => scalar.clone(),
    }
}

/// A list whose elements are known by their merge key.
fn list(field: &Field, last: Option<&Value>, desired: &[Value]) -> Value {
    let key = field.merge_key;
    let before = last.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let find =
        |items: &[Value], wanted: &Value| items.iter().find(|item| item.get(key) == Some(wanted)).cloned();
    let mut out = Vec::new();
    for item in desired {
        let (Some(id), Some(map)) = (item.get(key), item.as_object()) else {
            // An element without its key cannot be merged; the server will say so.
            out.push(item.clone());
            continue;
        };
        let last = find(before, id);
        let mut merged = object(field.of, last.as_ref().and_then(Value::as_object), map);
        if field.strategy.name().is_some_and(|name| name.ends_with("retainKeys")) {
            merged.insert("$retainKeys".to_owned(), retain(map));
        }
        out.push(merged.into());
    }
    for item in before {
        if let Some(id) = item.get(key)
            && find(desired, id).is_none()
        {
            out.push(json!({key: id, "$patch": "delete"}));
        }
    }
    out.into()
}

fn retain(map: &Map<String, Value>) -> Value {
    map.keys().cloned().collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

    #[track_caller]
    fn check(last: Value, desired: Value, expected: Value) {
        assert_eq!(patch(DEPLOYMENT, &last, &desired), expected);
    }

    #[test]
    fn what_the_manifest_no_longer_says_is_removed() {
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"paused": true}}),
            json!({"metadata": {"labels": {"a": "3"}}, "spec": {"replicas": 2}}),
            json!({"metadata": {"labels": {"a": "3", "b": null}}, "spec": {"replicas": 2, "paused": null}}),
        );
    }

    #[test]
    fn containers_merge_by_name() {
        let template =
            |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
        check(
            template(json!([{"name": "a", "image": "x", "tty": true}, {"name": "b", "image": "y"}])),
            template(json!([{"name": "a", "image": "z"}])),
            template(json!([{"name": "a", "image": "z", "tty": null}, {"name": "b", "$patch": "delete"}])),
        );
    }

    #[test]
    fn a_volume_that_changes_its_source_keeps_only_the_new_one() {
        let template = |volume: Value| json!({"spec": {"template": {"spec": {"volumes": [volume]}}}});
        check(
            template(json!({"name": "v", "emptyDir": {}})),
            template(json!({"name": "v", "configMap": {"name": "c"}})),
            template(
                json!({"name": "v", "configMap": {"name": "c"}, "emptyDir": null, "$retainKeys": ["configMap", "name"]}),
            ),
        );
    }

    #[test]
    fn the_first_apply_removes_nothing() {
        check(Value::Null, json!({"spec": {"replicas": 1}}), json!({"spec": {"replicas": 1}}));
    }
}
