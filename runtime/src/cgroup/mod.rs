//! Control groups: where they are, limits, figures.

use std::io;
use std::path::PathBuf;

/// Working with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup hierarchy is mounted.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    NotMounted,
    /// A controller is needed for what was asked, and the machine does not have it.
    #[error("{what} needs the cgroup controller {controller:?}, which this machine does not offer")]
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
}
