//! What a path names: a resource, a named object, a subresource; or something that is not a resource.
//!
//! Follows `k8s.io/apiserver/pkg/endpoints/request`.

/// A path of the API, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A resource, an object, or a subresource.
    Resource(ResourcePath),
    /// Anything else: discovery, health, version, …
    Other,
}

/// Which resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for cluster scope, and for all namespaces.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// What comes after the subresource.
    pub(crate) rest: Vec<String>,
    /// The old `/watch/` prefix was used.
    pub(crate) watch_prefix: bool,
}

/// These words after `namespaces/NAME` belong to the namespace itself.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Cuts the path of a proxy off what is passed on, which keeps its encoding: `…/pods/NAME/proxy` and `/rest`.
pub(crate) fn split_proxy(path: &str) -> Option<(&str, &str)> {
    let mut end = 0;
    let mut words = [""; 7];
    for (index, word) in path.split('/').skip(1).take(7).enumerate() {
        end += word.len() + 1;
        words[index] = word;
        let found = match &words[..=index] {
            ["api", "v1", "nodes", _, "proxy"] => true,
            ["api", "v1", "namespaces", _, kind, _, "proxy"] => ["pods", "services"].contains(kind),
            _ => false,
        };
        if found {
            return Some(path.split_at(end));
        }
    }
    None
}

/// Reads a path.
pub(crate) fn parse(path: &str) -> Target {
    let path = split_proxy(path).map_or(path, |(own, _)| own);
    let Some(parts) = segments(path) else { return Target::Other };
    let mut parts = parts.into_iter();
    let (group, version) = match parts.next().as_deref() {
        Some("api") => (Some(String::new()), parts.next()),
        Some("apis") => (parts.next(), parts.next()),
        _ => return Target::Other,
    };
    let (Some(group), Some(version)) = (group, version) else { return Target::Other };
    let mut parts: Vec<String> = parts.collect();
    let watch_prefix = parts.first().is_some_and(|first| first == "watch");
    if watch_prefix {
        parts.remove(0);
    }
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return Target::Other };
    let mut found = ResourcePath { group, version, watch_prefix, ..ResourcePath::default() };
    let mut rest: Vec<String> = parts.collect();
    let in_namespace = first == "namespaces"
        && rest.len() >= 2
        && !(found.group.is_empty() && NAMESPACE_SUBRESOURCES.contains(&rest[1].as_str()));
    if in_namespace {
        found.namespace = rest.remove(0);
        found.resource = rest.remove(0);
    } else {
        found.resource = first;
    }
    let mut rest = rest.into_iter();
    found.name = rest.next().unwrap_or_default();
    found.subresource = rest.next().unwrap_or_default();
    found.rest = rest.collect();
    Target::Resource(found)
}

/// The segments of a path, decoded; `None` if one is not valid UTF-8 or hides a slash.
fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/').filter(|part| !part.is_empty()).map(decode).collect()
}

fn decode(part: &str) -> Option<String> {
    if !part.contains('%') {
        return Some(part.to_owned());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('/')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<[&str; 6]>) {
        let found = match parse(path) {
            Target::Resource(p) => {
                Some([p.group, p.version, p.namespace, p.resource, p.name, p.subresource].map(String::from))
            }
            Target::Other => None,
        };
        assert_eq!(found, expected.map(|parts| parts.map(String::from)), "{path}");
    }

    #[test]
    fn what_is_passed_on_is_cut_off_as_it_is() {
        fn check(path: &str, expected: Option<(&str, &str)>) {
            assert_eq!(split_proxy(path), expected, "{path}");
        }
        let own = "/api/v1/namespaces/x/pods/http:p:80/proxy";
        check(&format!("{own}/a%2Fb//c"), Some((own, "/a%2Fb//c")));
        check(own, Some((own, "")));
        check("/api/v1/nodes/n/proxy/", Some(("/api/v1/nodes/n/proxy", "/")));
        check("/api/v1/namespaces/x/secrets/p/proxy/a", None);
        check("/api/v1/nodes/n/proxyish", None);
        check("/api/v1/nodes/n/status/proxy", None);
    }

    #[test]
    fn paths() {
        check("/healthz", None);
        check("/api", None);
        check("/api/v1", None);
        check("/apis/apps/v1", None);
        check("/api/v1/nodes", Some(["", "v1", "", "nodes", "", ""]));
        check("/api/v1/nodes/a/status", Some(["", "v1", "", "nodes", "a", "status"]));
        check("/api/v1/namespaces", Some(["", "v1", "", "namespaces", "", ""]));
        check("/api/v1/namespaces/x", Some(["", "v1", "", "namespaces", "x", ""]));
        check("/api/v1/namespaces/x/finalize", Some(["", "v1", "", "namespaces", "x", "finalize"]));
        check("/api/v1/namespaces/x/status", Some(["", "v1", "", "namespaces", "x", "status"]));
        check("/api/v1/namespaces/x/pods", Some(["", "v1", "x", "pods", "", ""]));
        check("/api/v1/namespaces/x/pods/p/log", Some(["", "v1", "x", "pods", "p", "log"]));
        check("/apis/apps/v1/namespaces/x/deployments/d", Some(["apps", "v1", "x", "deployments", "d", ""]));
        check("/api/v1/watch/namespaces/x/pods", Some(["", "v1", "x", "pods", "", ""]));
        check(
            "/api/v1/namespaces/x/services/https:s:web/proxy/a%2F/b",
            Some(["", "v1", "x", "services", "https:s:web", "proxy"]),
        );
        check("/api/v1/namespaces/x/events/a%2Eb", Some(["", "v1", "x", "events", "a.b", ""]));
        check("/api/v1/namespaces/x/events/a%2Fb", None);
        check("/api/v1/namespaces/x/events/a%2", None);
    }
}
