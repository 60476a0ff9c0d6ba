//! Framing, acknowledgements and lists, the same for every netlink family.
//!
//! The kernel works a request off within `sendmsg`, so when that returns the answer is there (for a list, its first
//! part). Nothing here waits for an event.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::NetlinkError;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message, without sequence number and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

/// A socket of one netlink family.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: isize) -> Result<Self, NetlinkError> {
        let mut socket = netlink_sys::Socket::new(family).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Socket)?;
        // Old kernels lack both: errors then come without words.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and waits for its verdict.
    pub(crate) fn request(&mut self, mut message: Message) -> Result<(), NetlinkError> {
        message.flags |= NLM_F_REQUEST | NLM_F_ACK;
        self.send(std::slice::from_ref(&message))?;
        self.receive(|_| Ok(())).map(drop)
    }

    /// Sends one request and answers what comes back before the verdict.
    pub(crate) fn query(&mut self, mut message: Message) -> Result<Vec<Message>, NetlinkError> {
        message.flags |= NLM_F_REQUEST | NLM_F_ACK;
        self.send(std::slice::from_ref(&message))?;
        let mut found = Vec::new();
        self.receive(|message| {
            found.push(message);
            Ok(())
        })?;
        Ok(found)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Makes the socket hear what the kernel tells everybody about a subject.
    pub(crate) fn subscribe(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.socket.add_membership(group).map_err(NetlinkError::Socket)
    }

    /// Waits until the kernel tells something, and throws it away; `false` when it did not within `patience`. For
    /// subscribed sockets.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<bool, NetlinkError> {
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, patience) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(NetlinkError::Socket(errno.into())),
        }
        let mut told = Vec::with_capacity(64);
        loop {
            told.clear();
            match self.socket.recv(&mut told, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // Too much was told to be kept: who waits looks again anyway.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(NetlinkError::Socket(error)),
            }
        }
    }

    /// Sends several messages as one unit (nf_tables transactions): the last one's verdict, or the first error.
    pub(crate) fn batch(&mut self, messages: &mut [Message]) -> Result<(), NetlinkError> {
        for message in messages.iter_mut() {
            message.flags |= NLM_F_REQUEST;
        }
        self.send(messages)?;
        self.receive(|_| Ok(())).map(drop)
    }

    /// Asks for a list and answers its messages.
    pub(crate) fn dump(&mut self, mut message: Message) -> Result<Vec<Message>, NetlinkError> {
        message.flags |= NLM_F_REQUEST | NLM_F_DUMP;
        for _ in 0..8 {
            self.send(std::slice::from_ref(&message))?;
            let mut found = Vec::new();
            let consistent = self.receive(|message| {
                found.push(message);
                Ok(())
            })?;
            if consistent {
                return Ok(found);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    fn send(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(messages.iter().map(|m| HEADER + m.payload.len() + 4).sum());
        for message in messages {
            let length = u32::try_from(HEADER + message.payload.len())
                .map_err(|_| NetlinkError::Decode("message too long".into()))?;
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&message.kind.to_ne_bytes());
            bytes.extend_from_slice(&message.flags.to_ne_bytes());
            bytes.extend_from_slice(&self.sequence.to_ne_bytes());
            bytes.extend_from_slice(&0u32.to_ne_bytes());
            bytes.extend_from_slice(&message.payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        if bytes.len() > 64 * 1024 {
            set_send_buffer(&self.socket, bytes.len() * 2).map_err(NetlinkError::Socket)?;
        }
        let sent = self.socket.send(&bytes, 0).map_err(NetlinkError::Socket)?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Socket(io::ErrorKind::WriteZero.into())) }
    }

    /// Reads to the end of the answer. `false` when a list changed while it was read.
    fn receive(
        &mut self,
        mut each: impl FnMut(Message) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        let mut consistent = true;
        loop {
            let datagram = loop {
                match self.socket.recv_from_full() {
                    Ok((datagram, _)) => break datagram,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(NetlinkError::Socket(error)),
                }
            };
            let mut rest = datagram.as_slice();
            while let Some((header, payload, next)) = split(rest)? {
                rest = next;
                if header.sequence != self.sequence {
                    continue; // the rest of an answer that an earlier error cut short
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.kind {
                    NLMSG_ERROR => return verdict(header.flags, payload).map(|()| consistent),
                    NLMSG_DONE => {
                        return match read_i32(payload) {
                            Some(code) if code < 0 => {
                                Err(refused(code, explanation(payload.get(4..).unwrap_or(&[]))))
                            }
                            _ => Ok(consistent),
                        };
                    }
                    kind => each(Message { kind, flags: header.flags, payload: payload.to_vec() })?,
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

type Split<'a> = Option<(Header, &'a [u8], &'a [u8])>;

fn split(bytes: &[u8]) -> Result<Split<'_>, NetlinkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (Some(length), Some(kind), Some(flags), Some(sequence)) =
        (read_u32(bytes, 0), read_u16(bytes, 4), read_u16(bytes, 6), read_u32(bytes, 8))
    else {
        return Err(NetlinkError::Decode("message shorter than its header".into()));
    };
    let length = length as usize;
    if length < HEADER || length > bytes.len() {
        return Err(NetlinkError::Decode(format!("message length {length} of {}", bytes.len())));
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok(Some((Header { kind, flags, sequence }, &bytes[HEADER..length], &bytes[next..])))
}

fn verdict(flags: u16, payload: &[u8]) -> Result<(), NetlinkError> {
    let code = read_i32(payload).ok_or_else(|| NetlinkError::Decode("verdict without a code".into()))?;
    if code == 0 {
        return Ok(());
    }
    // The header of the refused request is repeated (alone, as asked for by cap_ack); the explanation follows.
    let words = if flags & NLM_F_ACK_TLVS != 0 { payload.get(4 + HEADER..).unwrap_or(&[]) } else { &[] };
    Err(refused(code, explanation(words)))
}

fn refused(code: i32, explanation: String) -> NetlinkError {
    NetlinkError::Refused { explanation, source: io::Error::from_raw_os_error(-code) }
}

/// The kernel's words in the attributes after a verdict.
fn explanation(mut attributes: &[u8]) -> String {
    while let (Some(length), Some(kind)) = (read_u16(attributes, 0), read_u16(attributes, 2)) {
        let length = usize::from(length);
        if length < 4 || length > attributes.len() {
            break;
        }
        if kind == NLMSGERR_ATTR_MSG {
            return String::from_utf8_lossy(&attributes[4..length]).trim_end_matches('\0').to_owned();
        }
        attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
    }
    String::new()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn set_send_buffer(socket: &netlink_sys::Socket, size: usize) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
    setsockopt(socket, SndBufForce, &size).map_err(Into::into)
}
