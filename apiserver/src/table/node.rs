//! Nodes.

use super::column::{AGE, NAME, string, wide};
use super::human::{age, name, non_empty};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::core::v1::{Node, NodeStatus};
use manifests::k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

pub(super) const NODE: Printer = Printer {
    columns: &[
        NAME,
        string("Status", "Whether the node is ready, and whether pods are scheduled to it."),
        string("Roles", "The roles that the node's labels give it."),
        AGE,
        string("Version", "The version of the node's agent."),
        wide("Internal-IP", "The first address by which the cluster reaches the node."),
        wide("External-IP", "The first address by which others reach the node."),
        wide("OS-Image", "The operating system of the node."),
        wide("Kernel-Version", "The kernel of the node."),
        wide("Container-Runtime", "The runtime of the node's containers, with its version."),
    ],
    row: |object, now| print::<Node>(object, |node| row(node, now)),
};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

fn row(node: &Node, now: Timestamp) -> Row {
    let no_status = NodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&no_status);
    let info = status.node_info.as_ref();
    let unknown = |text: Option<&str>| non_empty(text.unwrap_or_default(), "<unknown>");
    Row::from(vec![
        name(&node.metadata),
        readiness(node, status).into(),
        roles(node).into(),
        age(&node.metadata, now),
        info.map(|info| info.kubelet_version.as_str()).unwrap_or_default().into(),
        address(status, "InternalIP").into(),
        address(status, "ExternalIP").into(),
        unknown(info.map(|info| info.os_image.as_str())).into(),
        unknown(info.map(|info| info.kernel_version.as_str())).into(),
        unknown(info.map(|info| info.container_runtime_version.as_str())).into(),
    ])
}

fn readiness(node: &Node, status: &NodeStatus) -> String {
    let ready = status.conditions.iter().flatten().rfind(|condition| condition.type_ == "Ready");
    let ready = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    if cordoned { format!("{ready},SchedulingDisabled") } else { ready.to_string() }
}

fn roles(node: &Node) -> String {
    let roles: BTreeSet<&str> = node
        .metadata
        .labels
        .iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None => (key == ROLE_LABEL).then_some(value.as_str()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    non_empty(&roles.into_iter().collect::<Vec<_>>().join(","), "<none>")
}

fn address(status: &NodeStatus, kind: &str) -> String {
    let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
    found.map_or("<none>", |address| address.address.as_str()).to_string()
}
