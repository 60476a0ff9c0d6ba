//! The quality-of-service class of a pod: who is starved first when a node runs out of memory.

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};

use crate::quantity::Quantity;

/// How much of what a pod may use is also promised to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, and requests that equal them.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nobody asks for anything.
    BestEffort,
}

impl QosClass {
    /// The value of `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

impl std::fmt::Display for QosClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of a pod: what its status says if it says it, because it must not change while the pod lives.
pub fn class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => pod.spec.as_ref().map_or(QosClass::BestEffort, class_of_spec),
    }
}

/// The class that follows from a pod's resources.
pub fn class_of_spec(spec: &PodSpec) -> QosClass {
    if let Some(resources) = &spec.resources
        && (count(&resources.requests) + count(&resources.limits)) > 0
    {
        return class_of_all([Some(resources)].into_iter());
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    class_of_all(containers.map(|container| container.resources.as_ref()))
}

fn class_of_all<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in ["cpu", "memory"] {
            let request = resources.and_then(|r| amount(&r.requests, name));
            let limit = resources.and_then(|r| amount(&r.limits, name));
            any |= request.is_some() || limit.is_some();
            // A missing request defaults to the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

type Resources =
    Option<std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;

/// Only CPU and memory above zero count.
fn amount(resources: &Resources, name: &str) -> Option<Quantity> {
    let amount = Quantity::of(resources.as_ref()?.get(name)?);
    (amount > Quantity::ZERO).then_some(amount)
}

fn count(resources: &Resources) -> usize {
    ["cpu", "memory"].iter().filter(|name| amount(resources, name).is_some()).count()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(containers: Value, init: Value, expected: QosClass) {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": containers, "initContainers": init})).unwrap();
        assert_eq!(class_of_spec(&spec), expected, "{containers} {init}");
    }

    #[test]
    fn classes() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        let full = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}});
        let limits = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        let requests = json!({"resources": {"requests": {"cpu": "1"}}});
        let less = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"  , "memory": "1Mi"}}});
        let other = json!({"resources": {"limits": {"example.com/gpu": "1"}}});
        let zero = json!({"resources": {"requests": {"cpu": "0"}}});
        let none = json!({});
        check(json!([none]), json!([]), BestEffort);
        check(json!([zero]), json!([]), BestEffort);
        check(json!([other]), json!([]), BestEffort);
        check(json!([full]), json!([]), Guaranteed);
        check(json!([limits]), json!([]), Guaranteed);
        check(json!([full, limits]), json!([full]), Guaranteed);
        check(json!([requests]), json!([]), Burstable);
        check(json!([less]), json!([]), Burstable);
        check(json!([full, none]), json!([]), Burstable);
        check(json!([full]), json!([none]), Burstable);
        check(json!([none]), json!([requests]), Burstable);
    }

    #[test]
    fn the_status_decides_when_it_is_set() {
        let pod: Pod = serde_json::from_value(
            json!({"spec": {"containers": [{}]}, "status": {"qosClass": "Burstable"}}),
        )
        .unwrap();
        assert_eq!(class(&pod), QosClass::Burstable);
    }
}
