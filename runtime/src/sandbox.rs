//! The runtime, its sandboxes, and what can be done with their containers.

#![expect(clippy::todo, unused_variables, dead_code, reason = "signatures first; the bodies follow at once")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use tokio::sync::broadcast;

use crate::error::{
    CreateSandboxError, ExecError, OpenError, RemoveError, RequestError, StartContainerError,
};
use crate::spec::{Config, ContainerSpec, ExecSpec, SandboxSpec, Signal, WindowSize};
use crate::state::{ContainerState, Exit, SandboxEvent, SandboxState, Stats};
use crate::stream::{ReadStream, WriteStream};

/// The container runtime of one machine, or one of several that share it.
#[derive(Debug)]
pub struct Runtime {
    config: Config,
}

impl Runtime {
    /// Opens a runtime on its directories, which are created as needed.
    pub fn open(config: Config) -> Result<Arc<Runtime>, OpenError> {
        todo!()
    }

    /// All sandboxes. Connects to those whose keeper lives; what a dead keeper has left running is killed and
    /// cleaned away, and its sandbox is given as [`SandboxState::Dead`] until it is removed.
    pub async fn sandboxes(self: &Arc<Self>) -> Vec<Arc<Sandbox>> {
        todo!()
    }

    /// Creates a sandbox: its cgroup, its namespaces and the keeper that holds them.
    pub async fn create_sandbox(
        self: &Arc<Self>,
        spec: SandboxSpec,
    ) -> Result<Arc<Sandbox>, CreateSandboxError> {
        todo!()
    }
}

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    spec: SandboxSpec,
}

impl Sandbox {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// What the caller wanted remembered.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    /// The whole description that it was created from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Whether its keeper lives.
    pub fn state(&self) -> SandboxState {
        todo!()
    }

    /// The keeper's process, while it lives.
    pub fn keeper_pid(&self) -> Option<u32> {
        todo!()
    }

    /// A handle on its network namespace.
    pub fn netns(&self) -> io::Result<OwnedFd> {
        todo!()
    }

    /// Its containers, ended ones included until they are removed.
    pub async fn containers(&self) -> Result<Vec<ContainerState>, RequestError> {
        todo!()
    }

    /// Creates a container and starts its program.
    pub async fn start(&self, container: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        todo!()
    }

    /// Creates a container and stops short of starting its program.
    pub async fn create(&self, container: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        todo!()
    }

    /// Starts the program of a created container.
    pub async fn start_created(&self, container: &str) -> Result<ContainerState, StartContainerError> {
        todo!()
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, container: &str, signal: Signal) -> Result<(), RequestError> {
        todo!()
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill(&self, container: &str) -> Result<(), RequestError> {
        todo!()
    }

    /// Waits until the container has ended.
    pub async fn wait(&self, container: &str) -> Result<Exit, RequestError> {
        todo!()
    }

    /// Kills what is left of the container and forgets it, its exit record included. Not an error if it is
    /// not there.
    pub async fn remove_container(&self, container: &str) -> Result<(), RemoveError> {
        todo!()
    }

    /// Runs a process in a running container.
    pub async fn exec(&self, container: &str, spec: ExecSpec) -> Result<Exec, ExecError> {
        todo!()
    }

    /// Connects to a running container's streams. Output that the container writes from now on is copied to
    /// the returned streams as well as to the log; a reader that falls a mebibyte behind is cut off, so that it
    /// cannot hold the container up.
    pub async fn attach(&self, container: &str) -> Result<Attach, RequestError> {
        todo!()
    }

    /// Changes a running container's limits. What `resources` does not mention stays as it is.
    pub async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), RequestError> {
        todo!()
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, container: &str) -> Result<(), RequestError> {
        todo!()
    }

    /// Thaws a paused container.
    pub async fn resume(&self, container: &str) -> Result<(), RequestError> {
        todo!()
    }

    /// What the container uses.
    pub async fn stats(&self, container: &str) -> Result<Stats, RequestError> {
        todo!()
    }

    /// What all containers of the sandbox use together.
    pub async fn sandbox_stats(&self) -> Result<Stats, RequestError> {
        todo!()
    }

    /// What happens from now on. A receiver that falls 256 events behind is told that it did
    /// (`RecvError::Lagged`) and should look at [`Sandbox::containers`].
    pub fn events(&self) -> broadcast::Receiver<SandboxEvent> {
        todo!()
    }

    /// Kills whatever runs, removes cgroups, namespaces and records, and ends the keeper. Safe to repeat, and
    /// also works on a dead sandbox.
    pub async fn remove(&self) -> Result<(), RemoveError> {
        todo!()
    }
}

/// A process that was started in a container by [`Sandbox::exec`]. Dropping it does not end the process.
#[derive(Debug)]
pub struct Exec {
    /// Standard input, if it was asked for. With a terminal, dropping it closes nothing.
    pub stdin: Option<WriteStream>,
    /// Standard output, or the terminal's output.
    pub stdout: Option<ReadStream>,
    /// Standard error; none with a terminal.
    pub stderr: Option<ReadStream>,
}

impl Exec {
    /// Its process, as the host numbers it.
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// Sets the size of its terminal. Nothing happens if it has none.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        todo!()
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: Signal) -> Result<(), RequestError> {
        todo!()
    }

    /// Waits for its end; gives the exit code, or 128 plus the number of the signal that ended it.
    /// Cancel safe.
    pub async fn wait(&mut self) -> Result<i32, RequestError> {
        todo!()
    }
}

/// A container's streams, shared with its log and with other clients.
#[derive(Debug)]
pub struct Attach {
    /// Standard input, if the container was created with one.
    pub stdin: Option<WriteStream>,
    /// What the container writes to standard output or its terminal from now on.
    pub stdout: Option<ReadStream>,
    /// What it writes to standard error; none with a terminal.
    pub stderr: Option<ReadStream>,
    terminal: Option<OwnedFd>,
}

impl Attach {
    /// Sets the size of the container's terminal. Nothing happens if it has none.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        todo!()
    }
}
