//! What is seen of sandboxes and containers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Whether a sandbox can still do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// Its keeper lives.
    Ready,
    /// Its keeper is gone (killed, or the machine was restarted). Nothing of it runs any more; its
    /// containers' states can still be read, and [`Sandbox::remove`](crate::Sandbox::remove) forgets it.
    Dead,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The exit code; 128 plus the signal's number for a process that a signal ended.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When its process was started.
    #[serde(with = "nanoseconds")]
    pub started_at: SystemTime,
    /// When its process ended.
    #[serde(with = "nanoseconds")]
    pub finished_at: SystemTime,
}

/// Where a container is in its life.
///
/// ```text
///   Created ──▶ Running ──▶ Exited
///        ╲          ╲
///         ╰──────────┴────▶ Unknown    (its keeper died first)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Everything is set up; the program has not been started.
    Created,
    /// The program runs.
    Running {
        /// When it was started.
        started_at: SystemTime,
    },
    /// It ended, and this is recorded on disk.
    Exited(Exit),
    /// It does not run any more and nobody saw it end, because its keeper had died before.
    Unknown,
}

impl ContainerStatus {
    /// Whether there is a process.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Created | Self::Running { .. })
    }
}

/// A container as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id within the sandbox.
    pub id: String,
    /// What the caller wanted remembered.
    pub labels: BTreeMap<String, String>,
    /// Its first process, as the host numbers it, while it lives.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub status: ContainerStatus,
}

/// Something happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxEvent {
    /// A container ended; its exit record is already on disk and its output in the log.
    ContainerExited {
        /// The container.
        id: String,
        /// How it ended.
        exit: Exit,
    },
    /// The keeper is gone, and with it the sandbox: what was left of it has been killed and removed.
    KeeperDied,
}

/// What a container, or a sandbox as a whole, uses. A figure that the kernel does not offer is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the start.
    pub cpu_usage: Option<Duration>,
    /// Memory in use, page cache included.
    pub memory_usage: Option<u64>,
    /// Memory in use without the page cache that has not been touched for a while: what counts as needed.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory.
    pub memory_rss: Option<u64>,
    /// The limit, if there is one.
    pub memory_limit: Option<u64>,
    /// Page faults since the start.
    pub page_faults: Option<u64>,
    /// Those of them that needed the disk.
    pub major_page_faults: Option<u64>,
    /// Tasks.
    pub pids: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Times on the wire and on disk: nanoseconds since 1970.
pub(crate) mod nanoseconds {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let nanoseconds = u64::deserialize(deserializer)?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }
}
