//! The downward API: what a pod may know of itself, by field path and by resource.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use manifests::k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::quantity::{ParseError, Quantity};

/// What the fields of a pod's status say, and what the node offers; known before the status is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Addresses of the pod, the primary one first.
    pub pod_ips: Vec<String>,
    /// Addresses of the node, the primary one first.
    pub host_ips: Vec<String>,
    /// What stands for a limit that a container does not set: the node's allocatable resources.
    pub allocatable: BTreeMap<String, ApiQuantity>,
}

/// Why a value cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    /// No such field, or not one that a container may ask for.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// A quantity that cannot be read; validation should have caught it.
    #[error("reading quantity of {resource}")]
    Quantity {
        /// For example `limits.cpu`.
        resource: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
}

/// The value of one field path.
pub fn field(path: &str, pod: &Pod, facts: &Facts) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let owned = |text: Option<&String>| text.cloned().unwrap_or_default();
    if let Some((path, key)) = subscript(path) {
        let map = match path {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(DownwardError::Field(path.to_owned())),
        };
        return Ok(owned(map.as_ref().and_then(|map| map.get(key))));
    }
    Ok(match path {
        "metadata.name" => owned(meta.name.as_ref()),
        "metadata.namespace" => owned(meta.namespace.as_ref()),
        "metadata.uid" => owned(meta.uid.as_ref()),
        "metadata.labels" => map_lines(meta.labels.as_ref()),
        "metadata.annotations" => map_lines(meta.annotations.as_ref()),
        "spec.nodeName" => owned(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => owned(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "spec.restartPolicy" => owned(spec.and_then(|spec| spec.restart_policy.as_ref())),
        "spec.schedulerName" => owned(spec.and_then(|spec| spec.scheduler_name.as_ref())),
        "status.hostIP" => owned(facts.host_ips.first()),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => owned(facts.pod_ips.first()),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(DownwardError::Field(path.to_owned())),
    })
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (path, rest) = path.split_once("['")?;
    Some((path, rest.strip_suffix("']")?))
}

/// One `key="value"` per line, sorted, the value quoted as Go quotes it.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = write!(text, "{key}={}", manifests::go::quote(value));
    }
    text
}

/// The value of a resource of `own`, or of the container that the selector names, in units of the divisor, rounded up.
pub fn resource(
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
    pod: &Pod,
    facts: &Facts,
) -> Result<String, DownwardError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        None => own.ok_or_else(|| DownwardError::Container(String::new()))?,
        Some(name) => find_container(pod, name).ok_or_else(|| DownwardError::Container(name.to_owned()))?,
    };
    let unsupported = || DownwardError::Resource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let supported = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !supported || !matches!(list, "limits" | "requests") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|resources| resources.limits.as_ref()?.get(name));
    let request = resources.and_then(|resources| resources.requests.as_ref()?.get(name));
    let value = match list {
        "limits" => limit.or_else(|| facts.allocatable.get(name)),
        _ => request,
    };
    let parse = |raw: Option<&ApiQuantity>| match raw {
        None => Ok(None),
        Some(raw) => Quantity::parse(&raw.0)
            .map(Some)
            .map_err(|source| DownwardError::Quantity { resource: selector.resource.clone(), source }),
    };
    let value = parse(value)?;
    let divisor = parse(selector.divisor.as_ref())?;
    let units = |quantity: Option<Quantity>| {
        quantity.map_or(0, |quantity| if name == "cpu" { quantity.milli() } else { quantity.value() })
    };
    let one = if name == "cpu" { 1000 } else { 1 };
    let divisor = match units(divisor) {
        0 => one,
        divisor => divisor,
    };
    let value = units(value);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn facts() -> Facts {
        Facts {
            pod_ips: vec!["10.42.0.5".into(), "fd00::5".into()],
            host_ips: vec!["192.0.2.1".into()],
            allocatable: BTreeMap::from([
                ("cpu".to_owned(), ApiQuantity("1900m".into())),
                ("memory".to_owned(), ApiQuantity("1000Mi".into())),
            ]),
        }
    }

    #[test]
    fn fields() {
        let mut pod =
            fixture::pod("{nodeName: n1, serviceAccountName: sa, containers: [{name: a, image: i}]}");
        pod.metadata.labels = Some(BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "a \"b\"".to_owned()),
        ]));
        for (path, expected) in [
            ("metadata.name", Some("web")),
            ("metadata.namespace", Some("default")),
            ("metadata.uid", Some("u1")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['none']", Some("")),
            ("metadata.annotations['x']", Some("")),
            ("metadata.labels", Some("app=\"web\"\ntier=\"a \\\"b\\\"\"")),
            ("spec.nodeName", Some("n1")),
            ("spec.serviceAccountName", Some("sa")),
            ("status.hostIP", Some("192.0.2.1")),
            ("status.podIP", Some("10.42.0.5")),
            ("status.podIPs", Some("10.42.0.5,fd00::5")),
            ("status.phase", None),
            ("spec.containers", None),
        ] {
            assert_eq!(field(path, &pod, &facts()).ok().as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn resources_round_up() {
        let pod = fixture::pod(
            "containers: [{name: a, image: i, resources: {requests: {cpu: 250m, memory: 100}, limits: {cpu: 1500m}}},
                          {name: b, image: i, resources: {limits: {memory: 3Mi}}}]",
        );
        let own = &pod.spec.as_ref().unwrap().containers[0];
        for (container, resource_name, divisor, expected) in [
            ("", "limits.cpu", "", "2"),
            ("", "limits.cpu", "1m", "1500"),
            ("", "requests.cpu", "1m", "250"),
            ("", "requests.memory", "", "100"),
            ("", "requests.memory", "1Ki", "1"),
            ("", "limits.memory", "1Mi", "1000"),
            ("b", "limits.memory", "1Mi", "3"),
            ("b", "limits.cpu", "", "2"),
            ("b", "requests.cpu", "", "0"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: Some(container.to_owned()),
                resource: resource_name.to_owned(),
                divisor: (!divisor.is_empty()).then(|| ApiQuantity(divisor.to_owned())),
            };
            let value = resource(&selector, Some(own), &pod, &facts());
            assert_eq!(value.as_deref(), Ok(expected), "{container} {resource_name} {divisor}");
        }
        let selector = ResourceFieldSelector { resource: "limits.gpu".into(), ..Default::default() };
        assert!(resource(&selector, Some(own), &pod, &facts()).is_err());
    }
}
