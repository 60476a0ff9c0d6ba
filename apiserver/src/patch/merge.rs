//! JSON merge patch, RFC 7386: a null deletes, a map merges, everything else replaces.

use serde_json::{Map, Value};

/// Applies a patch whose top level is a map.
pub(super) fn apply(current: Value, patch: Map<String, Value>) -> Value {
    // The RFC turns a target that is no map into an empty one.
    let mut target = match current {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => {
                let old = target.remove(&key).unwrap_or(Value::Null);
                target.insert(key, apply(old, inner));
            }
            value => {
                target.insert(key, value);
            }
        }
    }
    Value::Object(target)
}
