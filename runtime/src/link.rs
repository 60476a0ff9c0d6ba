//! A caller's connection to a keeper.
//!
//! One task owns the socket: it sends what callers ask, hands each reply to whoever waits for it, and passes
//! events on. Callers reach it over a bounded channel; when 64 requests wait to be sent, the next caller waits
//! as well.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{self, Call, Frames, Greeting, MAX_FDS, Message, Reply, Request};
use crate::state::Exit;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<Answer, protocol::Failure>>,
}

/// A reply with what came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) fds: Vec<OwnedFd>,
    /// For an exec: its exit code, when it comes. Made before the next message is read, so that no end is
    /// missed however soon it comes.
    pub(crate) end: Option<oneshot::Receiver<i32>>,
}

/// What a keeper says without being asked.
#[derive(Debug)]
pub(crate) enum Event {
    Exited { container: String, exit: Exit },
}

/// The connection's task. Returns when the keeper has closed it, or when nobody holds the other end of `calls`
/// any more.
pub(crate) async fn run(
    socket: AsyncFd<OwnedFd>,
    calls: &mut mpsc::Receiver<Outgoing>,
    mut on_event: impl FnMut(Event),
) -> io::Result<()> {
    let mut link = Link { socket, frames: Frames::default(), fds: VecDeque::new() };
    let mut waiting: HashMap<u64, oneshot::Sender<Result<Answer, protocol::Failure>>> = HashMap::new();
    let mut execs: HashMap<u64, oneshot::Sender<i32>> = HashMap::new();
    let mut next = 0_u64;
    loop {
        // Both branches are cancel safe: a received call is at once ours, and reading keeps what it has in
        // `link` between two polls.
        tokio::select! {
            call = calls.recv() => {
                let Some(Outgoing { request, answer }) = call else { return Ok(()) };
                next += 1;
                waiting.insert(next, answer);
                link.send(&protocol::frame(&Call { id: next, request })?).await?;
            }
            message = link.receive() => match message? {
                Message::Reply { id, result, fds } => {
                    let fds: Vec<OwnedFd> = (0..fds).filter_map(|_| link.fds.pop_front()).collect();
                    let Some(answer) = waiting.remove(&id) else { continue };
                    let result = result.map(|reply| {
                        let end = match &reply {
                            Reply::Exec { exec, .. } => {
                                let (sender, receiver) = oneshot::channel();
                                execs.insert(*exec, sender);
                                Some(receiver)
                            }
                            _ => None,
                        };
                        Answer { reply, fds, end }
                    });
                    // A caller that went away does not want it.
                    let _ = answer.send(result);
                }
                Message::Exited { container, exit } => on_event(Event::Exited { container, exit }),
                Message::ExecEnded { exec, code } => {
                    if let Some(end) = execs.remove(&exec) {
                        let _ = end.send(code);
                    }
                }
                Message::Greeting(_) | Message::Refused(_) => {}
            },
        }
    }
}

/// Reads the greeting that a keeper begins with, without an async runtime: from a socket that has a time-out.
pub(crate) fn greeting(socket: &OwnedFd) -> io::Result<Result<Greeting, protocol::Failure>> {
    let mut frames = Frames::default();
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(socket, frames.space()))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(frame) = frames.filled(count)? else { continue };
        return match serde_json::from_slice(&frame)? {
            Message::Greeting(greeting) => Ok(Ok(greeting)),
            Message::Refused(failure) => Ok(Err(failure)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the keeper does not greet")),
        };
    }
}

struct Link {
    socket: AsyncFd<OwnedFd>,
    frames: Frames,
    /// Descriptors that have come and are not claimed by a reply yet.
    fds: VecDeque<OwnedFd>,
}

impl Link {
    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.socket.async_io(Interest::WRITABLE, |socket| {
                Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
            });
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<Message> {
        loop {
            let (frames, fds) = (&mut self.frames, &mut self.fds);
            let mut guard = self.socket.readable().await?;
            let Ok(count) = guard.try_io(|socket| receive(socket.get_ref(), frames.space(), fds)) else {
                continue;
            };
            let count = count?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(frame) = frames.filled(count)? {
                return Ok(serde_json::from_slice(&frame)?);
            }
        }
    }
}

fn receive(socket: &OwnedFd, space: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut buffer = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut buffer);
    let mut parts = [IoSliceMut::new(space)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = match rustix::net::recvmsg(socket, &mut parts, &mut control, flags) {
        Err(Errno::INTR) => return Err(io::ErrorKind::WouldBlock.into()),
        result => result?,
    };
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            fds.extend(received);
        }
    }
    Ok(message.bytes)
}
