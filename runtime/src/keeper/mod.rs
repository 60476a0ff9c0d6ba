//! The keeper: one small process for each sandbox.
//!
//! It is the parent and reaper of the sandbox's containers, holds the namespaces that they share, writes their
//! logs, records their exit codes, and answers requests on a unix socket. It needs nobody: whoever started it
//! may be killed or replaced at any moment, and finds everything again by connecting.
//!
//! Guarantees: it never waits for a client or a container (everything is read and written when epoll says so);
//! an exit is announced after its record is on disk and the container's output in the log; it ends when it is
//! told to and nothing is left. Assumptions: one thread; run by root; cloned from a template (`template.rs`) that
//! [`crate::Runtime`] asks for it, with the run directory, locked for as long as the keeper lives.
//!
//! Absent on purpose: the OCI specification, seccomp profiles, cgroup controllers, user names. Requests carry
//! plans in which all that has become numbers and strings for system calls.
//!
//! The program is run from a place that containers cannot write. A container's first instructions are the
//! keeper's own, cloned, and a hostile image can make its entry point or interpreter `/proc/self/exe`, or open
//! `/proc/<pid>/exe` of a process that joins it, and write to what it gets once nobody executes it any more:
//! the host's own binary, to be run by root the next time (CVE-2019-5736). What it gets here is a file on a
//! read-only overlay without an upper layer, or a sealed memory file. See `seal.rs`.

mod connection;
mod container;
pub(crate) mod log;
mod output;
mod process;
pub(crate) mod record;
mod requests;
pub(crate) mod setup;
pub(crate) mod template;

pub use template::main;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{WaitOptions, WaitStatus};

use connection::Connection;
use container::{Container, Phase, Waiter};
use process::{Birth, Progress};
use setup::Sandbox;

use crate::protocol::{self, Failure, FailureKind, Greeting, Message, Reply};
use crate::sys;

/// The life of one keeper: a process that the template has cloned, with its connection, its locked run directory
/// and its log.
fn keep(control: OwnedFd, directory: OwnedFd, log: OwnedFd) -> i32 {
    let (control, directory) = match setup::descriptors(control, directory, log) {
        Ok(descriptors) => descriptors,
        Err(errno) => return complain("taking our descriptors", errno.into()),
    };
    let setup = match setup::read_setup(control.as_fd()) {
        Ok(setup) => setup,
        Err(error) => return complain("reading what to set up", error),
    };
    template::show(&setup.sandbox);
    let keeper = setup::detach(&setup).and_then(|()| setup::sandbox(setup, directory)).and_then(|sandbox| {
        Keeper::new(sandbox).map_err(|errno| {
            Failure::new(FailureKind::Step, "preparing the event loop", errno.raw_os_error())
        })
    });
    match keeper {
        Ok(keeper) => keeper.run(control),
        Err(failure) => {
            let error = failure.source();
            let step = failure.step.clone();
            if let Ok(frame) = protocol::frame(&Message::Refused(failure)) {
                let _ = rustix::net::send(&control, &frame, rustix::net::SendFlags::NOSIGNAL);
            }
            complain(&step, error)
        }
    }
}

/// Standard error is a file in the run directory.
fn complain(what: &str, error: io::Error) -> i32 {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{what}: {error}");
    1
}

/// A buffer for output; the longest part of a line.
const BUFFER: usize = 16 * 1024;

/// Buffers read from one stream before others get their turn.
const ROUNDS: usize = 8;

/// Clients at one time.
const MAX_CONNECTIONS: usize = 32;

/// What an event is about, in the upper half of its number; the lower half says which one.
const SIGNALS: u32 = 1;
const LISTENER: u32 = 2;
const CONNECTION: u32 = 3;
const CONTAINER_BIRTH: u32 = 4;
const EXEC_BIRTH: u32 = 5;
/// And the next one for the second stream.
const OUTPUT: u32 = 6;

fn token(kind: u32, serial: u32) -> EventData {
    EventData::new_u64(u64::from(kind) << 32 | u64::from(serial))
}

/// A process that was started in a container.
#[derive(Debug)]
struct ExecProcess {
    serial: u32,
    pid: rustix::process::Pid,
    pidfd: OwnedFd,
    /// Who asked, until it runs.
    waiter: Option<Waiter>,
    /// The connection that is told when it ends.
    connection: u32,
    birth: Option<Birth>,
    pipes: process::Pipes,
    container: String,
}

