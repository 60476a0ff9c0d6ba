//! Making the new process, and listening to what it has to say until its program runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::OciError;
use crate::child::{
    self, FAILED, HOOKS, Inherited, LISTENER, MAP, MAP_MOUNT, PACKET, PROGRAM, READY, TERMINAL, WARNING,
};
use crate::keeper::setup::receive_with;
use crate::plan::step::{Plan, Step};
use crate::plan::text::Text;
use crate::sys::process::{self, Cloned, Strings};

/// Namespaces that a process enters before it is the container's.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) file: OwnedFd,
    /// `CLONE_NEW*`; several for a pidfd.
    pub(super) kinds: u32,
}

/// What a new process needs.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) plan: Plan,
    /// Steps before the namespaces are joined.
    pub(super) early: Vec<Step>,
    pub(super) joins: Vec<Join>,
    pub(super) opened: Vec<OwnedFd>,
    pub(super) listener: Option<OwnedFd>,
    pub(super) preserved: u32,
    /// Our memory may be looked into until the ids have been mapped: an unprivileged caller must be able to.
    pub(super) dumpable: bool,
}

/// A new process.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) report: OwnedFd,
    pub(super) plan: Plan,
}

fn step(what: &'static str) -> impl Fn(Errno) -> OciError {
    move |errno| OciError::Step { step: what.to_owned(), source: errno.into() }
}

/// Clones a process that executes the plan with our standard streams. If there are namespaces to be joined, a
/// process between enters them and clones it there, as our child.
pub(super) fn launch(launch: Launch) -> Result<Launched, OciError> {
    let Launch { mut plan, early, joins, opened, listener, preserved, dumpable } = launch;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(step("making a socket"))?;
    let cgroup = match &plan.cgroup {
        Some(path) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, path.as_c_str(), flags, Mode::empty());
            Some(opened.map_err(step("opening the container's cgroup"))?)
        }
        None => None,
    };
    let strings = |texts: Vec<Text>| Strings::new(texts.into_iter().map(Text::into_c_string).collect());
    let argv = strings(std::mem::take(&mut plan.program.argv));
    let envp = strings(std::mem::take(&mut plan.program.env));
    if !dumpable {
        // Inherited by every copy of our memory: nobody in a container may trace us there or take what we hold.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(step("closing our memory"))?;
    }
    let make = Inherited { plan: &plan, argv, envp, opened, report: theirs, listener, preserved };
    let group = cgroup.as_ref().map(AsFd::as_fd);
    let (pid, pidfd) = if joins.is_empty() && early.is_empty() {
        match crate::keeper::setup::clone(plan.namespaces, group).map_err(step("making a process"))? {
            Cloned::Child => child::run_inherited(make),
            Cloned::Parent(pid, pidfd) => {
                drop(make);
                (pid, pidfd)
            }
        }
    } else {
        between(make, &early, &joins, plan.namespaces, group)?
    };
    Ok(Launched { pid, pidfd, report: ours, plan })
}

/// Clones the process between, and waits for it to tell the number of its sibling.
fn between(
    make: Inherited<'_>,
    early: &[Step],
    joins: &[Join],
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Pid, OwnedFd), OciError> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("making a pipe"))?;
    let Cloned::Parent(_, middle) =
        crate::keeper::setup::clone(0, cgroup).map_err(step("making a process"))?
    else {
        drop(reader);
        // A number of the failed part, an errno and a pid: which of them counts is told by the first.
        let tell = |part: i32, value: i32| {
            let mut message = [0; 8];
            message[..4].copy_from_slice(&part.to_ne_bytes());
            message[4..].copy_from_slice(&value.to_ne_bytes());
            let _ = rustix::io::write(&writer, &message);
        };
        match enter(early, joins)
            .and_then(|()| process::clone_sibling(namespaces, None).map_err(|errno| (CLONING, errno)))
        {
            Ok(None) => {
                child::run_inherited(make);
            }
            Ok(Some(pid)) => tell(BORN, pid.as_raw_pid()),
            Err((part, errno)) => tell(part, errno.raw_os_error()),
        }
        process::exit_now(0)
    };
    drop((writer, make));
    let mut message = [0; 8];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut message))
        .map_err(step("making a process"))?;
    let _ = rustix::process::waitid(WaitId::PidFd(middle.as_fd()), WaitIdOptions::EXITED);
    if length < message.len() {
        return Err(step("joining namespaces")(Errno::CHILD));
    }
    let number =
        |at: usize| i32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let (part, value) = (number(0), number(4));
    if part != BORN {
        let source = io::Error::from_raw_os_error(value);
        let step = match usize::try_from(part) {
            Ok(index) if index >= JOINING => {
                let kinds = joins.get(index - JOINING).map_or(0, |join| join.kinds);
                format!("joining {}", kind_names(kinds))
            }
            Ok(index) => early.get(index).map_or_else(|| "starting".to_owned(), ToString::to_string),
            Err(_) => "making a process".to_owned(),
        };
        return Err(OciError::Step { step, source });
    }
    let pid = Pid::from_raw(value).ok_or_else(|| step("making a process")(Errno::CHILD))?;
    // It is our child and has not been waited for, so the number is still its own.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(step("opening the process"))?;
    Ok((pid, pidfd))
}

