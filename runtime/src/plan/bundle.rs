//! The plan of a container that is alone: an OCI bundle, with namespaces, hooks and rights of its own.
//!
//! The order of steps follows the OCI runtime specification's lifecycle: everything that the configuration
//! describes is set up, then the hooks of the runtime and of the container run, then the root is changed.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Process, Spec};

use super::container::{devices, has_namespace, masks};
use super::mounts::{IdMap, id_lines};
use super::step::{Plan, Root, Step};
use super::sysctl::{self, Own};
use super::{Refusal, mounts, options, path_text, process, refuse, text, tuning, unsupported};
use crate::cgroup::Placement;

/// What a plan depends on besides the specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) cgroups: &'a Placement,
    /// The root file system's directory.
    pub(crate) rootfs: &'a Path,
    pub(crate) last_capability: u32,
    pub(crate) home: Option<&'a str>,
    /// Leave the keys of the caller behind.
    pub(crate) keyring: bool,
    /// Change the root by pivot_root(2).
    pub(crate) pivot: bool,
    /// Wait for somebody who starts the program.
    pub(crate) listen: bool,
    /// The parent may make detached mounts of the host's tree.
    pub(crate) privileged: bool,
    /// Security modules of the kernel.
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
}

/// A plan and what the parent does for it.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) plan: Plan,
    /// Mounts that the parent opens ([`Step::OpenBind`]), in order.
    pub(crate) open: Vec<Step>,
    /// For each of them: how ids are mapped.
    pub(crate) idmaps: Vec<Option<IdMap>>,
    /// Namespaces that exist: `CLONE_NEW*` and the path.
    pub(crate) join: Vec<(u32, PathBuf)>,
    /// Lines for `uid_map` and `gid_map` of a new user namespace.
    pub(crate) ids: Option<(String, String)>,
    /// How ids are mapped for mounts that ask for it at their turn, in order.
    pub(crate) maps_late: Vec<IdMap>,
    /// The container's mounts are made in the caller's mount namespace.
    pub(crate) shares_mounts: bool,
    /// What will not be as asked for, without consequence.
    pub(crate) warnings: Vec<String>,
    /// Network devices of ours that the container gets, and their names there.
    pub(crate) net_devices: Vec<(String, String)>,
}

