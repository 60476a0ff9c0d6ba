//! How requests and limits become cgroup values and OOM scores: the kubelet's formulas, as pure functions.
//!
//! ```text
//!   <parent>                       all pods
//!   ├── pod<uid>                   Guaranteed
//!   ├── burstable/pod<uid>         Burstable
//!   └── besteffort/pod<uid>        BestEffort
//! ```
//!
//! Values are those of cgroup v1; the runtime converts them where the machine has v2.

use manifests::k8s_openapi::api::core::v1::{Container, Pod};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::qos::{self, QosClass};
use manifests::quantity::Quantity;
use manifests::resources::{pod_limits, pod_requests};
use std::collections::BTreeMap;

/// The least that the kernel takes for `cpu.shares`.
const MIN_SHARES: u64 = 2;
/// The most that the kernel takes for `cpu.shares`.
const MAX_SHARES: u64 = 262_144;
/// One core, in `cpu.shares`.
const SHARES_PER_CPU: u64 = 1024;
/// 100 ms, in microseconds.
const QUOTA_PERIOD: u64 = 100_000;
/// The least that the kernel takes for `cpu.cfs_quota_us`.
const MIN_QUOTA: i64 = 1000;

const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;

/// What a cgroup is told. `None` leaves the kernel's default: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupLimits {
    /// `cpu.shares`.
    pub cpu_shares: Option<u64>,
    /// `cpu.cfs_quota_us`.
    pub cpu_quota: Option<i64>,
    /// `cpu.cfs_period_us`.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

