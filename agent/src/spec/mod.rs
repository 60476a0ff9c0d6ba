//! The OCI runtime configuration of a container: a pure function of the pod, the image's configuration, and what was
//! resolved before (environment, user, volumes).
//!
//! Follows the OCI runtime specification 1.2 and, for defaults, what containerd gives to a container.

mod devices;
mod mounts;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;

use manifests::expand::expand;
use manifests::k8s_openapi::api::core::v1::{Container, LinuxContainerUser, Pod};
use runtime::oci::{
    Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType,
    LinuxSeccomp, Process, Root, Spec, User,
};

pub use devices::host_devices;
pub use mounts::{EtcFiles, MountError, VolumeMountPlan, is_recursive, volume_mounts};
pub use security::{
    SeccompChoice, SecurityError, capabilities, effective_user, privileged, seccomp_choice,
    verify_run_as_non_root,
};

use crate::resources::{container_limits, oom_score_adj};

const OCI_VERSION: &str = "1.2.0";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image says about how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Second part, which arguments replace.
    pub cmd: Vec<String>,
    /// Where to start.
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    pub user: String,
    /// The signal that asks the process to end.
    pub stop_signal: Option<String>,
}

/// A user, looked up in the image's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The groups that the image makes it a member of.
    pub image_groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Everything that a container's configuration is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its image.
    pub image: &'a ImageConfig,
    /// Its environment, without the image's.
    pub env: &'a BTreeMap<String, String>,
    /// The pod's host name.
    pub hostname: &'a str,
    /// The user to run as.
    pub account: &'a Account,
    /// Its volumes.
    pub volumes: &'a [VolumeMountPlan],
    /// Files that are put into it.
    pub files: &'a EtcFiles,
    /// The filter for system calls, if it is to have one.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The node's devices, for privileged containers.
    pub host_devices: &'a [LinuxDevice],
    /// The node's memory in bytes.
    pub memory_capacity: i64,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither the container nor its image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// The security context asks for something that there is not.
    #[error(transparent)]
    Security(#[from] SecurityError),
}

/// Computes the configuration. `root.path` is left empty: the runtime knows the file system.
pub fn spec(input: Input<'_>) -> Result<Spec, SpecError> {
    let Input { pod, container, image, .. } = input;
    let tty = container.tty.unwrap_or(false);
    let privileged = privileged(container);
    let security = container.security_context.as_ref();

    let mut process = Process::default();
    process.set_terminal(tty.then_some(true));
    process.set_user(user(input));
    process.set_args(Some(args(container, image, input.env)?));
    process.set_env(Some(environment(input, tty)));
    process.set_cwd(working_dir(container, image));
    process.set_capabilities(Some(capability_sets(container)?));
    process.set_rlimits(None);
    let escalation = security.and_then(|security| security.allow_privilege_escalation);
    process.set_no_new_privileges(Some(escalation == Some(false) && !privileged));
    let score = oom_score_adj(pod, container, input.memory_capacity);
    process.set_oom_score_adj(i32::try_from(score).ok());

    let mut root = Root::default();
    root.set_path(PathBuf::new());
    root.set_readonly(security.and_then(|security| security.read_only_root_filesystem).filter(|only| *only));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned());
    spec.set_root(Some(root));
    spec.set_process(Some(process));
    spec.set_hostname(None);
    spec.set_annotations(None);
    spec.set_mounts(Some(mounts::mounts(pod, container, input.volumes, input.files, privileged)));
    spec.set_linux(Some(linux(input, privileged)));
    Ok(spec)
}

fn linux(input: Input<'_>, privileged: bool) -> Linux {
    let mut resources = container_limits(input.container).to_oci();
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(privileged);
    rule.set_access(Some("rwm".to_owned()));
    resources.set_devices(Some(vec![rule]));

    let mut linux = Linux::default();
    linux.set_resources(Some(resources));
    linux.set_namespaces(Some(namespaces(privileged)));
    linux.set_devices(privileged.then(|| input.host_devices.to_vec()));
    linux.set_seccomp(input.seccomp.cloned());
    let unmasked = privileged || security::unmasked_proc(input.container);
    let paths = |list: &[&str]| (!unmasked).then(|| list.iter().map(|path| (*path).to_owned()).collect());
    linux.set_masked_paths(paths(mounts::MASKED_PATHS));
    linux.set_readonly_paths(paths(mounts::READONLY_PATHS));
    linux.set_rootfs_propagation(None);
    linux
}

