//! Making processes and changing into other ones: clone3, execve, signals, seccomp.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use super::mount::{check, last_errno};

/// The two sides of a clone.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the new process.
    Child,
    /// In the old one: the new one's number, and a handle that stays its own even when the number is reused.
    Parent(Pid, OwnedFd),
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Clones a sibling: its parent is ours. Its number is ours to tell. As for `clone_into` otherwise.
pub(crate) fn clone_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Pid>, Errno> {
    // It takes its exit signal from us.
    let mut args = CloneArgs { flags: flags | libc::CLONE_PARENT as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: as for `clone_into`: a copy of all memory, and a structure of the kernel's layout.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(None),
        1.. => i32::try_from(pid).ok().and_then(Pid::from_raw).map(Some).ok_or(Errno::RANGE),
        _ => Err(last_errno()),
    }
}

/// Clones this process like fork, into new namespaces (`flags`: `CLONE_NEW*`) and, if given, directly into a
/// cgroup of the v2 hierarchy.
///
/// Must be called from a process with one thread. (In one with several, the child could wait for ever for a
/// lock that a thread held which it does not have.)
pub(crate) fn clone_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of all memory, stack included, like after fork; the
    // structure has the kernel's layout and outlives the call, and so does the place for the pidfd.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    cloned(pid, &pidfd)
}

/// The same without clone3, for places where a filter hides it: clone(2) cannot choose a cgroup.
pub(crate) fn clone_plainly(flags: u64) -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    let flags = flags | libc::CLONE_PIDFD as u64 | libc::SIGCHLD as u64;
    // SAFETY: as above; a stack of null means the parent's (copied), and the third argument is where the
    // kernel writes the pidfd on every architecture that we build for.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, &raw mut pidfd, 0_u64, 0_u64) };
    cloned(pid, &pidfd)
}

fn cloned(pid: libc::c_long, pidfd: &i32) -> Result<Cloned, Errno> {
    match pid {
        0 => Ok(Cloned::Child),
        1.. => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
            // SAFETY: the kernel has just put a new descriptor there that nobody else knows of.
            Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(*pidfd) }))
        }
        _ => Err(last_errno()),
    }
}

/// Tries whether a clone with these flags works; the child does nothing. Also for processes with threads.
pub(crate) fn can_clone(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    match clone_into(flags, cgroup)? {
        // SAFETY: _exit only, which needs no lock and runs nothing of ours.
        Cloned::Child => unsafe { libc::_exit(0) },
        Cloned::Parent(_, pidfd) => {
            rustix::process::waitid(
                rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
                rustix::process::WaitIdOptions::EXITED,
            )?;
            Ok(())
        }
    }
}

/// Ends this process at once, without running destructors or exit handlers that belong to the parent's life.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A null-terminated array of strings for execve.
#[derive(Debug)]
pub(crate) struct Strings {
    // Owns what the pointers point to; a CString's bytes do not move with it.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Becomes another program; returns only if that fails.
pub(crate) fn execve(path: &CStr, argv: &Strings, envp: &Strings) -> Errno {
    // SAFETY: all three are NUL-terminated strings or null-terminated arrays of such, alive during the call.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    last_errno()
}

/// Executes a file that is open. Returns only if it cannot.
pub(crate) fn execute_opened(file: BorrowedFd<'_>, argv: &Strings, envp: &Strings) -> Errno {
    // SAFETY: as for `execve`; the descriptor is borrowed for the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Sets every signal to its default action. What a process ignores, all that it starts will ignore: Rust's
/// runtime ignores SIGPIPE, `nohup` SIGHUP, and a shell gives its background jobs an ignored SIGINT.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: setting a default action runs no code of ours later. SIGKILL, SIGSTOP and the numbers that
        // libc keeps to itself are refused with an error, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Lets SIGTERM end this process even if it is the first of a pid namespace, where the default action is none.
pub(crate) fn end_on_request() {
    extern "C" fn end(signal: i32) {
        // SAFETY: _exit may be called at any moment.
        unsafe { libc::_exit(128 + signal) }
    }
    let handler: extern "C" fn(i32) = end;
    // SAFETY: the handler touches no memory; execve resets it.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

/// Ignores a signal.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: ignoring runs no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Makes a signal do what it does by default.
pub(crate) fn reset_signal(signal: i32) {
    // SAFETY: setting a default action runs no code of ours later.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Blocks no signal any more.
pub(crate) fn unblock_signals() {
    // SAFETY: an empty set is built before it is read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Blocks the signals and returns a descriptor to read them from.
pub(crate) fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    // SAFETY: the set is built before it is read; the new descriptor is nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) < 0 {
            return Err(last_errno());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Sends a signal by number; real-time signals have no place in the libraries' enumerations.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers that are read: the third is null, which means "as kill would".
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, ptr::null::<u8>(), 0_u32)
    })
}

/// Closes every descriptor from `first` on.
///
/// Must not be called when such descriptors are still owned by values that will close them again.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range reads no memory. That no owner is left is the caller's part.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) })
}

