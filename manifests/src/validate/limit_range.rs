//! LimitRanges.

use k8s_openapi::api::core::v1::LimitRange;

use super::{object_meta, object_meta_update};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

/// A new LimitRange.
pub fn limit_range(range: &LimitRange) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&range.metadata, true, names::dns1123_subdomain, &mut errors);
    spec(range, &mut errors);
    errors
}

/// An update of a LimitRange.
pub fn limit_range_update(new: &LimitRange, old: &LimitRange) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    spec(new, &mut errors);
    errors
}

fn spec(range: &LimitRange, errors: &mut ErrorList) {
    let items = range.spec.as_ref().map(|spec| spec.limits.as_slice()).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let path = Path::new("spec").child("limits").index(index);
        if items[..index].iter().any(|other| other.type_ == item.type_) {
            errors.push(FieldError::duplicate(&path.child("type"), &item.type_));
        }
        if item.type_ == "Pod" {
            for (field, found) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
                if found.as_ref().is_some_and(|found| !found.is_empty()) {
                    let why = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(&path.child(field), why));
                }
            }
        }
        // Each is not more than the next.
        let order = [
            ("min", &item.min),
            ("defaultRequest", &item.default_request),
            ("default", &item.default),
            ("max", &item.max),
        ];
        for (at, (low_name, low)) in order.iter().enumerate() {
            for (high_name, high) in &order[at + 1..] {
                for (resource, less) in low.iter().flatten() {
                    let Some(more) = high.as_ref().and_then(|high| high.get(resource)) else { continue };
                    if let (Ok(a), Ok(b)) = (Quantity::parse(&less.0), Quantity::parse(&more.0))
                        && a > b
                    {
                        let path = path.child(low_name).key(resource);
                        let why = format!(
                            "{low_name} value {} is greater than {high_name} value {}",
                            less.0, more.0
                        );
                        errors.push(FieldError::invalid(&path, &less.0, why));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_least_is_not_more_than_the_most() {
        let check = |item: Value, expected: &str| {
            let made = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [item]}});
            assert_eq!(limit_range(&serde_json::from_value(made).unwrap()).to_string(), expected);
        };
        check(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}), "");
        check(
            json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}}),
            "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
        );
        check(
            json!({"type": "Pod", "default": {"cpu": "3"}}),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        );
    }
}
