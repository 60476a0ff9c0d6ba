//! Starting processes: the keeper's side of a plan.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::ThreadNameSpaceType;

use super::setup::{self, Sandbox};
use crate::child::{self, FAILED, PACKET, PROGRAM, Prepared, READY, TERMINAL, WARNING};
use crate::plan::step::{Plan, Step};
use crate::protocol::{Failure, FailureKind};
use crate::spec::PidMode;
use crate::sys::process::{Cloned, Strings};

/// A process that is not yet its program.
#[derive(Debug)]
pub(super) struct Birth {
    /// Packets from it; a byte to it opens the gate.
    pub(super) socket: OwnedFd,
    /// What its steps are, for messages. Dropped at the gate but for the program's name.
    plan: Option<Plan>,
    program: String,
    failure: Option<Failure>,
    at_program: bool,
    pub(super) warnings: Vec<String>,
    /// The terminal that it has opened.
    pub(super) terminal: Option<OwnedFd>,
}

/// What has become of it.
#[derive(Debug)]
pub(super) enum Progress {
    /// Still at it.
    Busy,
    /// At the gate.
    Ready,
    /// The program runs (or has run).
    Running,
    /// It did not get there.
    Failed(Failure),
}

/// The pipes of a new process.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// A new process.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) birth: Birth,
    /// Our ends.
    pub(super) pipes: Pipes,
}

/// Where a process is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// In namespaces of its own, as its plan has them.
    Own,
    /// The same, but in the pid namespace of this process.
    Beside(&'a OwnedFd),
    /// In all namespaces of this process.
    Within(&'a OwnedFd),
}

/// Clones a process that executes a plan. `stdin`: give it a pipe to read from; `output`: pipes to write to (else a terminal will come).
pub(super) fn start(
    sandbox: &Sandbox,
    mut plan: Plan,
    place: Place<'_>,
    stdin: bool,
    output: bool,
) -> Result<Started, Failure> {
    let step =
        |what: &'static str| move |errno: Errno| Failure::new(FailureKind::Step, what, errno.raw_os_error());
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(step("opening /dev/null"))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(step("making a pipe"));
    let input = if stdin { Some(pipe()?) } else { None };
    let outputs = if output { Some((pipe()?, pipe()?)) } else { None };
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(step("making a socket"))?;
    let shm = match &sandbox.shm {
        Some(shm) if plan.steps.iter().any(|step| matches!(step, Step::PlaceShm { .. })) => {
            Some(shm.copy().map_err(step("copying shared memory"))?)
        }
        _ => None,
    };
    let cgroup = match &plan.cgroup {
        Some(path) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, path.as_c_str(), flags, Mode::empty());
            Some(opened.map_err(step("opening the container's cgroup"))?)
        }
        None => None,
    };
    let strings =
        |texts: Vec<_>| Strings::new(texts.into_iter().map(crate::plan::text::Text::into_c_string).collect());
    let argv = strings(std::mem::take(&mut plan.program.argv));
    let envp = strings(std::mem::take(&mut plan.program.env));
    let opened = plan.steps.iter().filter(|step| matches!(step, Step::OpenBind { .. })).count();
    let opened = Vec::with_capacity(opened);

    // A pid namespace is entered by being born in it: we choose where our children are born.
    let elsewhere = match (place, sandbox.pid, &sandbox.init) {
        (Place::Within(process) | Place::Beside(process), ..) => Some(process),
        (Place::Own, PidMode::Shared, Some(init)) => Some(init),
        (Place::Own, ..) => None,
    };
    let container = match place {
        Place::Within(process) => Some(process),
        Place::Own | Place::Beside(_) => None,
    };
    if let Some(process) = elsewhere {
        rustix::thread::move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::PROCESS_ID)
            .map_err(step("choosing the pid namespace"))?;
    }
    let cloned = setup::clone(plan.namespaces, cgroup.as_ref().map(AsFd::as_fd));
    if let Ok(Cloned::Child) = cloned {
        let read_end = input.as_ref().map_or(null.as_fd(), |(reader, _)| reader.as_fd());
        let (out, err) = match &outputs {
            Some(((_, out), (_, err))) => (out.as_fd(), err.as_fd()),
            None => (null.as_fd(), null.as_fd()),
        };
        child::run(Prepared {
            plan: &plan,
            argv,
            envp,
            opened,
            standard: [read_end, out, err],
            report: theirs.as_fd(),
            container: container.map(AsFd::as_fd),
            shm: shm.as_ref().map(AsFd::as_fd),
            users: sandbox.users.as_ref().map(AsFd::as_fd),
        });
    }
    if elsewhere.is_some() {
        let back = rustix::thread::move_into_thread_name_spaces(
            sandbox.own.as_fd(),
            ThreadNameSpaceType::PROCESS_ID,
        );
        back.map_err(step("coming back to our pid namespace"))?;
    }
    let cloned = cloned.map_err(step("making a process"))?;
    let Cloned::Parent(pid, pidfd) = cloned else {
        return Err(step("making a process")(Errno::INVAL));
    };
    let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true).map_err(step("preparing a pipe"));
    let mut pipes = Pipes::default();
    if let Some((_, writer)) = input {
        pipes.stdin = Some(writer);
    }
    if let Some(((out, _), (err, _))) = outputs {
        nonblocking(&out)?;
        nonblocking(&err)?;
        (pipes.stdout, pipes.stderr) = (Some(out), Some(err));
    }
    let birth = Birth {
        socket: ours,
        program: plan.program.name.clone(),
        plan: Some(plan),
        failure: None,
        at_program: false,
        warnings: Vec::new(),
        terminal: None,
    };
    Ok(Started { pid, pidfd, birth, pipes })
}

