//! What a RuntimeClass adds to pods that name it: overhead, and the nodes that have its handler.
//!
//! Follows upstream's `RuntimeClass` plugin.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{PodSpec, Toleration};
use manifests::k8s_openapi::api::node::v1::RuntimeClass;
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use manifests::quantity::Quantity;

/// Sets overhead, node selector and tolerations. The error says why the pod is refused.
pub(crate) fn admit(
    spec: &mut PodSpec,
    find: impl FnOnce(&str) -> Option<RuntimeClass>,
) -> Result<(), String> {
    let name = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let class = match name {
        None => None,
        Some(name) => {
            Some(find(name).ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))?)
        }
    };
    let own = spec.overhead.clone().filter(|overhead| !overhead.is_empty());
    let fixed = class.as_ref().and_then(|class| class.overhead.as_ref()?.pod_fixed.clone());
    match (own, fixed) {
        (None, fixed) => spec.overhead = fixed,
        (Some(own), Some(fixed)) if same(&own, &fixed) => {}
        (Some(_), Some(_)) => {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(why.to_owned());
        }
        (Some(_), None) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(why.to_owned());
        }
    }
    let Some(scheduling) = class.and_then(|class| class.scheduling) else { return Ok(()) };
    for (key, value) in scheduling.node_selector.unwrap_or_default() {
        let selector = spec.node_selector.get_or_insert_default();
        match selector.get(&key) {
            Some(own) if *own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => {
                selector.insert(key, value);
            }
        }
    }
    for toleration in scheduling.tolerations.unwrap_or_default() {
        let tolerations: &mut Vec<Toleration> = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Ok(())
}

fn same(a: &BTreeMap<String, Written>, b: &BTreeMap<String, Written>) -> bool {
    a.len() == b.len()
        && a.iter()
            .all(|(key, amount)| b.get(key).is_some_and(|other| Quantity::of(amount) == Quantity::of(other)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn classes_add_to_pods() {
        let classes = json!({
            "plain": {"handler": "coracle"},
            "heavy": {
                "handler": "coracle",
                "overhead": {"podFixed": {"cpu": "100m"}},
                "scheduling": {"nodeSelector": {"kind": "big"}, "tolerations": [{"key": "big", "operator": "Exists"}]},
            },
        });
        let check = |spec: Value, expected: Result<Value, &str>| {
            let mut pod: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            let find = |name: &str| {
                let mut class = classes.get(name)?.clone();
                class["metadata"] = json!({"name": name});
                serde_json::from_value(class).ok()
            };
            let admitted = admit(&mut pod, find).map(|()| {
                json!([pod.overhead, pod.node_selector, pod.tolerations.map(|tolerations| tolerations.len())])
            });
            assert_eq!(admitted, expected.map_err(str::to_owned), "{spec}");
        };
        let with = |more: Value| {
            let mut spec = json!({"containers": []});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        check(with(json!({})), Ok(json!([null, null, null])));
        check(with(json!({"runtimeClassName": "plain"})), Ok(json!([null, null, null])));
        check(
            with(json!({"runtimeClassName": "gone"})),
            Err("pod rejected: RuntimeClass \"gone\" not found"),
        );
        let heavy = json!([{"cpu": "100m"}, {"kind": "big"}, 1]);
        check(with(json!({"runtimeClassName": "heavy"})), Ok(heavy.clone()));
        check(
            with(json!({"runtimeClassName": "heavy", "overhead": {"cpu": "0.1"}})),
            Ok(json!([{"cpu": "0.1"}, {"kind": "big"}, 1])),
        );
        check(
            with(json!({"runtimeClassName": "heavy", "overhead": {"cpu": "1"}})),
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        );
        check(
            with(json!({"overhead": {"cpu": "1"}})),
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        );
        check(
            with(json!({"runtimeClassName": "heavy", "nodeSelector": {"kind": "small"}})),
            Err(
                "conflict: runtimeClass.scheduling.nodeSelector[kind] = big; pod.spec.nodeSelector[kind] = small",
            ),
        );
    }
}
