//! Which agent serves a request about a pod's containers, and under which path. Pure.
//!
//! Follows `pkg/registry/core/pod/strategy.go` (`LogLocation`, `streamLocation`).

use std::net::IpAddr;

use form_urlencoded::Serializer;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::status::ApiError;
use manifests::validate;

use crate::request::params::Params;

/// Where agents listen unless their node says otherwise.
const AGENT_PORT: u16 = 10250;

/// What is asked of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Log,
    Exec,
    Attach,
    PortForward,
}

impl Stream {
    /// The stream that a subresource of pods is.
    pub(crate) fn of(subresource: &str) -> Option<Stream> {
        match subresource {
            "log" => Some(Stream::Log),
            "exec" => Some(Stream::Exec),
            "attach" => Some(Stream::Attach),
            "portforward" => Some(Stream::PortForward),
            _ => None,
        }
    }
}

/// The pod's node, if it has one.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Where the agent of a node listens.
pub(crate) fn agent_address(node: &Node) -> Result<(IpAddr, u16), ApiError> {
    let status = node.status.clone().unwrap_or_default();
    let of_type = |kind: &str| {
        let addresses = status.addresses.iter().flatten();
        addresses.filter(|address| address.type_ == kind).find_map(|address| address.address.parse().ok())
    };
    let address = ["InternalIP", "ExternalIP"].into_iter().find_map(of_type).ok_or_else(|| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        ApiError::internal(format!("no preferred addresses found; known addresses: [] of node {name}"))
    })?;
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
    let port = port.and_then(|endpoint| u16::try_from(endpoint.port).ok()).filter(|port| *port != 0);
    Ok((address, port.unwrap_or(AGENT_PORT)))
}

/// Path and query of the agent.
pub(super) fn agent_path(stream: Stream, pod: &Pod, params: &Params) -> Result<String, ApiError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut query = Serializer::new(String::new());
    let base = match stream {
        Stream::PortForward => {
            query.extend_pairs(params.iter());
            format!("/portForward/{namespace}/{name}")
        }
        Stream::Log => {
            check_log(params)?;
            let known = [
                "follow",
                "previous",
                "timestamps",
                "tailLines",
                "sinceSeconds",
                "sinceTime",
                "limitBytes",
                "stream",
            ];
            query.extend_pairs(params.iter().filter(|(key, value)| known.contains(key) && !value.is_empty()));
            format!("/containerLogs/{namespace}/{name}/{}", container(pod, params)?)
        }
        Stream::Exec | Stream::Attach => {
            if stream == Stream::Exec && params.all("command").next().is_none() {
                return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
            }
            let mut any = false;
            for name in ["stdin", "stdout", "stderr", "tty"] {
                if params.flag(name)? == Some(true) {
                    any |= name != "tty";
                    query.append_pair(name, "true");
                }
            }
            if !any {
                return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
            }
            if stream == Stream::Exec && params.flag("builtin")? == Some(true) {
                // An extension: the node brings the command along.
                query.append_pair("builtin", "true");
            }
            query.extend_pairs(params.all("command").map(|word| ("command", word)));
            let verb = if stream == Stream::Exec { "exec" } else { "attach" };
            format!("/{verb}/{namespace}/{name}/{}", container(pod, params)?)
        }
    };
    let query = query.finish();
    Ok(if query.is_empty() { base } else { format!("{base}?{query}") })
}

/// The container that is meant.
fn container(pod: &Pod, params: &Params) -> Result<String, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let plain: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let init: Vec<&str> =
        spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    let debug: Vec<&str> =
        spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    if let Some(wanted) = params.get("container") {
        if plain.iter().chain(&init).chain(&debug).any(|have| *have == wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    match plain.as_slice() {
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        [only] => Ok((*only).to_owned()),
        several => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !debug.is_empty() {
                message.push_str(&format!(" or one of the ephemeral containers: [{}]", debug.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// Whether the parameters of a log request make sense.
fn check_log(params: &Params) -> Result<(), ApiError> {
    let errors = validate::log_options(validate::LogOptions {
        tail_lines: params.number("tailLines")?,
        limit_bytes: params.number("limitBytes")?,
        since_seconds: params.number("sinceSeconds")?,
        since_time: params.get("sinceTime").is_some(),
    });
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("PodLogOptions", "", "", &errors))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str]) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"containers": containers, "initContainers": [{"name": "prepare"}]},
        }))
        .unwrap()
    }

    fn check(stream: Stream, containers: &[&str], query: &str, expected: Result<&str, &str>) {
        let found = agent_path(stream, &pod(containers), &Params::parse(Some(query)));
        let found = found.as_deref().map_err(|error| error.message());
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn paths() {
        check(Stream::Log, &["a"], "", Ok("/containerLogs/n/web/a"));
        check(
            Stream::Log,
            &["a"],
            "follow=true&tailLines=0&pretty=1",
            Ok("/containerLogs/n/web/a?follow=true&tailLines=0"),
        );
        check(Stream::Log, &["a"], "container=prepare", Ok("/containerLogs/n/web/prepare"));
        check(Stream::Log, &["a"], "container=b", Err("container b is not valid for pod web"));
        check(
            Stream::Log,
            &["a", "b"],
            "",
            Err(
                "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [prepare]",
            ),
        );
        check(
            Stream::Exec,
            &["a"],
            "command=sh&command=-c&command=a%20%26%20b&stdout=1&stdin=true&tty=false",
            Ok("/exec/n/web/a?stdin=true&stdout=true&command=sh&command=-c&command=a+%26+b"),
        );
        check(Stream::Exec, &["a"], "stdout=1", Err("you must specify at least 1 command for the container"));
        check(Stream::Attach, &["a"], "", Err("you must specify at least one of stdin, stdout, stderr"));
        check(Stream::PortForward, &["a", "b"], "ports=80", Ok("/portForward/n/web?ports=80"));
        assert!(check_log(&Params::parse(Some("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"))).is_err());
        assert!(check_log(&Params::parse(Some("tailLines=-1"))).is_err());
    }

    #[test]
    fn addresses() {
        let node = |value| serde_json::from_value::<Node>(json!({"status": value})).unwrap();
        let full = node(json!({
            "addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "10.1.2.3"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 11250}},
        }));
        assert_eq!(agent_address(&full), Ok(("10.1.2.3".parse().unwrap(), 11250)));
        let plain = node(json!({"addresses": [{"type": "InternalIP", "address": "10.1.2.3"}]}));
        assert_eq!(agent_address(&plain), Ok(("10.1.2.3".parse().unwrap(), 10250)));
        assert!(agent_address(&node(json!({}))).is_err());
    }
}
