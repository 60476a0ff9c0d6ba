//! Limits: from OCI resources to what the kernel's files want.

use std::fs;
use std::path::Path;

use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::devices::{DevicePermissions, DeviceType, DevicesController};
use cgroups_rs::fs::error::Error;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Controller, MaxValue};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
};

use super::{CgroupError, Layout};

/// Turns the crate's errors into ours.
struct Setter<'a> {
    path: &'a Path,
}

impl Setter<'_> {
    fn set(&self, what: &'static str, result: Result<(), Error>) -> Result<(), CgroupError> {
        result.map_err(|source| CgroupError::Limit {
            what,
            path: self.path.to_owned(),
            source: Box::new(source),
        })
    }
}

fn missing(controller: &'static str, what: &'static str) -> CgroupError {
    CgroupError::NoController { controller, what }
}

/// Sets what `resources` mentions, except devices.
pub(crate) fn apply(
    cgroup: &Cgroup,
    path: &Path,
    layout: &Layout,
    resources: &LinuxResources,
) -> Result<(), CgroupError> {
    let setter = Setter { path };
    if let Some(limit) = resources.memory() {
        memory(cgroup, &setter, limit)?;
    }
    if let Some(limit) = resources.cpu() {
        cpu(cgroup, &setter, limit)?;
    }
    if let Some(limit) = resources.pids() {
        let pids: &PidController = cgroup.controller_of().ok_or(missing("pids", "a limit on processes"))?;
        // None at all would not even let the first one in.
        let value = match limit.limit() {
            ..=-1 => MaxValue::Max,
            limit => MaxValue::Value(limit.max(1)),
        };
        setter.set("pids.max", pids.set_pid_max(value))?;
    }
    if let Some(limit) = resources.block_io() {
        block_io(cgroup, &setter, limit)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let pages: &HugeTlbController =
            cgroup.controller_of().ok_or(missing("hugetlb", "a limit on huge pages"))?;
        let bytes = u64::try_from(limit.limit()).unwrap_or(u64::MAX);
        setter.set("the limit on huge pages", pages.set_limit_in_bytes(limit.page_size(), bytes))?;
    }
    // Neither is made for a container, so that asking for it must not be passed over.
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|class| class != 0)
            || network.priorities().as_ref().is_some_and(|all| !all.is_empty()))
    {
        return Err(missing("net_cls", "a class or priority of network packets"));
    }
    if resources.rdma().as_ref().is_some_and(|all| !all.is_empty()) {
        return Err(missing("rdma", "a limit on RDMA"));
    }
    if let Some(files) = resources.unified().as_ref().filter(|files| !files.is_empty()) {
        unified(path, layout, files)?;
    }
    Ok(())
}

fn memory(cgroup: &Cgroup, setter: &Setter<'_>, limits: &LinuxMemory) -> Result<(), CgroupError> {
    let (limit, swap) = (limits.limit().filter(|limit| *limit != 0), limits.swap().filter(|swap| *swap != 0));
    let reservation = limits.reservation().filter(|reservation| *reservation != 0);
    if limit.is_none() && swap.is_none() && reservation.is_none() && limits.swappiness().is_none() {
        return Ok(());
    }
    let memory: &MemController = cgroup.controller_of().ok_or(missing("memory", "a limit on memory"))?;
    if cgroup.v2() {
        if let Some(swap) = swap {
            let value = swap_max(limit, swap)?;
            // Without swap in the kernel there is no file, and nothing to forbid.
            if memory.path().join("memory.swap.max").exists() {
                setter.set("memory.swap.max", memory.set_memswap_limit(value))?;
            }
        }
        if let Some(limit) = limit {
            setter.set("memory.max", memory.set_limit(limit))?;
        }
        if let Some(reservation) = reservation {
            setter.set("memory.low", memory.set_soft_limit(reservation))?;
        }
        return Ok(());
    }

    let swap = match (limit, swap) {
        // No limit on memory means none on memory and swap together.
        (Some(-1), None) => Some(-1),
        (_, swap) => swap,
    };
    let swap = swap.filter(|_| memory.path().join("memory.memsw.limit_in_bytes").exists());
    // Memory and swap together must never be below memory alone, so which is first depends on what is.
    let now = fs::read_to_string(memory.path().join("memory.limit_in_bytes"));
    let now = now.ok().and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(i64::MAX);
    let swap_first = swap.is_some_and(|swap| swap == -1 || now < swap);
    let set_swap = || match swap {
        Some(swap) => setter.set("memory.memsw.limit_in_bytes", memory.set_memswap_limit(swap)),
        None => Ok(()),
    };
    if swap_first {
        set_swap()?;
    }
    if let Some(limit) = limit {
        setter.set("memory.limit_in_bytes", memory.set_limit(limit))?;
    }
    if !swap_first {
        set_swap()?;
    }
    if let Some(reservation) = reservation {
        setter.set("memory.soft_limit_in_bytes", memory.set_soft_limit(reservation))?;
    }
    if let Some(swappiness) = limits.swappiness() {
        setter.set("memory.swappiness", memory.set_swappiness(swappiness))?;
    }
    if limits.disable_oom_killer() == Some(true) {
        setter.set("memory.oom_control", memory.disable_oom_killer())?;
    }
    Ok(())
}

