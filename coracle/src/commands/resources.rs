//! What the server serves, and the paths under which it does.

use std::fmt::Write as _;

use anyhow::Context;
use client::Client;
use futures_util::future::try_join;
use http::Method;
use serde_json::Value;

use super::session::request;

/// One resource of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployment.apps/web`, as kubectl names an object.
    pub(crate) fn title(&self, name: &str) -> String {
        let singular =
            if self.singular.is_empty() { self.kind.to_ascii_lowercase() } else { self.singular.clone() };
        if self.group.is_empty() {
            format!("{singular}/{name}")
        } else {
            format!("{singular}.{}/{name}", self.group)
        }
    }

    /// Path of the collection in a namespace, or of the whole collection.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", encode(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// Path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), encode(name))
    }
}

/// Percent-encodes whatever could end a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A query string of the pairs that have a value.
pub(crate) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            out.push(if out.is_empty() { '?' } else { '&' });
            _ = write!(out, "{name}={}", encode(value));
        }
    }
    out
}

/// Everything that the server serves, in its order of preference.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(Vec<Resource>);

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Asks the server for its resources: two requests.
pub(crate) async fn discover(client: &Client) -> anyhow::Result<Catalogue> {
    ask(client).await.context("asking the server what it serves")
}

/// The same, for those who must know what kind of failure it was.
pub(crate) async fn ask(client: &Client) -> Result<Catalogue, client::Error> {
    let ask = |path| client.json::<Value>(request(Method::GET, path, None, AGGREGATED));
    let (core, groups) = try_join(ask("/api"), ask("/apis")).await?;
    Ok(Catalogue([core, groups].iter().flat_map(parse).collect()))
}

/// Reads an `APIGroupDiscoveryList`.
fn parse(list: &Value) -> Vec<Resource> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value, field: &str| {
        value[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut found = Vec::new();
    for group in list["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                found.push(Resource {
                    group: text(&group["metadata"], "name"),
                    version: text(version, "version"),
                    kind: text(&resource["responseKind"], "kind"),
                    plural: text(resource, "resource"),
                    singular: text(resource, "singularResource"),
                    short_names: texts(resource, "shortNames"),
                    categories: texts(resource, "categories"),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
    found
}

impl Catalogue {
    /// `pods`, `po`, `pod`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Resource> {
        let lower = name.to_ascii_lowercase();
        let (bare, rest) =
            lower.split_once('.').map_or((lower.as_str(), None), |(bare, rest)| (bare, Some(rest)));
        let called = |resource: &&Resource| {
            resource.plural == bare
                || resource.singular == bare
                || resource.short_names.iter().any(|short| short == bare)
                || resource.kind.eq_ignore_ascii_case(bare)
        };
        let placed = |resource: &&Resource| match rest {
            None => true,
            Some(rest) => {
                resource.group == rest
                    || rest == format!("{}.{}", resource.version, resource.group)
                    || (resource.group.is_empty() && rest == resource.version)
            }
        };
        self.0.iter().find(|resource| called(resource) && placed(resource))
    }

    pub(crate) fn by_category(&self, category: &str) -> Vec<&Resource> {
        self.0.iter().filter(|resource| resource.categories.iter().any(|name| name == category)).collect()
    }

    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    pub(crate) fn versions_of(&self, kind: &str) -> Vec<String> {
        self.0.iter().filter(|resource| resource.kind == kind).map(Resource::api_version).collect()
    }

    /// Names that share a beginning with a mistyped one.
    pub(crate) fn close_to(&self, name: &str) -> Vec<String> {
        let start: String = name.to_ascii_lowercase().chars().take(3).collect();
        let mut close: Vec<String> = self
            .0
            .iter()
            .map(|resource| resource.plural.clone())
            .filter(|plural| plural.starts_with(&start))
            .collect();
        close.dedup();
        close.truncate(4);
        close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let list = serde_json::json!({"items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                {"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "categories": ["all"],
                 "scope": "Namespaced", "responseKind": {"kind": "Pod"}}]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"],
                 "scope": "Namespaced", "responseKind": {"kind": "Deployment"}}]}]},
        ]});
        Catalogue(parse(&list))
    }

    #[test]
    fn people_call_a_resource_many_names() {
        let catalogue = catalogue();
        for name in ["pods", "pod", "po", "Pod", "PODS", "pods.v1"] {
            assert_eq!(catalogue.by_name(name).map(|found| found.kind.as_str()), Some("Pod"), "{name}");
        }
        for name in ["deployments", "deploy", "deployments.apps", "deployments.v1.apps"] {
            assert_eq!(
                catalogue.by_name(name).map(|found| found.kind.as_str()),
                Some("Deployment"),
                "{name}"
            );
        }
        for name in ["podz", "pods.apps", ""] {
            assert_eq!(catalogue.by_name(name), None, "{name}");
        }
        assert_eq!(catalogue.close_to("podz"), ["pods"]);
    }

    #[test]
    fn paths_cannot_be_broken_out_of() {
        let catalogue = catalogue();
        let pods = catalogue.by_name("pods").unwrap();
        assert_eq!(pods.object("default", "a/../b?c"), "/api/v1/namespaces/default/pods/a%2F..%2Fb%3Fc");
        assert_eq!(query(&[("a", Some("x=y,z")), ("b", None), ("c", Some("1"))]), "?a=x%3Dy%2Cz&c=1");
    }

    #[test]
    fn titles_are_those_of_kubectl() {
        let catalogue = catalogue();
        assert_eq!(catalogue.by_name("po").unwrap().title("web"), "pod/web");
        assert_eq!(catalogue.by_name("deploy").unwrap().title("web"), "deployment.apps/web");
    }
}
