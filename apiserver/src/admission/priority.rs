//! From the name of a priority class to the priority of a pod.
//!
//! Follows upstream's `Priority` plugin.

use manifests::k8s_openapi::api::core::v1::PodSpec;
use manifests::k8s_openapi::api::scheduling::v1::PriorityClass;

/// What pods get when there is no class: first come, and they may displace others.
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

/// Sets priority and preemption policy. The error says why the pod is refused.
pub(crate) fn admit(spec: &mut PodSpec, classes: &[PriorityClass]) -> Result<(), String> {
    let name = spec.priority_class_name.clone().unwrap_or_default();
    let class = if name.is_empty() {
        default_class(classes)
    } else {
        let named = classes.iter().find(|class| class.metadata.name.as_ref() == Some(&name));
        Some(named.ok_or_else(|| format!("no PriorityClass with name {name} was found"))?)
    };
    let priority = class.and_then(|class| class.value).unwrap_or(0);
    let policy = class.and_then(|class| class.preemption_policy.as_deref()).unwrap_or(DEFAULT_POLICY);
    if let Some(own) = spec.priority.filter(|own| *own != priority) {
        return Err(format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        ));
    }
    if let Some(own) = spec.preemption_policy.as_deref().filter(|own| *own != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    if name.is_empty() {
        spec.priority_class_name = class.and_then(|class| class.metadata.name.clone());
    }
    spec.priority = Some(priority);
    spec.preemption_policy = Some(policy.to_owned());
    Ok(())
}

/// The class that is marked as default; of several, the lowest.
fn default_class(classes: &[PriorityClass]) -> Option<&PriorityClass> {
    classes
        .iter()
        .filter(|class| class.global_default == Some(true))
        .min_by_key(|class| class.value.unwrap_or(0))
}

/// There is at most one default class. The error says why a class is refused.
pub(crate) fn admit_class(class: &PriorityClass, others: &[PriorityClass]) -> Result<(), String> {
    if class.global_default != Some(true) {
        return Ok(());
    }
    match default_class(others) {
        Some(other) if other.metadata.name != class.metadata.name => Err(format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            other.metadata.name.as_deref().unwrap_or_default()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i32, default: bool) -> PriorityClass {
        let mut class =
            PriorityClass { value: Some(value), global_default: Some(default), ..PriorityClass::default() };
        class.metadata.name = Some(name.to_owned());
        class
    }

    #[test]
    fn classes() {
        let classes = [class("high", 1000, false), class("usual", 10, true)];
        let admit = |name: &str, own: Option<i32>, classes: &[PriorityClass]| {
            let name = (!name.is_empty()).then(|| name.to_owned());
            let mut spec = PodSpec { priority_class_name: name, priority: own, ..PodSpec::default() };
            admit(&mut spec, classes).map(|()| (spec.priority, spec.priority_class_name))
        };
        assert_eq!(admit("", None, &[]), Ok((Some(0), None)));
        assert_eq!(admit("", None, &classes), Ok((Some(10), Some("usual".to_owned()))));
        assert_eq!(admit("high", Some(1000), &classes), Ok((Some(1000), Some("high".to_owned()))));
        assert_eq!(admit("low", None, &classes), Err("no PriorityClass with name low was found".to_owned()));
        assert!(admit("high", Some(7), &classes).is_err_and(|why| why.contains("computed 1000")));
        assert!(admit_class(&class("other", 1, true), &classes).is_err());
        assert!(admit_class(&class("usual", 1, true), &classes).is_ok());
    }
}
