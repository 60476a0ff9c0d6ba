//! What is done with a container that exists.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{ContainerState, LinuxNamespaceType, LinuxResources, Spec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal as KernelSignal};
use serde::Serialize;

use super::create::{DEFAULT_CGROUP, END_PATIENCE};
use super::parent::open_gate;
use super::record::{self, Directory, Record};
use super::{Engine, OciError, hooks};
use crate::spec::Signal;
use crate::sys::process;

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its program has not been started.
    Created,
    /// Its program runs.
    Running,
    /// It is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The state of a container, as `state` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateView {
    /// Version of the specification that the configuration follows.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// Its first process, 0 if it has ended.
    pub pid: i32,
    /// What it does.
    pub status: Status,
    /// Where it came from.
    pub bundle: String,
    /// Its root file system.
    pub rootfs: String,
    /// When it was created (RFC 3339).
    pub created: String,
    /// Annotations of the configuration.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Who created it.
    pub owner: String,
}

/// A line of `list`.
pub type Listed = StateView;

/// When a process started, in the kernel's ticks; `None` if it has ended, waited for or not.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The container's first process, if it is still that one.
pub(super) fn pidfd(record: &Record) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::empty()).ok()?;
    // Opened first, looked at then: what the number names now is what we have opened.
    (start_time(record.pid)? == record.start_time).then_some(pidfd)
}

impl Engine {
    pub(super) fn status(&self, record: &Record) -> Result<Status, OciError> {
        if pidfd(record).is_none() {
            return Ok(Status::Stopped);
        }
        if record::waits(self, &record.id) {
            return Ok(Status::Created);
        }
        let frozen = self.tree()?.is_frozen("", record.cgroup.to_str().unwrap_or_default());
        Ok(if frozen { Status::Paused } else { Status::Running })
    }

    /// What is known about a container.
    pub fn state(&self, id: &str) -> Result<StateView, OciError> {
        let record = record::read(self, id)?;
        let status = self.status(&record)?;
        Ok(view(record, status))
    }

