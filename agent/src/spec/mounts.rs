//! The mounts of a container, in the order in which they are made: parents before what lies in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use manifests::expand::expand;
use manifests::k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use runtime::oci::Mount;

use crate::users;

/// Of no use to a container, and of use to somebody who wants out of it.
pub(super) const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/interrupts",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Settings of the whole machine.
pub(super) const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A volume as one container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMountPlan {
    /// The volume.
    pub volume: String,
    /// On the node. For a subPath: of the volume, until the subPath has been opened safely.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// Within the volume.
    pub sub_path: Option<String>,
    /// No writing.
    pub read_only: bool,
    /// Nor to file systems that are mounted below it.
    pub recursive: bool,
    /// Owners are shown as the pod's user namespace has them already.
    pub has_users: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// Files on the node that are put into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcFiles {
    /// `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Where the container writes why it ends.
    pub termination_log: Option<PathBuf>,
}

/// A volume mount that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The pod has no such volume.
    #[error("volume mount {0:?} names a volume that the pod does not have")]
    NoVolume(String),
    /// A subPath that would lead out of the volume.
    #[error("subPath {0:?} must be relative and must not contain '..'")]
    SubPath(String),
    /// A subPathExpr that refers to a variable that there is not.
    #[error("subPathExpr {0:?} refers to an environment variable that is not set")]
    SubPathExpr(String),
}

/// Plans the volumes of a container. `volumes` says where each volume of the pod is on the node.
pub fn volume_mounts(
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<VolumeMountPlan>, MountError> {
    let mut plans = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let source = volumes.get(&mount.name).ok_or_else(|| MountError::NoVolume(mount.name.clone()))?;
        let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
        let sub_path = match expression {
            Some(expression) => Some(expand_sub_path(expression, env)?),
            None => mount.sub_path.clone().filter(|path| !path.is_empty()),
        };
        if let Some(path) = &sub_path
            && (path.starts_with('/') || path.split('/').any(|part| part == ".."))
        {
            return Err(MountError::SubPath(path.clone()));
        }
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        };
        plans.push(VolumeMountPlan {
            volume: mount.name.clone(),
            source: source.clone(),
            destination: PathBuf::from(&mount.mount_path),
            sub_path,
            read_only: mount.read_only.unwrap_or(false),
            recursive: is_recursive(mount),
            has_users: false,
            propagation,
        });
    }
    Ok(plans)
}

/// Whether a mount is read-only with all that is mounted below it. Every kernel that this runs on can do that, so what is
/// wanted if possible is wanted.
pub fn is_recursive(mount: &VolumeMount) -> bool {
    let wanted = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    wanted && mount.read_only.unwrap_or(false)
}

/// Unlike in `env`, a variable that is not set is an error: it would name another directory.
fn expand_sub_path(expression: &str, env: &BTreeMap<String, String>) -> Result<String, MountError> {
    let missing = std::cell::Cell::new(false);
    let expanded = expand(expression, |name| {
        let value = env.get(name).map(String::as_str);
        missing.set(missing.get() || value.is_none());
        value
    });
    if missing.get() { Err(MountError::SubPathExpr(expression.to_owned())) } else { Ok(expanded) }
}

/// All mounts of a container.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    volumes: &[VolumeMountPlan],
    files: &EtcFiles,
    privileged: bool,
) -> Vec<Mount> {
    let mapped = users::wanted(pod);
    let host_ipc = pod.spec.as_ref().and_then(|spec| spec.host_ipc).unwrap_or(false);
    let mode = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", mode]),
    ];
    // The source is what the runtime knows the sandbox's own by.
    list.push(if host_ipc {
        bind("/dev/shm", Path::new("/dev/shm"), false, "rprivate")
    } else {
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"])
    });

    let mut own = Vec::new();
    let taken = |path: &str| volumes.iter().any(|volume| volume.destination == Path::new(path));
    // A volume at one of these places is what the user wants there.
    for (path, source) in [
        ("/etc/hosts", &files.hosts),
        ("/etc/hostname", &files.hostname),
        ("/etc/resolv.conf", &files.resolv_conf),
    ] {
        if let Some(source) = source
            && !taken(path)
        {
            own.push(idmapped(bind(path, source, false, "rprivate"), mapped));
        }
    }
    if let Some(source) = &files.termination_log {
        let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
        let log = bind(path.unwrap_or("/dev/termination-log"), source, false, "rprivate");
        own.push(idmapped(log, mapped));
    }
    own.extend(volumes.iter().map(|volume| {
        let mut mount =
            bind(&volume.destination.to_string_lossy(), &volume.source, volume.read_only, volume.propagation);
        if volume.recursive
            && let Some(options) = mount.options_mut()
        {
            options.push("rro".to_owned());
        }
        idmapped(mount, mapped && !volume.has_users)
    }));
    // A mount below another one must come after it, or it would be hidden.
    own.sort_by_key(|mount| mount.destination().components().count());
    list.extend(own);
    list
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(source)));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// With owners as the pod's user namespace has them.
fn idmapped(mut mount: Mount, wanted: bool) -> Mount {
    if wanted && let Some(options) = mount.options_mut() {
        options.push("idmap".to_owned());
    }
    mount
}

fn bind(destination: &str, source: &Path, read_only: bool, propagation: &str) -> Mount {
    let mode = if read_only { "ro" } else { "rw" };
    let mut mount = mount(destination, "bind", "", &["rbind", propagation, mode]);
    mount.set_source(Some(source.to_owned()));
    mount
}
