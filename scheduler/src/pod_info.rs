//! What a pod takes from its node.

use client::{Object, ObjectKey};
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::resources::Resources;

/// Upstream's assumption about containers that request nothing, so that such pods spread as well.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A port on the host that a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty and `0.0.0.0` mean every address.
    pub ip: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The port.
    pub port: i32,
}

impl HostPort {
    fn every_address(&self) -> bool {
        matches!(&*self.ip, "" | "0.0.0.0")
    }

    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.every_address() || other.every_address() || self.ip == other.ip)
    }
}

/// What a pod takes from its node, and what decides who goes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identifies the pod.
    pub uid: String,
    /// Higher goes first.
    pub priority: i32,
    /// What is reserved for it.
    pub requests: Resources,
    /// CPU in thousandths and memory in bytes as scores see them.
    pub weight: (i64, i64),
    /// Ports on the host.
    pub ports: Vec<HostPort>,
    /// Since when it runs.
    pub started: Option<Timestamp>,
    /// It is on its way out.
    pub leaving: bool,
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let amounts = manifests::resources::pod_requests_in_use(pod);
        let requests =
            Resources::from_amounts(amounts.iter().map(|(name, quantity)| (name.as_str(), *quantity)));
        Self {
            key: pod.key(),
            uid: pod.uid().to_owned(),
            priority: priority(pod),
            weight: spec.map_or((0, 0), |spec| weight(spec, &requests)),
            ports: spec.map(host_ports).unwrap_or_default(),
            started: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            requests,
        }
    }
}

/// A pod's priority; zero where admission did not set one.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Requests with upstream's assumption for each container that requests nothing.
fn weight(spec: &PodSpec, requests: &Resources) -> (i64, i64) {
    let requested = |container: &Container, name: &str| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.is_some_and(|requests| requests.contains_key(name))
    };
    let pod_level = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let missing = |name: &str| {
        if pod_level.is_some_and(|requests| requests.contains_key(name)) {
            return 0;
        }
        let count = spec.containers.iter().filter(|container| !requested(container, name)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    (
        requests.cpu_milli.saturating_add(missing("cpu").saturating_mul(DEFAULT_CPU_MILLI)),
        requests.memory.saturating_add(missing("memory").saturating_mul(DEFAULT_MEMORY)),
    )
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| manifests::resources::is_sidecar(init));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort {
            ip: port.host_ip.as_deref().unwrap_or_default().into(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            port: number,
        })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use testkit::pod;

    use super::*;

    #[test]
    fn reads_what_a_pod_takes() {
        let info = PodInfo::of(
            &pod("a")
                .request("cpu", "250m")
                .host_port("", "TCP", 80)
                .host_port("10.0.0.1", "UDP", 53)
                .build(),
        );
        assert_eq!(info.requests.cpu_milli, 250);
        assert_eq!(info.weight, (250, DEFAULT_MEMORY));
        assert_eq!(info.ports.len(), 2);
    }

    #[test]
    fn port_conflicts() {
        let port =
            |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        let check = |a: HostPort, b: HostPort, expected| {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.conflicts(&a), expected);
        };
        check(port("", "TCP", 80), port("0.0.0.0", "TCP", 80), true);
        check(port("", "TCP", 80), port("127.0.0.1", "TCP", 80), true);
        check(port("127.0.0.1", "TCP", 80), port("127.0.0.1", "TCP", 80), true);
        check(port("127.0.0.1", "TCP", 80), port("127.0.0.2", "TCP", 80), false);
        check(port("", "TCP", 80), port("", "UDP", 80), false);
        check(port("", "TCP", 80), port("", "TCP", 81), false);
    }
}