    /// All containers, by name.
    pub fn list(&self) -> Result<Vec<Listed>, OciError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(OciError::io(format!("reading {}", self.root.display())))?,
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        // One that is being made or removed at this moment is not there.
        Ok(names.iter().filter_map(|id| self.state(id).ok()).collect())
    }

    /// Starts the program of a created container. Gives warnings.
    pub fn start(&self, id: &str) -> Result<Vec<String>, OciError> {
        let directory = Directory::open(self, id)?;
        let record = record::read(self, id)?;
        match self.status(&record)? {
            Status::Created => {}
            Status::Stopped => {
                return Err(OciError::State("cannot start a container that has stopped".to_owned()));
            }
            Status::Running | Status::Paused => {
                return Err(OciError::State("cannot start an already running container".to_owned()));
            }
        }
        let spec = record::config(self, id)?;
        let Some(connection) = directory.connect()? else {
            return Err(OciError::State("cannot start an already running container".to_owned()));
        };
        directory.started();
        let mut warnings = Vec::new();
        let opened = open_gate(&connection, &record, &spec, &mut warnings);
        // Whoever sets something up when a container is started wants to hear of each start, also of one that a hook
        // in the container has made fail. Other runtimes tell them so, who do not wait for such a hook.
        let started = match &opened {
            Ok(()) | Err(OciError::Told(_)) => {
                let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref());
                hooks::run(
                    "poststart",
                    hooks,
                    &hooks::state_text(&record, ContainerState::Running, record.pid),
                )
            }
            Err(_) => Ok(()),
        };
        let result = opened.and(started);
        if result.is_err() {
            kill_first(&record);
        }
        result.map(|()| warnings)
    }

    /// Sends a signal to the container's first process, or to all of its processes.
    pub fn kill(&self, id: &str, signal: Signal, all: bool) -> Result<(), OciError> {
        let record = record::read(self, id)?;
        let first = pidfd(&record);
        let spec = record::config(self, id)?;
        // Without a pid namespace of its own, the others do not end with the first.
        let every = all || signal == Signal::KILL && !has_own_pids(&spec);
        if every {
            let cgroup = record.cgroup.to_str().unwrap_or_default();
            let tree = self.tree()?;
            let pids = tree.processes("", Some(cgroup));
            for pid in pids {
                let target = Pid::from_raw(pid);
                let target =
                    target.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
                if let Some(target) = target {
                    send(&target, signal)?;
                }
            }
            return Ok(());
        }
        match first {
            Some(pidfd) => send(&pidfd, signal),
            None => Err(OciError::State("container not running".to_owned())),
        }
    }

    /// Removes a container that has ended, or that was never started. `force`: whatever it does; and it is not an
    /// error if there is none. Gives warnings.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<String>, OciError> {
        let directory = match Directory::open(self, id) {
            Err(OciError::NotFound(_)) if force => return Ok(Vec::new()),
            result => result?,
        };
        let record = match record::read(self, id) {
            // A creation that was cut short.
            Err(OciError::NotFound(_)) => {
                directory.remove()?;
                return if force { Ok(Vec::new()) } else { Err(OciError::NotFound(id.to_owned())) };
            }
            result => result?,
        };
        let status = self.status(&record)?;
        if !force && matches!(status, Status::Running | Status::Paused) {
            return Err(OciError::State(format!(
                "cannot delete container {id} that is not stopped: {}",
                status.name()
            )));
        }
        let tree = self.tree()?;
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        if status == Status::Paused {
            tree.freeze("", cgroup, false).map_err(OciError::Cgroup)?;
        }
        kill_first(&record);
        let left = tree.kill_all("", Some(cgroup), END_PATIENCE);
        if left > 0 {
            return Err(OciError::State(format!("{left} processes of container {id} do not die")));
        }
        if let Some(pidfd) = pidfd(&record) {
            wait_gone(&pidfd);
        }
        tree.remove("", Some(cgroup)).map_err(OciError::Cgroup)?;
        if record.cgroup.starts_with(DEFAULT_CGROUP) {
            tree.remove_if_empty(DEFAULT_CGROUP);
        }
        record.unmount();
        let spec = record::config(self, id);
        directory.remove()?;
        let spec = spec.unwrap_or_default();
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref());
        let state = hooks::state_text(&record, ContainerState::Stopped, 0);
        Ok(hooks::run_all("poststop", hooks, &state).iter().map(ToString::to_string).collect())
    }

    /// Freezes or thaws all processes of a container.
    pub fn freeze(&self, id: &str, freeze: bool) -> Result<(), OciError> {
        let _lock = Directory::open(self, id)?;
        let record = record::read(self, id)?;
        let status = self.status(&record)?;
        match (freeze, status) {
            (true, Status::Running | Status::Created) | (false, Status::Paused) => {}
            (true, _) => {
                let reason = format!("container not running or created: {}", status.name());
                return Err(OciError::State(reason));
            }
            (false, _) => return Err(OciError::State("container not paused".to_owned())),
        }
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        self.tree()?.freeze("", cgroup, freeze).map_err(OciError::Cgroup)
    }

    /// Changes the limits of a container.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), OciError> {
        let _lock = Directory::open(self, id)?;
        let record = record::read(self, id)?;
        if self.status(&record)? == Status::Stopped {
            return Err(OciError::State("container not running".to_owned()));
        }
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        self.tree()?.update_container("", cgroup, resources).map_err(OciError::Cgroup)
    }

    /// The numbers of all processes of a container.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>, OciError> {
        let record = record::read(self, id)?;
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        Ok(self.tree()?.processes("", Some(cgroup)).into_iter().collect())
    }
}

fn view(record: Record, status: Status) -> StateView {
    let owner = crate::user::name_of(record.owner).unwrap_or_else(|| format!("#{}", record.owner));
    StateView {
        oci_version: record.oci_version,
        id: record.id,
        pid: if status == Status::Stopped { 0 } else { record.pid },
        status,
        bundle: record.bundle.display().to_string(),
        rootfs: record.rootfs.display().to_string(),
        created: record.created,
        annotations: record.annotations.into_iter().collect(),
        owner,
    }
}

fn has_own_pids(spec: &Spec) -> bool {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|one| {
        one.typ() == LinuxNamespaceType::Pid
            && one.path().as_ref().is_none_or(|path| {
                // One that we are in ourselves is not its own either.
                let same = |a: io::Result<fs::Metadata>, b: io::Result<fs::Metadata>| {
                    matches!((a, b), (Ok(a), Ok(b)) if a.ino() == b.ino())
                };
                path.as_os_str().is_empty() && !same(fs::metadata(path), fs::metadata("/proc/self/ns/pid"))
            })
    })
}

fn send(pidfd: &OwnedFd, signal: Signal) -> Result<(), OciError> {
    use std::os::fd::AsFd;
    match process::send_signal(pidfd.as_fd(), signal.number()) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(OciError::State("container not running".to_owned())),
        Err(errno) => Err(OciError::io(format!("sending {signal}"))(errno.into())),
    }
}

fn kill_first(record: &Record) {
    if let Some(pidfd) = pidfd(record) {
        let _ = rustix::process::pidfd_send_signal(&pidfd, KernelSignal::KILL);
    }
}

fn wait_gone(pidfd: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)));
}
