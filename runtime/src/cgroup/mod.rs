//! Control groups: where they are, who is in them, limits, figures.
//!
//! ```text
//!   <hierarchy>/<parent>/keepers                   all keepers of this runtime
//!   <hierarchy>/<parent>/<sandbox path>            a sandbox: limits for all its containers together
//!   <hierarchy>/<parent>/<sandbox path>/<id>       a container
//! ```
//!
//! Works on v1 (controllers mounted alone or together), on v2, and on the mixture of both, in which v2 brings
//! `cgroup.kill`, `cgroup.freeze` and cloning into a cgroup even if it has no useful controller. Trees and
//! limits go through the `cgroups-rs` crate; beside it, written directly, is what it cannot do or what would
//! cost a start milliseconds.
//!
//! Moving a process between v1 cgroups through `cgroup.procs` waits for an RCU grace period, 4–15 ms on an idle
//! machine, because the kernel must stop all forks while it moves a group of threads. A thread that moves
//! *itself*, by writing `0` to `tasks`, cannot fork meanwhile, and the kernel spares the wait. New processes
//! have one thread, so that is how they enter their cgroups.

mod device_program;
mod layout;
mod limits;
mod stats;
mod tree;
mod within;

use std::io;
use std::path::PathBuf;

pub use layout::{Hierarchy, Layout, Mode};
pub(crate) use limits::{apply, apply_devices};
pub(crate) use stats::{oom_kills, stats};
#[cfg(test)]
pub(crate) use tree::View;
pub(crate) use tree::{KEEPERS, Placement, Tree};
pub(crate) use within::Choice;

/// Working with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup hierarchy is mounted.
    #[error("no cgroup file system is mounted")]
    NotMounted,
    /// A controller is needed for what was asked, and the machine does not have it.
    #[error("{what} needs the cgroup controller {controller:?}, which is not available here")]
    NoController {
        /// The controller.
        controller: &'static str,
        /// What needs it.
        what: &'static str,
    },
    /// A value that no cgroup takes.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the resources.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or directory operation failed.
    #[error("{what} {path}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("setting {what} of {path}")]
    Limit {
        /// The limit.
        what: &'static str,
        /// The cgroup, below its hierarchies.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<cgroups_rs::fs::error::Error>,
    },
}
