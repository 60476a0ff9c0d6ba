//! Starting a container: environment, user, files and mounts are resolved, then the runtime is asked, then the postStart
//! hook runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::ErrorChain;
use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{Container, Pod};
use runtime::oci::{LinuxDevice, LinuxSeccomp};
use runtime::{ContainerSpec, ContainerState, LogSpec, Rootfs, StartContainerError};

use super::super::hash::container_hash;
use super::super::observe::{ContainerSeen, Exit, Failure, ProbesSeen, Role, RunState, containers};
use super::{Outcome, StartFailure, Started, failure};
use crate::context::Context;
use crate::env;
use crate::etc::{self, ResolvConf};
use crate::hooks;
use crate::machine::{Image, PodSandbox};
use crate::names::{self, label};
use crate::objects::Subscription;
use crate::spec::{
    self, Account, EtcFiles, ImageConfig, SeccompChoice, VolumeMountPlan, capabilities, effective_user,
    host_devices, privileged, seccomp_choice, verify_run_as_non_root, volume_mounts,
};
use crate::volume::mount;
use crate::volume::plan::{Kind, plan};

/// What upstream waits before it tries a container again that could not be made.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What a container is started from.
#[derive(Debug)]
pub(in super::super) struct StartInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) container: Container,
    pub(in super::super) image: Image,
    pub(in super::super) sandbox: Arc<dyn PodSandbox>,
    pub(in super::super) addresses: Vec<String>,
    pub(in super::super) objects: Subscription,
    pub(in super::super) attempt: u32,
    pub(in super::super) delay: Option<SignedDuration>,
    /// Runs that nobody asks about any more.
    pub(in super::super) obsolete: Vec<String>,
    /// The container whose processes it is to see.
    pub(in super::super) beside: Option<Beside>,
}

/// The container that an ephemeral one was made to look at.
#[derive(Debug)]
pub(in super::super) struct Beside {
    pub(in super::super) name: String,
    /// Its run, if it has one.
    pub(in super::super) id: Option<String>,
}

pub(in super::super) async fn start_container(input: StartInput) -> Outcome {
    let container = input.container.name.clone();
    Outcome::Started { container, result: start(input).await }
}

async fn start(mut input: StartInput) -> Result<Started, StartFailure> {
    let (context, pod) = (input.context.clone(), input.pod.clone());
    let name = input.container.name.clone();
    let fail = |reason: &str, message: String| {
        let text = format!("Error: {message}");
        context.events.container_warning(&pod, &name, "Failed", text);
        StartFailure::Retry(failure(reason, message, RETRY))
    };
    let config = |message: String| fail("CreateContainerConfigError", message);
    if let Some(Beside { name, id: None }) = &input.beside {
        return Err(config(format!("unable to find target container {name}")));
    }

    let objects = input.objects.snapshot().await;
    let (services, dropped) = context.service_variables(&pod).await;
    if !dropped.is_empty() {
        let message = format!(
            "the environment has no room for the variables of {} services: {}",
            dropped.len(),
            dropped.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        );
        context.events.warning(&pod, "TooManyServices", message);
    }
    let facts = context.downward(&input.addresses);
    let variables = env::resolve(env::Input {
        pod: &pod,
        container: &input.container,
        objects: &objects,
        facts: &facts,
        services: &services,
    })
    .map_err(|error| config(error.to_string()))?;
    verify_run_as_non_root(&pod, &input.container, &input.image.config)
        .map_err(|error| config(error.to_string()))?;
    let seccomp = seccomp_choice(&pod, &input.container).map_err(|error| config(error.to_string()))?;

    let filter = seccomp_filter(&context, &input.container, seccomp).await;
    let filter = filter.map_err(|message| fail("CreateContainerError", message))?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let prepared = tokio::task::spawn_blocking({
        let (context, pod) = (context.clone(), pod.clone());
        let (container, id, addresses) = (input.container.clone(), id.clone(), input.addresses.clone());
        let (layers, env) = (input.image.layers.clone(), variables.clone());
        move || prepare(&context, &pod, &container, &id, &addresses, layers, &env)
    });
    let prepared = match prepared.await {
        Ok(result) => result.map_err(|error| fail(error.reason(), ErrorChain(&error).to_string()))?,
        Err(error) => return Err(fail("CreateContainerError", error.to_string())),
    };
    let (user, group) = effective_user(&pod, &input.container, &input.image.config);
    let account = context.machine.images.account(prepared.rootfs.clone(), user).await;
    let mut account =
        account.map_err(|error| fail("CreateContainerError", ErrorChain(&error).to_string()))?;
    account.gid = group.unwrap_or(account.gid);

    let made = container_spec(&input, &prepared, &id, &variables, &account, filter.as_ref());
    let made = made.map_err(|error| match error {
        spec::SpecError::NoCommand => fail("CreateContainerError", error.to_string()),
        spec::SpecError::Security(_) => config(error.to_string()),
    })?;
    let labels = made.labels.clone();
    tracing::debug!(pod = %names::pod_id(&pod), container = name, id, attempt = input.attempt, "starting a container");
    let started = input.sandbox.start(made).await;
    let state = match started {
        Ok(state) => state,
        Err(error) => return Err(not_started(&input, &id, &fail, &error)),
    };
    let events = &context.events;
    events.container_normal(&pod, &name, "Created", format!("Created container: {name}"));
    events.container_normal(&pod, &name, "Started", format!("Started container {name}"));
    clean_up(&input).await;

    let run = run_of(&input, &id, &labels, &state);
    let hook = input.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    let hook_failure = match hook {
        Some(hook) => {
            let target = hooks::Target {
                sandbox: &*input.sandbox,
                container: &input.container,
                id: &id,
                address: input.addresses.first().map(String::as_str).unwrap_or_default(),
                http: &context.http,
            };
            hooks::run(hook, target).await.err().map(|error| {
                let message = format!("PostStartHook failed: {error}");
                context.events.container_warning(&pod, &name, "FailedPostStartHook", message.clone());
                message
            })
        }
        None => None,
    };
    Ok(Started { run: Box::new(run), hook_failure })
}

