//! What a container may do: user, capabilities, system calls.

use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use runtime::oci::{Capabilities, Capability};

use super::ImageConfig;
use crate::names::pod_id;

/// What containerd gives to every container that does not ask.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All that Linux has.
const ALL_CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// A security context that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// `runAsUser: 0` and `runAsNonRoot`.
    #[error("container's runAsUser breaks non-root policy (pod: {}, container: {container})", quote(.pod))]
    RunAsRoot {
        /// `name_namespace(uid)`.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The image's user is root, and `runAsNonRoot`.
    #[error("container has runAsNonRoot and image will run as root (pod: {}, container: {container})", quote(.pod))]
    ImageRunsAsRoot {
        /// `name_namespace(uid)`.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The image's user is a name, which may be root's.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {}, container: {container})",
        quote(.pod)
    )]
    NonNumericUser {
        /// As the image has it.
        user: String,
        /// `name_namespace(uid)`.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// Not a capability.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// A profile that this node does not have.
    #[error("seccomp profile type {0:?} is not supported")]
    Seccomp(String),
}

/// Whether the container is privileged.
pub fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

/// Whether `/proc` is to be shown as it is.
pub(super) fn unmasked_proc(container: &Container) -> bool {
    let context = container.security_context.as_ref();
    context.and_then(|context| context.proc_mount.as_deref()) == Some("Unmasked")
}

fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user)
}

fn run_as_group(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_group);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_group)
}

/// `user[:group]` to look up in the image: what the pod says, else what the image says. And the primary group, if the
/// pod says that: the user stays a member of the image's groups then.
pub fn effective_user(pod: &Pod, container: &Container, image: &ImageConfig) -> (String, Option<u32>) {
    let group = run_as_group(pod, container).and_then(|group| u32::try_from(group).ok());
    let user = match run_as_user(pod, container) {
        Some(user) => user.to_string(),
        None if group.is_some() => image.user.split(':').next().unwrap_or_default().to_owned(),
        None => image.user.clone(),
    };
    (user, group)
}

/// Refuses root where the pod says that root must not be.
pub fn verify_run_as_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageConfig,
) -> Result<(), SecurityError> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let non_root = own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_non_root);
    if non_root != Some(true) {
        return Ok(());
    }
    let (id, name) = (pod_id(pod), container.name.clone());
    match run_as_user(pod, container) {
        Some(0) => return Err(SecurityError::RunAsRoot { pod: id, container: name }),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image.user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(0) => Err(SecurityError::ImageRunsAsRoot { pod: id, container: name }),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(SecurityError::ImageRunsAsRoot { pod: id, container: name }),
        Err(_) => Err(SecurityError::NonNumericUser { user: user.to_owned(), pod: id, container: name }),
    }
}

/// What is left of the default capabilities after additions and removals.
pub fn capabilities(container: &Container) -> Result<Capabilities, SecurityError> {
    let all = || ALL_CAPABILITIES.iter().filter_map(|name| name.parse().ok()).collect::<Capabilities>();
    if privileged(container) {
        return Ok(all());
    }
    let change = container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    let add = change.and_then(|change| change.add.as_deref()).unwrap_or_default();
    let drop = change.and_then(|change| change.drop.as_deref()).unwrap_or_default();
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = DEFAULT_CAPABILITIES.iter().filter_map(|name| name.parse().ok()).collect::<Capabilities>();
    if add.iter().any(is_all) {
        set = all();
    }
    if drop.iter().any(is_all) {
        set.clear();
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    Ok(set)
}

fn parse(name: &str) -> Result<Capability, SecurityError> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    short.parse().map_err(|_| SecurityError::Capability(name.to_owned()))
}

/// Which filter for system calls a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// None.
    Unconfined,
    /// The runtime's own, also for a pod that does not say.
    RuntimeDefault,
    /// A file of the node, by its path below the directory of profiles.
    Localhost(String),
}

/// Reads the profile of the container, else of the pod.
pub fn seccomp_choice(pod: &Pod, container: &Container) -> Result<SeccompChoice, SecurityError> {
    if privileged(container) {
        return Ok(SeccompChoice::Unconfined);
    }
    let own = container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let pods = || pod.spec.as_ref()?.security_context.as_ref()?.seccomp_profile.as_ref();
    match own.or_else(pods) {
        None => Ok(SeccompChoice::RuntimeDefault),
        Some(SeccompProfile { type_, localhost_profile }) => match type_.as_str() {
            "Localhost" => {
                let path = localhost_profile.as_deref().unwrap_or_default();
                // The path is the pod's: it must not lead out of the directory.
                let leads_out = path.starts_with('/') || path.split('/').any(|part| part == "..");
                if path.is_empty() || leads_out {
                    return Err(SecurityError::Seccomp(format!("Localhost({path})")));
                }
                Ok(SeccompChoice::Localhost(path.to_owned()))
            }
            "RuntimeDefault" => Ok(SeccompChoice::RuntimeDefault),
            "Unconfined" => Ok(SeccompChoice::Unconfined),
            other => Err(SecurityError::Seccomp(other.to_owned())),
        },
    }
}