/// OCI counts memory and swap together, v2 counts swap alone.
fn swap_max(limit: Option<i64>, swap: i64) -> Result<i64, CgroupError> {
    let invalid = |reason: &str| CgroupError::Invalid { field: "memory.swap", reason: reason.to_owned() };
    match (limit, swap) {
        (_, -1) => Ok(-1),
        (_, ..-1) => Err(invalid("is negative")),
        (None | Some(-1), _) => Err(invalid("needs a limit on memory")),
        (Some(limit), swap) if swap < limit => Err(invalid("is below the limit on memory")),
        (Some(limit), swap) => Ok(swap - limit),
    }
}

fn cpu(cgroup: &Cgroup, setter: &Setter<'_>, limits: &LinuxCpu) -> Result<(), CgroupError> {
    let has_cpu = limits.shares().is_some() || limits.quota().is_some() || limits.period().is_some();
    if has_cpu {
        let cpu: &CpuController = cgroup.controller_of().ok_or(missing("cpu", "a limit on CPU time"))?;
        if let Some(shares) = limits.shares().filter(|shares| *shares != 0) {
            let value = if cgroup.v2() { weight(shares) } else { shares };
            setter.set("CPU shares", cpu.set_shares(value))?;
        }
        let quota = limits.quota().filter(|quota| *quota != 0);
        let period = limits.period().filter(|period| *period != 0);
        if cgroup.v2() {
            if quota.is_some() || period.is_some() {
                setter.set("cpu.max", cpu.set_cfs_quota_and_period(quota, period))?;
            }
        } else {
            // The kernel checks every intermediate state against the parent's: if the new period is refused
            // with the old quota, it may be fine with the new one.
            let late = period.filter(|period| cpu.set_cfs_period(*period).is_err());
            if let Some(quota) = quota {
                setter.set("cpu.cfs_quota_us", cpu.set_cfs_quota(quota))?;
            }
            if let Some(period) = late {
                setter.set("cpu.cfs_period_us", cpu.set_cfs_period(period))?;
            }
        }
    }
    rarer_cpu(cgroup, limits)?;
    if limits.cpus().is_some() || limits.mems().is_some() {
        let cpuset: &CpuSetController =
            cgroup.controller_of().ok_or(missing("cpuset", "a choice of CPUs"))?;
        if let Some(cpus) = limits.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            setter.set("cpuset.cpus", cpuset.set_cpus(cpus))?;
        }
        if let Some(mems) = limits.mems().as_ref().filter(|mems| !mems.is_empty()) {
            setter.set("cpuset.mems", cpuset.set_mems(mems))?;
        }
    }
    Ok(())
}