const BORN: i32 = -1;
const CLONING: i32 = -2;
/// Numbers from here on are namespaces, those below early steps.
const JOINING: usize = 1000;

fn enter(early: &[Step], joins: &[Join]) -> Result<(), (i32, Errno)> {
    let number = |index: usize| i32::try_from(index).unwrap_or(CLONING);
    child::take_early(early).map_err(|(index, errno)| (number(index), errno))?;
    for (index, join) in joins.iter().enumerate() {
        let failed = |errno| (number(JOINING + index), errno);
        process::set_namespaces(join.file.as_fd(), join.kinds).map_err(failed)?;
    }
    Ok(())
}

fn kind_names(kinds: u32) -> String {
    use oci_spec::runtime::LinuxNamespaceType as Kind;
    let all =
        [Kind::User, Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Mount, Kind::Cgroup, Kind::Time];
    let names: Vec<String> = all
        .into_iter()
        .filter(|kind| kinds & crate::plan::flag(*kind) != 0)
        .map(|kind| kind.to_string())
        .collect();
    format!("the {} namespace", names.join(", "))
}

/// Who does what a new process asks for.
pub(super) trait Parent {
    /// Maps the ids of the process's user namespace.
    fn map_ids(&mut self) -> Result<(), OciError>;
    /// Maps the ids of the next mount that is to be mapped at its turn.
    fn map_mount(&mut self, mount: &OwnedFd) -> Result<(), OciError>;
    /// Runs the runtime's hooks, and gives the state that the process's own hooks are told.
    fn hooks(&mut self) -> Result<Vec<u8>, OciError>;
    /// Takes its terminal.
    fn terminal(&mut self, terminal: OwnedFd) -> Result<(), OciError>;
    /// Takes the listener of its seccomp filter.
    fn listener(&mut self, listener: OwnedFd) -> Result<(), OciError>;
}

/// How far a process got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It waits to be started.
    Waiting,
    /// Its program runs, or has run.
    Running,
}

/// Words for the steps of a process.
pub(super) struct Words<'a> {
    /// Of the step with this number, and whether it is about the program.
    pub(super) step: &'a dyn Fn(usize) -> Option<(String, bool)>,
    pub(super) program: &'a str,
}

/// Listens to a process until it waits or its program runs; collects warnings.
pub(super) fn follow(
    report: &OwnedFd,
    words: &Words<'_>,
    parent: &mut dyn Parent,
    warnings: &mut Vec<String>,
) -> Result<Arrived, OciError> {
    let mut packet = [0; PACKET];
    let mut at_program = false;
    let mut failure = None;
    loop {
        let (length, fd) = match receive_with(report.as_fd(), &mut packet, RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => break,
            result => result.map_err(step("listening to the new process"))?,
        };
        let Some((head, detail)) = packet[..length].split_at_checked(7) else { continue };
        let number = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let errno = i32::from_le_bytes([head[3], head[4], head[5], head[6]]);
        let detail = String::from_utf8_lossy(detail);
        let described = (words.step)(number);
        let named = |step: Option<&(String, bool)>| {
            let step = step.map_or("starting", |(step, _)| step);
            if detail.is_empty() { step.to_owned() } else { format!("{step}: {detail}") }
        };
        let error = io::Error::from_raw_os_error(errno);
        match head[0] {
            WARNING => warnings.push(format!("{}: {error}", named(described.as_ref()))),
            FAILED => {
                failure = Some(match &described {
                    // The words of a hook say more than any number.
                    Some((_, false)) if errno == libc::ECANCELED && !detail.is_empty() => {
                        OciError::Told(named(described.as_ref()))
                    }
                    Some((_, false)) => OciError::Step { step: named(described.as_ref()), source: error },
                    None if at_program => OciError::Execve { program: words.program.to_owned(), error },
                    _ => OciError::Program { program: words.program.to_owned(), error },
                });
            }
            MAP => {
                parent.map_ids()?;
                go(report, b"g")?;
            }
            MAP_MOUNT => {
                let mount = fd.ok_or_else(|| step("mapping the ids of a mount")(Errno::BADF))?;
                parent.map_mount(&mount)?;
                go(report, b"g")?;
            }
            HOOKS => {
                let state = parent.hooks()?;
                go(report, &state)?;
            }
            TERMINAL => {
                if let Some(terminal) = fd {
                    parent.terminal(terminal)?;
                }
            }
            LISTENER => {
                if let Some(listener) = fd {
                    parent.listener(listener)?;
                }
            }
            READY => return Ok(Arrived::Waiting),
            PROGRAM => at_program = true,
            _ => {}
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None if at_program => Ok(Arrived::Running),
        None => Err(step("the new process ended before its program was started")(Errno::CHILD)),
    }
}

pub(super) fn go(report: &OwnedFd, message: &[u8]) -> Result<(), OciError> {
    rustix::net::send(report, message, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(step("talking to the new process"))
}

/// Words for the steps of a plan.
pub(super) fn words_of(plan: &Plan, number: usize) -> Option<(String, bool)> {
    plan.steps.get(number).map(|step| (step.to_string(), matches!(step, Step::FindProgram)))
}
