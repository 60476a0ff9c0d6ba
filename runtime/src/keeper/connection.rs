//! A client's connection: frames in and out, without ever waiting for the client.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::protocol::{self, Call, Frames, MAX_FDS, Message};

/// What a client may leave unread before it is cut off: far more than all events of a busy sandbox.
const MAX_UNREAD: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) serial: u32,
    pub(super) socket: OwnedFd,
    frames: Frames,
    /// Frames that the socket did not take yet.
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Bytes of the first of them that it took.
    sent: usize,
    unsent_bytes: usize,
}

impl Connection {
    pub(super) fn new(serial: u32, socket: OwnedFd) -> Self {
        Self { serial, socket, frames: Frames::default(), unsent: VecDeque::new(), sent: 0, unsent_bytes: 0 }
    }

    /// Reads the next request, or the number of one that is not known here. `None`: not yet. An error, or the end:
    /// no more.
    pub(super) fn receive(&mut self) -> io::Result<Option<Result<Call, u64>>> {
        loop {
            let count =
                match rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, self.frames.space())) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => count,
                    Err(Errno::AGAIN) => return Ok(None),
                    Err(errno) => return Err(errno.into()),
                };
            if let Some(frame) = self.frames.filled(count)? {
                return protocol::call(&frame).map(Some);
            }
        }
    }

    /// Sends a message, now or when the client has read earlier ones.
    pub(super) fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) -> io::Result<()> {
        let frame = protocol::frame(message)?;
        self.unsent_bytes += frame.len();
        if self.unsent_bytes > MAX_UNREAD {
            return Err(io::Error::other("the client does not read"));
        }
        self.unsent.push_back((frame, fds));
        self.flush()
    }

    /// Whether there is something to be sent when the socket takes it.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some((frame, fds)) = self.unsent.front_mut() {
            let parts = [IoSlice::new(&frame[self.sent..])];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::Error::other("too many descriptors"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let result =
                rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.socket, &parts, &mut control, flags));
            match result {
                Ok(count) => {
                    // They went with the first byte.
                    fds.clear();
                    self.sent += count;
                    if self.sent == frame.len() {
                        self.unsent_bytes -= self.sent;
                        self.sent = 0;
                        self.unsent.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