impl CgroupLimits {
    /// The same, as the OCI runtime specification says it. `oci-spec` writes no field that is not set.
    pub fn to_oci(self) -> oci_spec::runtime::LinuxResources {
        use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(self.cpu_shares);
        cpu.set_quota(self.cpu_quota);
        cpu.set_period(self.cpu_period);
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        if cpu != LinuxCpu::default() {
            resources.set_cpu(Some(cpu));
        }
        if self.memory.is_some() {
            let mut memory = LinuxMemory::default();
            memory.set_limit(self.memory);
            resources.set_memory(Some(memory));
        }
        if let Some(limit) = self.pids {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        resources
    }
}

/// `cpu.shares` for a request in thousandths of a core.
pub fn milli_cpu_to_shares(milli: u64) -> u64 {
    if milli == 0 { MIN_SHARES } else { (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// `cpu.cfs_quota_us` for a limit in thousandths of a core; none for no limit.
pub fn milli_cpu_to_quota(milli: u64) -> Option<i64> {
    let quota = i64::try_from(milli.saturating_mul(QUOTA_PERIOD) / 1000).unwrap_or(i64::MAX);
    (milli != 0).then(|| quota.max(MIN_QUOTA))
}

/// The limits of a container's own cgroup.
pub fn container_limits(container: &Container) -> CgroupLimits {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let (request, limit) = (milli_cpu(requests), milli_cpu(limits));
    let share_of = if request == 0 && limit != 0 { limit } else { request };
    let quota = milli_cpu_to_quota(limit);
    CgroupLimits {
        cpu_shares: Some(milli_cpu_to_shares(share_of)),
        cpu_quota: quota,
        cpu_period: quota.map(|_| QUOTA_PERIOD),
        memory: bytes(limits, "memory").filter(|limit| *limit > 0),
        pids: None,
    }
}

/// The limits of a pod's cgroup: a limit of the whole holds only when every container has one.
pub fn pod_limits_of(pod: &Pod) -> CgroupLimits {
    let requests = pod_requests(pod);
    let limits = pod_limits(pod);
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let every = |name: &str| {
        pod_level.and_then(|resources| resources.limits.as_ref()).is_some_and(|l| l.contains_key(name))
            || all_containers(pod).all(|container| {
                container
                    .resources
                    .as_ref()
                    .and_then(|resources| resources.limits.as_ref())
                    .is_some_and(|limits| limits.contains_key(name))
            })
    };
    let milli = |list: &BTreeMap<String, Quantity>| {
        list.get("cpu").map_or(0, |quantity| u64::try_from(quantity.milli()).unwrap_or(0))
    };
    let (request, limit) = (milli(&requests), milli(&limits));
    let quota = if every("cpu") { milli_cpu_to_quota(limit) } else { None };
    let memory = if every("memory") { limits.get("memory").map(Quantity::value) } else { None };
    let shares = milli_cpu_to_shares(if request == 0 { limit } else { request });
    match qos::class(pod) {
        QosClass::BestEffort => CgroupLimits { cpu_shares: Some(MIN_SHARES), ..CgroupLimits::default() },
        QosClass::Guaranteed | QosClass::Burstable => CgroupLimits {
            cpu_shares: Some(shares),
            cpu_quota: quota,
            cpu_period: quota.map(|_| QUOTA_PERIOD),
            memory: memory.filter(|limit| *limit > 0),
            pids: None,
        },
    }
}

/// `cpu.shares` of the cgroup of all Burstable pods: what they asked for together.
pub fn burstable_shares<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> u64 {
    let is_over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let burstable = pods.into_iter().filter(|pod| qos::class(pod) == QosClass::Burstable && !is_over(pod));
    let milli = burstable.map(|pod| {
        let request = pod_requests(pod).get("cpu").map_or(0, Quantity::milli);
        u64::try_from(request).unwrap_or(0)
    });
    milli_cpu_to_shares(milli.fold(0, u64::saturating_add))
}

/// Where a pod's cgroup is, below the parent of all pods.
pub fn pod_cgroup(pod: &Pod, uid: &str) -> String {
    match qos::class(pod) {
        QosClass::Guaranteed => format!("pod{uid}"),
        QosClass::Burstable => format!("burstable/pod{uid}"),
        QosClass::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// Who is killed first when the machine runs out of memory: the less a container asked for, the sooner.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref())
        == Some("system-node-critical");
    if critical {
        return GUARANTEED_OOM_SCORE;
    }
    match qos::class(pod) {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = bytes(requests, "memory").unwrap_or(0);
            let score = 1000
                - i64::try_from(i128::from(request) * 1000 / i128::from(memory_capacity.max(1)))
                    .unwrap_or(i64::MAX);
            // Burstable stays between the other two classes, whatever it asked for.
            score.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

/// Every container that may run beside others for the pod's life: app containers, and init containers too,
/// because theirs is a share of the same cgroup.
fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

fn milli_cpu(list: Option<&BTreeMap<String, ApiQuantity>>) -> u64 {
    let quantity = list.and_then(|list| list.get("cpu")).and_then(|raw| Quantity::parse(&raw.0).ok());
    quantity.map_or(0, |quantity| u64::try_from(quantity.milli()).unwrap_or(0))
}

fn bytes(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<i64> {
    let raw = list.and_then(|list| list.get(name))?;
    Quantity::parse(&raw.0).ok().map(|quantity| quantity.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;

    #[test]
    fn shares_and_quota() {
        for (milli, shares, quota) in [
            (0, 2, None),
            (1, 2, Some(1000)),
            (2, 2, Some(1000)),
            (3, 3, Some(1000)),
            (100, 102, Some(10_000)),
            (500, 512, Some(50_000)),
            (1500, 1536, Some(150_000)),
            (1_000_000, 262_144, Some(100_000_000)),
        ] {
            assert_eq!(milli_cpu_to_shares(milli), shares, "{milli}m");
            assert_eq!(milli_cpu_to_quota(milli), quota, "{milli}m");
        }
    }

    #[test]
    fn oom_scores() {
        const GIB: i64 = 1 << 30;
        for (resources, expected) in [
            ("{}", 1000),
            ("{requests: {memory: 1Gi}}", 750),
            ("{requests: {memory: 1Ki}}", 999),
            ("{requests: {memory: 8Gi}}", 3),
            ("{limits: {memory: 1Gi, cpu: 1}, requests: {memory: 1Gi, cpu: 1}}", -997),
            ("{requests: {cpu: 1}}", 999),
        ] {
            let pod = pod(&format!("containers: [{{name: a, image: i, resources: {resources}}}]"));
            let container = &pod.spec.as_ref().unwrap().containers[0];
            assert_eq!(oom_score_adj(&pod, container, 4 * GIB), expected, "{resources}");
        }
    }

    #[test]
    fn pod_cgroups() {
        for (resources, path, expected) in [
            ("{}", "besteffort/podu1", CgroupLimits { cpu_shares: Some(2), ..CgroupLimits::default() }),
            (
                "{requests: {cpu: 250m}}",
                "burstable/podu1",
                CgroupLimits { cpu_shares: Some(256), ..CgroupLimits::default() },
            ),
            (
                "{limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 500m, memory: 64Mi}}",
                "podu1",
                CgroupLimits {
                    cpu_shares: Some(512),
                    cpu_quota: Some(50_000),
                    cpu_period: Some(100_000),
                    memory: Some(64 << 20),
                    pids: None,
                },
            ),
        ] {
            let pod = pod(&format!("containers: [{{name: a, image: i, resources: {resources}}}]"));
            assert_eq!(pod_cgroup(&pod, "u1"), path);
            assert_eq!(pod_limits_of(&pod), expected, "{resources}");
        }
    }

    #[test]
    fn burstable_pods_share_what_they_asked_for() {
        let of =
            |resources: &str| pod(&format!("containers: [{{name: a, image: i, resources: {resources}}}]"));
        let pods = [
            of("{}"),
            of("{requests: {cpu: 250m}}"),
            of("{requests: {cpu: 1}}"),
            of("{requests: {cpu: 1, memory: 1Mi}, limits: {cpu: 1, memory: 1Mi}}"),
        ];
        assert_eq!(burstable_shares(&pods), 1280);
        assert_eq!(burstable_shares(&pods[..1]), 2);
    }

    #[test]
    fn one_container_without_a_limit_leaves_the_pod_without() {
        let pod =
            pod("containers: [{name: a, image: i, resources: {limits: {memory: 1Mi}}}, {name: b, image: i}]");
        assert_eq!(pod_limits_of(&pod).memory, None);
    }
}