/// Plans a bundle.
pub(crate) fn bundle(spec: &Spec, around: Surroundings<'_>) -> Result<Bundle, Refusal> {
    let no_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&no_linux);
    let Some(process_spec) = spec.process() else { return refuse("process", "is missing") };
    let (new, join) = namespaces(linux)?;
    let shares_mounts = !has_namespace(linux, LinuxNamespaceType::Mount);
    unsupported("linux.intelRdt", linux.intel_rdt().as_ref())?;
    let net_devices = net_devices(linux)?;
    let ids = ids(linux, new)?;
    let cwd = process_spec.cwd();
    if !cwd.is_absolute() {
        return refuse("process.cwd", "is not an absolute path");
    }
    let cwd = path_text("process.cwd", cwd)?;
    let user = process_spec.user();
    let new_user = ids.is_some() || joins(&join, libc::CLONE_NEWUSER);
    let means = mounts::Means {
        users: false,
        shared_shm: false,
        may_map: around.privileged,
        // With the rights and the mounts of its parent, but out of their reach.
        direct: around.privileged && !new_user && has_new(linux, LinuxNamespaceType::Mount),
        rootfs: Some(around.rootfs),
    };
    let mut mounts = mounts::plan(spec.mounts().as_deref().unwrap_or_default(), means, around.cgroups)?;
    mount_label(linux, around, &mut mounts.place)?;

    let mut steps = Vec::with_capacity(96);
    join_cgroups(&mut steps, around.cgroups)?;
    steps.push(tuning::all_cpus());
    let new_time = has_new(linux, LinuxNamespaceType::Time);
    if new_time && new_user {
        // Later the file belongs to somebody whom the namespace does not know.
        steps.push(Step::OpenClocks);
    }
    if ids.is_some() {
        steps.push(Step::AwaitMapping);
    }
    if new_user {
        steps.push(Step::BecomeRoot);
    }
    if new_time {
        let offsets = tuning::time_offsets(linux.time_offsets().as_ref())?;
        steps.push(Step::NewTimeNamespace { offsets: text("linux.timeOffsets", &offsets)? });
    } else if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) {
        return refuse("linux.timeOffsets", "needs a new time namespace");
    }
    if has_new(linux, LinuxNamespaceType::Cgroup) {
        steps.push(Step::NewCgroupNamespace);
    }
    steps.push(Step::NewSession);
    if around.keyring {
        steps.push(Step::NewKeyring);
    }
    if let Some(value) = process_spec.oom_score_adj() {
        steps.push(Step::OomScoreAdj { value });
    }
    if has_new(linux, LinuxNamespaceType::Network) {
        steps.push(Step::Loopback);
    }
    names(&mut steps, spec, linux)?;
    sysctls(&mut steps, linux)?;
    steps.extend(labels(process_spec, around)?);

    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => None,
        Some(option) => match options::propagation(option) {
            Some(propagation) => Some(propagation),
            None => return refuse("linux.rootfsPropagation", format!("{option:?} is not a propagation")),
        },
    };
    let open = mounts.open;
    let (open, opened_by_child) = if around.privileged { (open, Vec::new()) } else { (Vec::new(), open) };
    steps.extend(opened_by_child);
    let slave = !shares_mounts && propagation.is_some_and(|(flags, _)| flags == libc::MS_SLAVE);
    match (shares_mounts, slave) {
        // The caller's mounts are not ours to change.
        (true, _) => {}
        (false, true) => steps.push(Step::SlaveMounts),
        (false, false) => steps.push(Step::PrivateMounts),
    }
    steps.push(Step::Root {
        root: Root::Directory { path: path_text("root.path", around.rootfs)?, slave },
        place: path_text("root.path", around.rootfs)?,
        mapped: false,
    });
    steps.extend(mounts.place);
    if !mounts.foreign_dev {
        devices(&mut steps, linux.devices().as_deref().unwrap_or_default(), 0)?;
    }
    steps.push(Step::MakeDirectory { path: cwd.clone() });
    if process_spec.terminal().unwrap_or(false) {
        let size = tuning::console_size(process_spec);
        steps.push(Step::Terminal { size, console: !mounts.foreign_dev });
    }
    steps.push(Step::RuntimeHooks);
    let hooks = spec.hooks().as_ref();
    steps.extend(inside("createContainer", hooks.and_then(|hooks| hooks.create_container().as_deref()))?);
    steps.extend(mounts.finish);
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadOnly { path: text("linux.readonlyPaths", path)? });
    }
    masks(&mut steps, linux)?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.push(match (shares_mounts, around.pivot) {
        (true, _) => Step::ChangeRoot,
        (false, true) => Step::PivotRoot,
        (false, false) => Step::MoveRoot,
    });
    if let Some((flags, recursive)) = propagation {
        let flags = flags | if recursive { libc::MS_REC } else { 0 };
        steps.push(Step::RootPropagation { flags });
    }
    steps.push(Step::OwnStreams { uid: user.uid(), gid: user.gid() });
    steps.extend(process::limits(process_spec)?);
    steps.extend(tuning::process(process_spec, bound(linux))?);
    steps.extend(tuning::machine(linux)?);
    steps.push(Step::WorkingDirectory { path: cwd });

    let mut waiting = vec![Step::FindProgram];
    if around.listen {
        waiting.push(Step::Listen);
    }
    let program = program(process_spec, around)?;
    let mut last = inside("startContainer", hooks.and_then(|hooks| hooks.start_container().as_deref()))?;
    for hook in &mut last {
        // What runs in the container in the program's stead has the program's environment.
        if let Step::Hook { env: env @ None, .. } = hook {
            *env = Some(program.env.clone());
        }
    }
    steps.extend(process::rights(
        user,
        process::capability_bits(process_spec.capabilities().as_ref(), around.last_capability),
        process_spec.no_new_privileges().unwrap_or(false),
        process::filter(linux.seccomp().as_ref())?,
        waiting,
        last,
    ));
    Ok(Bundle {
        plan: Plan { namespaces: new, cgroup: unified(around.cgroups)?, steps, program },
        open,
        idmaps: mounts.idmaps,
        join,
        ids,
        maps_late: mounts.maps_late,
        shares_mounts,
        warnings: process::ambient_warnings(process_spec.capabilities().as_ref()),
        net_devices,
    })
}

