//! What is seen of one pod at one moment: plain values, made by the worker, read by [`decide`](super::decide) and
//! [`status`](super::status).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{
    Container, LinuxContainerUser, Pod, PodSpec, PodStatus, ResourceRequirements,
};
use manifests::resources::is_sidecar;

use super::decide::PodFailure;
use super::resize::Resizing;

/// One snapshot with everything that a decision needs, the time included.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What is wanted.
    pub pod: Arc<Pod>,
    /// When this was seen.
    pub now: Timestamp,
    /// Whether it is to run.
    pub intent: Intent,
    /// The pod's sandbox.
    pub sandbox: SandboxSeen,
    /// Runs of each container, by name, the newest first; those in earlier sandboxes included.
    pub containers: BTreeMap<String, Vec<ContainerSeen>>,
    /// Images of containers that are about to start, by container.
    pub images: BTreeMap<String, ImageSeen>,
    /// Whether volumes are in place.
    pub volumes: StepSeen,
    /// Containers that could not be started, and why.
    pub failures: BTreeMap<String, Failure>,
    /// What the worker is doing.
    pub in_progress: BTreeSet<Operation>,
    /// Why the pod has to go although it is wanted, if it has to.
    pub evicted: Option<PodFailure>,
    /// The proxy sends no new connections to the pod.
    pub left: bool,
    /// Nothing of the pod is left in the kernel.
    pub torn_down: bool,
    /// The server has been told that the pod is gone.
    pub confirmed: bool,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Other resources that it is wanted with, if it is.
    pub resizing: Option<Resizing>,
    /// Containers, by id, that could not be given other resources.
    pub resize_failures: BTreeMap<String, Failure>,
    /// The last status that was computed, or what the API or the disk remembers of it.
    pub last_status: PodStatus,
}

/// Whether a pod is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It is to run.
    Run,
    /// It is to go.
    Stop(Stop),
}

/// How a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// When this was asked for.
    pub since: Timestamp,
    /// How long its processes may take.
    pub grace: SignedDuration,
    /// Nobody holds an object for it any more: there is no status to write.
    pub removed: bool,
}

impl Stop {
    /// When processes are killed.
    pub fn deadline(&self) -> Timestamp {
        self.since.saturating_add(self.grace).unwrap_or(Timestamp::MAX)
    }
}

/// A pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxSeen {
    /// There is none.
    None,
    /// Its namespaces are there, its network included.
    Ready {
        /// How many came before it.
        attempt: u32,
    },
    /// Its keeper died, and all its processes with it.
    Dead {
        /// How many came before it.
        attempt: u32,
    },
    /// It could not be made.
    Failed(Failure),
}

impl SandboxSeen {
    /// The number of the sandbox that is there.
    pub fn attempt(&self) -> Option<u32> {
        match self {
            Self::Ready { attempt } | Self::Dead { attempt } => Some(*attempt),
            Self::None | Self::Failed(_) => None,
        }
    }
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSeen {
    /// The runtime's name for it.
    pub id: String,
    /// How many runs came before it.
    pub attempt: u32,
    /// It belongs to the sandbox that is there now.
    pub in_sandbox: bool,
    /// Hash of the definition that it was made from.
    pub hash: String,
    /// The image, as the pod named it.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// How long to wait after its end.
    pub delay: Option<SignedDuration>,
    /// Where it is in its life.
    pub state: RunState,
    /// What its probes say.
    pub probes: ProbesSeen,
    /// Its postStart hook failed.
    pub hook_failed: bool,
    /// The signal that asks it to end.
    pub stop_signal: String,
    /// What it is held to; `None` if that is not known.
    pub resources: Option<ResourceRequirements>,
    /// Whom its first process was started as.
    pub user: Option<LinuxContainerUser>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum RunState {
    /// Made, not started.
    Created,
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code.
    pub code: i32,
    /// One word, for example `OOMKilled`.
    pub reason: String,
    /// What it had to say.
    pub message: Option<String>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl ContainerSeen {
    /// Whether there is a process, or may be one soon.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, RunState::Exited(_))
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            RunState::Exited(exit) => Some(exit),
            RunState::Created | RunState::Running { .. } => None,
        }
    }
}

/// Results of a container's probes. `None`: there is no such probe, or no result yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbesSeen {
    /// Startup.
    pub startup: Option<bool>,
    /// Liveness.
    pub liveness: Option<bool>,
    /// Readiness.
    pub readiness: Option<bool>,
}

/// What is known of the image that a container needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSeen {
    /// It is there, and may be used for the next start.
    Ready,
    /// It could not be had.
    Failed {
        /// For the first moment, and for what asks.
        first: Failure,
        /// While waiting for the next try; `None` for an error that waiting does not change.
        waiting: Option<(String, String)>,
        /// When `waiting` takes over.
        flip_at: Timestamp,
    },
}

/// A step that can fail and is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepSeen {
    /// Not done.
    Todo,
    /// Done.
    Done,
    /// Done, and good to use, but what it was made from has changed since.
    Stale {
        /// When to do it again.
        retry_at: Timestamp,
    },
    /// Tried.
    Failed(Failure),
}

/// Something that failed, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// What the worker can be doing; each at most once at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Making the sandbox and its network.
    Sandbox,
    /// Making volumes.
    Volumes,
    /// Getting the image of a container.
    Image(String),
    /// Starting a container, its postStart hook included.
    Start(String),
    /// Stopping the container with this id.
    Stop(String),
    /// Changing what the container with this id may use.
    Resize(String),
    /// Telling the proxy.
    Leave,
    /// Removing everything from the kernel.
    TearDown,
    /// Telling the server.
    Confirm,
}

/// The part that a container has in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// Starts in the order of init containers, runs beside the others.
    Sidecar,
    /// The pod is there for these.
    App,
    /// Put into the pod while it runs, to look at it; never runs again.
    Ephemeral,
}

/// The containers that were put into the pod while it runs, as containers like any other.
pub fn ephemeral(spec: &PodSpec) -> Vec<Container> {
    let list = spec.ephemeral_containers.iter().flatten();
    // They have all fields of a container and one more.
    list.filter_map(|own| serde_json::from_value(serde_json::to_value(own).ok()?).ok()).collect()
}

/// All containers with their roles, in the order in which they start.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, Role)> {
    let role = |container: &Container| if is_sidecar(container) { Role::Sidecar } else { Role::Init };
    let init = spec.init_containers.iter().flatten().map(move |container| (container, role(container)));
    init.chain(spec.containers.iter().map(|container| (container, Role::App)))
}

impl Observed {
    /// The pod's spec; one without is empty.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// The newest run of a container.
    pub fn newest(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.get(name).and_then(|runs| runs.first())
    }

    /// The newest run of a container in the sandbox that is there now.
    pub fn current(&self, name: &str) -> Option<&ContainerSeen> {
        self.newest(name).filter(|run| run.in_sandbox)
    }

    /// Whether an operation is under way.
    pub fn is_busy(&self, operation: &Operation) -> bool {
        self.in_progress.contains(operation)
    }

    /// Whether a container's process runs and has begun its work: its startup probe and its postStart hook are over.
    pub fn is_started(&self, container: &Container, run: &ContainerSeen) -> bool {
        matches!(run.state, RunState::Running { .. })
            && !run.hook_failed
            && (container.startup_probe.is_none() || run.probes.startup == Some(true))
            && !self.is_busy(&Operation::Start(container.name.clone()))
    }
}
