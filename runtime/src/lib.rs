//! Containers natively: namespaces, cgroups, mounts, seccomp, and one keeper process per sandbox.
//!
//! The runtime knows OCI and no Kubernetes. A *sandbox* is a set of shared namespaces and a cgroup, held by
//! a *keeper*: a small single-threaded process that is the parent and reaper of the sandbox's containers,
//! writes their logs (CRI format), keeps their exit codes and outlives whoever asked for it. A container
//! is described by an OCI runtime [`oci_spec::runtime::Spec`].
//!
//! [`Runtime`] finds living sandboxes again after a restart: what it must know is in the kernel and in small
//! files under its run and state directories.
//!
//! ```text
//!   caller (tokio)                         keeper, one per sandbox             container
//!   ┌──────────────────────────┐  socket   ┌───────────────────────┐  clone3   ┌─────────────────┐
//!   │ Runtime, Sandbox         │──────────▶│ epoll, pidfds, pipes  │──────────▶│ runs the plan   │
//!   │ Spec → plan (pure)       │  a plan,  │ logs, exit records    │  a step   │ step by step,   │
//!   │ cgroups: limits, figures │  fds back │ netns, ipc, uts, shm  │◀──────────│ then execve     │
//!   └──────────────────────────┘           └───────────────────────┘  at fault └─────────────────┘
//! ```
//!
//! All decisions are made by the caller's side, as values: the keeper receives a flat plan that is already
//! computed, and has neither the OCI specification nor a seccomp compiler in its memory.

pub mod cgroup;
pub mod check;
mod child;
mod error;
mod exec;
#[cfg(fuzzing)]
pub mod fuzz;
mod idmap;
pub mod keeper;
mod kernel;
mod link;
pub mod oci;
mod plan;
mod prepare;
mod protocol;
mod records;
mod runtime;
mod sandbox;
mod seal;
pub mod seccomp;
mod spec;
mod state;
mod stream;
mod sys;
pub mod user;
mod watcher;

pub use error::{
    CreateSandboxError, ErrorClass, ExecError, InvalidId, OpenError, RemoveError, RequestError,
    StartContainerError,
};
pub use exec::{Attach, Exec};
pub use idmap::mapped_tree;
pub use runtime::Runtime;
pub use sandbox::Sandbox;
pub use spec::{
    Config, ContainerSpec, ExecSpec, LogSpec, NamespaceMode, NetworkMode, PidMode, Rootfs, SandboxSpec,
    Signal, UnknownSignal, Users, WindowSize,
};
pub use state::{ContainerState, ContainerStatus, Exit, SandboxEvent, SandboxState, Stats};
pub use stream::{ReadStream, WriteStream};
