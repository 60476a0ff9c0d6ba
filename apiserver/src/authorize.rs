//! Who may do what.
//!
//! Members of `system:masters` may do everything, nodes what [`crate::rbac::node`] lets them, and everybody what roles give
//! them (see [`crate::rbac`]). Whoever has no credentials sees health and version.

use http::Method;
use manifests::status::ApiError;

use crate::identity::Identity;
use crate::registry::Row;
use crate::request::path::ResourcePath;
use crate::server::ApiServer;

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

impl ApiServer {
    /// Refuses what somebody may not do to a resource.
    pub(crate) fn authorize(
        &self,
        identity: &Identity,
        action: &Action<'_>,
        row: Option<&Row>,
    ) -> Result<(), ApiError> {
        if self.may(identity, action) {
            return Ok(());
        }
        Err(refusal(identity, action, row.is_none_or(|row| row.kind.namespaced)))
    }

    /// Refuses a path that is not a resource to whom it is not open.
    pub(crate) fn authorize_path(
        &self,
        identity: &Identity,
        method: &Method,
        path: &str,
    ) -> Result<(), ApiError> {
        let verb = method.as_str().to_ascii_lowercase();
        if is_public(path) || self.may_path(identity, &verb, path) {
            return Ok(());
        }
        let why = format!("User \"{}\" cannot {verb} path \"{path}\"", identity.user);
        Err(ApiError::forbidden("", "", "", &why))
    }
}

/// Health is for everybody, also before there are any roles.
fn is_public(path: &str) -> bool {
    PUBLIC
        .iter()
        .any(|public| path.strip_prefix(public).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The words of a refusal.
pub(crate) fn refusal(identity: &Identity, action: &Action<'_>, namespaced: bool) -> ApiError {
    let mut resource = action.resource.to_owned();
    if !action.subresource.is_empty() {
        resource = format!("{resource}/{}", action.subresource);
    }
    let place = if namespaced && !action.namespace.is_empty() {
        format!("in the namespace \"{}\"", action.namespace)
    } else {
        "at the cluster scope".to_owned()
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        identity.user, action.verb, action.group
    );
    ApiError::forbidden(action.resource, action.group, action.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            refusal(&Identity::anonymous(), &action, true).message(),
            "deployments.apps is forbidden: User \"system:anonymous\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"n\""
        );
        assert!(is_public("/readyz/ping") && is_public("/version"));
        assert!(!is_public("/readyzz") && !is_public("/metrics"));
    }
}