/// What the `cgroups-rs` crate does not know: burst, idle, and real time, which version 2 does not have.
fn rarer_cpu(cgroup: &Cgroup, limits: &LinuxCpu) -> Result<(), CgroupError> {
    let v2 = cgroup.v2();
    let real_time = limits.realtime_period().is_some() || limits.realtime_runtime().is_some();
    if v2 && real_time {
        return Err(missing("cpu (version 1)", "a limit on real-time processes"));
    }
    let files = [
        (
            if v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" },
            limits.burst().map(|burst| burst.to_string()),
        ),
        ("cpu.idle", limits.idle().map(|idle| idle.to_string())),
        ("cpu.rt_period_us", limits.realtime_period().map(|period| period.to_string())),
        ("cpu.rt_runtime_us", limits.realtime_runtime().map(|runtime| runtime.to_string())),
    ];
    let files = files.into_iter().filter_map(|(file, value)| Some((file, value?)));
    let mut refused = None;
    for (file, value) in files {
        let cpu: &CpuController = cgroup.controller_of().ok_or(missing("cpu", "a limit on CPU time"))?;
        let path = cpu.path().join(file);
        match fs::write(&path, &value) {
            // Together they must fit; a period that the old runtime is too long for may be fine with the new one.
            Err(_) if file == "cpu.rt_period_us" && limits.realtime_runtime().is_some() => {
                refused = Some((path, value));
            }
            result => result.map_err(|source| CgroupError::Io { what: "writing", path, source })?,
        }
    }
    match refused {
        Some((path, value)) => {
            fs::write(&path, value).map_err(|source| CgroupError::Io { what: "writing", path, source })
        }
        None => Ok(()),
    }
}

/// CPU shares (2 to 262144, 1024 is usual) as a weight (1 to 10000, 100 is usual), on the curve through these
/// three points that all runtimes have agreed on.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
            let log = (shares as f64).log2();
            let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000 by construction"
            )]
            let weight = weight.ceil() as u64;
            weight.clamp(1, 10_000)
        }
    }
}

fn block_io(cgroup: &Cgroup, setter: &Setter<'_>, limits: &LinuxBlockIo) -> Result<(), CgroupError> {
    let io: &BlkIoController = cgroup.controller_of().ok_or(missing("blkio", "a limit on block I/O"))?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let directory = io.path();
    if let Some(weight) = limits.weight().filter(|weight| *weight != 0) {
        let (file, weight) = weight_file(cgroup.v2(), false, weight, &|name| directory.join(name).exists());
        write(&directory.join(file), &weight.to_string())?;
    }
    for device in limits.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let (file, weight) =
                weight_file(cgroup.v2(), true, weight, &|name| directory.join(name).exists());
            write(&directory.join(file), &format!("{}:{} {weight}", device.major(), device.minor()))?;
        }
    }
    type Throttle = fn(&BlkIoController, u64, u64, u64) -> Result<(), Error>;
    let throttles: [(_, Throttle); 4] = [
        (limits.throttle_read_bps_device(), BlkIoController::throttle_read_bps_for_device),
        (limits.throttle_write_bps_device(), BlkIoController::throttle_write_bps_for_device),
        (limits.throttle_read_iops_device(), BlkIoController::throttle_read_iops_for_device),
        (limits.throttle_write_iops_device(), BlkIoController::throttle_write_iops_for_device),
    ];
    for (devices, throttle) in throttles {
        for device in devices.iter().flatten() {
            let result = throttle(io, number(device.major()), number(device.minor()), device.rate());
            setter.set("a throttle of block I/O", result)?;
        }
    }
    Ok(())
}

/// The file that takes a weight (10 to 1000), for all devices or for each, and the weight in its terms: the
/// scheduler's own file where BFQ is, and otherwise the controller's, which on v2 counts from 1 to 10000.
fn weight_file(v2: bool, device: bool, weight: u16, exists: &dyn Fn(&str) -> bool) -> (&'static str, u64) {
    let weight = u64::from(weight);
    match (v2, device) {
        (false, false) if exists("blkio.bfq.weight") => ("blkio.bfq.weight", weight),
        (false, false) => ("blkio.weight", weight),
        (false, true) if exists("blkio.bfq.weight_device") => ("blkio.bfq.weight_device", weight),
        (false, true) => ("blkio.weight_device", weight),
        (true, _) if exists("io.bfq.weight") => ("io.bfq.weight", weight),
        (true, _) => ("io.weight", 1 + weight.saturating_sub(10) * 9999 / 990),
    }
}

