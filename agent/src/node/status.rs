//! The node's status: a pure function of what is known. Reasons and messages are the kubelet's.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;

use super::{Facts, Identity, Pressure};
use crate::machine::ImageSummary;
use crate::pod::HANDLERS;

/// As upstream: the largest images are listed, no more than these.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What the machine has.
pub fn capacity(facts: &Facts, max_pods: u32) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(facts.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", facts.memory / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", facts.storage / 1024))),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
    ])
}

/// What pods may use of it: all but the memory below which pods would be evicted.
pub fn allocatable(facts: &Facts, max_pods: u32) -> BTreeMap<String, Quantity> {
    let mut all = capacity(facts, max_pods);
    let memory = facts.memory.saturating_sub(100 << 20);
    all.insert("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024)));
    all.insert("ephemeral-storage".to_owned(), Quantity((facts.storage / 10 * 9).to_string()));
    all
}

/// Labels that every node has.
pub(super) fn labels(identity: &Identity) -> BTreeMap<String, String> {
    let architecture = architecture();
    let mut labels = identity.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The status; conditions that are as they were keep the time of their last change.
pub(super) fn status(
    identity: &Identity,
    facts: &Facts,
    pressure: Pressure,
    images: &[ImageSummary],
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let condition = |type_: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let old = before
            .and_then(|before| before.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|old| old.type_ == type_);
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        }
    };
    let conditions = vec![
        if pressure.memory {
            condition(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            )
        } else {
            condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            )
        },
        if pressure.disk {
            condition("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure")
        } else {
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
        },
        if pressure.pids {
            condition(
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            )
        } else {
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
        },
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ];
    let address =
        |type_: &str, address: &str| NodeAddress { type_: type_.to_owned(), address: address.to_owned() };
    let mut addresses: Vec<NodeAddress> =
        identity.addresses.iter().map(|ip| address("InternalIP", ip)).collect();
    addresses.push(address("Hostname", &identity.hostname));
    NodeStatus {
        capacity: Some(capacity(facts, identity.max_pods)),
        allocatable: Some(allocatable(facts, identity.max_pods)),
        conditions: Some(conditions),
        addresses: Some(addresses),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(identity.port) }),
        }),
        images: Some(listed(images)),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        // The first is what pods have that name no class.
        runtime_handlers: Some([""].into_iter().chain(HANDLERS).map(handler).collect()),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: format!("coracle://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: facts.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: identity.version.clone(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn handler(name: &str) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            user_namespaces: Some(true),
        }),
    }
}

fn listed(images: &[ImageSummary]) -> Vec<ContainerImage> {
    let mut images: Vec<&ImageSummary> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.names.cmp(&b.names)));
    images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| ContainerImage {
            names: Some(image.names.iter().take(MAX_NAMES).cloned().collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// Whether two statuses say the same, heartbeats aside.
pub(super) fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) == still(b)
}

/// Whether a condition of the node's object says something else than the node itself.
pub(super) fn is_contradicted(node: &Node, status: &NodeStatus) -> bool {
    let there = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let says = |ours: &NodeCondition| {
        there.iter().any(|theirs| theirs.type_ == ours.type_ && theirs.status == ours.status)
    };
    !status.conditions.iter().flatten().all(says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Pressure;

    fn identity() -> Identity {
        Identity {
            name: "n1".to_owned(),
            hostname: "host".to_owned(),
            addresses: vec!["10.0.0.1".to_owned()],
            port: 10250,
            pod_cidr: "10.42.0.0/24".to_owned(),
            max_pods: 110,
            labels: BTreeMap::new(),
            version: "v1.37.0".to_owned(),
            data_dir: "/".into(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let facts = Facts { cpus: 2, memory: 4 << 30, ..Facts::default() };
        let first = status(&identity(), &facts, Pressure::default(), &[], None, at("2026-01-01T00:00:00Z"));
        let second =
            status(&identity(), &facts, Pressure::default(), &[], Some(&first), at("2026-01-01T00:05:00Z"));
        assert!(same(&first, &second));
        let pressed = Pressure { memory: true, ..Pressure::default() };
        let third = status(&identity(), &facts, pressed, &[], Some(&second), at("2026-01-01T00:06:00Z"));
        assert!(!same(&second, &third));
        let times: Vec<String> = third
            .conditions
            .unwrap()
            .iter()
            .map(|c| c.last_transition_time.as_ref().unwrap().0.to_string())
            .collect();
        assert_eq!(times[0], "2026-01-01T00:06:00Z");
        assert_eq!(times[3], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_pods_may_use_is_less_than_what_there_is() {
        let facts = Facts { cpus: 2, memory: 1 << 30, storage: 100 << 30, ..Facts::default() };
        assert_eq!(capacity(&facts, 110)["memory"].0, "1048576Ki");
        assert_eq!(allocatable(&facts, 110)["memory"].0, "946176Ki");
        assert_eq!(allocatable(&facts, 110)["cpu"].0, "2");
    }

    #[test]
    fn the_largest_images_are_listed() {
        let image = |size: u64| ImageSummary {
            id: format!("i{size}"),
            pulled: true,
            names: vec![format!("i{size}")],
            size,
        };
        let images: Vec<_> = (0..60).map(image).collect();
        let listed = listed(&images);
        assert_eq!((listed.len(), listed[0].size_bytes), (50, Some(59)));
    }

    #[test]
    fn who_was_given_up_notices() {
        let node = |ready: &str| -> Node {
            let conditions = serde_json::json!([
                {"type": "Ready", "status": ready},
                {"type": "Foreign", "status": "Unknown"},
            ]);
            serde_json::from_value(serde_json::json!({"status": {"conditions": conditions}})).unwrap()
        };
        let own = node("True").status.map(|mut status| {
            status.conditions.iter_mut().for_each(|conditions| conditions.truncate(1));
            status
        });
        let own = own.unwrap();
        assert!(!is_contradicted(&node("True"), &own));
        assert!(is_contradicted(&node("Unknown"), &own));
        assert!(is_contradicted(&Node::default(), &own));
    }
}
