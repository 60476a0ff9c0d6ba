//! PriorityClasses.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{immutable, object_meta, object_meta_update, one_of, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const HIGHEST_OF_USERS: i32 = 1_000_000_000;
/// The classes that exist from the start, with their values.
const SYSTEM: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// A new PriorityClass.
pub fn priority_class(class: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&class.metadata, false, names::dns1123_subdomain, &mut errors);
    let name = text(&class.metadata.name);
    let value = class.value.unwrap_or_default();
    if name.starts_with("system-") {
        let problem = match SYSTEM.iter().find(|(known, _)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, fixed)) if *fixed != value => {
                Some(format!("value of {name} PriorityClass must be {fixed}"))
            }
            Some(_) if class.global_default == Some(true) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            errors.push(FieldError::forbidden(&Path::new("metadata").child("name"), detail));
        }
    } else if value > HIGHEST_OF_USERS {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
        errors.push(FieldError::forbidden(&Path::new("value"), detail));
    }
    if let Some(policy) = &class.preemption_policy {
        one_of(policy, &["PreemptLowerPriority", "Never"], &Path::new("preemptionPolicy"), &mut errors);
    }
    errors
}

/// An update of a PriorityClass.
pub fn priority_class_update(new: &PriorityClass, old: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    if new.value.unwrap_or_default() != old.value.unwrap_or_default() {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    immutable(&new.preemption_policy, &old.preemption_policy, &Path::new("preemptionPolicy"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, check_update, cluster_wide};
    use super::*;

    #[test]
    fn classes() {
        check(priority_class, cluster_wide(json!({"value": 5, "preemptionPolicy": "Never"})), &[]);
        check(
            priority_class,
            cluster_wide(json!({"value": 1_000_000_001, "preemptionPolicy": "Sometimes"})),
            &[
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
                "preemptionPolicy: Unsupported value: \"Sometimes\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ],
        );
        check(
            priority_class,
            json!({"metadata": {"name": "system-mine"}, "value": 1}),
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ],
        );
        check(
            priority_class,
            json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
            &[],
        );
        check_update(
            priority_class_update,
            cluster_wide(json!({"value": 6})),
            cluster_wide(json!({"value": 5})),
            &["value: Forbidden: may not be changed in an update."],
        );
    }
}
