//! What a keeper does when it is asked.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::container::{Container, Phase, Waiter};
use super::log::Log;
use super::output::Output;
use super::{CONTAINER_BIRTH, EXEC_BIRTH, ExecProcess, Keeper, OUTPUT, process, token};
use crate::protocol::{Create, Exec, Failure, FailureKind, Reply, Request, Stream};
use crate::spec::PidMode;
use crate::sys;

type Answer = Result<Reply, Failure>;

impl Keeper {
    pub(super) fn on_call(&mut self, waiter: Waiter, request: Request) {
        // What cannot be answered at once is answered when it has happened.
        let answer = match request {
            Request::Create(create) => self.create(waiter, *create).map(|()| None),
            Request::Start { container } => self.start(waiter, &container).map(|()| None),
            Request::Signal { container, signal } => self.signal(&container, signal).map(Some),
            Request::Kill { container } => self.kill(&container).map(Some),
            Request::Exec(exec) => self.exec(waiter, *exec).map(|()| None),
            Request::SignalExec { exec, signal } => self.signal_exec(exec, signal).map(Some),
            Request::Attach { container } => match self.attach(&container) {
                Ok((streams, fds)) => return self.reply(waiter, Ok(Reply::Attached { streams }), fds),
                Err(failure) => Err(failure),
            },
            Request::List => return self.list(waiter),
            Request::Forget { container } => self.forget(waiter, &container),
            Request::Shutdown => {
                for container in self.containers.iter().filter(|one| one.is_alive()) {
                    end(container);
                }
                self.stopping.push(waiter);
                Ok(None)
            }
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(waiter, Ok(reply), Vec::new()),
            Err(failure) => self.reply(waiter, Err(failure), Vec::new()),
        }
    }

    /// Lists the containers. One that is being started for another caller is waited for: that caller may be dead, and
    /// then nobody else will ever hear of the container.
    fn list(&mut self, waiter: Waiter) {
        let undecided = |one: &Container| match one.phase {
            Phase::Starting(by) => by.connection != waiter.connection,
            Phase::Created | Phase::Running { .. } | Phase::Exited(_) => false,
        };
        if self.containers.iter().any(undecided) {
            return self.listing.push(waiter);
        }
        let is_told = |one: &&Container| !matches!(one.phase, Phase::Starting(_));
        let listed = self.containers.iter().filter(is_told).map(Container::listed).collect();
        self.reply(waiter, Ok(Reply::Containers(listed)), Vec::new());
    }

