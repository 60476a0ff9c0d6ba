//! The new process: executes a plan step by step, then the program.
//!
//! Runs in a copy of its parent's memory, between clone and execve; the parent is a keeper, or a command that
//! creates a container and ends. For a keeper it allocates nothing, holds no descriptor of the keeper's but the
//! three that it needs, and cannot be looked into: it is not dumpable from its first
//! moment, so that processes of the container whose namespaces it enters can neither trace it nor open what
//! it has open. It reports to the keeper over a socket of packets: each step that failed, whether in vain
//! (a warning) or for good, then that it is ready, then that the program comes next. That the socket closes
//! after that says that the program runs.

mod copy_up;
pub(crate) mod hook;
mod mounts;
mod path;
mod rights;
mod terminal;
mod uncover;

pub(crate) use mounts::open_bind;
pub(crate) use path::ensure_place;

use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::DumpableBehavior;

use crate::plan::step::{Plan, Step};
use crate::plan::text::Text;
use crate::sys::process::{self, Strings};

/// Kinds of packets from the new process; each is followed by the number of the step (two bytes), an errno (four
/// bytes) and text.
pub(crate) const WARNING: u8 = b'w';
pub(crate) const FAILED: u8 = b'f';
/// Waits at the gate.
pub(crate) const READY: u8 = b'r';
/// The program comes next.
pub(crate) const PROGRAM: u8 = b'p';
/// Comes with a terminal.
pub(crate) const TERMINAL: u8 = b't';
/// Wants its ids mapped.
pub(crate) const MAP: u8 = b'm';
/// Wants the runtime's hooks to be run, and then the container's state.
pub(crate) const HOOKS: u8 = b'h';
/// Comes with a detached mount whose ids are to be mapped, and waits until they are.
pub(crate) const MAP_MOUNT: u8 = b'i';
/// Comes with the listener of a seccomp filter.
pub(crate) const LISTENER: u8 = b's';

/// Longest description of a container's state for hooks.
pub(crate) const MAX_STATE: usize = 128 << 10;

/// Not every C library has it.
const CLONE_NEWTIME: i32 = 0x80;

/// Longest packet.
pub(crate) const PACKET: usize = 512;

/// Why a step failed.
#[derive(Debug)]
struct Fault {
    errno: Errno,
    /// What the kernel had to say about it, for mounts, or a hook.
    detail: Vec<u8>,
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self { errno, detail: Vec::new() }
    }
}

impl Fault {
    fn with_detail(errno: Errno, text: &[u8]) -> Self {
        Self { errno, detail: text.to_vec() }
    }
}

/// What the keeper has made ready before the clone, so that nothing needs to be allocated after it.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) argv: Strings,
    pub(crate) envp: Strings,
    /// Place for everything that is opened.
    pub(crate) opened: Vec<OwnedFd>,
    pub(crate) standard: [BorrowedFd<'a>; 3],
    /// Packets to the keeper.
    pub(crate) report: BorrowedFd<'a>,
    /// The container's first process, for an exec.
    pub(crate) container: Option<BorrowedFd<'a>>,
    /// A mount of the sandbox's shared memory.
    pub(crate) shm: Option<BorrowedFd<'a>>,
    /// The sandbox's user namespace.
    pub(crate) users: Option<BorrowedFd<'a>>,
}

/// What steps leave for later ones.
struct State<'a> {
    report: OwnedFd,
    /// Where whoever starts us connects.
    listener: Option<OwnedFd>,
    /// What hooks are told about the container.
    state: Vec<u8>,
    candidates: &'a [Text],
    /// The first descriptor that the program does not get.
    first_closed: u32,
    /// The parent knows that the program comes next.
    announced: bool,
    container: Option<OwnedFd>,
    shm: Option<OwnedFd>,
    users: Option<OwnedFd>,
    /// Our own program, if that is what we become.
    own_program: Option<OwnedFd>,
    opened: Vec<OwnedFd>,
    /// The container's root.
    root: Option<OwnedFd>,
    /// The empty directory that masks directories, once there is one.
    empty: Option<OwnedFd>,
    /// The mount of /dev/null that masks files, once there is one.
    null: Option<OwnedFd>,
    /// The file of our clocks' offsets, once it is open.
    clocks: Option<OwnedFd>,
    step: u16,
}

