//! The plan of a container.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Spec, User};

use super::step::{NodeKind, Plan, Root, Step};
use super::sysctl::{self, Own};
use super::text::Text;
use super::{Refusal, mounts, options, path_text, process, refuse, text, unsupported};
use crate::cgroup::Placement;
use crate::seccomp;
use crate::spec::{ContainerSpec, NamespaceMode, NetworkMode, PidMode, Rootfs, SandboxSpec, Users};

/// What a plan depends on besides the specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) sandbox: &'a SandboxSpec,
    /// The container's cgroups, which exist when the plan is executed.
    pub(crate) cgroups: &'a Placement,
    /// A directory of the host that the new process, in its own mount namespace, may mount the root on.
    pub(crate) place: &'a Path,
    /// The last capability that this kernel knows.
    pub(crate) last_capability: u32,
    /// The user's home directory, for an environment that does not say.
    pub(crate) home: Option<&'a str>,
    /// Stop before the program.
    pub(crate) gate: bool,
    /// Overlayfs takes layers one by one.
    pub(crate) separate_layers: bool,
}

/// Devices that every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Plans a container.
pub(crate) fn container(container: &ContainerSpec, context: Context<'_>) -> Result<Plan, Refusal> {
    let spec = &container.spec;
    let no_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&no_linux);
    let Some(process_spec) = spec.process() else { return refuse("process", "is missing") };
    check(spec, linux)?;
    process::check(process_spec)?;

    let own = Own {
        network: context.sandbox.network != NetworkMode::Host,
        ipc: context.sandbox.ipc == NamespaceMode::Private,
        uts: false,
    };
    let tty = container.tty || process_spec.terminal().unwrap_or(false);
    let cwd = process_spec.cwd();
    if !cwd.is_absolute() {
        return refuse("process.cwd", "is not an absolute path");
    }
    let cwd = path_text("process.cwd", cwd)?;
    let shared_shm = context.sandbox.ipc == NamespaceMode::Private;
    let users = context.sandbox.users;
    let means = mounts::Means { shared_shm, users: users.is_some(), ..mounts::Means::default() };
    let mut mounts = mounts::plan(spec.mounts().as_deref().unwrap_or_default(), means, context.cgroups)?;
    let user = process_spec.user();
    if let Some(users) = users {
        exists(user, users)?;
        shift(&mut mounts.place, users)?;
    }

    let mut steps = Vec::with_capacity(64);
    if !context.cgroups.tasks.is_empty() {
        let tasks = context.cgroups.tasks.iter().map(|path| path_text("cgroup", path));
        steps.push(Step::JoinCgroups { tasks: tasks.collect::<Result<_, _>>()? });
    }
    if has_namespace(linux, LinuxNamespaceType::Cgroup) {
        steps.push(Step::NewCgroupNamespace);
    }
    steps.push(Step::NewSession);
    if users.is_none() {
        steps.push(Step::NewKeyring);
    }
    // A keeper protects itself; what it starts must not inherit that.
    steps.push(Step::OomScoreAdj { value: process_spec.oom_score_adj().unwrap_or(0) });
    let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
    sysctls.sort();
    for (key, value) in sysctls {
        let field = format!("linux.sysctl[{key}]");
        steps.push(Step::Sysctl { path: sysctl::file(&field, key, own)?, value: text(&field, value)? });
    }

    steps.extend(mounts.open);
    steps.push(Step::PrivateMounts);
    steps.push(Step::Root {
        root: root(&container.rootfs, context.separate_layers)?,
        place: path_text("place", context.place)?,
        mapped: users.is_some(),
    });
    if let Some(Users { first, .. }) = users {
        steps.push(Step::ActAs { uid: first, gid: first });
    }
    steps.extend(mounts.place);
    if !mounts.foreign_dev {
        let owner = users.map_or(0, |users| users.first);
        devices(&mut steps, linux.devices().as_deref().unwrap_or_default(), owner)?;
    }
    steps.push(Step::MakeDirectory { path: cwd.clone() });
    if tty {
        let size = process_spec.console_size().map(|size| crate::spec::WindowSize {
            columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
            rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
        });
        steps.push(Step::Terminal { size, console: !mounts.foreign_dev });
    } else if !container.stdin {
        steps.push(Step::NullInput);
    }
    steps.extend(mounts.finish);
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadOnly { path: text("linux.readonlyPaths", path)? });
    }
    masks(&mut steps, linux)?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.push(Step::PivotRoot);
    if let Some(option) = linux.rootfs_propagation() {
        match options::propagation(option) {
            Some((flags, recursive)) => {
                let flags = flags | if recursive { libc::MS_REC } else { 0 };
                steps.push(Step::RootPropagation { flags });
            }
            None if option.is_empty() => {}
            None => return refuse("linux.rootfsPropagation", format!("{option:?} is not a propagation")),
        }
    }

    steps.push(own_streams(user, users));
    steps.extend(process::limits(process_spec)?);
    if users.is_some() {
        // The last of what takes the host's rights is done.
        steps.push(Step::EnterUsers { own_mounts: true });
        steps.push(Step::NewKeyring);
    }
    steps.push(Step::WorkingDirectory { path: cwd });
    steps.extend(process::rights(
        user,
        process::capability_bits(process_spec.capabilities().as_ref(), context.last_capability),
        process_spec.no_new_privileges().unwrap_or(false),
        process::filter(linux.seccomp().as_ref())?,
        if context.gate { vec![Step::Gate] } else { Vec::new() },
        Vec::new(),
    ));

    let own_pid = context.sandbox.pid == PidMode::Private && container.join_pid.is_none();
    let namespaces = libc::CLONE_NEWNS | if own_pid { libc::CLONE_NEWPID } else { 0 };
    Ok(Plan {
        namespaces: u64::try_from(namespaces).unwrap_or(0),
        cgroup: match &context.cgroups.unified {
            Some(path) => Some(path_text("cgroup", path)?),
            None => None,
        },
        steps,
        program: process::program(
            "process.args",
            process_spec.args().as_deref().unwrap_or_default(),
            process_spec.env().as_deref().unwrap_or_default(),
            context.home,
        )?,
    })
}

