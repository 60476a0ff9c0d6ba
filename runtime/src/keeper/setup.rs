//! From a program that somebody has started to the keeper of a sandbox.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, Pid, WaitId, WaitIdOptions};
use rustix::thread::{LinkNameSpaceType, set_name};

use crate::plan::text::Text;
use crate::protocol::{Failure, FailureKind, Frames, Setup};
use crate::spec::{PidMode, Users};
use crate::sys::process::{self, Cloned};

/// The name of the socket in the sandbox's run directory.
pub(crate) const SOCKET: &str = "keeper.sock";

/// What a keeper holds for its sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) pid: PidMode,
    pub(super) listener: OwnedFd,
    /// Ourselves, to come back from other pid namespaces.
    pub(super) own: OwnedFd,
    /// Process 1 of the shared pid namespace.
    pub(super) init: Option<OwnedFd>,
    pub(super) shm: Option<Shm>,
    /// The user namespace that the containers are in, if it is not the host's. We stay outside: what containers are made
    /// of is the host's.
    pub(super) users: Option<OwnedFd>,
    /// Held for its lock, which says that we live.
    pub(super) _directory: OwnedFd,
}

/// The shared memory file system.
#[derive(Debug)]
pub(super) enum Shm {
    /// In no mount namespace at all: it goes when we go.
    Detached(OwnedFd),
    /// Mounted where everybody sees it, for kernels that cannot copy a detached mount.
    Mounted(Text),
}

impl Shm {
    /// A detached copy to be mounted in a container.
    pub(super) fn copy(&self) -> Result<OwnedFd, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match self {
            Self::Detached(mount) => {
                rustix::mount::open_tree(mount, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
            }
            Self::Mounted(path) => rustix::mount::open_tree(CWD, path.as_c_str(), flags),
        }
    }
}

/// Names the step that failed.
trait Named<T> {
    fn named(self, step: &str) -> Result<T, Failure>;
}

impl<T> Named<T> for Result<T, Errno> {
    fn named(self, step: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(FailureKind::Step, step, errno.raw_os_error()))
    }
}

/// Takes the descriptors that are ours: the connection, the locked run directory, and the log, which becomes standard
/// error. Everything else is closed.
pub(super) fn descriptors(
    control: OwnedFd,
    directory: OwnedFd,
    log: OwnedFd,
) -> Result<(OwnedFd, OwnedFd), Errno> {
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let standard = [null.as_fd(), null.as_fd(), log.as_fd()];
    process::keep_only(standard, &[Some(control.as_fd()), Some(directory.as_fd())])?;
    // keep_only has closed them, and given their numbers to others.
    for closed in [null, control, directory, log] {
        std::mem::forget(closed);
    }
    Ok((process::kept(3), process::kept(4)))
}

/// Reads what we are to set up.
pub(super) fn read_setup(control: BorrowedFd<'_>) -> io::Result<Setup> {
    let mut frames = Frames::default();
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(control, frames.space()))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(frame) = frames.filled(count)? {
            return Ok(serde_json::from_slice(&frame)?);
        }
    }
}

/// Leaves the template: own process (the template's child ends at once), own cgroup, own session.
pub(super) fn detach(setup: &Setup) -> Result<(), Failure> {
    let directory =
        |path: &Text| rustix::fs::openat(CWD, path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let cgroup = setup.unified.as_ref().map(directory).transpose().named("opening the keepers' cgroup")?;
    let cloned = clone(0, cgroup.as_ref().map(AsFd::as_fd)).named("making the keeper's process")?;
    if let Cloned::Parent(..) = cloned {
        process::exit_now(0);
    }
    for tasks in &setup.tasks {
        write(tasks.as_c_str(), b"0").named(&format!("entering the keepers' cgroup {tasks}"))?;
    }
    rustix::process::setsid().named("making a session")?;
    Ok(())
}

/// clone3, or what there was before it.
pub(crate) fn clone(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    match process::clone_into(flags, cgroup) {
        Err(Errno::NOSYS) => {
            let cloned = process::clone_plainly(flags)?;
            if let (Cloned::Child, Some(cgroup)) = (&cloned, cgroup) {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(cgroup, c"cgroup.procs", flags, Mode::empty());
                if file.and_then(|file| rustix::io::write(file, b"0")).is_err() {
                    process::exit_now(127);
                }
            }
            Ok(cloned)
        }
        result => result,
    }
}

/// Makes the sandbox around ourselves: containers inherit what we are in.
pub(super) fn sandbox(setup: Setup, directory: OwnedFd) -> Result<Sandbox, Failure> {
    let _ = set_name(c"coracle-keeper");
    process::reset_signals();
    // Writing to somebody who has gone is an error like others.
    process::ignore_signal(libc::SIGPIPE);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).named("becoming a reaper")?;
    // Processes of the host's users, and of containers in the host's pid namespace, have no business in our
    // memory or with our descriptors.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).named("closing our memory")?;
    // The last to be killed when memory runs out. Not every host lets its root do that.
    let _ = write(c"/proc/self/oom_score_adj", b"-998");
    rustix::process::chdir(c"/").named("changing to /")?;
    // Logs can be read by their group; what else we write lies in directories that are closed.
    rustix::process::umask(Mode::from_raw_mode(0o027));

    if let Some(path) = &setup.network {
        let step = format!("entering network namespace {path}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path.as_c_str(), flags, Mode::empty()).named(&step)?;
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).named(&step)?;
    }
    let users = match setup.users {
        Some(users) => Some(user_namespace(users, setup.namespaces)?),
        None => {
            process::unshare(setup.namespaces).named("making namespaces")?;
            None
        }
    };
    if setup.namespaces & libc::CLONE_NEWNET != 0 {
        process::loopback_up().named("bringing the loopback interface up")?;
    }
    if let Some(hostname) = &setup.hostname {
        nix::unistd::sethostname(hostname)
            .map_err(|errno| Failure::new(FailureKind::Step, "setting the host name", errno as i32))?;
    }
    for (path, value) in &setup.sysctls {
        write(path.as_c_str(), value.as_c_str().to_bytes()).named(&format!("writing {value:?} to {path}"))?;
    }
    let shm = setup.shm_size.map(|size| shared_memory(size, setup.users, &setup.shm_place)).transpose()?;
    let init = match setup.pid {
        PidMode::Shared => Some(shared_init().named("making the shared pid namespace")?),
        PidMode::Private | PidMode::Host => None,
    };
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .named("opening ourselves")?;
    let listener = listen(&directory).named("listening")?;
    Ok(Sandbox { id: setup.sandbox, pid: setup.pid, listener, own, init, shm, users, _directory: directory })
}

