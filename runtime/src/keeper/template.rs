//! What keepers are made from: a process of the keepers' program that has just been started, and does nothing else.
//!
//! Starting the whole binary for each pod has a price that nothing of a keeper needs: the program is
//! position-independent, so that the first thing it does is to write addresses into a megabyte of tables, each
//! process into pages of its own. A keeper is therefore cloned from a process that has done so already: the tables
//! are shared, what is a keeper's own is what it writes itself (a fifth of the memory), and the milliseconds of
//! execve are paid once.
//!
//! ```text
//!   caller ──── "s1" + connection, run directory, log ────▶ template ──clone──▶ keeper of s1
//! ```
//!
//! The template is its caller's child and ends with him; keepers do not notice. It has one thread, reads nothing but
//! names and descriptors from its caller, and holds no secret. Keepers share its address space layout, which is
//! random for each template.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::thread::set_name;

use crate::sys::process::{self, Cloned};

/// The last words of the template's command line: room for a sandbox's name, which a keeper writes there.
const PLACE: &str = "template";

/// Empty words after it. Together with it they hold the longest name.
const ROOM: usize = crate::records::MAX_ID - PLACE.len();

/// Connection, run directory, log.
const DESCRIPTORS: usize = 3;

/// The hidden subcommand `keeper`: `args` are what follows `Config::keeper_argv`. Must be called before any
/// thread or async runtime exists; returns the process's exit code.
pub fn main(_args: Vec<OsString>) -> i32 {
    let _ = set_name(c"keeper-template");
    process::reset_signals();
    // Children are nobody's concern: each becomes, or has cloned, a keeper.
    process::ignore_signal(libc::SIGCHLD);
    // What ends the caller's terminal session ends the caller, and we follow him.
    let _ = rustix::process::setsid();
    if let Err(errno) = process::close_from(3) {
        return super::complain("closing descriptors", errno.into());
    }
    loop {
        let (control, directory, log) = match receive(process::standard(0)) {
            Ok(Some(descriptors)) => descriptors,
            Ok(None) => return 0,
            Err(errno) => return super::complain("receiving what a keeper needs", errno.into()),
        };
        match super::setup::clone(0, None) {
            Ok(Cloned::Child) => return super::keep(control, directory, log),
            Ok(Cloned::Parent(..)) => {}
            Err(errno) => {
                // The caller sees the connection closed and looks into the log.
                let text = format!("cloning a keeper: {}\n", io::Error::from(errno));
                let _ = rustix::io::write(&log, text.as_bytes());
            }
        }
    }
}

/// The next keeper's descriptors; `None` when the caller has gone.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<(OwnedFd, OwnedFd, OwnedFd)>, Errno> {
    loop {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message =
            rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, &mut parts, &mut control, flags))?;
        if message.bytes == 0 {
            return Ok(None);
        }
        let mut given = control.drain().flat_map(|ancillary| match ancillary {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        if let (Some(control), Some(directory), Some(log)) = (given.next(), given.next(), given.next()) {
            return Ok(Some((control, directory, log)));
        }
    }
}

/// Puts a sandbox's name on the command line of its keeper, where `ps` looks for it.
pub(super) fn show(sandbox: &str) {
    let mut words = [0; PLACE.len() + 1 + ROOM];
    let length = sandbox.len().min(words.len() - 1);
    words[..length].copy_from_slice(&sandbox.as_bytes()[..length]);
    // Only a convenience: where /proc is not there, the words stay as they are.
    let _ = process::replace_last_words(&words);
}

/// A template, as its caller has it in hand.
#[derive(Debug)]
pub(crate) struct Template {
    socket: OwnedFd,
    child: Child,
}

impl Template {
    /// Starts `program` with `arguments`, which must make it call [`main`].
    pub(crate) fn start(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(program)
            .args(arguments)
            .arg(PLACE)
            .args(std::iter::repeat_n("", ROOM))
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, child })
    }

    /// Asks for a keeper.
    pub(crate) fn clone_keeper(
        &self,
        connection: &OwnedFd,
        directory: &OwnedFd,
        log: &OwnedFd,
    ) -> io::Result<()> {
        let fds = [connection.as_fd(), directory.as_fd(), log.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for the descriptors"));
        }
        let parts = [IoSlice::new(b"k")];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }
}

impl Drop for Template {
    /// Keepers are not its children any more, so that it can be ended at any time, and leaves nothing to be waited for.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