/// Becomes what the plan says. Never returns.
pub(crate) fn run(prepared: Prepared<'_>) -> ! {
    let Prepared { plan, argv, envp, opened, standard, report, container, shm, users } = prepared;
    // If even that fails there is nobody to tell; the keeper sees us end.
    let kept = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| process::keep_only(standard, &[Some(report), container, shm, users]));
    if kept.is_err() {
        process::exit_now(127);
    }
    let mut state = State {
        report: process::kept(3),
        listener: None,
        state: Vec::new(),
        candidates: &plan.program.candidates,
        first_closed: 3,
        announced: false,
        container: container.is_some().then(|| process::kept(4)),
        shm: shm.is_some().then(|| process::kept(5)),
        users: users.is_some().then(|| process::kept(6)),
        own_program: None,
        opened,
        root: None,
        empty: None,
        null: None,
        clocks: None,
        step: 0,
    };
    state.follow(plan, &argv, &envp)
}

/// What a caller that lives only for a moment has made ready. Its descriptors are few, all of them its own and
/// closed on execve, so that they are kept where they are.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) argv: Strings,
    pub(crate) envp: Strings,
    pub(crate) opened: Vec<OwnedFd>,
    pub(crate) report: OwnedFd,
    pub(crate) listener: Option<OwnedFd>,
    /// How many descriptors after the standard ones the program gets.
    pub(crate) preserved: u32,
}

/// Becomes what the plan says, with the standard streams of the caller. Never returns.
pub(crate) fn run_inherited(inherited: Inherited<'_>) -> ! {
    let Inherited { plan, argv, envp, opened, report, listener, preserved } = inherited;
    // All else is our parent's: among it a lock that would be held for as long as we have a copy of its file.
    let mut kept: Vec<i32> = opened.iter().chain(&listener).map(|fd| fd.as_raw_fd()).collect();
    kept.push(report.as_raw_fd());
    if process::close_others(3 + preserved, &mut kept).is_err() {
        process::exit_now(127);
    }
    let mut state = State {
        report,
        listener,
        state: Vec::new(),
        candidates: &plan.program.candidates,
        first_closed: 3 + preserved,
        announced: false,
        container: None,
        shm: None,
        users: None,
        own_program: None,
        opened,
        root: None,
        empty: None,
        null: None,
        clocks: None,
        step: 0,
    };
    process::reset_signals();
    state.follow(plan, &argv, &envp)
}

/// Takes steps that need nothing but the process itself; gives the number and errno of the one that failed.
pub(crate) fn take_early(steps: &[Step]) -> Result<(), (usize, Errno)> {
    for (index, step) in steps.iter().enumerate() {
        let result = match step {
            Step::JoinCgroups { tasks } => join_cgroups(tasks),
            Step::Label { file, value, .. } => write_label(file.as_c_str(), value.as_c_str()),
            Step::Affinity { cpus } => process::set_affinity(cpus),
            Step::OomScoreAdj { value } => match set_oom_score_adj(*value) {
                Err(Errno::PERM | Errno::ACCESS) => Ok(()),
                other => other,
            },
            _ => Err(Errno::INVAL),
        };
        result.map_err(|errno| (index, errno))?;
    }
    Ok(())
}

fn join_cgroups(tasks: &[Text]) -> Result<(), Errno> {
    tasks.iter().try_for_each(|file| write_file(file.as_c_str(), b"0"))
}

/// Older kernels have no directory for each security module.
fn write_label(file: &CStr, value: &CStr) -> Result<(), Errno> {
    match write_file(file, value.to_bytes()) {
        Err(Errno::NOENT) => write_file(c"/proc/self/attr/exec", value.to_bytes()),
        result => result,
    }
}

fn set_oom_score_adj(value: i32) -> Result<(), Errno> {
    let mut digits = [0_u8; 12];
    write_file(c"/proc/self/oom_score_adj", decimal(value, &mut digits))
}

/// Executes the first candidate that can be; gives the most telling error.
fn execute(plan: &Plan, argv: &Strings, envp: &Strings) -> Errno {
    let mut worst = Errno::NOENT;
    for candidate in &plan.program.candidates {
        match process::execve(candidate.as_c_str(), argv, envp) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => worst = Errno::ACCESS,
            other => return other,
        }
    }
    worst
}