/// Only what is the container's own: network, ipc, uts and pid belong to the sandbox.
fn namespaces(privileged: bool) -> Vec<LinuxNamespace> {
    let mut kinds = vec![LinuxNamespaceType::Mount];
    if !privileged {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    kinds
        .into_iter()
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace.set_path(None);
            namespace
        })
        .collect()
}

/// The command line. A command replaces the image's entrypoint and drops its arguments; arguments replace its arguments.
fn args(
    container: &Container,
    image: &ImageConfig,
    env: &BTreeMap<String, String>,
) -> Result<Vec<String>, SpecError> {
    let expanded = |list: &Option<Vec<String>>| {
        let list = list.as_deref().unwrap_or_default();
        list.iter().map(|text| expand(text, |name| env.get(name).map(String::as_str))).collect::<Vec<_>>()
    };
    let (command, arguments) = (expanded(&container.command), expanded(&container.args));
    let mut line = if command.is_empty() { image.entrypoint.clone() } else { command.clone() };
    if arguments.is_empty() && command.is_empty() {
        line.extend(image.cmd.iter().cloned());
    } else {
        line.extend(arguments);
    }
    if line.is_empty() { Err(SpecError::NoCommand) } else { Ok(line) }
}

/// The image's variables, then the container's over them, then what every process expects to find.
fn environment(input: Input<'_>, tty: bool) -> Vec<String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str, replace: bool| match variables.iter_mut().find(|(n, _)| n == name)
    {
        Some((_, old)) if replace => value.clone_into(old),
        Some(_) => {}
        None => variables.push((name.to_owned(), value.to_owned())),
    };
    for variable in &input.image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value, true);
    }
    set("PATH", DEFAULT_PATH, false);
    set("HOSTNAME", input.hostname, true);
    if tty {
        set("TERM", "xterm", false);
    }
    for (name, value) in input.env {
        set(name, value, true);
    }
    set("HOME", &input.account.home, false);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn working_dir(container: &Container, image: &ImageConfig) -> PathBuf {
    let own = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = own.or(image.working_dir.as_deref()).filter(|dir| !dir.is_empty());
    PathBuf::from(dir.unwrap_or("/"))
}

/// Whom a container runs as, as its status says it.
pub fn user_status(pod: &Pod, account: &Account) -> LinuxContainerUser {
    LinuxContainerUser {
        uid: account.uid.into(),
        gid: account.gid.into(),
        supplemental_groups: Some(groups(pod, account).into_iter().map(i64::from).collect()),
    }
}

fn user(input: Input<'_>) -> User {
    let account = input.account;
    let mut user = User::default();
    user.set_uid(account.uid);
    user.set_gid(account.gid);
    user.set_additional_gids(Some(groups(input.pod, account)));
    user
}

/// The groups of a container's first process, the primary one among them.
fn groups(pod: &Pod, account: &Account) -> Vec<u32> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let strict = context.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict");
    let mut groups = vec![account.gid];
    if !strict {
        groups.extend(&account.image_groups);
    }
    if let Some(context) = context {
        let more = context.supplemental_groups.iter().flatten().chain(&context.fs_group);
        groups.extend(more.filter_map(|group| u32::try_from(*group).ok()));
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(*group));
    groups
}

/// Permitted and effective are what is allowed; nothing is inheritable, so that a program with file capabilities
/// gains no more than it should.
fn capability_sets(container: &Container) -> Result<LinuxCapabilities, SpecError> {
    let allowed = capabilities(container)?;
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(allowed.clone()));
    sets.set_effective(Some(allowed.clone()));
    sets.set_permitted(Some(allowed));
    sets.set_inheritable(None);
    sets.set_ambient(None);
    Ok(sets)
}

#[cfg(test)]
mod tests;
