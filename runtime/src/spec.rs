//! What a caller asks for: the descriptions of a sandbox, a container and an exec.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{LinuxResources, Spec, User};
use serde::{Deserialize, Serialize};

/// Where a [`Runtime`](crate::Runtime) keeps its things, and how it starts keepers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sockets and pid files. Worthless after a reboot; usually a tmpfs.
    pub run_dir: PathBuf,
    /// Descriptions and exit records. They survive a reboot, so that what ran before it can still be told.
    pub state_dir: PathBuf,
    /// Name of our cgroup below the root of every hierarchy, for example `coracle`.
    pub cgroup_parent: String,
    /// The program and first arguments that become a keeper, for example `["/proc/self/exe", "keeper"]`.
    /// The program is run from a copy that containers cannot write.
    pub keeper_argv: Vec<OsString>,
}

/// Which network namespace a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMode {
    /// A new one, with its loopback up and nothing else.
    #[default]
    New,
    /// The host's.
    Host,
    /// The one at this path.
    Path(PathBuf),
}

/// Which IPC or UTS namespace a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NamespaceMode {
    /// A new one, shared by the sandbox's containers.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// Which pid namespace the sandbox's containers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidMode {
    /// One for each container, whose process is number 1 in it.
    #[default]
    Private,
    /// One for all containers, with a reaper as number 1.
    Shared,
    /// The host's.
    Host,
}

/// The ids that a sandbox's users have on the host: what is 0 in the sandbox is `first` there, and so on for `count`
/// ids. Others do not exist in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Users {
    /// The host's id of the sandbox's root.
    pub first: u32,
    /// How many ids there are.
    pub count: u32,
}

impl Users {
    /// As `uid_map` and `gid_map` take it.
    pub(crate) fn line(self) -> String {
        format!("0 {} {}\n", self.first, self.count)
    }
}

/// A sandbox to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSpec {
    /// Unique among the runtime's sandboxes: letters, digits, `-`, `_` and `.`, at most 128.
    pub id: String,
    /// Opaque to the runtime, kept on disk and given back: what the caller must remember about the sandbox.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Set when the UTS namespace is private.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The network namespace.
    #[serde(default)]
    pub network: NetworkMode,
    /// The IPC namespace; a private one comes with one `/dev/shm` for all containers.
    #[serde(default)]
    pub ipc: NamespaceMode,
    /// The UTS namespace.
    #[serde(default)]
    pub uts: NamespaceMode,
    /// The pid namespaces.
    #[serde(default)]
    pub pid: PidMode,
    /// Written into the sandbox's namespaces: only `net.*` and the IPC ones, and only where those
    /// namespaces are the sandbox's own.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Size of the shared `/dev/shm` in bytes; 64 MiB if not given.
    #[serde(default)]
    pub shm_size: Option<u64>,
    /// Path of the sandbox's cgroup below the runtime's parent, for example `burstable/pod1234`.
    /// Every container gets a cgroup of its own below it.
    pub cgroup: String,
    /// Limits on the sandbox as a whole.
    #[serde(default)]
    pub resources: Option<LinuxResources>,
    /// A user namespace of its own, which its other namespaces belong to; not together with the host's network, IPC or
    /// pid namespace. The layers of root file systems are shown with mapped ids, and so are bind mounts with the
    /// option `idmap`.
    #[serde(default)]
    pub users: Option<Users>,
}

impl SandboxSpec {
    /// A sandbox with private namespaces, no limits and no labels.
    pub fn new(id: impl Into<String>, cgroup: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            labels: BTreeMap::new(),
            hostname: None,
            network: NetworkMode::default(),
            ipc: NamespaceMode::default(),
            uts: NamespaceMode::default(),
            pid: PidMode::default(),
            sysctls: BTreeMap::new(),
            shm_size: None,
            cgroup: cgroup.into(),
            resources: None,
            users: None,
        }
    }
}

/// What a container's `/` is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rootfs {
    /// An overlay that exists in the container's own mount namespace only. What the container writes to it
    /// lives as long as the machine runs: it is mounted `volatile`, which makes syncing a no-op, so after a
    /// power failure the upper layer must be thrown away. (Data that must survive belongs into volumes.)
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// Where the container's writes go. It is the caller's to create and to remove.
        upper: PathBuf,
        /// Overlayfs' scratch directory, on the same file system as `upper`.
        work: PathBuf,
    },
    /// A directory as it is.
    Directory(PathBuf),
}

