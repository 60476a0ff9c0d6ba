//! A further process in a running container.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType as Kind, Process};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Pid;

use super::create::{Console, home, machine, traced, write_pid};
use super::launch::{Join, Launch, Words, follow, launch, words_of};
use super::lifecycle::{Status, pidfd};
use super::parent::Helper;
use super::sources::OwnUser;
use super::{Engine, OciError, record, sockets};
use crate::cgroup::Choice;
use crate::plan::{self, Surroundings};

/// How a process is run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The terminal.
    pub console: Console,
    /// Where the process's number is written.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after the standard ones the process gets.
    pub preserved: u32,
    /// Nobody will take a terminal.
    pub detached: bool,
    /// Also in a paused container, where it will wait.
    pub ignore_paused: bool,
    /// Cgroups below the container's: `path`, or `controller[,controller]:path`.
    pub cgroups: Vec<String>,
    /// Who is to get a handle on the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Tell all that the new process does.
    pub trace: bool,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct Executed {
    /// Its number.
    pub pid: Pid,
    /// The same, as a handle.
    pub pidfd: OwnedFd,
    /// Its terminal, if it was to be kept.
    pub terminal: Option<OwnedFd>,
    /// What went wrong without consequence.
    pub warnings: Vec<String>,
    /// What the process did, if that was asked for.
    pub trace: Vec<String>,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::User, "user"),
    (Kind::Pid, "pid"),
    (Kind::Network, "net"),
    (Kind::Ipc, "ipc"),
    (Kind::Uts, "uts"),
    (Kind::Mount, "mnt"),
    (Kind::Cgroup, "cgroup"),
    (Kind::Time, "time"),
];

/// The namespaces of a process that are not ours.
fn foreign_namespaces(pid: i32) -> Result<u32, OciError> {
    let mut kinds = 0;
    for (kind, name) in KINDS {
        let number = |path: String| fs::metadata(&path).map(|file| (file.dev(), file.ino()));
        let path = format!("/proc/{pid}/ns/{name}");
        // A kind that this kernel does not have is nobody's.
        let Ok(own) = number(format!("/proc/self/ns/{name}")) else { continue };
        let theirs = number(path.clone()).map_err(OciError::io(format!("reading {path}")))?;
        if own != theirs {
            kinds |= plan::flag(kind);
        }
    }
    Ok(kinds)
}

impl Engine {
    /// Runs a process in a container.
    pub fn exec(&self, id: &str, process: &Process, options: &ExecOptions) -> Result<Executed, OciError> {
        let record = record::read(self, id)?;
        match self.status(&record)? {
            Status::Stopped => {
                return Err(OciError::State("cannot exec in a stopped container".to_owned()));
            }
            Status::Paused if !options.ignore_paused => {
                return Err(OciError::State(
                    "cannot exec in a paused container (use --ignore-paused)".to_owned(),
                ));
            }
            _ => {}
        }
        let terminal = process.terminal().unwrap_or(false);
        let console = match (&options.console, terminal) {
            (Console::Socket(_), false) => {
                return Err(OciError::State(
                    "a console socket is given for a process without a terminal".to_owned(),
                ));
            }
            (Console::Keep, true) if options.detached => {
                return Err(OciError::State(
                    "a detached process with a terminal needs a console socket".to_owned(),
                ));
            }
            (Console::Socket(path), true) => Some(
                sockets::connect(path)
                    .map_err(OciError::io(format!("connecting to console socket {}", path.display())))?,
            ),
            (Console::Keep, _) => None,
        };
        let spec = record::config(self, id)?;
        let Some(first) = pidfd(&record) else {
            return Err(OciError::State("cannot exec in a stopped container".to_owned()));
        };
        let kinds = foreign_namespaces(record.pid)?;
        let choice = Choice::parse(&options.cgroups).map_err(OciError::Cgroup)?;
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        let placement = self.tree()?.within(cgroup, &choice, record.pid).map_err(OciError::Cgroup)?;
        let env = process.env().as_deref().unwrap_or_default();
        let home = home(env, process.user().uid(), &record.rootfs);
        let around = Surroundings { home: home.as_deref(), ..machine(&placement, &record.rootfs) };
        let early = plan::before_joining(process, around)?;
        let mut trace = if options.trace { traced(&early) } else { Vec::new() };
        let in_user = kinds & plan::flag(Kind::User) != 0;
        let plan = plan::bundle_exec(&spec, process, in_user, record.shares_mounts, around)?;
        let opened = if record.shares_mounts { vec![root_of(record.pid)?] } else { Vec::new() };
        let launched = launch(Launch {
            plan,
            early,
            joins: if kinds == 0 { Vec::new() } else { vec![Join { file: first, kinds }] },
            opened,
            listener: None,
            preserved: options.preserved,
            dumpable: false,
        })?;
        let linux = spec.linux().as_ref();
        let own = record::Record { pid: launched.pid.as_raw_pid(), ..record };
        let mut helper = Helper {
            record: &own,
            hooks: None,
            user: OwnUser::None,
            maps_late: &[],
            console,
            terminal: None,
            status: oci_spec::runtime::ContainerState::Running,
            seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
        };
        let mut warnings = Vec::new();
        let name = launched.plan.program.name.clone();
        let words = Words { step: &|number| words_of(&launched.plan, number), program: &name };
        if let Err(error) = follow(&launched.report, &words, &mut helper, &mut warnings) {
            use rustix::process::{Signal, WaitId, WaitIdOptions};
            let _ = rustix::process::pidfd_send_signal(&launched.pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(launched.pidfd.as_fd()), WaitIdOptions::EXITED);
            return Err(error);
        }
        if let Some(path) = &options.pidfd_socket {
            sockets::send_process(path, "setns", launched.pidfd.as_fd())?;
        }
        if let Some(path) = &options.pid_file {
            write_pid(path, launched.pid.as_raw_pid())?;
        }
        if options.trace {
            trace.extend(traced(&launched.plan.steps));
        }
        Ok(Executed { pid: launched.pid, pidfd: launched.pidfd, terminal: helper.terminal, warnings, trace })
    }
}

/// The root of a process that shares our mount namespace: its pidfd leads to ours.
fn root_of(pid: i32) -> Result<OwnedFd, OciError> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map_err(|errno| OciError::io(format!("opening {path}"))(errno.into()))
}
