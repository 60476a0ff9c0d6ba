//! Defaults of LimitRanges: what is not said follows from what is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LimitRange;

/// Defaults of a LimitRange.
pub fn limit_range(range: &mut LimitRange) {
    let items = range.spec.iter_mut().flat_map(|spec| spec.limits.iter_mut());
    for item in items.filter(|item| item.type_ == "Container") {
        // The default limit is the most there may be, the default request is the default limit, or else the least.
        let mut limits = item.default.take().unwrap_or_default();
        for (name, most) in item.max.iter().flatten() {
            limits.entry(name.clone()).or_insert_with(|| most.clone());
        }
        let mut requests = item.default_request.take().unwrap_or_default();
        for (name, amount) in limits.iter().chain(item.min.iter().flatten()) {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
        item.default = Some(limits).filter(|limits: &BTreeMap<_, _>| !limits.is_empty());
        item.default_request = Some(requests).filter(|requests: &BTreeMap<_, _>| !requests.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn limits() {
        check(
            limit_range,
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}]}}),
            json!({"spec": {"limits": [{"default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"}}]}}),
        );
    }
}
