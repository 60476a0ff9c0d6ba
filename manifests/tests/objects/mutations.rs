//! Objects with anything anywhere: they are refused or taken, and nothing panics.

use std::sync::LazyLock;

use manifests::decode::FieldValidation;
use proptest::prelude::*;
use serde_json::json;

use super::*;

static SEEDS: LazyLock<Vec<(String, Value)>> =
    LazyLock::new(|| super::whole::documents("rich.yaml", super::whole::RICH));

/// A value that is in place somewhere, or nowhere.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null])),
        Just(json!("")),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(0i64),
            Just(-1),
            Just(1),
            Just(70_000),
            Just(i64::MAX),
            Just(i64::MIN),
            any::<i64>()
        ]
        .prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[-a-zA-Z0-9./:$()%äß\u{0}\n ]{1,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "Always",
            "None",
            "Never",
            "ClientIP",
            "ExternalName",
            "LoadBalancer",
            "Local",
            "Localhost",
            "Exists",
            "In",
            "Gt",
            "10%",
            "101%",
            "-5%",
            "1e99",
            "1n",
            "-1Gi",
            "127.0.0.1",
            "fd00::1",
            "10.0.0.0/8",
            "é",
            "..",
            "/..",
            "a/../b",
            "*.a",
            "metadata.annotations['x']",
            "$(",
            "2026-01-02T03:04:05Z",
            "=",
        ])
        .prop_map(Value::from),
        (0usize..300).prop_map(|length| Value::from("a".repeat(length))),
    ]
}

/// All places in a value, depth first.
fn places<'a>(value: &'a mut Value, wanted: &mut usize) -> Option<&'a mut Value> {
    if *wanted == 0 {
        return Some(value);
    }
    *wanted -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| places(item, wanted)),
        Value::Object(fields) => fields.values_mut().find_map(|field| places(field, wanted)),
        _ => None,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

proptest! {


    #[test]
    fn nothing_panics(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let (kind, old) = seed.get(&SEEDS);
        let mut new = old.clone();
        for (place, value) in changes {
            let mut wanted = place.index(count(&new));
            if let Some(place) = places(&mut new, &mut wanted) {
                *place = value;
            }
        }
        // Whether it is refused does not matter here; `write` asserts what always holds.
        let _ = write(kind, &new, old, FieldValidation::Ignore);
        let _ = write(kind, old, &new, FieldValidation::Warn);
    }
}
