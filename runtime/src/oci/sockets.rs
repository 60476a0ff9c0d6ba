//! Handing descriptors to others: terminals to a console socket, listeners to a seccomp agent.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::OciError;

/// Connects to a socket whose name may be longer than the 107 bytes of an address.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Sends a handle on a process to whoever listens at `path`; `kind` says which process of a container it is.
pub(super) fn send_process(path: &Path, kind: &str, pidfd: BorrowedFd<'_>) -> Result<(), OciError> {
    connect(path)
        .and_then(|socket| send(&socket, kind.as_bytes(), pidfd))
        .map_err(OciError::io(format!("sending the process's descriptor to {}", path.display())))
}

/// Sends a message with a descriptor.
pub(super) fn send(socket: &OwnedFd, message: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    let mut rest = &message[sent..];
    while !rest.is_empty() {
        rest = &rest[rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?..];
    }
    Ok(())
}