    /// Answers those who wait for a list, as far as the starts are over that they wait for.
    pub(super) fn list_again(&mut self) {
        for waiter in std::mem::take(&mut self.listing) {
            self.list(waiter);
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers
            .iter_mut()
            .find(|one| one.id == id)
            .ok_or_else(|| Failure::new(FailureKind::NotFound, id, libc::ENOENT))
    }

    /// A container with a process that can be signalled or joined.
    fn find_running(&mut self, id: &str) -> Result<&mut Container, Failure> {
        let container = self.find(id)?;
        match container.phase {
            Phase::Running { .. } => Ok(container),
            _ => Err(Failure::new(FailureKind::NotRunning, id, libc::ESRCH)),
        }
    }

    fn create(&mut self, waiter: Waiter, create: Create) -> Result<(), Failure> {
        if self.find(&create.container).is_ok() {
            return Err(Failure::new(FailureKind::Exists, create.container, libc::EEXIST));
        }
        if !self.stopping.is_empty() {
            return Err(Failure::new(FailureKind::Bad, "the sandbox is being removed", libc::ESHUTDOWN));
        }
        let log = match create.log {
            Some(spec) => {
                let step = format!("opening log {}", spec.path.display());
                let log = Log::open(spec);
                Some(log.map_err(|error| {
                    Failure::new(FailureKind::Step, step, error.raw_os_error().unwrap_or(libc::EIO))
                })?)
            }
            None => None,
        };
        let joined = match create.join_pid.as_deref().filter(|_| self.sandbox.pid == PidMode::Private) {
            Some(other) => {
                let other = self.find_running(other)?;
                let pidfd = rustix::io::fcntl_dupfd_cloexec(other.pidfd.as_fd(), 3);
                Some(pidfd.map_err(|errno| {
                    Failure::new(FailureKind::Step, "joining a pid namespace", errno.raw_os_error())
                })?)
            }
            None => None,
        };
        let place = joined.as_ref().map_or(process::Place::Own, process::Place::Beside);
        let started =
            process::start(&self.sandbox, create.plan, place, create.stdin && !create.tty, !create.tty)?;
        let serial = self.serial();
        let mut outputs = Vec::new();
        let streams = [(started.pipes.stdout, "stdout"), (started.pipes.stderr, "stderr")];
        for (kind, (pipe, name)) in (OUTPUT..).zip(streams) {
            if let Some(pipe) = pipe {
                self.watch(&pipe, kind, serial)?;
                outputs.push(Output::new(pipe, name, false));
            }
        }
        self.watch(&started.birth.socket, CONTAINER_BIRTH, serial)?;
        let record = create.record.as_c_str().to_str().map(Path::new).unwrap_or(Path::new("")).to_owned();
        self.containers.push(Container {
            serial,
            id: create.container,
            phase: Phase::Starting(waiter),
            pid: started.pid,
            pidfd: started.pidfd,
            birth: Some(started.birth),
            outputs,
            log,
            stdin: started.pipes.stdin,
            stdin_once: create.stdin_once,
            terminal: None,
            record,
            files: create.files,
            joined: joined.is_some(),
            forgetting: Vec::new(),
        });
        Ok(())
    }

    fn watch(&self, fd: &OwnedFd, kind: u32, serial: u32) -> Result<(), Failure> {
        epoll::add(&self.epoll, fd, token(kind, serial), EventFlags::IN)
            .map_err(|errno| Failure::new(FailureKind::Step, "watching a pipe", errno.raw_os_error()))
    }

    fn start(&mut self, waiter: Waiter, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        let (Phase::Created, Some(birth)) = (&container.phase, &container.birth) else {
            return Err(Failure::new(FailureKind::NotRunning, id, libc::EINVAL));
        };
        birth.go().map_err(|errno| Failure::new(FailureKind::NotRunning, id, errno.raw_os_error()))?;
        container.phase = Phase::Starting(waiter);
        Ok(())
    }

    fn signal(&mut self, id: &str, signal: i32) -> Answer {
        let container = self.find(id)?;
        if !container.is_alive() {
            return Err(Failure::new(FailureKind::NotRunning, id, libc::ESRCH));
        }
        match sys::process::send_signal(container.pidfd.as_fd(), signal) {
            Ok(()) => Ok(Reply::Done),
            Err(Errno::SRCH) => Err(Failure::new(FailureKind::NotRunning, id, libc::ESRCH)),
            Err(errno) => {
                let step = format!("sending signal {signal} to {id}");
                Err(Failure::new(FailureKind::Step, step, errno.raw_os_error()))
            }
        }
    }

    fn kill(&mut self, id: &str) -> Answer {
        let container = self.find(id)?;
        if !container.is_alive() {
            return Err(Failure::new(FailureKind::NotRunning, id, libc::ESRCH));
        }
        end(container);
        Ok(Reply::Done)
    }

    fn exec(&mut self, waiter: Waiter, exec: Exec) -> Result<(), Failure> {
        let container = self.find_running(&exec.container)?;
        let pidfd = rustix::io::fcntl_dupfd_cloexec(container.pidfd.as_fd(), 3)
            .map_err(|errno| Failure::new(FailureKind::Step, "copying a descriptor", errno.raw_os_error()))?;
        let started = process::start(
            &self.sandbox,
            exec.plan,
            process::Place::Within(&pidfd),
            exec.stdin && !exec.tty,
            !exec.tty,
        )?;
        // The client's end is its own to read as it likes; only the keeper's pipes never wait.
        for pipe in [&started.pipes.stdout, &started.pipes.stderr].into_iter().flatten() {
            let _ = rustix::io::ioctl_fionbio(pipe, false);
        }
        let serial = self.serial();
        self.watch(&started.birth.socket, EXEC_BIRTH, serial)?;
        self.execs.push(ExecProcess {
            serial,
            pid: started.pid,
            pidfd: started.pidfd,
            waiter: Some(waiter),
            connection: waiter.connection,
            birth: Some(started.birth),
            pipes: started.pipes,
            container: exec.container,
        });
        Ok(())
    }

    fn signal_exec(&mut self, exec: u64, signal: i32) -> Answer {
        let gone = || Failure::new(FailureKind::NotRunning, format!("exec {exec}"), libc::ESRCH);
        let process = self.execs.iter().find(|one| u64::from(one.serial) == exec).ok_or_else(gone)?;
        match sys::process::send_signal(process.pidfd.as_fd(), signal) {
            Ok(()) => Ok(Reply::Done),
            Err(Errno::SRCH) => Err(gone()),
            Err(errno) => {
                let step = format!("sending signal {signal} to a process in {}", process.container);
                Err(Failure::new(FailureKind::Step, step, errno.raw_os_error()))
            }
        }
    }

    fn attach(&mut self, id: &str) -> Result<(Vec<Stream>, Vec<OwnedFd>), Failure> {
        let container = self.find_running(id)?;
        let failed =
            |errno: Errno| Failure::new(FailureKind::Step, "attaching to a stream", errno.raw_os_error());
        let (mut streams, mut fds) = (Vec::new(), Vec::new());
        if let Some(terminal) = &container.terminal {
            streams.push(Stream::Terminal);
            fds.push(rustix::io::fcntl_dupfd_cloexec(terminal, 3).map_err(failed)?);
        }
        let input = if container.stdin_once {
            container.stdin.take()
        } else {
            let copy = container.stdin.as_ref().map(|stdin| rustix::io::fcntl_dupfd_cloexec(stdin, 3));
            copy.transpose().map_err(failed)?
        };
        if let Some(input) = input {
            streams.push(Stream::Stdin);
            fds.push(input);
        }
        for (output, stream) in container.outputs.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            streams.push(stream);
            fds.push(output.attach().map_err(failed)?);
        }
        Ok((streams, fds))
    }

    /// Forgets a container, once it has ended.
    fn forget(&mut self, waiter: Waiter, id: &str) -> Result<Option<Reply>, Failure> {
        let container = self.find(id)?;
        if container.is_alive() {
            end(container);
            container.forgetting.push(waiter);
            return Ok(None);
        }
        let (serial, joined) = (container.serial, container.joined);
        let shares = joined || self.sandbox.pid != PidMode::Private;
        if shares {
            // Stragglers that were forked while others were killed.
            if let Ok(container) = self.find(id) {
                container.kill_all();
            }
        }
        self.containers.retain(|one| one.serial != serial);
        Ok(Some(Reply::Done))
    }
}

/// Kills a container's first process and all others.
fn end(container: &Container) {
    container.kill_all();
    let _ = sys::process::send_signal(container.pidfd.as_fd(), libc::SIGKILL);
}
