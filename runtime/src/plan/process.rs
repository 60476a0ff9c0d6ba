//! The part of a plan that turns a process with all rights into the one that was asked for.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccomp, PosixRlimitType, Process, User};

use super::step::{CapabilityBits, Hex, Program, Step};
use super::text::Text;
use super::{Refusal, refuse, text, unsupported};
use crate::seccomp;

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Refuses what the process section asks for and nobody does.
pub(super) fn check(process: &Process) -> Result<(), Refusal> {
    for (field, value) in [
        ("process.apparmorProfile", process.apparmor_profile()),
        ("process.selinuxLabel", process.selinux_label()),
    ] {
        if value.as_deref().is_some_and(|value| !value.is_empty() && value != "unconfined") {
            return refuse(field, "is not supported");
        }
    }
    unsupported("process.ioPriority", process.io_priority().as_ref())?;
    unsupported("process.scheduler", process.scheduler().as_ref())?;
    unsupported("process.execCPUAffinity", process.exec_cpu_affinity().as_ref())
}

/// Resource limits.
pub(super) fn limits(process: &Process) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        let (resource, name) = resource(limit.typ());
        if !seen.insert(resource) {
            return refuse("process.rlimits", format!("{name} is listed twice"));
        }
        if limit.soft() > limit.hard() {
            return refuse("process.rlimits", format!("{name}: the soft limit is above the hard limit"));
        }
        steps.push(Step::Limit {
            resource,
            name: text("process.rlimits", name)?,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(steps)
}

/// The kernel's number of a limit; the C libraries disagree on its type.
fn resource(limit: PosixRlimitType) -> (u32, &'static str) {
    use rustix::process::Resource;
    let (resource, name) = match limit {
        PosixRlimitType::RlimitCpu => (Resource::Cpu, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (Resource::Fsize, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (Resource::Data, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (Resource::Stack, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (Resource::Core, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (Resource::Rss, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (Resource::Nproc, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (Resource::Nofile, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (Resource::Memlock, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (Resource::As, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (Resource::Locks, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (Resource::Sigpending, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (Resource::Msgqueue, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (Resource::Nice, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (Resource::Rtprio, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (Resource::Rttime, "RLIMIT_RTTIME"),
    };
    (resource as u32, name)
}

/// The last steps before the program. Their order is what the kernel demands:
///
/// - the bounding set can be changed only with CAP_SETPCAP, so before anything is dropped;
/// - the user changes before the other sets do, with permitted capabilities kept across;
/// - a filter needs either no_new_privs (then it comes last and sees nothing of ours but execve), or
///   CAP_SYS_ADMIN (then only the drop is left to come after it).
///
/// `waiting`: what comes before the filter, so that a profile need not know of it; but a filter that asks an agent
/// comes before it, because the container's creator is who gives the agent its listener. `filtered`: what the filter
/// is for as well.
pub(super) fn rights(
    user: &User,
    capabilities: CapabilityBits,
    no_new_privileges: bool,
    filter: Option<Step>,
    waiting: Vec<Step>,
    filtered: Vec<Step>,
) -> Vec<Step> {
    let mut steps = vec![
        Step::Umask { mask: user.umask().unwrap_or(0o022) & 0o777 },
        Step::Bound { keep: capabilities.bounding },
        Step::Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
        },
    ];
    let asks = filter
        .as_ref()
        .is_some_and(|step| matches!(step, Step::Seccomp { flags, .. } if seccomp::asks(*flags)));
    let capabilities_first = no_new_privileges || filter.is_none();
    let no_new_privileges = no_new_privileges.then_some(Step::NoNewPrivileges);
    let mut dropped = Some(Step::Capabilities(capabilities));
    if capabilities_first {
        steps.extend(dropped.take());
    }
    let confined = no_new_privileges.into_iter().chain(filter).chain(dropped);
    if asks {
        steps.extend(confined.chain(waiting));
    } else {
        steps.extend(waiting.into_iter().chain(confined));
    }
    steps.extend(filtered);
    steps
}

/// The filter of a profile.
pub(super) fn filter(profile: Option<&LinuxSeccomp>) -> Result<Option<Step>, Refusal> {
    let Some(profile) = profile else { return Ok(None) };
    match seccomp::compile(profile) {
        Ok(filter) => Ok(Some(Step::Seccomp { flags: filter.flags, program: Hex(filter.program) })),
        Err(error) => refuse("linux.seccomp", error.to_string()),
    }
}

/// The program and everything that it may be called with.
pub(super) fn program(
    field: &str,
    argv: &[String],
    env: &[String],
    home: Option<&str>,
) -> Result<Program, Refusal> {
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        return refuse(field, "names no program");
    };
    let candidates = if name.contains('/') {
        vec![text(field, name)?]
    } else {
        let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        path.unwrap_or(DEFAULT_PATH)
            .split(':')
            .map(|directory| {
                let directory = if directory.is_empty() { "." } else { directory.trim_end_matches('/') };
                text(field, &format!("{directory}/{name}"))
            })
            .collect::<Result<_, _>>()?
    };
    Ok(Program {
        name: name.clone(),
        candidates,
        argv: argv.iter().map(|one| text(field, one)).collect::<Result<_, _>>()?,
        env: environment(env, home)?,
        own: false,
    })
}

/// The environment: of variables that are given several times the last counts, and an empty `HOME` is none.
pub(super) fn environment(env: &[String], home: Option<&str>) -> Result<Vec<Text>, Refusal> {
    let mut seen = HashSet::new();
    let mut variables = Vec::with_capacity(env.len() + 1);
    if let Some(home) = home.filter(|_| !names_home(env)) {
        variables.push(text("process.env", &format!("HOME={home}"))?);
        seen.insert("HOME");
    }
    for variable in env.iter().rev() {
        if seen.insert(variable.split_once('=').map_or(variable.as_str(), |(name, _)| name)) {
            variables.push(text("process.env", variable)?);
        }
    }
    variables.reverse();
    Ok(variables)
}

/// Whether an environment says where home is.
pub(crate) fn names_home(env: &[String]) -> bool {
    env.iter().rev().find_map(|variable| variable.strip_prefix("HOME=")).is_some_and(|home| !home.is_empty())
}

/// What there is to say about ambient capabilities that the kernel will not give: only what is permitted and
/// inheritable can be ambient.
pub(super) fn ambient_warnings(sets: Option<&LinuxCapabilities>) -> Vec<String> {
    let Some(sets) = sets else { return Vec::new() };
    let has = |set: &Option<HashSet<Capability>>, one| set.as_ref().is_some_and(|set| set.contains(one));
    let mut warnings: Vec<String> = sets
        .ambient()
        .iter()
        .flatten()
        .filter_map(|one| {
            let missing = match (has(sets.permitted(), one), has(sets.inheritable(), one)) {
                (true, true) => return None,
                (true, false) => "inheritable",
                (false, _) => "permitted",
            };
            Some(format!("can't raise ambient capability {}: it is not {missing}", capability_name(*one)))
        })
        .collect();
    warnings.sort();
    warnings
}

/// The name of a capability as the specification spells it.
fn capability_name(capability: Capability) -> String {
    match serde_json::to_value(capability) {
        Ok(serde_json::Value::String(name)) if name.starts_with("CAP_") => name,
        Ok(serde_json::Value::String(name)) => format!("CAP_{name}"),
        _ => format!("{capability:?}"),
    }
}

/// The five sets as bits; none of the section means no capability at all. What this kernel does not know is
/// left out.
pub(crate) fn capability_bits(sets: Option<&LinuxCapabilities>, last: u32) -> CapabilityBits {
    let bits = |set: Option<&Option<HashSet<Capability>>>| -> u64 {
        set.into_iter()
            .flatten()
            .flatten()
            .map(|one| capability_bit(*one))
            .filter(|bit| *bit <= last)
            .fold(0, |all, bit| all | 1 << bit)
    };
    CapabilityBits {
        bounding: bits(sets.map(LinuxCapabilities::bounding)),
        effective: bits(sets.map(LinuxCapabilities::effective)),
        permitted: bits(sets.map(LinuxCapabilities::permitted)),
        inheritable: bits(sets.map(LinuxCapabilities::inheritable)),
        ambient: bits(sets.map(LinuxCapabilities::ambient)),
    }
}

/// All that there are.
pub(crate) fn all_capabilities() -> Vec<Capability> {
    use Capability as C;
    vec![
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Setgid,
        C::Setuid,
        C::Setpcap,
        C::LinuxImmutable,
        C::NetBindService,
        C::NetBroadcast,
        C::NetAdmin,
        C::NetRaw,
        C::IpcLock,
        C::IpcOwner,
        C::SysModule,
        C::SysRawio,
        C::SysChroot,
        C::SysPtrace,
        C::SysPacct,
        C::SysAdmin,
        C::SysBoot,
        C::SysNice,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::Mknod,
        C::Lease,
        C::AuditWrite,
        C::AuditControl,
        C::Setfcap,
        C::MacOverride,
        C::MacAdmin,
        C::Syslog,
        C::WakeAlarm,
        C::BlockSuspend,
        C::AuditRead,
        C::Perfmon,
        C::Bpf,
        C::CheckpointRestore,
    ]
}

/// The kernel's number of a capability.
pub(crate) fn capability_bit(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}
