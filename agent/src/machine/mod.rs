//! What pods' workers need of the machine: sandboxes, images, a network, a proxy. The real ones are in [`real`], and
//! tests have their own, so that a pod's whole life can be played through without root.

#[cfg(test)]
pub(crate) mod fake;
pub mod real;
pub mod store_images;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use network::HostPort;
use runtime::cgroup::CgroupError;
use runtime::oci::LinuxResources;
use runtime::{
    Attach, ContainerSpec, ContainerState, CreateSandboxError, Exec, ExecError, ExecSpec, Exit, RemoveError,
    RequestError, Rootfs, SandboxEvent, SandboxSpec, Signal, StartContainerError, Stats,
};
use tokio::sync::broadcast;

use crate::spec::{Account, ImageConfig};

/// The machine that pods run on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Namespaces and processes.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// File systems.
    pub images: Arc<dyn Images>,
    /// Addresses.
    pub network: Arc<dyn PodNetwork>,
    /// Who has to know that a pod is about to go.
    pub departures: Arc<dyn Departures>,
}

/// All sandboxes of the machine.
#[async_trait]
pub trait Sandboxes: Debug + Send + Sync {
    /// Those that are there, dead ones included.
    async fn list(&self) -> Vec<Arc<dyn PodSandbox>>;

    /// Makes one.
    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn PodSandbox>, CreateSandboxError>;

    /// Limits a cgroup that sandboxes are in, by its path below the parent of all.
    fn limit(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError>;
}

/// The sandbox of a pod.
#[async_trait]
pub trait PodSandbox: Debug + Send + Sync {
    /// Its id.
    fn id(&self) -> &str;
    /// What was to be remembered about it.
    fn labels(&self) -> &BTreeMap<String, String>;
    /// Whether something can run in it.
    fn is_ready(&self) -> bool;
    /// Its network namespace.
    fn netns(&self) -> io::Result<OwnedFd>;
    /// What happens in it from now on.
    fn events(&self) -> broadcast::Receiver<SandboxEvent>;
    /// Its containers, ended ones included.
    async fn containers(&self) -> Result<Vec<ContainerState>, RequestError>;
    /// Starts a container.
    async fn start(&self, spec: ContainerSpec) -> Result<ContainerState, StartContainerError>;
    /// Signals a container's first process.
    async fn signal(&self, container: &str, signal: Signal) -> Result<(), RequestError>;
    /// Kills all of a container's processes.
    async fn kill(&self, container: &str) -> Result<(), RequestError>;
    /// Waits for a container's end.
    async fn wait(&self, container: &str) -> Result<Exit, RequestError>;
    /// Forgets a container.
    async fn remove_container(&self, container: &str) -> Result<(), RemoveError>;
    /// Runs a process in a container, with streams.
    async fn exec(&self, container: &str, spec: ExecSpec) -> Result<Exec, ExecError>;
    /// Runs a command in a container and collects what it says.
    async fn run(
        &self,
        container: &str,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<CommandOutput, RunError>;
    /// Joins a container's streams.
    async fn attach(&self, container: &str) -> Result<Attach, RequestError>;
    /// Holds a running container to other limits.
    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), RequestError>;
    /// What a container uses.
    async fn stats(&self, container: &str) -> Result<Stats, RequestError>;
    /// What all of them use.
    async fn sandbox_stats(&self) -> Result<Stats, RequestError>;
    /// Kills and removes everything.
    async fn remove(&self) -> Result<(), RemoveError>;
}

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Exit code.
    pub code: i32,
    /// The beginning of what it wrote to both streams.
    pub output: Vec<u8>,
}

/// A command that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// It could not be followed.
    #[error(transparent)]
    Wait(#[from] RequestError),
    /// It takes too long; it was killed.
    #[error("command timed out after {}s", .0.as_secs())]
    Timeout(Duration),
}

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers as directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// Bytes on disk.
    pub size: u64,
}

/// An image as the node's status lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// As [`Image::id`].
    pub id: String,
    /// It came from a registry, and can be had from there again.
    pub pulled: bool,
    /// All its names.
    pub names: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
}

/// Who asks a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// An image that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Not the name of an image.
    #[error("couldn't parse image name {name:?}: {reason}")]
    Name {
        /// As given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store could not be read.
    #[error("{0}")]
    Inspect(String),
    /// It could not be pulled.
    #[error("{0}")]
    Pull(String),
}

/// The images of the machine.
#[async_trait]
pub trait Images: Debug + Send + Sync {
    /// An image by name, if it is here.
    async fn find(&self, name: &str) -> Result<Option<Image>, ImageError>;
    /// Fetches an image; each of the credentials that fit the registry is tried.
    async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<Image, ImageError>;
    /// The registry that an image name leads to, for choosing credentials.
    fn registry(&self, name: &str) -> Option<String>;
    /// All images.
    async fn list(&self) -> Vec<ImageSummary>;
    /// Removes images by their ids, and all content that no image needs then. Content of images in use stays.
    async fn remove(&self, ids: &[String], in_use: &BTreeSet<String>) -> Result<(), ImageError>;
    /// Looks a user up in a container's files.
    async fn account(&self, rootfs: Rootfs, user: String) -> Result<Account, runtime::user::UserError>;
}

/// The pod network of the machine.
#[async_trait]
pub trait PodNetwork: Debug + Send + Sync {
    /// Attaches a network namespace, or finds it attached; gives its addresses, the primary one first.
    async fn attach(
        &self,
        netns: OwnedFd,
        id: &str,
        ports: &[HostPort],
    ) -> Result<Vec<String>, network::Error>;
    /// Detaches what was attached under this id.
    async fn detach(&self, id: &str) -> Result<(), network::Error>;
    /// Detaches everything else.
    async fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, network::Error>;
}

/// Who sends connections to pods, and has to stop before they go.
#[async_trait]
pub trait Departures: Debug + Send + Sync {
    /// Returns when no new connection will be sent to the pod with this uid and these addresses, or when nobody answers
    /// in time.
    async fn leaving(&self, pod_uid: &str, addresses: &[String]);
}

/// Nobody sends connections to pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProxy;

#[async_trait]
impl Departures for NoProxy {
    async fn leaving(&self, _: &str, _: &[String]) {}
}