/// Refuses what the specification asks for and nobody does.
fn check(spec: &Spec, linux: &Linux) -> Result<(), Refusal> {
    unsupported("hooks", spec.hooks().as_ref())?;
    if linux.seccomp().as_ref().is_some_and(seccomp::notifies) {
        return refuse("linux.seccomp", "SCMP_ACT_NOTIFY is not supported");
    }
    for namespace in linux.namespaces().iter().flatten() {
        if matches!(namespace.typ(), LinuxNamespaceType::User | LinuxNamespaceType::Time) {
            return refuse("linux.namespaces", format!("{} namespaces are not supported", namespace.typ()));
        }
    }
    for (field, mappings) in
        [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
            return refuse(field, "is not supported");
        }
    }
    unsupported("linux.intelRdt", linux.intel_rdt().as_ref())?;
    unsupported("linux.memoryPolicy", linux.memory_policy().as_ref())?;
    unsupported("linux.personality", linux.personality().as_ref())?;
    unsupported("linux.timeOffsets", linux.time_offsets().as_ref())?;
    if linux.mount_label().as_deref().is_some_and(|label| !label.is_empty()) {
        return refuse("linux.mountLabel", "is not supported");
    }
    Ok(())
}

/// The pipes' owner is the host's affair, and they are given away before the user namespace is entered.
pub(super) fn own_streams(user: &User, users: Option<Users>) -> Step {
    let first = users.map_or(0, |users| users.first);
    Step::OwnStreams { uid: first.saturating_add(user.uid()), gid: first.saturating_add(user.gid()) }
}