/// A program that cannot be executed is a run that ended at once; anything else is tried again and does not count.
fn not_started(
    input: &StartInput,
    id: &str,
    fail: &impl Fn(&str, String) -> StartFailure,
    error: &StartContainerError,
) -> StartFailure {
    let message = ErrorChain(error).to_string();
    if !matches!(error, StartContainerError::Exec { .. } | StartContainerError::Step { .. }) {
        return fail("CreateContainerError", message);
    }
    // Said, but not waited for: the back-off is that of a run.
    drop(fail("RunContainerError", message.clone()));
    let now = Timestamp::now();
    let exit = Exit {
        code: 128,
        reason: "StartError".to_owned(),
        message: Some(message),
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(now),
    };
    StartFailure::Ended(Box::new(ContainerSeen {
        id: id.to_owned(),
        attempt: input.attempt,
        in_sandbox: true,
        hash: container_hash(&input.container),
        image: input.container.image.clone().unwrap_or_default(),
        image_id: input.image.id.clone(),
        created_at: now,
        delay: input.delay,
        state: RunState::Exited(exit),
        probes: ProbesSeen::default(),
        hook_failed: false,
        stop_signal: String::new(),
        resources: None,
        user: None,
    }))
}

/// Why a container's files are not in place.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("creating {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Plan(#[from] crate::volume::plan::PlanError),
    #[error(transparent)]
    Mount(#[from] spec::MountError),
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath {
        volume: String,
        container: String,
        #[source]
        source: mount::MountError,
    },
    #[error(transparent)]
    Hostname(#[from] etc::HostnameTooLong),
}

impl PrepareError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Create { .. } => "CreateContainerError",
            Self::Plan(_) | Self::Mount(_) | Self::SubPath { .. } | Self::Hostname(_) => {
                "CreateContainerConfigError"
            }
        }
    }
}

/// What is on disk for a container.
#[derive(Debug)]
struct Prepared {
    rootfs: Rootfs,
    files: EtcFiles,
    volumes: Vec<VolumeMountPlan>,
    hostname: String,
    /// The node's devices, for a privileged container.
    devices: Vec<LinuxDevice>,
}