impl State<'_> {
    /// Takes all steps, then executes the program.
    fn follow(&mut self, plan: &Plan, argv: &Strings, envp: &Strings) -> ! {
        // All others a keeper has at their defaults, or handles, and execve knows what to do with those.
        process::reset_signal(libc::SIGPIPE);
        process::unblock_signals();
        rustix::process::umask(Mode::empty());
        for step in &plan.steps {
            if let Err(fault) = self.take(step) {
                self.send(FAILED, fault.errno.raw_os_error(), &fault.detail);
                process::exit_now(127);
            }
            self.step += 1;
        }
        let errno = match self.announce() {
            Ok(()) => match &self.own_program {
                Some(file) => process::execute_opened(file.as_fd(), argv, envp),
                None if plan.program.own => Errno::BADF,
                None => execute(plan, argv, envp),
            },
            Err(errno) => errno,
        };
        self.send(FAILED, errno.raw_os_error(), &[]);
        // The codes that shells give.
        process::exit_now(if errno == Errno::NOENT { 127 } else { 126 })
    }

    /// Says that the program comes next, and lets go of what it is not to have. Done before a filter may forbid
    /// it, unless a starter is still to come, whom it is said to.
    fn announce(&mut self) -> Result<(), Errno> {
        if self.announced {
            return Ok(());
        }
        self.announced = true;
        self.send(PROGRAM, 0, &[]);
        process::close_from_on_exec(self.first_closed)
    }

    fn take(&mut self, step: &Step) -> Result<(), Fault> {
        match step {
            Step::JoinCgroups { tasks } => join_cgroups(tasks)?,
            Step::AwaitMapping => {
                self.send(MAP, 0, &[]);
                self.wait_for_parent()?;
            }
            Step::BecomeRoot => rights::become_root()?,
            Step::OpenClocks => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let clocks = rustix::fs::openat(CWD, c"/proc/self/timens_offsets", flags, Mode::empty())?;
                self.clocks = Some(clocks);
            }
            Step::NewTimeNamespace { offsets } => {
                process::unshare(CLONE_NEWTIME)?;
                let offsets = offsets.as_c_str().to_bytes();
                match self.clocks.take() {
                    _ if offsets.is_empty() => {}
                    Some(clocks) => write_all(clocks.as_fd(), offsets)?,
                    None => write_file(c"/proc/self/timens_offsets", offsets)?,
                }
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let own = rustix::fs::openat(CWD, c"/proc/self/ns/time_for_children", flags, Mode::empty())?;
                rustix::thread::move_into_link_name_space(own.as_fd(), None)?;
            }
            Step::Loopback => process::loopback_up()?,
            Step::HostName { name } => {
                rustix::system::sethostname(name.as_c_str().to_bytes())?;
            }
            Step::DomainName { name } => rustix::system::setdomainname(name.as_c_str().to_bytes())?,
            Step::Label { file, value, .. } => write_label(file.as_c_str(), value.as_c_str())?,
            Step::RuntimeHooks => {
                self.send(HOOKS, 0, &[]);
                self.state = self.wait_for_parent()?;
            }
            Step::Hook { path, argv, env, timeout, .. } => {
                if let Some(root) = &self.root {
                    // Before the root is changed: a hook that wants to change the container finds it here.
                    rustix::process::fchdir(root)?;
                }
                let hook = hook::Call { path, argv, env: env.as_deref(), timeout: *timeout };
                hook.run(&self.state).map_err(|failure| failure.into_fault())?;
            }
            Step::FindProgram => self.find_program()?,
            Step::Personality { persona } => process::set_personality(*persona)?,
            Step::IoPriority { value } => process::set_io_priority(*value)?,
            Step::Scheduler { policy, flags, nice, priority, runtime, deadline, period, bound } => {
                let set = process::set_scheduler(&process::Scheduling {
                    policy: *policy,
                    flags: *flags,
                    nice: *nice,
                    priority: *priority,
                    runtime: *runtime,
                    deadline: *deadline,
                    period: *period,
                });
                if *bound && set == Err(Errno::PERM) {
                    const WHY: &[u8] = b"process scheduler can't be used together with AllowedCPUs";
                    return Err(Fault::with_detail(Errno::PERM, WHY));
                }
                set?;
            }
            Step::Affinity { cpus } => process::set_affinity(cpus)?,
            Step::MemoryPolicy { mode, nodes } => process::set_memory_policy(*mode, nodes)?,
            Step::JoinContainer { namespaces } => {
                let container = self.container.as_ref().ok_or(Errno::BADF)?;
                let kinds = rustix::thread::ThreadNameSpaceType::from_bits_retain(*namespaces);
                rustix::thread::move_into_thread_name_spaces(container.as_fd(), kinds)?;
            }
            Step::OpenOwnProgram => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                self.own_program = Some(rustix::fs::openat(CWD, c"/proc/self/exe", flags, Mode::empty())?);
            }
            Step::ActAs { uid, gid } => rights::act_as(*uid, *gid)?,
            Step::EnterUsers { own_mounts } => {
                let users = self.users.take().ok_or(Errno::BADF)?;
                let kind = Some(rustix::thread::LinkNameSpaceType::User);
                rustix::thread::move_into_link_name_space(users.as_fd(), kind)?;
                rights::become_root()?;
                if *own_mounts {
                    process::unshare(libc::CLONE_NEWNS)?;
                }
            }
            Step::NewCgroupNamespace => process::unshare(libc::CLONE_NEWCGROUP)?,
            Step::NewSession => {
                rustix::process::setsid()?;
            }
            Step::NewKeyring => {
                // A kernel without keys has none to hide.
                match process::new_session_keyring() {
                    Err(Errno::NOSYS) | Ok(()) => {}
                    Err(errno) => self.warn(errno),
                }
            }
            Step::OomScoreAdj { value } => self.oom_score_adj(*value)?,
            Step::Sysctl { path, value } => write_file(path.as_c_str(), value.as_c_str().to_bytes())?,
            Step::OpenBind { .. }
            | Step::Bind { .. }
            | Step::PrivateMounts
            | Step::SlaveMounts
            | Step::Root { .. }
            | Step::Mount { .. }
            | Step::PlaceBind { .. }
            | Step::PlaceShm { .. }
            | Step::Device { .. }
            | Step::Symlink { .. }
            | Step::Attributes { .. }
            | Step::Mask { .. }
            | Step::ReadOnly { .. }
            | Step::ReadOnlyRoot
            | Step::MakeDirectory { .. }
            | Step::PivotRoot
            | Step::MoveRoot
            | Step::ChangeRoot
            | Step::EnterRoot { .. }
            | Step::RootPropagation { .. } => return self.mounts(step),
            Step::NullInput => self.null_input(),
            Step::Terminal { size, console } => self.terminal(*size, *console)?,
            Step::OwnStreams { uid, gid } => self.own_streams(*uid, *gid),
            Step::Limit { resource, soft, hard, .. } => self.limit(*resource, *soft, *hard)?,
            Step::WorkingDirectory { path } => {
                rustix::process::chdir(path.as_c_str())?;
                if !process::working_directory_is_inside()? {
                    return Err(Errno::NOENT.into());
                }
            }
            Step::Bound { keep } => rights::bound(*keep)?,
            Step::Identity { uid, gid, groups } => rights::identity(*uid, *gid, groups)?,
            Step::Capabilities(bits) => {
                if !rights::capabilities(bits)? {
                    self.warn(Errno::PERM);
                }
            }
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true)?,
            Step::Seccomp { flags, program } => {
                if self.listener.is_none() {
                    self.announce()?;
                }
                if let Some(listener) = process::set_filter(*flags, &program.0)? {
                    self.send_with(LISTENER, 0, &[], Some(listener.as_fd()));
                }
            }
            Step::Umask { mask } => {
                rustix::process::umask(Mode::from_raw_mode(*mask));
            }
            Step::Gate => self.gate()?,
            Step::Listen => self.listen()?,
        }
        Ok(())
    }

    /// A process that may not lower its score is only more likely to be killed.
    fn oom_score_adj(&self, value: i32) -> Result<(), Fault> {
        match set_oom_score_adj(value) {
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
                self.warn(errno);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// A hard limit above ours takes a capability that not every host gives its root.
    fn limit(&self, resource: u32, soft: u64, hard: u64) -> Result<(), Fault> {
        match process::set_limit(resource, soft, hard) {
            Err(Errno::PERM) => {
                let hard = process::hard_limit(resource)?;
                self.warn(Errno::PERM);
                Ok(process::set_limit(resource, soft.min(hard), hard)?)
            }
            other => Ok(other?),
        }
    }

    /// Gives pipes to the user; otherwise a program that drops root cannot open /dev/stdout.
    fn own_streams(&self, uid: u32, gid: u32) {
        if uid == 0 {
            return;
        }
        for stream in [0, 1, 2].map(process::standard) {
            let Ok(stat) = rustix::fs::fstat(stream) else { continue };
            let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
            let owner = Some(rustix::fs::Uid::from_raw(uid));
            let group = match kind {
                rustix::fs::FileType::Fifo => Some(rustix::fs::Gid::from_raw(gid)),
                // A terminal keeps the group that may write to it.
                rustix::fs::FileType::CharacterDevice if rustix::termios::isatty(stream) => None,
                _ => continue,
            };
            if let Err(errno) = rustix::fs::fchown(stream, owner, group) {
                self.warn(errno);
            }
        }
    }

    /// Stops until the keeper says go. The keeper's end says stop.
    fn gate(&self) -> Result<(), Fault> {
        self.send(READY, 0, &[]);
        let mut byte = [0_u8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.report, &mut byte))? {
            0 => process::exit_now(127),
            _ => Ok(()),
        }
    }

    /// Tells our creator that we are ready, and lets somebody else take over: whoever connects next, says
    /// what state we are in, and hears what becomes of us.
    fn listen(&mut self) -> Result<(), Fault> {
        // Whoever asks us to end now, means the container.
        process::end_on_request();
        self.send(READY, 0, &[]);
        let listener = self.listener.take().ok_or(Errno::BADF)?;
        loop {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let connection = rustix::io::retry_on_intr(|| rustix::net::accept_with(&listener, flags))?;
            let mut message = vec![0; MAX_STATE];
            // One that goes away again has changed its mind.
            match rustix::io::retry_on_intr(|| rustix::io::read(&connection, &mut *message)) {
                Ok(length) if length > 0 => {
                    message.truncate(length);
                    self.state = message;
                    self.report = connection;
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Waits for a message. The parent's end is ours.
    fn wait_for_parent(&self) -> Result<Vec<u8>, Errno> {
        let mut message = vec![0; MAX_STATE];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.report, &mut *message))? {
            0 => process::exit_now(127),
            length => {
                message.truncate(length);
                Ok(message)
            }
        }
    }

    /// Looks whether something can be executed, so that its creator hears of it rather than its starter.
    fn find_program(&self) -> Result<(), Errno> {
        let mut worst = Errno::NOENT;
        for candidate in self.candidates {
            let stat = match rustix::fs::statat(CWD, candidate.as_c_str(), rustix::fs::AtFlags::empty()) {
                Ok(stat) => stat,
                Err(Errno::ACCESS) => {
                    worst = Errno::ACCESS;
                    continue;
                }
                Err(_) => continue,
            };
            let file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
            // With the capabilities that we have by now, which count for execve as well.
            let access = rustix::fs::Access::EXEC_OK;
            let effective = rustix::fs::AtFlags::EACCESS;
            if file && rustix::fs::accessat(CWD, candidate.as_c_str(), access, effective).is_ok() {
                return Ok(());
            }
            worst = Errno::ACCESS;
        }
        Err(worst)
    }

    fn warn(&self, errno: Errno) {
        self.send(WARNING, errno.raw_os_error(), &[]);
    }

    fn send(&self, kind: u8, errno: i32, detail: &[u8]) {
        self.send_with(kind, errno, detail, None);
    }

    /// Sends a packet. A keeper that does not listen any more is dead, and then nothing matters.
    fn send_with(&self, kind: u8, errno: i32, detail: &[u8], fd: Option<BorrowedFd<'_>>) {
        let mut packet = [0_u8; PACKET];
        packet[0] = kind;
        packet[1..3].copy_from_slice(&self.step.to_le_bytes());
        packet[3..7].copy_from_slice(&errno.to_le_bytes());
        let length = detail.len().min(PACKET - 7);
        packet[7..7 + length].copy_from_slice(&detail[..length]);
        let parts = [IoSlice::new(&packet[..7 + length])];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let _ = rustix::net::sendmsg(&self.report, &parts, &mut control, SendFlags::NOSIGNAL);
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }
}

/// Writes all of a small text to a file of the kernel's, in one call as these want it.
fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_all(file.as_fd(), text)
}

fn write_all(file: BorrowedFd<'_>, text: &[u8]) -> Result<(), Errno> {
    let count = rustix::io::retry_on_intr(|| rustix::io::write(file, text))?;
    if count == text.len() { Ok(()) } else { Err(Errno::IO) }
}

/// A number as text, in a place that the caller gives.
fn decimal(value: i32, digits: &mut [u8; 12]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_text() {
        for value in [0, 7, -1, 1000, -998, i32::MAX, i32::MIN] {
            assert_eq!(decimal(value, &mut [0; 12]), value.to_string().as_bytes());
        }
    }
}
