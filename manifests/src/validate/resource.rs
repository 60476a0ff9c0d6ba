//! Names and amounts of resources.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::{named, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

type Amounts = BTreeMap<String, ApiQuantity>;

/// Names that mean something without a domain.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// The name of a resource of a container.
fn container_resource(name: &str, path: &Path, errors: &mut ErrorList) {
    let messages = names::qualified_name(name);
    let well_formed = messages.is_empty();
    errors.push_invalid(path, name, messages);
    if !name.contains('/') {
        if well_formed
            && !STANDARD.contains(&name)
            && !is_huge_page(name)
            && !name.starts_with("requests.hugepages-")
        {
            let detail = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(path, name, detail));
        }
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// The name of a resource of a pod as a whole.
fn pod_resource(name: &str, path: &Path, errors: &mut ErrorList) {
    let before = errors.len();
    named(name, names::qualified_name, path, errors);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// The amount of a resource.
pub(super) fn amount(name: &str, quantity: &ApiQuantity, path: &Path, errors: &mut ErrorList) {
    let parsed = match Quantity::try_from(quantity) {
        Ok(parsed) => parsed,
        Err(error) => {
            errors.push(FieldError::invalid(path, &quantity.0, error.to_string()));
            return;
        }
    };
    if parsed.is_negative() {
        errors.push(FieldError::invalid(path, parsed.to_string(), super::NEGATIVE));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !parsed.is_integer() {
        errors.push(FieldError::invalid(path, parsed.to_string(), "must be an integer"));
    }
}

/// Requests and limits of a container.
pub(super) fn container_requirements(
    requirements: &ResourceRequirements,
    claims: &BTreeSet<&str>,
    path: &Path,
    errors: &mut ErrorList,
) {
    self::requirements(requirements, container_resource, claims, path, errors);
}

/// Requests and limits of a pod as a whole.
pub(super) fn pod_requirements(requirements: &ResourceRequirements, path: &Path, errors: &mut ErrorList) {
    self::requirements(requirements, pod_resource, &BTreeSet::new(), path, errors);
}

fn requirements(
    requirements: &ResourceRequirements,
    name_rule: fn(&str, &Path, &mut ErrorList),
    claims: &BTreeSet<&str>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let none = Amounts::new();
    let limits = requirements.limits.as_ref().unwrap_or(&none);
    let requests = requirements.requests.as_ref().unwrap_or(&none);
    let limits_path = path.child("limits");
    let requests_path = path.child("requests");
    for (name, limit) in limits {
        let path = limits_path.key(name);
        name_rule(name, &path, errors);
        amount(name, limit, &path, errors);
        huge_pages(name, limit, &path, errors);
    }
    for (name, request) in requests {
        let path = requests_path.key(name);
        name_rule(name, &path, errors);
        amount(name, request, &path, errors);
        let quantity = Quantity::of(request);
        match limits.get(name).map(Quantity::of) {
            Some(limit) if quantity != limit && !may_overcommit(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests_path, quantity.to_string(), detail));
            }
            Some(limit) if quantity > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests_path, quantity.to_string(), detail));
            }
            None if !may_overcommit(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limits_path, detail));
            }
            _ => {}
        }
        huge_pages(name, request, &path, errors);
    }
    let all = || limits.keys().chain(requests.keys()).map(String::as_str);
    if all().any(is_huge_page) && !all().any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    for (index, claim) in requirements.claims.iter().flatten().enumerate() {
        let path = path.child("claims").index(index);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let request = text(&claim.request);
        if !request.is_empty() {
            named(request, names::dns1123_label, &path.child("request"), errors);
        }
        if !claims.contains(claim.name.as_str()) {
            let known: Vec<&str> = claims.iter().copied().collect();
            let known = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", known.join(", "))
            };
            let mut error = FieldError::not_found(&path, &claim.name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
            errors.push(error);
        }
    }
}

fn huge_pages(name: &str, quantity: &ApiQuantity, path: &Path, errors: &mut ErrorList) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let quantity = Quantity::of(quantity);
    let size = Quantity::parse(size).map(|size| size.value()).unwrap_or_default();
    let divisible = size > 0 && quantity.is_integer() && quantity.value() % size == 0;
    if !divisible {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, quantity.to_string(), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(value: Value, expected: &[&str]) {
        let decoded: ResourceRequirements = serde_json::from_value(value.clone()).unwrap();
        let mut errors = ErrorList::new();
        container_requirements(&decoded, &BTreeSet::new(), &Path::new("resources"), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{value}");
    }

    #[test]
    fn requirements_of_containers() {
        check(json!({}), &[]);
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "2"}, "requests": {"cpu": "500m"}}),
            &[],
        );
        check(
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            &["resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
        );
        check(
            json!({"limits": {"memory": "-1"}}),
            &["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"],
        );
        check(
            json!({"limits": {"gpu": "1"}}),
            &[
                "resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            ],
        );
        check(
            json!({"limits": {"pods": "1"}}),
            &["resources.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers"],
        );
        check(
            json!({"requests": {"example.com/gpu": "500m"}}),
            &[
                "resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                "resources.limits: Required value: Limit must be set for non overcommitable resources",
            ],
        );
        check(
            json!({"limits": {"hugepages-2Mi": "3Mi"}}),
            &[
                "resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "resources: Forbidden: HugePages require cpu or memory",
            ],
        );
        check(
            json!({"limits": {"cpu": "much"}}),
            &[
                "resources.limits[cpu]: Invalid value: \"much\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ],
        );
        check(
            json!({"claims": [{"name": "c"}]}),
            &[
                "resources.claims[0]: Not found: \"c\": must be one of the names in pod.spec.resourceClaims which is empty",
            ],
        );
    }
}