/// Writes a value that the library has no words for.
fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, value).map_err(|source| CgroupError::Io {
        what: "writing",
        path: file.to_owned(),
        source,
    })
}

/// Files of the v2 hierarchy by name.
fn unified(
    path: &Path,
    layout: &Layout,
    files: &std::collections::HashMap<String, String>,
) -> Result<(), CgroupError> {
    let invalid = |reason: String| CgroupError::Invalid { field: "unified", reason };
    let Some(root) = layout.unified.as_ref().filter(|_| layout.mode() == super::Mode::V2) else {
        return Err(invalid("invalid configuration: this machine's cgroups are of version 1".to_owned()));
    };
    for (name, value) in files {
        if name.contains('/') || name.starts_with("cgroup.") {
            return Err(invalid(format!("{name:?} is not a resource")));
        }
        let file = root.join(path).join(name);
        for line in value.lines() {
            write(&file, line)?;
        }
    }
    Ok(())
}

/// Devices that every container may use; and any node may be made, as making one gives no access.
const DEVICES: [(DeviceType, i64, i64, &str); 10] = [
    (DeviceType::Char, -1, -1, "m"),
    (DeviceType::Block, -1, -1, "m"),
    (DeviceType::Char, 1, 3, "rwm"),
    (DeviceType::Char, 1, 5, "rwm"),
    (DeviceType::Char, 1, 7, "rwm"),
    (DeviceType::Char, 1, 8, "rwm"),
    (DeviceType::Char, 1, 9, "rwm"),
    (DeviceType::Char, 5, 0, "rwm"),
    (DeviceType::Char, 5, 2, "rwm"),
    (DeviceType::Char, 136, -1, "rwm"),
];

/// One line for the kernel's lists.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: DeviceType,
    /// -1 for any.
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) access: Vec<DevicePermissions>,
}

/// Restricts a container to its devices: by the lists of v1, or by a program on v2.
pub(crate) fn apply_devices(
    cgroup: &Cgroup,
    path: &Path,
    layout: &Layout,
    resources: Option<&LinuxResources>,
) -> Result<(), CgroupError> {
    if let Some(unified) = layout.unified.as_ref().filter(|_| layout.mode() == super::Mode::V2) {
        let wanted = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        return super::device_program::guard(&unified.join(path), &rules(wanted)?);
    }
    let Some(devices) = cgroup.controller_of::<DevicesController>() else { return Ok(()) };
    let setter = Setter { path };
    let wanted = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    for rule in rules(wanted)? {
        let result = if rule.allow {
            devices.allow_device(rule.kind, rule.major, rule.minor, &rule.access)
        } else {
            devices.deny_device(rule.kind, rule.major, rule.minor, &rule.access)
        };
        setter.set("the list of devices", result)?;
    }
    Ok(())
}