/// The network devices that a container gets, with their names here and there. What the kernel takes for a name:
/// dev_valid_name() of Linux.
fn net_devices(linux: &Linux) -> Result<Vec<(String, String)>, Refusal> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else {
        return Ok(Vec::new());
    };
    if !has_namespace(linux, LinuxNamespaceType::Network) {
        return refuse("linux.netDevices", "unable to move network devices without a private NET namespace");
    }
    let valid = |name: &str| {
        (1..16).contains(&name.len())
            && !matches!(name, "." | "..")
            && name
                .bytes()
                .all(|byte| byte != b'/' && byte != b':' && !byte.is_ascii_whitespace() && byte != 0)
    };
    let mut all: Vec<(String, String)> = devices
        .iter()
        .map(|(name, device)| {
            let inside = device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name);
            match [name.as_str(), inside].into_iter().find(|name| !valid(name)) {
                Some(bad) => {
                    refuse("linux.netDevices", format!("{bad:?} is not a name for a network device"))
                }
                None => Ok((name.clone(), inside.to_owned())),
            }
        })
        .collect::<Result<_, _>>()?;
    // One order, so that the same configuration does the same each time.
    all.sort();
    Ok(all)
}

/// Whether a container is bound to some CPUs.
fn bound(linux: &Linux) -> bool {
    let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    cpu.and_then(|cpu| cpu.cpus().as_deref()).is_some_and(|cpus| !cpus.is_empty())
}

/// Plans a further process of a running container, which joins the container's namespaces before its first step.
/// `shares_mounts`: the container has none of its own for mounts, and its root is the first that was opened.
pub(crate) fn bundle_exec(
    spec: &Spec,
    process_spec: &Process,
    in_user_namespace: bool,
    shares_mounts: bool,
    around: Surroundings<'_>,
) -> Result<Plan, Refusal> {
    let no_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&no_linux);
    let cwd = process_spec.cwd();
    if !cwd.is_absolute() {
        return refuse("process.cwd", "is not an absolute path");
    }
    let user = process_spec.user();
    let mut steps = Vec::with_capacity(24);
    if in_user_namespace {
        steps.push(Step::BecomeRoot);
    }
    if shares_mounts {
        steps.push(Step::EnterRoot { opened: 0 });
    }
    steps.push(Step::NewSession);
    if around.keyring {
        steps.push(Step::NewKeyring);
    }
    if process_spec.terminal().unwrap_or(false) {
        steps.push(Step::Terminal { size: tuning::console_size(process_spec), console: false });
    }
    steps.push(Step::OwnStreams { uid: user.uid(), gid: user.gid() });
    steps.extend(process::limits(process_spec)?);
    steps.extend(tuning::process(process_spec, bound(linux))?);
    steps.extend(tuning::machine(linux)?);
    if let Some(cpus) =
        process_spec.exec_cpu_affinity().as_ref().and_then(|cpus| cpus.cpu_affinity_final().as_deref())
    {
        steps.push(Step::Affinity { cpus: tuning::cpu_list("process.execCPUAffinity.final", cpus)? });
    }
    steps.push(Step::WorkingDirectory { path: path_text("process.cwd", cwd)? });
    steps.extend(process::rights(
        user,
        process::capability_bits(process_spec.capabilities().as_ref(), around.last_capability),
        process_spec.no_new_privileges().unwrap_or(false),
        process::filter(linux.seccomp().as_ref())?,
        vec![Step::FindProgram],
        Vec::new(),
    ));
    Ok(Plan {
        namespaces: 0,
        cgroup: unified(around.cgroups)?,
        steps,
        program: program(process_spec, around)?,
    })
}

