//! The machine as it is: the runtime, the image store and the pod network of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use network::{HostPort, Network};
use runtime::cgroup::CgroupError;
use runtime::oci::LinuxResources;
use runtime::{
    Attach, ContainerSpec, ContainerState, CreateSandboxError, Exec, ExecError, ExecSpec, Exit, ReadStream,
    RemoveError, RequestError, Runtime, Sandbox, SandboxEvent, SandboxSpec, SandboxState, Signal,
    StartContainerError, Stats,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::broadcast;

use super::{CommandOutput, PodNetwork, PodSandbox, RunError, Sandboxes};

/// How much of a command's output is kept; the rest is read and dropped, so that the command does not block.
const MAX_OUTPUT: usize = 10 << 10;
/// How long output is waited for after a command has ended.
const LINGER: Duration = Duration::from_millis(200);

#[async_trait]
impl Sandboxes for Arc<Runtime> {
    async fn list(&self) -> Vec<Arc<dyn PodSandbox>> {
        let sandboxes = self.sandboxes().await;
        sandboxes.into_iter().map(|sandbox| Arc::new(RealSandbox(sandbox)) as Arc<dyn PodSandbox>).collect()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn PodSandbox>, CreateSandboxError> {
        Ok(Arc::new(RealSandbox(self.create_sandbox(spec).await?)))
    }

    fn limit(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.ensure_cgroup(path, resources)
    }
}

/// A sandbox of the runtime as pods have it.
pub(crate) fn sandbox(sandbox: Arc<Sandbox>) -> Arc<dyn PodSandbox> {
    Arc::new(RealSandbox(sandbox))
}

#[derive(Debug)]
struct RealSandbox(Arc<Sandbox>);

#[async_trait]
impl PodSandbox for RealSandbox {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        self.0.labels()
    }

    fn is_ready(&self) -> bool {
        self.0.state() == SandboxState::Ready
    }

    fn netns(&self) -> io::Result<OwnedFd> {
        self.0.netns()
    }

    fn events(&self) -> broadcast::Receiver<SandboxEvent> {
        self.0.events()
    }

    async fn containers(&self) -> Result<Vec<ContainerState>, RequestError> {
        self.0.containers().await
    }

    async fn start(&self, spec: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        self.0.start(spec).await
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<(), RequestError> {
        self.0.signal(container, signal).await
    }

    async fn kill(&self, container: &str) -> Result<(), RequestError> {
        self.0.kill(container).await
    }

    async fn wait(&self, container: &str) -> Result<Exit, RequestError> {
        self.0.wait(container).await
    }

    async fn remove_container(&self, container: &str) -> Result<(), RemoveError> {
        self.0.remove_container(container).await
    }

    async fn exec(&self, container: &str, spec: ExecSpec) -> Result<Exec, ExecError> {
        self.0.exec(container, spec).await
    }

    async fn run(
        &self,
        container: &str,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<CommandOutput, RunError> {
        let mut exec = self.0.exec(container, ExecSpec { argv, ..ExecSpec::default() }).await?;
        let (stdout, stderr) = (exec.stdout.take(), exec.stderr.take());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let finished = async {
            let streams = async {
                tokio::join!(beginning(stdout, &mut output), beginning(stderr, &mut errors));
            };
            let mut streams = std::pin::pin!(streams);
            let code = tokio::select! {
                () = &mut streams => exec.wait().await?,
                code = exec.wait() => {
                    // Something that the command left in the background may hold the streams open.
                    let _ = tokio::time::timeout(LINGER, streams).await;
                    code?
                }
            };
            Ok(code)
        };
        match tokio::time::timeout(timeout, finished).await {
            Ok(Ok(code)) => {
                output.append(&mut errors);
                output.truncate(MAX_OUTPUT);
                Ok(CommandOutput { code, output })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                // A probe that hangs must not pile up processes in the container.
                let _ = exec.signal(Signal::KILL).await;
                Err(RunError::Timeout(timeout))
            }
        }
    }

    async fn attach(&self, container: &str) -> Result<Attach, RequestError> {
        self.0.attach(container).await
    }

    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), RequestError> {
        self.0.update(container, resources).await
    }

    async fn stats(&self, container: &str) -> Result<Stats, RequestError> {
        self.0.stats(container).await
    }

    async fn sandbox_stats(&self) -> Result<Stats, RequestError> {
        self.0.sandbox_stats().await
    }

    async fn remove(&self) -> Result<(), RemoveError> {
        self.0.remove().await
    }
}

/// Reads a stream to its end and keeps its beginning.
async fn beginning(stream: Option<ReadStream>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(
        &self,
        netns: OwnedFd,
        id: &str,
        ports: &[HostPort],
    ) -> Result<Vec<String>, network::Error> {
        let attachment = Network::attach(self, netns.as_fd(), id, "eth0").await?;
        if !ports.is_empty() {
            self.publish(id, ports).await?;
        }
        Ok(vec![attachment.address.to_string()])
    }

    async fn detach(&self, id: &str) -> Result<(), network::Error> {
        Network::detach(self, id).await
    }

    async fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, network::Error> {
        Network::reconcile(self, live).await
    }
}
