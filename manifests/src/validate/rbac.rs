//! Roles and bindings.

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::{named, object_meta, object_meta_update, one_of, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A new Role.
pub fn role(role: &Role) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&role.metadata, true, names::path_segment, &mut errors);
    rules(role.rules.as_deref(), true, &mut errors);
    errors
}

/// An update of a Role.
pub fn role_update(new: &Role, old: &Role) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    rules(new.rules.as_deref(), true, &mut errors);
    errors
}

/// A new ClusterRole.
pub fn cluster_role(role: &ClusterRole) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&role.metadata, false, names::path_segment, &mut errors);
    cluster(role, &mut errors);
    errors
}

/// An update of a ClusterRole.
pub fn cluster_role_update(new: &ClusterRole, old: &ClusterRole) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    cluster(new, &mut errors);
    errors
}

fn cluster(role: &ClusterRole, errors: &mut ErrorList) {
    rules(role.rules.as_deref(), false, errors);
    let Some(aggregation) = &role.aggregation_rule else { return };
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        errors.push(FieldError::required(
            &path,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        ));
    }
    for (index, selector) in selectors.iter().enumerate() {
        super::meta::label_selector(Some(selector), &path.index(index), errors);
    }
}

fn rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut ErrorList) {
    for (index, rule) in rules.unwrap_or_default().iter().enumerate() {
        let path = Path::new("rules").index(index);
        let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if rule.verbs.is_empty() {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if has(&rule.non_resource_urls) {
            let path = path.child("nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, &rule.non_resource_urls, why));
            }
            if has(&rule.api_groups) || has(&rule.resources) || has(&rule.resource_names) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&path, &rule.non_resource_urls, why));
            }
            continue;
        }
        if !has(&rule.api_groups) {
            let why = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), why));
        }
        if !has(&rule.resources) {
            let why = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), why));
        }
    }
}

/// A new RoleBinding.
pub fn role_binding(binding: &RoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&binding.metadata, true, names::path_segment, &mut errors);
    bound(&binding.role_ref, binding.subjects.as_deref(), true, &mut errors);
    errors
}

/// An update of a RoleBinding.
pub fn role_binding_update(new: &RoleBinding, old: &RoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    bound(&new.role_ref, new.subjects.as_deref(), true, &mut errors);
    same_role(&new.role_ref, &old.role_ref, &mut errors);
    errors
}

/// A new ClusterRoleBinding.
pub fn cluster_role_binding(binding: &ClusterRoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&binding.metadata, false, names::path_segment, &mut errors);
    bound(&binding.role_ref, binding.subjects.as_deref(), false, &mut errors);
    errors
}

/// An update of a ClusterRoleBinding.
pub fn cluster_role_binding_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    bound(&new.role_ref, new.subjects.as_deref(), false, &mut errors);
    same_role(&new.role_ref, &old.role_ref, &mut errors);
    errors
}

/// What somebody has agreed to in a binding is this role and no other.
fn same_role(new: &RoleRef, old: &RoleRef, errors: &mut ErrorList) {
    if new != old {
        errors.push(FieldError::invalid(&Path::new("roleRef"), new, "cannot change roleRef"));
    }
}

fn bound(role: &RoleRef, subjects: Option<&[Subject]>, namespaced: bool, errors: &mut ErrorList) {
    let path = Path::new("roleRef");
    one_of(text(&role.api_group), &[GROUP], &path.child("apiGroup"), errors);
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    one_of(&role.kind, kinds, &path.child("kind"), errors);
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        named(&role.name, names::path_segment, &path.child("name"), errors);
    }
    for (index, subject) in subjects.unwrap_or_default().iter().enumerate() {
        let path = Path::new("subjects").index(index);
        if subject.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        let group = text(&subject.api_group);
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    named(&subject.name, names::dns1123_subdomain, &path.child("name"), errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
                }
                if !namespaced && text(&subject.namespace).is_empty() {
                    errors.push(FieldError::required(&path.child("namespace"), ""));
                }
            }
            "User" | "Group" => one_of(group, &[GROUP], &path.child("apiGroup"), errors),
            _ => one_of(&subject.kind, &["Group", "ServiceAccount", "User"], &path.child("kind"), errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check_role(rule: Value, expected: &str) {
        let made =
            serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "n"}, "rules": [rule]}));
        assert_eq!(role(&made.unwrap()).to_string(), expected);
    }

    fn check_binding(role: Value, subject: Value, expected: &str) {
        let made = json!({"metadata": {"name": "b"}, "roleRef": role, "subjects": [subject]});
        assert_eq!(cluster_role_binding(&serde_json::from_value(made).unwrap()).to_string(), expected);
    }

    #[test]
    fn roles() {
        check_role(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), "");
        check_role(
            json!({"apiGroups": [""], "resources": ["pods"]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        );
        check_role(
            json!({"verbs": ["get"], "resources": ["pods"]}),
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        );
        check_role(
            json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        );
    }

    #[test]
    fn bindings() {
        let role = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"});
        let user = json!({"apiGroup": GROUP, "kind": "User", "name": "jane"});
        check_binding(role.clone(), user.clone(), "");
        check_binding(
            json!({"apiGroup": GROUP, "kind": "Role", "name": "view"}),
            user,
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        );
        check_binding(
            role,
            json!({"kind": "ServiceAccount", "name": "robot"}),
            "subjects[0].namespace: Required value",
        );
    }
}
