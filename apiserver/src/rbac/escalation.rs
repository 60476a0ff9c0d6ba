//! Nobody gives away what they do not have.
//!
//! Follows upstream's policy-based storages: whoever writes a role or binds one must hold all of its rules, or be allowed
//! to `escalate` or to `bind`.

use manifests::k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
};
use manifests::status::ApiError;

use super::{GROUP, MASTERS, Policy, rule};
use crate::authorize::Action;
use crate::identity::Identity;
use crate::registry::AnyObject;

/// Whether `identity` may write an object: with anything but roles and bindings this has no business.
pub(crate) fn check(
    policy: &Policy,
    identity: &Identity,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Result<(), ApiError> {
    let any = new.as_any();
    let namespace = new.meta().namespace.clone().unwrap_or_default();
    let name = new.meta().name.clone().unwrap_or_default();
    let before = old.map(AnyObject::as_any);
    if let Some(role) = any.downcast_ref::<ClusterRole>() {
        let same = before
            .and_then(|old| old.downcast_ref::<ClusterRole>())
            .is_some_and(|old| old.rules == role.rules && old.aggregation_rule == role.aggregation_rule);
        // Who sets what a role aggregates may make it anything.
        if role.aggregation_rule.is_some() && !same {
            let everything = ["*".to_owned()];
            let all = PolicyRule {
                verbs: everything.to_vec(),
                api_groups: Some(everything.to_vec()),
                resources: Some(everything.to_vec()),
                ..PolicyRule::default()
            };
            may_write(policy, identity, "clusterroles", "", &name, &[all])?;
        }
        if !same {
            may_write(
                policy,
                identity,
                "clusterroles",
                "",
                &name,
                role.rules.as_deref().unwrap_or_default(),
            )?;
        }
    } else if let Some(role) = any.downcast_ref::<Role>() {
        let same =
            before.and_then(|old| old.downcast_ref::<Role>()).is_some_and(|old| old.rules == role.rules);
        if !same {
            may_write(
                policy,
                identity,
                "roles",
                &namespace,
                &name,
                role.rules.as_deref().unwrap_or_default(),
            )?;
        }
    } else if let Some(binding) = any.downcast_ref::<ClusterRoleBinding>() {
        let same = before
            .and_then(|old| old.downcast_ref::<ClusterRoleBinding>())
            .is_some_and(|old| old.subjects == binding.subjects && old.role_ref == binding.role_ref);
        if !same {
            may_bind(policy, identity, "clusterrolebindings", "", &name, &binding.role_ref)?;
        }
    } else if let Some(binding) = any.downcast_ref::<RoleBinding>() {
        let same = before
            .and_then(|old| old.downcast_ref::<RoleBinding>())
            .is_some_and(|old| old.subjects == binding.subjects && old.role_ref == binding.role_ref);
        if !same {
            may_bind(policy, identity, "rolebindings", &namespace, &name, &binding.role_ref)?;
        }
    }
    Ok(())
}

fn allowed(
    policy: &Policy,
    identity: &Identity,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let action = Action { verb, group: GROUP, resource, subresource: "", namespace, name };
    identity.is_in(MASTERS) || policy.allows(identity, &action)
}

fn may_write(
    policy: &Policy,
    identity: &Identity,
    resource: &str,
    namespace: &str,
    name: &str,
    rules: &[PolicyRule],
) -> Result<(), ApiError> {
    if allowed(policy, identity, "escalate", resource, namespace, name) {
        return Ok(());
    }
    held(policy, identity, namespace, rules).map_err(|why| ApiError::forbidden(resource, GROUP, name, &why))
}

fn may_bind(
    policy: &Policy,
    identity: &Identity,
    resource: &str,
    namespace: &str,
    name: &str,
    to: &RoleRef,
) -> Result<(), ApiError> {
    let role = if to.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if allowed(policy, identity, "bind", role, namespace, &to.name) {
        return Ok(());
    }
    let Some(rules) = policy.role(namespace, to) else {
        return Err(ApiError::not_found(role, GROUP, &to.name));
    };
    held(policy, identity, namespace, &rules).map_err(|why| ApiError::forbidden(resource, GROUP, name, &why))
}

/// Whether somebody holds some rules. The error names those that are missing.
fn held(policy: &Policy, identity: &Identity, namespace: &str, rules: &[PolicyRule]) -> Result<(), String> {
    let have: Vec<PolicyRule> = policy.rules(identity, namespace).cloned().collect();
    let missing = rule::not_covered(&have, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut missing: Vec<String> = missing.iter().map(rule::readable).collect();
    missing.sort();
    let groups: Vec<String> = identity.groups.iter().map(|group| manifests::go::quote(group)).collect();
    Err(format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        manifests::go::quote(&identity.user),
        groups.join(" "),
        missing.join("\n")
    ))
}