/// Refuses a user that the sandbox does not have.
pub(super) fn exists(user: &User, users: Users) -> Result<(), Refusal> {
    let missing = |what: &str, id: u32| {
        let range = format!("{id} is not among the {} ids of the user namespace", users.count);
        refuse(format!("process.user.{what}"), range)
    };
    if user.uid() >= users.count {
        return missing("uid", user.uid());
    }
    let groups = user.additional_gids().iter().flatten();
    match std::iter::once(&user.gid()).chain(groups).find(|gid| **gid >= users.count) {
        Some(gid) => missing("gid", *gid),
        None => Ok(()),
    }
}

/// New file systems are mounted by the host's root: ids in their options become the host's.
fn shift(steps: &mut [Step], users: Users) -> Result<(), Refusal> {
    for step in steps {
        let Step::Mount { options, .. } = step else { continue };
        for (key, value) in options {
            let Some(id) = value.as_ref().filter(|_| matches!(key.as_c_str().to_bytes(), b"uid" | b"gid"))
            else {
                continue;
            };
            let field = "mounts.options";
            let id = id.to_string().parse::<u32>().ok().filter(|id| *id < users.count);
            let Some(id) = id else { return refuse(field, "an id is not one of the user namespace") };
            *value = Some(text(field, &(users.first + id).to_string())?);
        }
    }
    Ok(())
}

pub(super) fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind)
}

fn root(rootfs: &Rootfs, separately: bool) -> Result<Root, Refusal> {
    match rootfs {
        Rootfs::Directory(path) => Ok(Root::Directory { path: path_text("rootfs", path)?, slave: false }),
        Rootfs::Overlay { lower, upper, work } => {
            if lower.is_empty() {
                return refuse("rootfs", "has no layer");
            }
            Ok(Root::Overlay {
                lower: lower.iter().map(|path| path_text("rootfs.lower", path)).collect::<Result<_, _>>()?,
                upper: path_text("rootfs.upper", upper)?,
                work: path_text("rootfs.work", work)?,
                separately,
            })
        }
    }
}

/// Masks each path once, however often it is listed.
pub(super) fn masks(steps: &mut Vec<Step>, linux: &Linux) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for path in linux.masked_paths().iter().flatten() {
        if seen.insert(path.trim_end_matches('/')) {
            steps.push(Step::Mask { path: text("linux.maskedPaths", path)? });
        }
    }
    Ok(())
}

/// `owner`: the host's id of who gets the devices that everybody has. Others have the owner that is given, which is the
/// host's: root of a user namespace has no more rights to the machine's devices than anybody.
pub(super) fn devices(steps: &mut Vec<Step>, wanted: &[LinuxDevice], owner: u32) -> Result<(), Refusal> {
    let named =
        |path: &Text| wanted.iter().any(|device| device.path().as_os_str() == path.to_string().as_str());
    for (name, major, minor) in DEVICES {
        let path = text("linux.devices", &format!("/dev/{name}"))?;
        if !named(&path) {
            let kind = NodeKind::Character;
            steps.push(Step::Device { path, kind, major, minor, mode: 0o666, uid: owner, gid: owner });
        }
    }
    for (index, device) in wanted.iter().enumerate() {
        let field = format!("linux.devices[{index}]");
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Character,
            LinuxDeviceType::B => NodeKind::Block,
            LinuxDeviceType::P => NodeKind::Fifo,
            LinuxDeviceType::A => return refuse(field, "type a is not that of a device"),
        };
        let number =
            |value: i64| u32::try_from(value).or_else(|_| refuse(&field, "a device number is negative"));
        let fifo = kind == NodeKind::Fifo;
        steps.push(Step::Device {
            path: path_text(&field, device.path())?,
            kind,
            major: if fifo { 0 } else { number(device.major())? },
            minor: if fifo { 0 } else { number(device.minor())? },
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    for (path, target) in LINKS {
        steps.push(Step::Symlink { target: text("linux", target)?, path: text("linux", path)? });
    }
    Ok(())
}