/// The rules in the order in which the kernel must see them: nothing at first, then what is asked for, then
/// what everybody has. A rule for all devices makes those before it void.
fn rules(wanted: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, CgroupError> {
    let everything =
        |allow| Rule { allow, kind: DeviceType::All, major: -1, minor: -1, access: DevicePermissions::all() };
    let mut rules = vec![everything(false)];
    for device in wanted {
        let access = device.access().as_deref().unwrap_or("rwm");
        // An `a` is seen in the wild and adds nothing.
        let letters = access.chars().filter(|letter| *letter != 'a');
        let access: Option<Vec<_>> = letters.map(DevicePermissions::from_char).collect();
        let Some(access) = access else {
            return Err(CgroupError::Invalid {
                field: "devices",
                reason: format!("{:?} is not an access of r, w and m", device.access()),
            });
        };
        let kind = match device.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::B => DeviceType::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceType::Char,
            LinuxDeviceType::A => DeviceType::All,
            LinuxDeviceType::P => {
                return Err(CgroupError::Invalid {
                    field: "devices",
                    reason: "a fifo is no device".to_owned(),
                });
            }
        };
        let (major, minor) = (device.major().unwrap_or(-1), device.minor().unwrap_or(-1));
        if kind == DeviceType::All {
            if major == -1 && minor == -1 && access.len() == 3 {
                rules = vec![everything(device.allow())];
                continue;
            }
            // The kernel takes `a` for everything, whatever follows it.
            for kind in [DeviceType::Char, DeviceType::Block] {
                rules.push(Rule { allow: device.allow(), kind, major, minor, access: access.clone() });
            }
            continue;
        }
        rules.push(Rule { allow: device.allow(), kind, major, minor, access });
    }
    let open = rules.first().is_some_and(|first| first.allow);
    if !open {
        for (kind, major, minor, access) in DEVICES {
            let access = access.chars().filter_map(DevicePermissions::from_char).collect();
            rules.push(Rule { allow: true, kind, major, minor, access });
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    use super::*;

    #[test]
    fn weights_go_where_they_count() {
        let none = |_: &str| false;
        let all = |_: &str| true;
        assert_eq!(weight_file(false, false, 333, &none), ("blkio.weight", 333));
        assert_eq!(weight_file(false, true, 444, &all), ("blkio.bfq.weight_device", 444));
        assert_eq!(weight_file(true, false, 333, &all), ("io.bfq.weight", 333));
        assert_eq!(weight_file(true, false, 10, &none), ("io.weight", 1));
        assert_eq!(weight_file(true, true, 1000, &none), ("io.weight", 10_000));
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (0, 1), (1_000_000, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((1..262_144).step_by(977).all(|shares| weight(shares) <= weight(shares + 977)));
    }

    #[test]
    fn swap_is_counted_apart_on_v2() {
        assert_eq!(swap_max(Some(100), 150).ok(), Some(50));
        assert_eq!(swap_max(Some(100), 100).ok(), Some(0));
        assert_eq!(swap_max(None, -1).ok(), Some(-1));
        assert!(swap_max(Some(100), 50).is_err());
        assert!(swap_max(None, 50).is_err());
        assert!(swap_max(Some(1), -2).is_err());
    }

    #[test]
    fn devices_start_from_nothing() {
        let rules_for = |wanted: &[LinuxDeviceCgroup]| rules(wanted).unwrap();
        let plain = rules_for(&[]);
        assert!(!plain[0].allow && plain[0].kind == DeviceType::All);
        assert_eq!(plain.len(), 1 + DEVICES.len());

        let rule = |allow, typ, major, access: &str| {
            LinuxDeviceCgroupBuilder::default()
                .allow(allow)
                .typ(typ)
                .major(major)
                .access(access)
                .build()
                .unwrap()
        };
        let tun = rules_for(&[rule(true, LinuxDeviceType::C, 10, "rw")]);
        assert_eq!(
            tun[1],
            Rule {
                allow: true,
                kind: DeviceType::Char,
                major: 10,
                minor: -1,
                access: vec![DevicePermissions::Read, DevicePermissions::Write],
            }
        );

        let all = rules_for(&[rule(true, LinuxDeviceType::A, -1, "rwm")]);
        assert_eq!(all.len(), 1, "a privileged container has no list");
        assert!(all[0].allow);

        // `a` with less than everything is spelled out.
        assert_eq!(rules_for(&[rule(true, LinuxDeviceType::A, 7, "r")]).len(), 3 + DEVICES.len());
        assert!(rules(&[rule(true, LinuxDeviceType::C, 1, "x")]).is_err());
        assert_eq!(rules_for(&[rule(true, LinuxDeviceType::C, 1, "rwa")])[1].access.len(), 2);
    }
}
