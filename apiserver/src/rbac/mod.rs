//! Role-based access: who may do what, by the roles and bindings in the cluster.
//!
//! ```text
//! roles, clusterroles, rolebindings, clusterrolebindings ──(caches)──▶ Policy ──▶ allowed?
//! ```
//!
//! A [`Policy`] is one snapshot of all four kinds. It is made again when one of them has changed, not per request.

mod aggregate;
pub(crate) mod defaults;
pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod rule;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use manifests::k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use crate::authorize::Action;
use crate::identity::Identity;
use crate::registry::Registry;
use crate::server::ApiServer;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const KINDS: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

/// Members may do everything, whatever the roles say.
pub(crate) const MASTERS: &str = "system:masters";

/// What a role gives to whom.
#[derive(Debug)]
struct Grant {
    subjects: Vec<Subject>,
    rules: Arc<[PolicyRule]>,
}

/// All grants at one time.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    cluster: Vec<Grant>,
    namespaces: BTreeMap<String, Vec<Grant>>,
    cluster_roles: BTreeMap<String, Arc<[PolicyRule]>>,
    roles: BTreeMap<(String, String), Arc<[PolicyRule]>>,
}

/// A policy and the state of the caches that it was made from.
pub(crate) type Snapshot = Option<(Vec<(u64, u64)>, Arc<Policy>)>;

fn all<T: serde::de::DeserializeOwned>(registry: &Registry, resource: &str) -> Vec<T> {
    let Some(row) = registry.find(GROUP, "v1", resource) else { return Vec::new() };
    let objects = row.cache.all("");
    objects.iter().filter_map(|object| serde_json::from_slice(object.json_bytes()).ok()).collect()
}

impl Policy {
    fn of(registry: &Registry) -> Policy {
        let mut policy = Policy::default();
        for role in all::<ClusterRole>(registry, "clusterroles") {
            policy
                .cluster_roles
                .insert(role.metadata.name.unwrap_or_default(), role.rules.unwrap_or_default().into());
        }
        for role in all::<Role>(registry, "roles") {
            let key = (role.metadata.namespace.unwrap_or_default(), role.metadata.name.unwrap_or_default());
            policy.roles.insert(key, role.rules.unwrap_or_default().into());
        }
        for binding in all::<ClusterRoleBinding>(registry, "clusterrolebindings") {
            if let Some(rules) = policy.role("", &binding.role_ref) {
                policy.cluster.push(Grant { subjects: binding.subjects.unwrap_or_default(), rules });
            }
        }
        for binding in all::<RoleBinding>(registry, "rolebindings") {
            let namespace = binding.metadata.namespace.unwrap_or_default();
            if let Some(rules) = policy.role(&namespace, &binding.role_ref) {
                let grant = Grant { subjects: binding.subjects.unwrap_or_default(), rules };
                policy.namespaces.entry(namespace).or_default().push(grant);
            }
        }
        policy
    }

    /// The rules of a role, if there is such a role.
    pub(crate) fn role(&self, namespace: &str, reference: &RoleRef) -> Option<Arc<[PolicyRule]>> {
        match reference.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&reference.name).cloned(),
            "Role" => self.roles.get(&(namespace.to_owned(), reference.name.clone())).cloned(),
            _ => None,
        }
    }

    /// All rules that somebody has in a namespace; the empty one is the whole cluster.
    pub(crate) fn rules<'p>(
        &'p self,
        identity: &'p Identity,
        namespace: &str,
    ) -> impl Iterator<Item = &'p PolicyRule> + use<'p> {
        let local = self.namespaces.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let space = namespace.to_owned();
        self.cluster
            .iter()
            .map(|grant| (grant, ""))
            .chain(local.iter().map(|grant| (grant, ".")))
            .filter(move |(grant, scope)| {
                let own = if scope.is_empty() { "" } else { space.as_str() };
                grant.subjects.iter().any(|subject| is(subject, identity, own))
            })
            .flat_map(|(grant, _)| grant.rules.iter())
    }

    pub(crate) fn allows(&self, identity: &Identity, action: &Action<'_>) -> bool {
        self.rules(identity, action.namespace).any(|rule| rule::allows(rule, action))
    }

    pub(crate) fn allows_path(&self, identity: &Identity, verb: &str, path: &str) -> bool {
        self.rules(identity, "").any(|rule| rule::allows_path(rule, verb, path))
    }
}

/// Whether somebody is meant by a subject of a binding in a namespace.
fn is(subject: &Subject, identity: &Identity, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => identity.user == subject.name,
        "Group" => identity.is_in(&subject.name),
        "ServiceAccount" => {
            let of = subject.namespace.as_deref().filter(|of| !of.is_empty()).unwrap_or(namespace);
            let account = identity.user.strip_prefix("system:serviceaccount:");
            !of.is_empty()
                && account
                    .and_then(|account| account.split_once(':'))
                    .is_some_and(|(space, name)| space == of && name == subject.name)
        }
        _ => false,
    }
}

impl ApiServer {
    /// The policy now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        let marks: Vec<(u64, u64)> = KINDS
            .iter()
            .filter_map(|resource| self.registry.find(GROUP, "v1", resource))
            .map(|row| row.cache.mark())
            .collect();
        let mut snapshot = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, policy)) = &*snapshot
            && *of == marks
        {
            return policy.clone();
        }
        let policy = Arc::new(Policy::of(&self.registry));
        *snapshot = Some((marks, policy.clone()));
        policy
    }

    /// Whether somebody may do something to a resource.
    pub(crate) fn may(&self, identity: &Identity, action: &Action<'_>) -> bool {
        identity.is_in(MASTERS)
            || node::name(identity).is_some_and(|name| self.node_may(name, action))
            || self.policy().allows(identity, action)
    }

    /// Whether somebody may ask for a path that is not a resource.
    pub(crate) fn may_path(&self, identity: &Identity, verb: &str, path: &str) -> bool {
        identity.is_in(MASTERS) || self.policy().allows_path(identity, verb, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let check =
            |kind: &str, name: &str, of: &str, namespace: &str, identity: &Identity, expected: bool| {
                let subject = Subject {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    namespace: (!of.is_empty()).then(|| of.to_owned()),
                    api_group: None,
                };
                assert_eq!(is(&subject, identity, namespace), expected, "{kind} {name} {of} {namespace}");
            };
        let jane = Identity::user("jane", ["devs"]);
        check("User", "jane", "", "", &jane, true);
        check("User", "john", "", "", &jane, false);
        check("Group", "devs", "", "", &jane, true);
        check("Group", "system:authenticated", "", "", &jane, true);
        let robot = Identity::user("system:serviceaccount:n:robot", [""; 0]);
        check("ServiceAccount", "robot", "n", "", &robot, true);
        check("ServiceAccount", "robot", "", "n", &robot, true);
        check("ServiceAccount", "robot", "", "", &robot, false);
        check("ServiceAccount", "robot", "m", "n", &robot, false);
        check("Role", "robot", "n", "", &robot, false);
    }
}