fn prepare(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    addresses: &[String],
    layers: Vec<PathBuf>,
    env: &BTreeMap<String, String>,
) -> Result<Prepared, PrepareError> {
    let uid = names::uid(pod);
    let pod_dir = context.layout.pod(uid);
    let layer = context.layout.rootfs(uid, id);
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    create_dir(&upper)?;
    create_dir(&work)?;
    create_dir(&context.layout.container_logs(pod, &container.name))?;

    let termination_log = pod_dir.join("containers").join(&container.name).join(id);
    write(&termination_log, b"", 0o666)?;
    let (hostname, files) = etc_files(context, pod, &pod_dir, addresses, termination_log)?;

    let plans = plan(pod, &pod_dir)?;
    let only_read = |kind: &Kind| matches!(kind, Kind::Image { .. } | Kind::Claim { read_only: true, .. });
    let is_fixed = |name: &str| plans.iter().any(|plan| plan.name == name && only_read(&plan.kind));
    let places = plans.iter().map(|volume| (volume.name.clone(), volume.path.clone())).collect();
    let mut volumes = volume_mounts(container, &places, env)?;
    // Others use the same files.
    volumes.iter_mut().filter(|mount| is_fixed(&mount.volume)).for_each(|mount| mount.read_only = true);
    let is_image =
        |name: &str| plans.iter().any(|plan| plan.name == name && matches!(plan.kind, Kind::Image { .. }));
    volumes.iter_mut().filter(|mount| is_image(&mount.volume)).for_each(|mount| mount.has_users = true);
    for (index, volume) in volumes.iter_mut().enumerate() {
        let Some(sub_path) = &volume.sub_path else { continue };
        let target = pod_dir.join("volume-subpaths").join(&container.name).join(index.to_string());
        mount::sub_path(&volume.source, sub_path, &target).map_err(|source| PrepareError::SubPath {
            volume: volume.volume.clone(),
            container: container.name.clone(),
            source,
        })?;
        volume.source = target;
    }
    let devices = if privileged(container) { host_devices(Path::new("/dev")) } else { Vec::new() };
    Ok(Prepared { rootfs: Rootfs::Overlay { lower: layers, upper, work }, files, volumes, hostname, devices })
}

/// Writes what all containers of a pod share; the same again for each of them.
fn etc_files(
    context: &Context,
    pod: &Pod,
    pod_dir: &Path,
    addresses: &[String],
    termination_log: PathBuf,
) -> Result<(String, EtcFiles), PrepareError> {
    let name = etc::hostname(pod, &context.node.hostname, &context.dns.domain)?;
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let host_file = host_network.then(|| fs::read_to_string("/etc/hosts").unwrap_or_default());
    let hosts = etc::hosts_file(pod, &name, addresses, host_file.as_deref());
    let host_conf = ResolvConf::parse(&fs::read_to_string(&context.resolv_conf).unwrap_or_default());
    let resolved = etc::pod_resolv_conf(pod, &host_conf, &context.dns);
    for warning in resolved.warnings {
        context.events.warning(pod, "DNSConfigForming", warning);
    }
    if resolved.missing_cluster_dns && context.client.is_some() {
        let message = format!(
            "pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
            names::pod_id(pod)
        );
        context.events.warning(pod, "MissingClusterDNS", message);
    }
    let dir = pod_dir.join("etc");
    let files = EtcFiles {
        hosts: Some(dir.join("hosts")),
        hostname: Some(dir.join("hostname")),
        resolv_conf: Some(dir.join("resolv.conf")),
        termination_log: Some(termination_log),
    };
    write(&dir.join("hosts"), hosts.as_bytes(), 0o644)?;
    write(&dir.join("hostname"), format!("{}\n", name.hostname).as_bytes(), 0o644)?;
    write(&dir.join("resolv.conf"), resolved.conf.render().as_bytes(), 0o644)?;
    Ok((name.hostname, files))
}

fn create_dir(path: &Path) -> Result<(), PrepareError> {
    fs::create_dir_all(path).map_err(|source| PrepareError::Create { path: path.to_owned(), source })
}

/// Writes in place: running containers have these files mounted, and a new file would not be theirs.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PrepareError> {
    let failed = |source| PrepareError::Create { path: path.to_owned(), source };
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    fs::write(path, content).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// The filter for system calls that was chosen; a profile of the node is read anew for every start.
async fn seccomp_filter(
    context: &Context,
    container: &Container,
    choice: SeccompChoice,
) -> Result<Option<LinuxSeccomp>, String> {
    match choice {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::RuntimeDefault => {
            let allowed = capabilities(container).map_err(|error| error.to_string())?;
            let allowed: Vec<_> = allowed.into_iter().collect();
            Ok(Some(runtime::seccomp::default_profile(&allowed)))
        }
        SeccompChoice::Localhost(name) => {
            let path = context.layout.seccomp_profiles().join(name);
            let failed = |error: &dyn std::fmt::Display| {
                format!("cannot load seccomp profile {:?}: {error}", path.display().to_string())
            };
            let bytes = tokio::fs::read(&path).await.map_err(|error| failed(&error))?;
            serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(&error))
        }
    }
}