struct Keeper {
    sandbox: Sandbox,
    epoll: OwnedFd,
    signals: OwnedFd,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<ExecProcess>,
    /// Number for the next connection, container or exec.
    next: u32,
    /// Who has asked us to end.
    stopping: Vec<Waiter>,
    /// Who waits for a list, until the starts that others asked for are over.
    listing: Vec<Waiter>,
    buffer: Vec<u8>,
}

impl Keeper {
    fn new(sandbox: Sandbox) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // SIGTERM and its like are not for us: who wants the sandbox to end says so on the socket.
        let signals = sys::process::signal_fd(&[
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ])?;
        epoll::add(&epoll, &signals, token(SIGNALS, 0), EventFlags::IN)?;
        epoll::add(&epoll, &sandbox.listener, token(LISTENER, 0), EventFlags::IN)?;
        Ok(Self {
            sandbox,
            epoll,
            signals,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            next: 1,
            stopping: Vec::new(),
            listing: Vec::new(),
            buffer: vec![0; BUFFER],
        })
    }

    fn run(mut self, control: OwnedFd) -> i32 {
        // The connection that started us is a connection like any other from here on. If it is gone already,
        // nobody has ever heard of this sandbox.
        if !self.welcome(control) {
            return 1;
        }
        sys::trim_heap();
        let mut events = Vec::with_capacity(16);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return complain("waiting for events", errno.into()),
            }
            for event in &events {
                let number = event.data.u64();
                #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
                let (kind, serial) = ((number >> 32) as u32, number as u32);
                match kind {
                    SIGNALS => self.on_signal(),
                    LISTENER => self.on_connect(),
                    CONNECTION => self.on_connection(serial, event.flags),
                    CONTAINER_BIRTH => self.on_container_birth(serial),
                    EXEC_BIRTH => self.on_exec_birth(serial),
                    _ => self.on_output(serial, kind - OUTPUT),
                }
            }
            self.list_again();
            if self.is_done() {
                return 0;
            }
        }
    }

    fn serial(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Everything that was to be stopped has stopped.
    fn is_done(&mut self) -> bool {
        if self.stopping.is_empty() || self.containers.iter().any(Container::is_alive) {
            return false;
        }
        for waiter in std::mem::take(&mut self.stopping) {
            self.reply(waiter, Ok(Reply::Done), Vec::new());
        }
        true
    }

    // Connections.

    fn on_connect(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&self.sandbox.listener, flags) else { return };
            // The socket's mode says the same; this holds even where a directory was opened up by mistake.
            let peer = rustix::net::sockopt::socket_peercred(&socket);
            let trusted = peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            if trusted && self.connections.len() < MAX_CONNECTIONS {
                self.welcome(socket);
            }
        }
    }

    fn welcome(&mut self, socket: OwnedFd) -> bool {
        if rustix::io::ioctl_fionbio(&socket, true).is_err() {
            return false;
        }
        let serial = self.serial();
        if epoll::add(&self.epoll, &socket, token(CONNECTION, serial), EventFlags::IN).is_err() {
            return false;
        }
        let greeting = Message::Greeting(Greeting {
            protocol: protocol::VERSION,
            sandbox: self.sandbox.id.clone(),
            pid: rustix::process::getpid().as_raw_pid(),
        });
        self.connections.push(Connection::new(serial, socket));
        self.send(serial, &greeting, Vec::new())
    }

    fn on_connection(&mut self, serial: u32, flags: EventFlags) {
        let Some(index) = self.connections.iter().position(|one| one.serial == serial) else { return };
        if flags.contains(EventFlags::OUT) {
            let connection = &mut self.connections[index];
            let mut alive = connection.flush().is_ok();
            if alive && !connection.is_waiting() {
                alive =
                    epoll::modify(&self.epoll, &connection.socket, token(CONNECTION, serial), EventFlags::IN)
                        .is_ok();
            }
            if !alive {
                self.connections.remove(index);
                return;
            }
        }
        // A request can end the connection that it came on, so it is looked up each time.
        while let Some(connection) = self.connections.iter_mut().find(|one| one.serial == serial) {
            match connection.receive() {
                Ok(Some(Ok(call))) => {
                    self.on_call(Waiter { connection: serial, call: call.id }, call.request);
                }
                Ok(Some(Err(id))) => {
                    let failure = Failure::new(FailureKind::Bad, "this keeper does not know the request", 0);
                    self.reply(Waiter { connection: serial, call: id }, Err(failure), Vec::new());
                }
                Ok(None) => return,
                Err(_) => {
                    self.connections.retain(|one| one.serial != serial);
                    return;
                }
            }
        }
    }

    /// Sends to one connection; says whether it is still there.
    fn send(&mut self, serial: u32, message: &Message, fds: Vec<OwnedFd>) -> bool {
        let Some(connection) = self.connections.iter_mut().find(|one| one.serial == serial) else {
            return false;
        };
        let mut alive = connection.send(message, fds).is_ok();
        if alive && connection.is_waiting() {
            let flags = EventFlags::IN | EventFlags::OUT;
            alive = epoll::modify(&self.epoll, &connection.socket, token(CONNECTION, serial), flags).is_ok();
        }
        if !alive {
            self.connections.retain(|one| one.serial != serial);
        }
        alive
    }

    fn reply(&mut self, waiter: Waiter, result: Result<Reply, Failure>, fds: Vec<OwnedFd>) {
        let message = Message::Reply { id: waiter.call, result, fds: fds.len() };
        self.send(waiter.connection, &message, fds);
    }

    fn announce(&mut self, message: &Message) {
        let serials: Vec<u32> = self.connections.iter().map(|connection| connection.serial).collect();
        for serial in serials {
            self.send(serial, message, Vec::new());
        }
    }

    // Processes.

    fn on_signal(&mut self) {
        // One read tells of all; which ones does not matter, as only SIGCHLD is of interest.
        let mut info = [0_u8; 128 * 8];
        while rustix::io::read(&self.signals, &mut info).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(index) = self.containers.iter().position(|one| one.pid == pid && one.is_alive()) {
                let serial = self.containers[index].serial;
                // What it has reported comes before its end.
                self.on_container_birth(serial);
                self.on_container_end(serial, status);
            } else if let Some(exec) = self.execs.iter().find(|one| one.pid == pid) {
                let serial = exec.serial;
                self.on_exec_birth(serial);
                self.on_exec_end(serial, status);
            }
            // Anything else was an orphan, or a process that failed before it became anything.
        }
    }

    fn on_container_birth(&mut self, serial: u32) {
        let Some(index) = self.containers.iter().position(|one| one.serial == serial) else { return };
        let container = &mut self.containers[index];
        let Some(birth) = &mut container.birth else { return };
        let progress = birth.progress();
        let terminal = birth.terminal.take();
        let waiter = match container.phase {
            Phase::Starting(waiter) => Some(waiter),
            _ => None,
        };
        match progress {
            Progress::Busy => {
                self.take_terminal(serial, terminal);
            }
            Progress::Ready => {
                birth.shrink();
                let warnings = std::mem::take(&mut birth.warnings);
                container.phase = Phase::Created;
                self.take_terminal(serial, terminal);
                self.reply_state(serial, waiter, warnings);
                sys::trim_heap();
            }
            Progress::Running => {
                let warnings = std::mem::take(&mut birth.warnings);
                container.birth = None;
                container.phase = Phase::Running { started_at: SystemTime::now() };
                self.take_terminal(serial, terminal);
                self.reply_state(serial, waiter, warnings);
                sys::trim_heap();
            }
            Progress::Failed(failure) => {
                let was_created = matches!(container.phase, Phase::Created);
                container.birth = None;
                if was_created {
                    // Killed at the gate: an end like any other, which wait(2) will report.
                    return;
                }
                let container = self.containers.remove(index);
                if let Some(waiter) = waiter {
                    self.reply(waiter, Err(failure), Vec::new());
                }
                for waiter in container.forgetting {
                    self.reply(waiter, Ok(Reply::Done), Vec::new());
                }
                sys::trim_heap();
            }
        }
    }

    fn reply_state(&mut self, serial: u32, waiter: Option<Waiter>, warnings: Vec<String>) {
        let Some(container) = self.containers.iter().find(|one| one.serial == serial) else { return };
        let state = container.listed();
        if let Some(waiter) = waiter {
            self.reply(waiter, Ok(Reply::Container { state, warnings }), Vec::new());
        }
    }

    /// The terminal that a container has opened is its output, and its input.
    fn take_terminal(&mut self, serial: u32, terminal: Option<OwnedFd>) {
        let Some(terminal) = terminal else { return };
        let Some(container) = self.containers.iter_mut().find(|one| one.serial == serial) else { return };
        let _ = rustix::io::ioctl_fionbio(&terminal, true);
        let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&terminal, 3) else { return };
        let _ = epoll::add(&self.epoll, &terminal, token(OUTPUT, serial), EventFlags::IN);
        container.outputs = vec![output::Output::new(terminal, "stdout", true)];
        container.terminal = Some(copy);
    }

    fn on_output(&mut self, serial: u32, stream: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.serial == serial) else { return };
        container.read_output(Some(stream as usize), &mut self.buffer, ROUNDS);
    }

    fn on_container_end(&mut self, serial: u32, status: WaitStatus) {
        let Some(container) = self.containers.iter_mut().find(|one| one.serial == serial) else { return };
        let started_at = match container.phase {
            Phase::Running { started_at } => started_at,
            _ => SystemTime::now(),
        };
        if self.sandbox.pid != crate::spec::PidMode::Private {
            // Its namespace lives on, and would its other processes.
            container.kill_all();
        }
        // What it wrote is in the log before its end is told.
        container.read_output(None, &mut self.buffer, usize::MAX);
        container.stdin = None;
        container.birth = None;
        let exit = container.exit(status, started_at);
        container.phase = Phase::Exited(exit.clone());
        let record = record::Record { container: container.id.clone(), exit };
        if let Err(error) = record::write(&container.record, &record) {
            // The living still get to know it, which is better than nobody.
            complain(&format!("recording the exit of {}", container.id), error);
        }
        let forgetting = std::mem::take(&mut container.forgetting);
        let forget = !forgetting.is_empty();
        self.announce(&Message::Exited { container: record.container, exit: record.exit });
        if forget {
            self.containers.retain(|one| one.serial != serial);
        }
        for waiter in forgetting {
            self.reply(waiter, Ok(Reply::Done), Vec::new());
        }
        sys::trim_heap();
    }

    fn on_exec_birth(&mut self, serial: u32) {
        let Some(index) = self.execs.iter().position(|one| one.serial == serial) else { return };
        let exec = &mut self.execs[index];
        let Some(birth) = &mut exec.birth else { return };
        match birth.progress() {
            Progress::Busy | Progress::Ready => {}
            Progress::Running => {
                let Some(birth) = exec.birth.take() else { return };
                let mut pipes = std::mem::take(&mut exec.pipes);
                let (mut streams, mut fds) = (Vec::new(), Vec::new());
                for (stream, fd) in [
                    (protocol::Stream::Stdin, pipes.stdin.take()),
                    (protocol::Stream::Stdout, pipes.stdout.take()),
                    (protocol::Stream::Stderr, pipes.stderr.take()),
                    (protocol::Stream::Terminal, birth.terminal),
                ] {
                    if let Some(fd) = fd {
                        streams.push(stream);
                        fds.push(fd);
                    }
                }
                let reply = Reply::Exec {
                    exec: serial.into(),
                    pid: exec.pid.as_raw_pid(),
                    streams,
                    warnings: birth.warnings,
                };
                if let Some(waiter) = exec.waiter.take() {
                    self.reply(waiter, Ok(reply), fds);
                }
                sys::trim_heap();
            }
            Progress::Failed(failure) => {
                let exec = self.execs.remove(index);
                if let Some(waiter) = exec.waiter {
                    self.reply(waiter, Err(failure), Vec::new());
                }
                sys::trim_heap();
            }
        }
    }

    fn on_exec_end(&mut self, serial: u32, status: WaitStatus) {
        let Some(index) = self.execs.iter().position(|one| one.serial == serial) else { return };
        let exec = self.execs.remove(index);
        let code = match status.terminating_signal() {
            Some(signal) => 128 + signal,
            None => status.exit_status().unwrap_or(255),
        };
        self.send(exec.connection, &Message::ExecEnded { exec: serial.into(), code }, Vec::new());
    }
}
