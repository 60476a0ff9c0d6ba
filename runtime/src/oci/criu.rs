//! Talking to CRIU: `criu swrk`, which serves one request over a socket that it inherits.
//!
//! Its messages are protocol buffers (`images/rpc.proto` of CRIU). We write few of their fields and read fewer, so
//! that what is here of the wire format is all that is needed.
//!
//! ```text
//!   we                                   criu swrk FD
//!   request (dump, restore) ────────────▶ collects or makes processes
//!   ◀──────────── notification (script, pid, perhaps a descriptor)
//!   success of the notification ────────▶ goes on
//!   ◀──────────── response (success, pid)
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::OciError;
use crate::keeper::setup::receive_with;

/// Longest answer.
const MAX_ANSWER: usize = 64 << 10;

/// Lines of CRIU's log that are told.
const TOLD: usize = 4;

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
}

/// A message that is being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    /// A truth value, left out where it is the default.
    pub(super) fn flag(&mut self, field: u32, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    pub(super) fn descriptor(&mut self, field: u32, value: &impl AsRawFd) {
        // Open descriptors are not negative.
        self.number(field, u64::try_from(value.as_raw_fd()).unwrap_or_default());
    }

    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.0);
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(value);
    }
}

/// A value that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; none from where it is broken.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What CRIU answers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kind: u64,
    success: bool,
    /// The first process, from a restore or a notification.
    pid: i32,
    /// What a notification is about.
    script: String,
    errno: i32,
    words: String,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let number = |value: u64| i32::try_from(value & 0xffff_ffff).unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut answer = Self::default();
        for field in fields(bytes) {
            match field {
                (1, Value::Number(kind)) => answer.kind = kind,
                (2, Value::Number(success)) => answer.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    for field in fields(restored) {
                        if let (1, Value::Number(pid)) = field {
                            answer.pid = number(pid);
                        }
                    }
                }
                (5, Value::Bytes(notification)) => {
                    for field in fields(notification) {
                        match field {
                            (1, Value::Bytes(script)) => answer.script = text(script),
                            (2, Value::Number(pid)) => answer.pid = number(pid),
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => answer.errno = number(errno),
                (9, Value::Bytes(words)) => answer.words = text(words),
                _ => {}
            }
        }
        answer
    }
}

/// A running `criu swrk`, our child. It ends when this goes.
#[derive(Debug)]
pub(super) struct Criu {
    child: Child,
    socket: Option<OwnedFd>,
    log: PathBuf,
}

/// What CRIU tells while it works.
#[derive(Debug)]
pub(super) struct Notice<'a> {
    pub(super) script: &'a str,
    pub(super) pid: i32,
    pub(super) descriptor: Option<OwnedFd>,
}

