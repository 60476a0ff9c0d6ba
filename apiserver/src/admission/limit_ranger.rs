//! Containers get what their namespace gives them unless they say otherwise, and nobody asks for more, or less, than is
//! allowed.
//!
//! Follows upstream's `LimitRanger` plugin.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, Pod};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::quantity::Quantity;
use manifests::resources;

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// Fills in defaults and checks a new pod. The error says why it is refused.
pub(crate) fn admit(pod: &mut Pod, ranges: &[LimitRange]) -> Result<(), String> {
    let items: Vec<&LimitRangeItem> =
        ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits).collect();
    if items.is_empty() {
        return Ok(());
    }
    let mut told = Vec::new();
    if let Some(spec) = &mut pod.spec {
        let init = spec.init_containers.iter_mut().flatten().map(|container| (container, "init container"));
        let main = spec.containers.iter_mut().map(|container| (container, "container"));
        for (container, what) in main.chain(init) {
            let own = container.resources.get_or_insert_default();
            let of_containers = || items.iter().filter(|item| item.type_ == "Container");
            for item in of_containers() {
                let added = fill(&mut own.requests, item.default_request.as_ref());
                if !added.is_empty() {
                    told.push(format!("{} request for {what} {}", added.join(", "), container.name));
                }
                let added = fill(&mut own.limits, item.default.as_ref());
                if !added.is_empty() {
                    told.push(format!("{} limit for {what} {}", added.join(", "), container.name));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), text);
    }
    let mut refused = Vec::new();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                let spec = pod.spec.iter();
                let containers =
                    spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
                for container in containers {
                    let own = container.resources.clone().unwrap_or_default();
                    check(item, &parsed(own.requests.as_ref()), &parsed(own.limits.as_ref()), &mut refused);
                }
            }
            "Pod" => check(item, &resources::pod_requests(pod), &resources::pod_limits(pod), &mut refused),
            _ => {}
        }
    }
    match &refused[..] {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

/// Adds what is missing; returns its names.
fn fill(
    have: &mut Option<BTreeMap<String, ApiQuantity>>,
    defaults: Option<&BTreeMap<String, ApiQuantity>>,
) -> Vec<String> {
    let mut added = Vec::new();
    for (name, amount) in defaults.into_iter().flatten() {
        let have = have.get_or_insert_default();
        if !have.contains_key(name) {
            have.insert(name.clone(), amount.clone());
            added.push(name.clone());
        }
    }
    added
}

fn parsed(list: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    list.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, refused: &mut Vec<String>) {
    let kind = &item.type_;
    for (name, least) in parsed(item.min.as_ref()) {
        let what = format!("minimum {name} usage per {kind} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => refused.push(format!("{what}.  No request is specified")),
            (Some(request), _) if *request < least => {
                refused.push(format!("{what}, but request is {request}"))
            }
            (_, Some(limit)) if *limit < least => refused.push(format!("{what}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in parsed(item.max.as_ref()) {
        let what = format!("maximum {name} usage per {kind} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => refused.push(format!("{what}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => refused.push(format!("{what}, but limit is {limit}")),
            (Some(request), _) if *request > most => {
                refused.push(format!("{what}, but request is {request}"))
            }
            _ => {}
        }
    }
    for (name, most) in parsed(item.max_limit_request_ratio.as_ref()) {
        let what = format!("{name} max limit to request ratio per {kind} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (Some(request), Some(limit)) if !request.is_zero() => {
                let ratio = limit.to_f64() / request.to_f64();
                if ratio > most.to_f64() {
                    refused.push(format!("{what}, but provided ratio is {ratio:.6}"));
                }
            }
            _ => refused.push(format!("{what}, but no request is specified or request is 0")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn admitted(item: Value, resources: Value) -> Result<Value, String> {
        let range: LimitRange = serde_json::from_value(json!({"spec": {"limits": [item]}})).unwrap();
        let mut pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .unwrap();
        admit(&mut pod, &[range])?;
        Ok(manifests::encode::to_value(&pod).unwrap())
    }

    #[test]
    fn defaults() {
        let item = json!({"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1", "memory": "1Mi"}});
        let pod = admitted(item, json!({"requests": {"cpu": "500m"}})).unwrap();
        let expected = json!({"requests": {"cpu": "500m", "memory": "1Mi"}, "limits": {"cpu": "2"}});
        assert_eq!(pod["spec"]["containers"][0]["resources"], expected);
        let told = "LimitRanger plugin set: memory request for container c; cpu limit for container c";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], told);
    }

    #[test]
    fn bounds() {
        let check = |item: Value, resources: Value, expected: &str| {
            assert_eq!(admitted(item, resources).err().unwrap_or_default(), expected);
        };
        let max = json!({"type": "Container", "max": {"cpu": "1"}});
        check(max.clone(), json!({"limits": {"cpu": "1"}}), "");
        check(
            max.clone(),
            json!({"limits": {"cpu": "2"}}),
            "maximum cpu usage per Container is 1, but limit is 2",
        );
        check(max, json!({}), "maximum cpu usage per Container is 1.  No limit is specified");
        let min = json!({"type": "Pod", "min": {"memory": "1Gi"}});
        let small = json!({"requests": {"memory": "1Mi"}});
        check(min, small, "minimum memory usage per Pod is 1Gi, but request is 1Mi");
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        let wide = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}});
        check(
            ratio,
            wide,
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        );
    }
}