/// Where a container's output goes, in CRI log format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSpec {
    /// The current file. Rotated ones lie beside it, named `<path>.<UTC time>`, so that names sort by age.
    pub path: PathBuf,
    /// A file that has grown to this many bytes is rotated at the next end of a line.
    pub max_size: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
}

impl LogSpec {
    /// A log with the kubelet's default bounds: five files of 10 MiB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_size: 10 << 20, max_files: 5 }
    }
}

/// A container to be created in a sandbox.
///
/// Of the specification's namespaces, `network`, `ipc`, `uts` and `pid` are the sandbox's affair and are not
/// looked at; `mount` is always new; `cgroup` is new when it is listed. A `tmpfs` mount with source `shm` is
/// the sandbox's shared `/dev/shm` when its IPC namespace is private.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Unique within the sandbox: letters, digits, `-`, `_` and `.`, at most 128.
    pub id: String,
    /// Opaque to the runtime, kept on disk and given back.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The OCI runtime configuration. `root.path` is ignored in favour of `rootfs`; `root.readonly` counts;
    /// `linux.cgroupsPath` is ignored, as the cgroup is the sandbox's with the container's id below it.
    pub spec: Spec,
    /// The file system.
    pub rootfs: Rootfs,
    /// Where output goes; without it, output is read and dropped (attached clients still see it).
    #[serde(default)]
    pub log: Option<LogSpec>,
    /// Keep standard input open for [`Sandbox::attach`](crate::Sandbox::attach); otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The first client that attaches to standard input closes it for good when it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// Run on a terminal; counts in addition to `process.terminal`.
    #[serde(default)]
    pub tty: bool,
    /// See and signal the processes of this running container: be born into its pid namespace. Only where each container
    /// has a namespace of its own; where all share one, that is so anyway. It ends with that container.
    #[serde(default)]
    pub join_pid: Option<String>,
}

/// A process to be run in a running container, with the container's namespaces, cgroup, capabilities,
/// seccomp filter and limits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecSpec {
    /// The program, looked up in `PATH` of the environment, and its arguments.
    pub argv: Vec<String>,
    /// `NAME=value`; the container's environment if not given.
    pub env: Option<Vec<String>>,
    /// The working directory; the container's if not given.
    pub cwd: Option<PathBuf>,
    /// The user; the container's if not given.
    pub user: Option<User>,
    /// Run on a terminal of its own.
    pub tty: bool,
    /// First size of that terminal.
    pub window: Option<WindowSize>,
    /// Give a pipe to write standard input to; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// With all the container's capabilities, devices and no seccomp filter.
    pub privileged: bool,
    /// The program is the keepers' own, which must be one that needs no files besides itself; `argv` are its name and
    /// arguments. Nothing has to be in the container for it.
    pub own_program: bool,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A signal by number. Real-time signals, which some images name as their stop signal, have no other name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// Hang up.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// Interrupt.
    pub const INT: Self = Self(libc::SIGINT);
    /// Ask to end.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// End now.
    pub const KILL: Self = Self(libc::SIGKILL);

    /// The signal of this number, if there is one.
    pub fn new(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// No signal: only asks whether there is somebody to send one to.
    pub const NONE: Self = Self(0);

    /// Its number on this architecture.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Names of the classic signals on the architectures that coracle runs on (x86_64 and aarch64 agree).
const SIGNALS: [(&str, i32); 33] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// What a shell and every image's author count as the first and last real-time signal: glibc and musl keep
/// 32 to 34 to themselves.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 >= RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal")]
pub struct UnknownSignal(pub String);

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` and `RTMAX-1`, in any case.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        if let Ok(number) = upper.parse::<i32>() {
            return Self::new(number).ok_or_else(unknown);
        }
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let number = if let Some(offset) = name.strip_prefix("RTMIN") {
            RTMIN + if offset.is_empty() { 0 } else { offset.parse::<i32>().map_err(|_| unknown())? }
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            RTMAX + if offset.is_empty() { 0 } else { offset.parse::<i32>().map_err(|_| unknown())? }
        } else {
            return Err(unknown());
        };
        if (RTMIN..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(unknown()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_write_them() {
        let check = |text: &str, expected: Option<i32>| {
            assert_eq!(text.parse::<Signal>().ok().map(Signal::number), expected, "{text}");
        };
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        check("RTMIN", Some(34));
        check("RTMIN-1", None);
        check("RTMIN+x", None);
        check("0", None);
        check("65", None);
        check("SIGNOTHING", None);
        check("", None);
    }

    #[test]
    fn signals_are_shown_by_name() {
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(Signal(37).to_string(), "SIGRTMIN+3");
    }
}