/// What a process that will join a container's namespaces does while the host's files are still in reach.
pub(crate) fn before_joining(process: &Process, around: Surroundings<'_>) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    join_cgroups(&mut steps, around.cgroups)?;
    steps.push(match process.exec_cpu_affinity().as_ref().and_then(|cpus| cpus.initial().as_deref()) {
        Some(cpus) => Step::Affinity { cpus: tuning::cpu_list("process.execCPUAffinity.initial", cpus)? },
        None => tuning::all_cpus(),
    });
    if let Some(value) = process.oom_score_adj() {
        steps.push(Step::OomScoreAdj { value });
    }
    steps.extend(labels(process, around)?);
    Ok(steps)
}

fn program(process_spec: &Process, around: Surroundings<'_>) -> Result<super::step::Program, Refusal> {
    process::program(
        "process.args",
        process_spec.args().as_deref().unwrap_or_default(),
        process_spec.env().as_deref().unwrap_or_default(),
        around.home,
    )
}

fn unified(cgroups: &Placement) -> Result<Option<super::text::Text>, Refusal> {
    cgroups.unified.as_ref().map(|path| path_text("cgroup", path)).transpose()
}

fn join_cgroups(steps: &mut Vec<Step>, cgroups: &Placement) -> Result<(), Refusal> {
    if !cgroups.tasks.is_empty() {
        let tasks = cgroups.tasks.iter().map(|path| path_text("cgroup", path));
        steps.push(Step::JoinCgroups { tasks: tasks.collect::<Result<_, _>>()? });
    }
    Ok(())
}

/// The `CLONE_NEW*` of a kind of namespace.
pub(crate) fn flag(kind: LinuxNamespaceType) -> u32 {
    let flag = match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    };
    u32::try_from(flag).unwrap_or(0)
}

/// Flags for the clone, and what is to be joined.
fn namespaces(linux: &Linux) -> Result<(u64, Vec<(u32, PathBuf)>), Refusal> {
    let mut seen = 0;
    let (mut new, mut join) = (0, Vec::new());
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        let bit = flag(kind);
        if seen & bit != 0 {
            return refuse("linux.namespaces", format!("{kind} is listed twice"));
        }
        seen |= bit;
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => {
                if !path.is_absolute() {
                    return refuse("linux.namespaces", format!("{} is not an absolute path", path.display()));
                }
                join.push((bit, path.clone()));
            }
            // Those two are made by steps: they need to know what the process has joined before.
            _ if matches!(kind, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time) => {}
            _ => new |= u64::from(bit),
        }
    }
    Ok((new, join))
}

fn joins(join: &[(u32, PathBuf)], flag: i32) -> bool {
    join.iter().any(|(bit, _)| i64::from(*bit) == i64::from(flag))
}

fn has_new(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| {
        namespace.typ() == kind && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    })
}

fn ids(linux: &Linux, new: u64) -> Result<Option<(String, String)>, Refusal> {
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    if new & u64::from(flag(LinuxNamespaceType::User)) == 0 {
        // For a namespace that exists they say how it was mapped, which it knows itself.
        if (!uids.is_empty() || !gids.is_empty()) && !has_namespace(linux, LinuxNamespaceType::User) {
            return refuse("linux.uidMappings", "needs a user namespace");
        }
        return Ok(None);
    }
    if uids.is_empty() || gids.is_empty() {
        return refuse("linux.uidMappings", "a new user namespace needs mappings for users and groups");
    }
    Ok(Some((id_lines(uids), id_lines(gids))))
}