fn container_spec(
    input: &StartInput,
    prepared: &Prepared,
    id: &str,
    env: &BTreeMap<String, String>,
    account: &Account,
    seccomp: Option<&LinuxSeccomp>,
) -> Result<ContainerSpec, spec::SpecError> {
    let StartInput { context, pod, container, image, .. } = input;
    let configuration = spec::spec(spec::Input {
        pod,
        container,
        image: &image.config,
        env,
        hostname: &prepared.hostname,
        account,
        volumes: &prepared.volumes,
        files: &prepared.files,
        seccomp,
        host_devices: &prepared.devices,
        memory_capacity: context.node.memory,
    })?;
    let mut labels = BTreeMap::from([
        (label::CONTAINER_NAME.to_owned(), container.name.clone()),
        (label::RESTART_COUNT.to_owned(), input.attempt.to_string()),
        (label::HASH.to_owned(), container_hash(container)),
        (label::IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
        (label::IMAGE_ID.to_owned(), image.id.clone()),
        (label::CREATED.to_owned(), Timestamp::now().to_string()),
        (label::STOP_SIGNAL.to_owned(), stop_signal(container, &image.config)),
    ]);
    let spec_of_pod = pod.spec.iter().flat_map(|spec| containers(spec).enumerate());
    let place =
        spec_of_pod.into_iter().find(|(_, (own, role))| own.name == container.name && *role == Role::Sidecar);
    if let Some((place, _)) = place {
        labels.insert(label::SIDECAR.to_owned(), place.to_string());
    }
    if let Some(hook) = hooks::keep(container, input.addresses.first().map_or("127.0.0.1", String::as_str)) {
        labels.insert(label::PRE_STOP.to_owned(), hook);
    }
    if let Some(delay) = input.delay {
        labels.insert(label::BACKOFF.to_owned(), delay.as_secs().to_string());
    }
    if let Ok(user) = serde_json::to_string(&spec::user_status(pod, account)) {
        labels.insert(label::USER.to_owned(), user);
    }
    if let Some(path) = &prepared.files.termination_log {
        labels.insert(label::TERMINATION_LOG.to_owned(), path.display().to_string());
    }
    let log = context.layout.container_logs(pod, &container.name).join(format!("{}.log", input.attempt));
    Ok(ContainerSpec {
        id: id.to_owned(),
        labels,
        spec: configuration,
        rootfs: prepared.rootfs.clone(),
        log: Some(LogSpec { path: log, max_size: context.logs.max_size, max_files: context.logs.max_files }),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        join_pid: input.beside.as_ref().and_then(|beside| beside.id.clone()),
    })
}

/// The signal that asks a container to end: its own, its image's, or the usual one.
fn stop_signal(container: &Container, image: &ImageConfig) -> String {
    let own = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    own.or_else(|| image.stop_signal.clone()).unwrap_or_else(|| "SIGTERM".to_owned())
}

fn run_of(
    input: &StartInput,
    id: &str,
    labels: &BTreeMap<String, String>,
    state: &ContainerState,
) -> ContainerSeen {
    let labels = if state.labels.is_empty() { labels } else { &state.labels };
    let mut run = super::super::runs::from_runtime(id, labels, &state.status, true, &Reader { input });
    run.resources = Some(super::resources_of(&input.container));
    run
}

/// A run that has just been started has no message yet, unless it has ended already.
struct Reader<'a> {
    input: &'a StartInput,
}

impl super::super::runs::Messages for Reader<'_> {
    fn message(&self, labels: &BTreeMap<String, String>, code: i32) -> Option<String> {
        let log = self
            .input
            .context
            .layout
            .container_logs(&self.input.pod, &self.input.container.name)
            .join(format!("{}.log", self.input.attempt));
        super::super::runs::termination_message(&self.input.container, labels, code, &log)
    }
}

/// Forgets runs that nobody asks about any more; the log of the run before this one stays.
async fn clean_up(input: &StartInput) {
    for id in &input.obsolete {
        if let Err(error) = input.sandbox.remove_container(id).await {
            tracing::warn!(id, error = %ErrorChain(&error), "removing a container that ended");
        }
    }
    if input.attempt == 0 {
        return;
    }
    let logs = input.context.layout.container_logs(&input.pod, &input.container.name);
    let layers: Vec<PathBuf> =
        input.obsolete.iter().map(|id| input.context.layout.rootfs(names::uid(&input.pod), id)).collect();
    let keep = input.attempt.saturating_sub(1);
    let cleaned = tokio::task::spawn_blocking(move || {
        for layer in layers {
            if let Err(error) = crate::disk::remove_tree(&layer) {
                tracing::warn!(path = %layer.display(), %error, "removing the files of a container that ended");
            }
        }
        for entry in fs::read_dir(&logs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.split_once('.')?.0.parse::<u32>().ok());
            if number.is_some_and(|number| number < keep) {
                let _ = fs::remove_file(entry.path());
            }
        }
    });
    // Only fails when the process is stopping.
    let _ = cleaned.await;
}

impl From<Failure> for StartFailure {
    fn from(failure: Failure) -> Self {
        Self::Retry(failure)
    }
}