/// Makes a user namespace and, owned by it, the sandbox's other ones, which we enter. A process is born in all of them,
/// so that it can be given its ids from outside, and ends when we hold what we need.
fn user_namespace(users: Users, namespaces: i32) -> Result<OwnedFd, Failure> {
    let flags = u64::try_from(libc::CLONE_NEWUSER | namespaces).unwrap_or(0);
    let cloned = process::clone_into(flags, None).named("making a user namespace")?;
    let Cloned::Parent(pid, pidfd) = cloned else {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = process::close_from(0);
        process::reap_for_ever()
    };
    let enter = || -> Result<OwnedFd, Failure> {
        let line = users.line();
        for file in ["uid_map", "gid_map"] {
            let path = Text::new(format!("/proc/{}/{file}", pid.as_raw_pid()))
                .map_err(|_| Failure::new(FailureKind::Bad, "mapping ids", libc::EINVAL))?;
            write(path.as_c_str(), line.as_bytes())
                .named(&format!("mapping {} ids from {} on", users.count, users.first))?;
        }
        let name = format!("/proc/{}/ns/user", pid.as_raw_pid());
        let opened = rustix::fs::openat(CWD, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .named("opening the user namespace")?;
        let kinds = rustix::thread::ThreadNameSpaceType::from_bits_retain(namespaces.cast_unsigned());
        if !kinds.is_empty() {
            rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kinds)
                .named("entering the sandbox's namespaces")?;
        }
        Ok(opened)
    };
    let entered = enter();
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    entered
}

fn shared_memory(size: u64, users: Option<Users>, place: &Text) -> Result<Shm, Failure> {
    let make = || -> Result<OwnedFd, Errno> {
        let fs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, c"source", c"shm")?;
        rustix::mount::fsconfig_set_string(&fs, c"size", size.to_string().as_str())?;
        rustix::mount::fsconfig_set_string(&fs, c"mode", c"1777")?;
        if let Some(users) = users {
            let root = users.first.to_string();
            rustix::mount::fsconfig_set_string(&fs, c"uid", root.as_str())?;
            rustix::mount::fsconfig_set_string(&fs, c"gid", root.as_str())?;
        }
        rustix::mount::fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let mount = make().named("making shared memory")?;
    let shm = Shm::Detached(mount);
    if shm.copy().is_ok() {
        return Ok(shm);
    }
    let Shm::Detached(mount) = shm else { return Ok(shm) };
    match rustix::fs::mkdirat(CWD, place.as_c_str(), Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).named("making a place for shared memory"),
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, c"", CWD, place.as_c_str(), flags).named("mounting shared memory")?;
    Ok(Shm::Mounted(place.clone()))
}

/// Process 1 of a pid namespace that all containers share. It dies with us, and the namespace with it.
fn shared_init() -> Result<OwnedFd, Errno> {
    let ours = rustix::process::getpid();
    match process::clone_into(u64::try_from(libc::CLONE_NEWPID).unwrap_or(0), None)? {
        Cloned::Parent(_, pidfd) => Ok(pidfd),
        Cloned::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let _ = set_name(c"coracle-init");
            // Our parent is in another pid namespace, so it has no number here; it is gone when we have been
            // given to somebody else, and somebody outside has no number either. There is no telling, but
            // the pipe that we would need for it does not pay: without a keeper nothing else starts here.
            let _: Pid = ours;
            let _ = process::close_from(0);
            process::reap_for_ever()
        }
    }
}

/// The socket that clients connect to. Named by way of the directory's descriptor, because names of sockets
/// are bounded to 107 bytes and names of directories are not.
fn listen(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::fs::unlinkat(directory, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let name = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(name)?);
    rustix::process::umask(before);
    bound?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

fn write(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text).map(drop)
}

/// Receives one packet with at most one descriptor.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    receive_with(socket, buffer, RecvFlags::DONTWAIT)
}

/// The same, with flags.
pub(crate) fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, &mut parts, &mut control, flags))?;
    let mut fd = None;
    for ancillary in control.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(fds) = ancillary {
            fd = fds.last().or(fd);
        }
    }
    Ok((message.bytes, fd))
}