/// Closes every descriptor from `first` on but these, which get sorted.
///
/// Must not be called when what is closed is still owned by values that will close it again.
pub(crate) fn close_others(first: u32, kept: &mut [i32]) -> Result<(), Errno> {
    kept.sort_unstable();
    let mut next = first;
    for fd in kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= first) {
        if fd > next {
            // SAFETY: close_range reads no memory. That no owner is left is the caller's part.
            check(unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0_u32) })?;
        }
        next = fd + 1;
    }
    close_from(next)
}

/// Marks every descriptor from `first` on to be closed by execve.
pub(crate) fn close_from_on_exec(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range reads no memory, and this only sets a flag.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Moves into new namespaces (`CLONE_NEW*`).
///
/// Must be called from a process with one thread, or one whose other threads do not care.
pub(crate) fn unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: unshare reads no memory; without CLONE_FILES it does not touch anybody's descriptors.
    check(unsafe { libc::unshare(flags) }.into())
}

/// Enters namespaces (`CLONE_NEW*`): one kind by its file, any number by a pidfd.
pub(crate) fn set_namespaces(fd: BorrowedFd<'_>, kinds: u32) -> Result<(), Errno> {
    // SAFETY: no memory is involved, and file descriptors are not shared with other threads of ours.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds) })
}

/// Installs a filter on this thread. `program` is an array of `struct sock_filter`. With the flag for a listener
/// (8), gives the listener's descriptor.
pub(crate) fn set_filter(flags: u32, program: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    const NEW_LISTENER: u32 = 8;
    let length = u16::try_from(program.len() / 8).map_err(|_| Errno::TOOBIG)?;
    let fprog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `length` instructions of eight bytes, which the slice has, from wherever they
    // lie (it copies bytes, so alignment does not matter to it), and validates them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    check(result)?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let listener = i32::try_from(result).map_err(|_| Errno::RANGE)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) }))
}

/// Sets the execution domain.
pub(crate) fn set_personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) })
}

/// Sets the priority of block I/O of this process.
pub(crate) fn set_io_priority(value: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })
}

/// A scheduling policy and its parameters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scheduling {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Sets the scheduling policy of this process.
pub(crate) fn set_scheduler(scheduling: &Scheduling) -> Result<(), Errno> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: scheduling.policy,
        flags: scheduling.flags,
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
    };
    // SAFETY: the structure has the kernel's first layout, says its own size, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0_u32) })
}

/// Chooses the CPUs of this process.
pub(crate) fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) })
}

/// Chooses the memory nodes of this process.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let place = if nodes.is_empty() { ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads `bits - 1` bits, which the slice has; none for a null pointer.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, place, bits) })
}

/// Whether the kernel knows a seccomp action.
pub(crate) fn knows_action(action: u32) -> bool {
    // SAFETY: reads four bytes that are there.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, &raw const action) == 0 }
}

/// Leaves the session keyring for a new, empty one, so that the process cannot use (or find) the keys of
/// whoever started it.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>()) })
}