fn names(steps: &mut Vec<Step>, spec: &Spec, linux: &Linux) -> Result<(), Refusal> {
    let own = has_namespace(linux, LinuxNamespaceType::Uts);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if !own {
            return refuse(field, "needs a UTS namespace");
        }
        let name = text(field, name)?;
        steps.push(if field == "hostname" { Step::HostName { name } } else { Step::DomainName { name } });
    }
    Ok(())
}

fn sysctls(steps: &mut Vec<Step>, linux: &Linux) -> Result<(), Refusal> {
    let own = Own {
        network: has_namespace(linux, LinuxNamespaceType::Network),
        ipc: has_namespace(linux, LinuxNamespaceType::Ipc),
        uts: has_namespace(linux, LinuxNamespaceType::Uts),
    };
    let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
    sysctls.sort();
    for (key, value) in sysctls {
        let field = format!("linux.sysctl[{key}]");
        steps.push(Step::Sysctl { path: sysctl::file(&field, key, own)?, value: text(&field, value)? });
    }
    Ok(())
}

/// AppArmor profile and SELinux label of the process.
fn labels(process: &Process, around: Surroundings<'_>) -> Result<Option<Step>, Refusal> {
    let profile = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty());
    let label = process.selinux_label().as_deref().filter(|label| !label.is_empty());
    if let Some(profile) = profile.filter(|profile| around.apparmor || *profile != "unconfined") {
        if !around.apparmor {
            return refuse("process.apparmorProfile", "this kernel has no AppArmor");
        }
        return Ok(Some(Step::Label {
            what: text("process", "AppArmor profile")?,
            file: text("process", "/proc/self/attr/apparmor/exec")?,
            value: text("process.apparmorProfile", &format!("exec {profile}"))?,
        }));
    }
    let Some(label) = label else { return Ok(None) };
    if !around.selinux {
        return refuse("process.selinuxLabel", "this kernel has no SELinux");
    }
    Ok(Some(Step::Label {
        what: text("process", "SELinux label")?,
        file: text("process", "/proc/self/attr/exec")?,
        value: text("process.selinuxLabel", label)?,
    }))
}

/// New file systems get the label for mounts, but for those whose files have labels of their own.
fn mount_label(linux: &Linux, around: Surroundings<'_>, steps: &mut [Step]) -> Result<(), Refusal> {
    let Some(label) = linux.mount_label().as_deref().filter(|label| !label.is_empty()) else { return Ok(()) };
    if !around.selinux {
        return refuse("linux.mountLabel", "this kernel has no SELinux");
    }
    for step in steps {
        if let Step::Mount { file_system, options, .. } = step
            && !matches!(file_system.as_c_str().to_bytes(), b"proc" | b"sysfs" | b"mqueue")
        {
            options.push((text("linux.mountLabel", "context")?, Some(text("linux.mountLabel", label)?)));
        }
    }
    Ok(())
}

/// Hooks that the new process runs itself.
fn inside(kind: &str, hooks: Option<&[Hook]>) -> Result<Vec<Step>, Refusal> {
    let field = format!("hooks.{kind}");
    let strings = |all: &[String]| all.iter().map(|one| text(&field, one)).collect::<Result<Vec<_>, _>>();
    hooks
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(number, hook)| {
            if !hook.path().is_absolute() {
                return refuse(&field, format!("{} is not an absolute path", hook.path().display()));
            }
            Ok(Step::Hook {
                kind: text(&field, kind)?,
                number,
                path: path_text(&field, hook.path())?,
                argv: strings(hook.args().as_deref().unwrap_or_default())?,
                env: hook.env().as_deref().map(strings).transpose()?,
                timeout: match hook.timeout() {
                    None => None,
                    Some(seconds) => match u32::try_from(seconds) {
                        Ok(seconds) if seconds > 0 => Some(seconds),
                        _ => return refuse(&field, "the time-out is not a positive number"),
                    },
                },
            })
        })
        .collect()
}
