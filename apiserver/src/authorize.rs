//! Who may do what.
//!
//! There are no roles to configure yet. The parts of the cluster have fixed ones, in the spirit of upstream's bootstrap
//! policy; members of `system:masters` may do everything; whoever has no credentials sees health and version.

use http::Method;
use manifests::status::ApiError;

use crate::identity::Identity;
use crate::registry::Row;
use crate::request::path::ResourcePath;

/// Paths that need no credentials.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// What is done to which resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The verb of a request on a resource.
pub(crate) fn verb(method: &Method, path: &ResourcePath, watch: bool) -> &'static str {
    match (method.as_str(), path.name.is_empty()) {
        ("GET" | "HEAD", _) if watch => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "",
    }
}

const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["*"];

/// What somebody may do to some resources (`resource` or `resource/subresource`).
struct Rule {
    verbs: &'static [&'static str],
    resources: &'static [&'static str],
    /// Only the object that belongs to the node that asks.
    own: bool,
}

const fn may(verbs: &'static [&'static str], resources: &'static [&'static str]) -> Rule {
    Rule { verbs, resources, own: false }
}

const fn may_own(verbs: &'static [&'static str], resources: &'static [&'static str]) -> Rule {
    Rule { verbs, resources, own: true }
}

const EVENTS: Rule = may(&["create", "patch", "update"], &["events"]);

const NODE: &[Rule] = &[
    may(READ, ALL),
    EVENTS,
    may(&["create"], &["nodes"]),
    may_own(&["update", "patch", "delete"], &["nodes", "nodes/status"]),
    may(&["create", "delete"], &["pods"]),
    may(&["update", "patch"], &["pods/status"]),
    may(&["create"], &["pods/eviction"]),
    may(&["create"], &["leases"]),
    may_own(&["update", "patch", "delete"], &["leases"]),
];

const PROXY: &[Rule] =
    &[may(READ, &["services", "endpoints", "endpointslices", "nodes", "namespaces", "pods"]), EVENTS];

const SCHEDULER: &[Rule] = &[
    may(READ, ALL),
    EVENTS,
    may(&["create"], &["pods/binding"]),
    may(&["update", "patch"], &["pods/status"]),
    may(&["delete"], &["pods"]),
    may(&["create", "update", "patch"], &["leases"]),
];

const EVERYTHING: &[Rule] = &[may(ALL, ALL)];

const NODE_USER: &str = "system:node:";

fn rules(identity: &Identity) -> &'static [Rule] {
    match identity.user.as_str() {
        "system:kube-controller-manager" => EVERYTHING,
        "system:kube-scheduler" => SCHEDULER,
        "system:kube-proxy" => PROXY,
        user if user.starts_with(NODE_USER) && identity.is_in("system:nodes") => NODE,
        _ => &[],
    }
}

impl Rule {
    fn allows(&self, identity: &Identity, action: &Action<'_>) -> bool {
        let resource = |wanted: &&str| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            *wanted == "*" || (resource == action.resource && subresource == action.subresource)
        };
        let verb = |wanted: &&str| *wanted == "*" || *wanted == action.verb;
        let own = || identity.user.strip_prefix(NODE_USER) == Some(action.name);
        self.verbs.iter().any(verb) && self.resources.iter().any(resource) && (!self.own || own())
    }
}

/// Whether something may be done to a resource.
pub(crate) fn resource(identity: &Identity, action: &Action<'_>, row: Option<&Row>) -> Result<(), ApiError> {
    let allowed = identity.is_in("system:masters")
        || (!identity.is_anonymous() && rules(identity).iter().any(|rule| rule.allows(identity, action)));
    if allowed {
        return Ok(());
    }
    let mut resource = action.resource.to_owned();
    if !action.subresource.is_empty() {
        resource = format!("{resource}/{}", action.subresource);
    }
    let namespaced = !action.namespace.is_empty() && row.is_none_or(|row| row.kind.namespaced);
    let place = if namespaced {
        format!("in the namespace \"{}\"", action.namespace)
    } else {
        "at the cluster scope".to_owned()
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        identity.user, action.verb, action.group
    );
    Err(ApiError::forbidden(action.resource, action.group, action.name, &why))
}

/// Whether a path that is not a resource may be read.
pub(crate) fn path(identity: &Identity, method: &Method, path: &str) -> Result<(), ApiError> {
    let public = PUBLIC
        .iter()
        .any(|public| path.strip_prefix(public).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if public || !identity.is_anonymous() {
        return Ok(());
    }
    let verb = method.as_str().to_ascii_lowercase();
    let why = format!("User \"{}\" cannot {verb} path \"{path}\"", identity.user);
    Err(ApiError::forbidden("", "", "", &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(identity: &Identity, verb: &str, what: &str, name: &str, allowed: bool) {
        let (resource_name, subresource) = what.split_once('/').unwrap_or((what, ""));
        let action = Action { verb, group: "", resource: resource_name, subresource, namespace: "n", name };
        assert_eq!(
            resource(identity, &action, None).is_ok(),
            allowed,
            "{} {verb} {what} {name}",
            identity.user
        );
    }

    #[test]
    fn roles() {
        let node = Identity::user("system:node:a", ["system:nodes"]);
        check(&node, "watch", "pods", "", true);
        check(&node, "patch", "nodes/status", "a", true);
        check(&node, "patch", "nodes/status", "b", false);
        check(&node, "update", "leases", "b", false);
        check(&node, "update", "secrets", "s", false);
        check(&node, "create", "pods/binding", "p", false);
        check(&Identity::user("system:node:a", ["others"]), "get", "pods", "p", false);
        let proxy = Identity::user("system:kube-proxy", [""; 0]);
        check(&proxy, "watch", "endpointslices", "", true);
        check(&proxy, "list", "secrets", "", false);
        check(&Identity::user("system:kube-scheduler", [""; 0]), "create", "pods/binding", "p", true);
        check(&Identity::admin(), "delete", "nodes", "a", true);
        check(&Identity::anonymous(), "get", "pods", "p", false);
        check(&Identity::user("eve", [""; 0]), "get", "pods", "p", false);
    }

    #[test]
    fn the_refusal_names_everything() {
        let action = Action {
            verb: "list",
            group: "apps",
            resource: "deployments",
            subresource: "",
            namespace: "n",
            name: "",
        };
        let refused = resource(&Identity::anonymous(), &action, None).unwrap_err();
        assert_eq!(
            refused.message(),
            "deployments.apps is forbidden: User \"system:anonymous\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"n\""
        );
        let refused = path(&Identity::anonymous(), &Method::GET, "/metrics").unwrap_err();
        assert_eq!(refused.message(), "forbidden: User \"system:anonymous\" cannot get path \"/metrics\"");
        assert!(path(&Identity::anonymous(), &Method::GET, "/readyz/ping").is_ok());
        assert!(path(&Identity::anonymous(), &Method::GET, "/readyzz").is_err());
    }
}
