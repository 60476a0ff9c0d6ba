//! Names of things: how a pod is called in messages, labels on sandboxes and containers, directories.

use std::path::{Path, PathBuf};

use manifests::k8s_openapi::api::core::v1::Pod;

/// Labels that the runtime keeps for us.
pub mod label {
    /// uid of the pod.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of the pod.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Namespace of the pod.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Name of the container.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// How often a container of this name was started before in this pod.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Hash of the part of the container's definition that cannot change without a restart.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// The image, as the pod names it.
    pub const IMAGE: &str = "coracle.image";
    /// The image's id.
    pub const IMAGE_ID: &str = "coracle.image-id";
    /// Seconds to wait when this container ends.
    pub const BACKOFF: &str = "coracle.backoff";
    /// When the container was created, RFC 3339.
    pub const CREATED: &str = "coracle.created";
    /// Where the container writes why it ends, on the node.
    pub const TERMINATION_LOG: &str = "coracle.termination-log";
    /// The signal that asks it to end.
    pub const STOP_SIGNAL: &str = "coracle.stop-signal";
    /// The container's preStop hook, which needs nothing else to be run.
    pub const PRE_STOP: &str = "coracle.pre-stop";
    /// Whom the container's first process runs as, as statuses have it.
    pub const USER: &str = "coracle.user";
    /// How many sandboxes the pod had before this one.
    pub const ATTEMPT: &str = "coracle.sandbox-attempt";
    /// The pod's priority.
    pub const PRIORITY: &str = "coracle.priority";
    /// Seconds that the pod has to end.
    pub const GRACE: &str = "coracle.grace-period";
    /// Of a sidecar: how many containers start before it. Sidecars end after the others, the last one first.
    pub const SIDECAR: &str = "coracle.sidecar";
    /// When the sandbox was created, RFC 3339.
    pub const SANDBOX_CREATED: &str = "coracle.sandbox-created";
}

/// Annotations on static pods and their mirrors.
pub mod annotation {
    /// Where the pod comes from: `file`, `http` or `api`.
    pub const SOURCE: &str = "kubernetes.io/config.source";
    /// Hash of the manifest.
    pub const HASH: &str = "kubernetes.io/config.hash";
    /// Hash of the manifest that a mirror pod shows.
    pub const MIRROR: &str = "kubernetes.io/config.mirror";
    /// When the pod was seen first.
    pub const SEEN: &str = "kubernetes.io/config.seen";
}

/// `metadata.uid`.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `metadata.namespace`.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// A pod in messages: `name_namespace(uid)`.
pub fn pod_id(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// What a static pod and its mirror share: `name_namespace`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}", name(pod), namespace(pod))
}

/// An annotation's value.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod in the API stands for one that comes from elsewhere.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, annotation::MIRROR).is_some()
}

/// Whether the pod comes from a file or a URL.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, annotation::SOURCE).is_some_and(|source| source != "api")
}

/// Where things of pods are on disk.
///
/// ```text
///   <data>/pods/<uid>/{etc/, volumes/, containers/<name>/, rootfs/<container id>/, status.json}
///   <data>/logs/pods/<namespace>_<name>_<uid>/<container>/<restart count>.log
///   <data>/agent/{pods/<uid>.json, objects/…}
/// ```
#[derive(Debug, Clone)]
pub struct Layout {
    data_dir: PathBuf,
}

impl Layout {
    /// The layout below a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into() }
    }

    /// The directory of all pods' directories.
    pub fn pods(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// A pod's directory.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The writable layers of a container.
    pub fn rootfs(&self, uid: &str, container_id: &str) -> PathBuf {
        self.pod(uid).join("rootfs").join(container_id)
    }

    /// The directory of all pods' logs.
    pub fn logs(&self) -> PathBuf {
        self.data_dir.join("logs").join("pods")
    }

    /// A pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs().join(format!("{namespace}_{name}_{uid}"))
    }

    /// A container's logs.
    pub fn container_logs(&self, pod: &Pod, container: &str) -> PathBuf {
        self.pod_logs(namespace(pod), name(pod), uid(pod)).join(container)
    }

    /// Seccomp profiles that pods may name.
    pub fn seccomp_profiles(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }

    /// What the agent itself remembers.
    pub fn agent(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    /// The data directory itself.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}