/// Makes these descriptors the only ones: the first three standard input, output and error, the others from 3
/// on, closed on execve. Where one is missing, its number is closed.
///
/// Only for a process that ends in execve or [`exit_now`]: values that own other descriptors must never be
/// dropped after this.
pub(crate) fn keep_only(
    standard: [BorrowedFd<'_>; 3],
    others: &[Option<BorrowedFd<'_>>],
) -> Result<(), Errno> {
    const MOST: usize = 8;
    if others.len() > MOST - 3 {
        return Err(Errno::INVAL);
    }
    // First all out of the way, as any of them may sit on a number that another one is to get.
    let mut aside = [-1; MOST];
    let all = standard.iter().map(|fd| Some(*fd)).chain(others.iter().copied());
    let mut count = 0;
    for (place, fd) in aside.iter_mut().zip(all) {
        count += 1;
        let Some(fd) = fd else { continue };
        // SAFETY: the call reads no memory, and gives a number that was free.
        *place = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 16) };
        if *place < 0 {
            return Err(last_errno());
        }
    }
    for (number, from) in (0..count).zip(aside) {
        let flags = if number < 3 { 0 } else { libc::O_CLOEXEC };
        if from < 0 {
            // SAFETY: whatever had this number is not to be kept.
            unsafe { libc::close(number) };
        } else {
            // SAFETY: reads no memory; what had this number is not to be kept.
            check(unsafe { libc::dup3(from, number, flags) }.into())?;
        }
    }
    close_from(u32::try_from(count).unwrap_or(3))
}

/// The descriptor of a number that [`keep_only`] has filled. To be called once for each.
pub(crate) fn kept(number: i32) -> OwnedFd {
    // SAFETY: keep_only put it there and nobody else owns it; the caller takes each once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Whether a descriptor has this number.
pub(crate) fn is_open(number: u32) -> bool {
    // SAFETY: F_GETFD reads no memory and changes nothing.
    i32::try_from(number).is_ok_and(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0)
}

/// Gives a copy of `fd` a number that nothing has. It is nobody's, and ends with execve.
pub(crate) fn take_number(fd: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    debug_assert!(!is_open(number.unsigned_abs()));
    // SAFETY: dup3 reads no memory; the number is owned by nobody.
    check(unsafe { libc::c_long::from(libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC)) })
}

/// Makes `fd` standard input, output or error.
pub(crate) fn become_standard(fd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    debug_assert!((0..3).contains(&number));
    // SAFETY: dup2 reads no memory; numbers 0 to 2 are owned by nobody.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// Sets a resource limit.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives during the call; the last pointer is null, so nothing is written.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, ptr::null::<u8>()) })
}

/// The hard limit of a resource.
pub(crate) fn hard_limit(resource: u32) -> Result<u64, Errno> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one structure of this layout to a place that is one.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<u8>(), &raw mut limit) })?;
    Ok(limit.rlim_max)
}

/// Whether the working directory lies below the root. One that came in through a leaked descriptor does not.
pub(crate) fn working_directory_is_inside() -> Result<bool, Errno> {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the kernel writes at most the given length.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    check(length)?;
    Ok(buffer[0] == b'/')
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    #[expect(clippy::cast_possible_truncation, reason = "the field has 16 bits, and so do these flags")]
    {
        request.flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    }
    // SAFETY: the structure is as large as the kernel's ifreq (40 bytes) and lives during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) }.into())
}

/// The life of process 1 of a shared pid namespace: reaps what nobody else does, until it is killed.
pub(crate) fn reap_for_ever() -> ! {
    // SAFETY: the set is built before it is used; waitpid and sigwait write to places that exist or are null.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        loop {
            while libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) > 0 {}
            let mut signal = 0;
            libc::sigwait(&raw const child, &raw mut signal);
        }
    }
}

/// Overwrites the last words of this process's command line, each of which ends with a NUL.
pub(crate) fn replace_last_words(words: &[u8]) -> Option<()> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Fields 48 and 49, counted from the third, which follows the name in brackets (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    let place = end.checked_sub(words.len()).filter(|place| start != 0 && *place > start)?;
    // SAFETY: the kernel has put the command line there, on our stack, where a process may write; the words lie
    // within it, and stay terminated for whoever reads them through argv.
    unsafe {
        ptr::copy_nonoverlapping(words.as_ptr(), ptr::with_exposed_provenance_mut(place), words.len());
    }
    Some(())
}

/// Standard input, output or error.
pub(crate) fn standard(number: i32) -> BorrowedFd<'static> {
    debug_assert!((0..3).contains(&number));
    // SAFETY: these three are open for the whole life of a keeper and of its children: they are replaced, never
    // closed.
    unsafe { BorrowedFd::borrow_raw(number) }
}