impl Birth {
    /// Reads what the process has reported. `ended`: it is known to have ended, so nothing more can come.
    pub(super) fn progress(&mut self) -> Progress {
        let mut packet = [0; PACKET];
        loop {
            let (length, fd) = match setup::receive(self.socket.as_fd(), &mut packet) {
                Err(Errno::AGAIN) => return Progress::Busy,
                // The socket is closed: by execve, or because the process has ended.
                Ok((0, _)) | Err(_) => return self.closed(),
                Ok(received) => received,
            };
            let Some((head, detail)) = packet[..length].split_at_checked(7) else { continue };
            let step = usize::from(u16::from_le_bytes([head[1], head[2]]));
            let errno = i32::from_le_bytes([head[3], head[4], head[5], head[6]]);
            let detail = String::from_utf8_lossy(detail);
            match head[0] {
                WARNING => {
                    let error = io::Error::from_raw_os_error(errno);
                    self.warnings.push(format!("{}: {error}", self.describe(step, &detail)));
                }
                // After the last step.
                FAILED
                    if self.at_program && self.plan.as_ref().is_none_or(|plan| step >= plan.steps.len()) =>
                {
                    let failure = Failure::new(FailureKind::Program, self.program.clone(), errno);
                    self.failure = Some(failure);
                }
                FAILED => {
                    let step = self.describe(step, &detail);
                    self.failure = Some(Failure::new(FailureKind::Step, step, errno));
                }
                TERMINAL => self.terminal = fd,
                READY => {
                    return Progress::Ready;
                }
                PROGRAM => self.at_program = true,
                _ => {}
            }
        }
    }

    /// Opens the gate.
    pub(super) fn go(&self) -> Result<(), Errno> {
        rustix::net::send(&self.socket, b"g", rustix::net::SendFlags::NOSIGNAL).map(drop)
    }

    fn describe(&self, step: usize, detail: &str) -> String {
        let step = self.plan.as_ref().and_then(|plan| plan.steps.get(step));
        let step = step.map_or_else(|| "starting".to_owned(), ToString::to_string);
        if detail.is_empty() { step } else { format!("{step}: {detail}") }
    }

    fn closed(&mut self) -> Progress {
        match self.failure.take() {
            Some(failure) => Progress::Failed(failure),
            None if self.at_program => Progress::Running,
            None => {
                let step = "the new process ended before its program was started";
                Progress::Failed(Failure::new(FailureKind::Step, step, libc::ECHILD))
            }
        }
    }

    /// Forgets what is not needed while the process waits at the gate, perhaps for long.
    pub(super) fn shrink(&mut self) {
        if let Some(plan) = &mut self.plan {
            for step in &mut plan.steps {
                if let Step::Seccomp { program, .. } = step {
                    program.0 = Vec::new();
                }
            }
            plan.program.candidates = Vec::new();
        }
    }
}