impl Criu {
    /// Starts it. `kept` are descriptors that it gets under the numbers that they have here; `log` is where it will
    /// write what it does.
    pub(super) fn start(program: &Path, kept: &[&OwnedFd], log: PathBuf) -> Result<Self, OciError> {
        let what = format!("starting {}, which checkpoint and restore need", program.display());
        let start = || -> io::Result<(Child, OwnedFd)> {
            let (ours, theirs) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            for fd in kept.iter().copied().chain([&theirs]) {
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            let child = Command::new(program).arg("swrk").arg(theirs.as_raw_fd().to_string()).spawn()?;
            Ok((child, ours))
        };
        let (child, socket) = start().map_err(OciError::io(what))?;
        Ok(Self { child, socket: Some(socket), log })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes a request and follows it to its end. Gives the number of the first process.
    pub(super) fn ask(
        mut self,
        kind: Kind,
        options: &Message,
        notified: &mut dyn FnMut(Notice<'_>) -> Result<(), OciError>,
    ) -> Result<i32, OciError> {
        let mut request = Message::default();
        request.number(1, kind as u64);
        request.message(2, options);
        self.send(&request)?;
        let mut buffer = vec![0; MAX_ANSWER];
        loop {
            let Some(socket) = &self.socket else { return Err(self.failed("it has gone")) };
            let (length, descriptor) = match receive_with(socket.as_fd(), &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(self.failed("it has ended")),
                result => result.map_err(|errno| OciError::io("listening to criu")(errno.into()))?,
            };
            let answer = Answer::read(&buffer[..length]);
            if !answer.success {
                let mut words = answer.words;
                if words.is_empty() && answer.errno != 0 {
                    words = io::Error::from_raw_os_error(answer.errno).to_string();
                }
                return Err(self.failed(&words));
            }
            if answer.kind != Kind::Notify as u64 {
                // A dump before the dump waits for further requests, which there will not be.
                drop(self.socket.take());
                let _ = self.child.wait();
                return Ok(answer.pid);
            }
            let done = notified(Notice { script: &answer.script, pid: answer.pid, descriptor });
            let mut reply = Message::default();
            reply.number(1, Kind::Notify as u64);
            reply.number(3, u64::from(done.is_ok()));
            self.send(&reply)?;
            if let Err(error) = done {
                // It undoes what it has done, and then says that it has failed.
                while let Some(socket) = &self.socket
                    && receive_with(socket.as_fd(), &mut buffer, RecvFlags::empty())
                        .is_ok_and(|(length, _)| length > 0)
                {}
                return Err(error);
            }
        }
    }

    fn send(&self, message: &Message) -> Result<(), OciError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match rustix::net::send(socket, &message.0, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(self.failed("it has ended")),
            Err(errno) => Err(OciError::io("talking to criu")(errno.into())),
        }
    }

    /// Its own words for what went wrong: it writes them to its log alone.
    fn failed(&self, words: &str) -> OciError {
        let log = fs::read(&self.log).unwrap_or_default();
        let told = told(&String::from_utf8_lossy(&log));
        let reason = if told.is_empty() { words.to_owned() } else { told };
        OciError::Criu { reason, log: self.log.clone() }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // Without its socket it ends by itself, after it has let go of the processes that it had stopped.
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

/// The last errors of a log: what it could do without comes before.
fn told(log: &str) -> String {
    let errors = log.lines().filter_map(|line| line.split_once("Error (").map(|(_, rest)| rest));
    let errors: Vec<&str> =
        errors.map(|rest| rest.split_once("): ").map_or(rest, |(_, words)| words).trim()).collect();
    errors[errors.len().saturating_sub(TOLD)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protocol_buffers() {
        let mut inner = Message::default();
        inner.text(1, "key");
        inner.number(2, 300);
        let mut message = Message::default();
        message.number(1, 6);
        message.message(27, &inner);
        message.flag(3, false);
        assert_eq!(message.0, [0x08, 6, 0xda, 0x01, 8, 0x0a, 3, b'k', b'e', b'y', 0x10, 0xac, 0x02],);
        let read: Vec<_> = fields(&message.0).collect();
        assert_eq!(read, [(1, Value::Number(6)), (27, Value::Bytes(&inner.0))]);
    }

    #[test]
    fn answers_are_read() {
        let mut notification = Message::default();
        notification.text(1, "post-restore");
        notification.number(2, 4711);
        let mut message = Message::default();
        message.number(1, 6);
        message.number(2, 1);
        message.message(5, &notification);
        let expected = Answer {
            kind: 6,
            success: true,
            pid: 4711,
            script: "post-restore".to_owned(),
            ..Answer::default()
        };
        assert_eq!(Answer::read(&message.0), expected);
        // Whatever is cut off or in the way: no more than what is there.
        for length in 0..message.0.len() {
            let _ = Answer::read(&message.0[..length]);
        }
        assert_eq!(Answer::read(&[0xff; 20]), Answer::default());
        assert_eq!(Answer::read(&[0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f]), Answer::default());
    }

    #[test]
    fn the_last_errors_are_told() {
        let log = "(00.01) Warn  (x.c:1): hm\n(00.02) Error (criu/vdso.c:381): vdso: Unexpected bounds\n\
                   (00.03) Error (criu/cr.c:1): Dumping FAILED.\n";
        assert_eq!(told(log), "vdso: Unexpected bounds; Dumping FAILED.");
        assert_eq!(told(""), "");
    }
}
