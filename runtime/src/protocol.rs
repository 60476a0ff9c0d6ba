//! What a keeper and its clients say to each other.
//!
//! Frames on a unix stream socket: four bytes of length (little-endian), then JSON. Descriptors travel with the
//! first byte of the frame that announces them. The keeper speaks first, with a [`Greeting`] that names the
//! protocol version; a client that does not know it must leave the keeper alone (it still does its work).
//! Requests carry a number that the reply repeats; they are executed in order, but a reply may overtake others
//! that take longer. Events come on every connection.

use std::io;

use serde::{Deserialize, Serialize};

use crate::plan::step::Plan;
use crate::plan::text::Text;
use crate::spec::{LogSpec, PidMode, Users, WindowSize};
use crate::state::Exit;

/// Changes when an old client would misunderstand a new keeper or the other way round. Adding fields with a
/// default and new requests does not change it.
pub(crate) const VERSION: u32 = 1;

/// Longest frame: a plan with its environment, which the kernel bounds at 2 MiB, and a filter.
pub(crate) const MAX_FRAME: usize = 6 << 20;

/// Most descriptors with one frame.
pub(crate) const MAX_FDS: usize = 4;

/// What a keeper is started with, over its standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setup {
    pub(crate) sandbox: String,
    /// The keepers' cgroups: `tasks` files of v1 hierarchies.
    pub(crate) tasks: Vec<Text>,
    /// The keepers' cgroup in the v2 hierarchy.
    pub(crate) unified: Option<Text>,
    /// `CLONE_NEW*` of the namespaces that the sandbox has for its own.
    pub(crate) namespaces: i32,
    /// A network namespace to be entered.
    pub(crate) network: Option<Text>,
    pub(crate) pid: PidMode,
    pub(crate) hostname: Option<String>,
    /// Files and values.
    pub(crate) sysctls: Vec<(Text, Text)>,
    /// Size of the shared memory file system, if the sandbox has one.
    pub(crate) shm_size: Option<u64>,
    /// Where the shared memory is mounted if this kernel cannot keep it detached.
    pub(crate) shm_place: Text,
    /// The ids of a user namespace that the sandbox has for its own.
    #[serde(default)]
    pub(crate) users: Option<Users>,
}

/// A request with its number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Create a container, and start it unless its plan has a gate.
    Create(Box<Create>),
    /// Start a created container.
    Start { container: String },
    /// Send a signal to a container's first process.
    Signal { container: String, signal: i32 },
    /// Kill all processes of a container.
    Kill { container: String },
    /// Run a process in a container.
    Exec(Box<Exec>),
    /// Send a signal to such a process.
    SignalExec { exec: u64, signal: i32 },
    /// Give the container's streams.
    Attach { container: String },
    /// Tell about all containers.
    List,
    /// Kill what is left of a container; reply when its process has ended and it is forgotten.
    Forget { container: String },
    /// Kill everything; reply when all is gone, and end.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Create {
    pub(crate) container: String,
    pub(crate) plan: Plan,
    pub(crate) log: Option<LogSpec>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    /// The container whose pid namespace it joins.
    #[serde(default)]
    pub(crate) join_pid: Option<String>,
    /// Where the exit record goes.
    pub(crate) record: Text,
    pub(crate) files: CgroupFiles,
}

/// Files of a container's cgroup that its keeper needs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CgroupFiles {
    /// Counts processes killed for want of memory.
    pub(crate) oom: Option<Text>,
    /// Kills all.
    pub(crate) kill: Option<Text>,
    /// Lists processes.
    pub(crate) procs: Option<Text>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exec {
    pub(crate) container: String,
    pub(crate) plan: Plan,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) window: Option<WindowSize>,
}

/// What a keeper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Message {
    Greeting(Greeting),
    /// Instead of a greeting: the sandbox could not be set up.
    Refused(Failure),
    Reply {
        id: u64,
        result: Result<Reply, Failure>,
        /// How many descriptors came with it.
        fds: usize,
    },
    Exited {
        container: String,
        exit: Exit,
    },
    ExecEnded {
        exec: u64,
        code: i32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Greeting {
    pub(crate) protocol: u32,
    pub(crate) sandbox: String,
    pub(crate) pid: i32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Done,
    /// A container was created or started.
    Container {
        state: Listed,
        /// Steps that failed without harm.
        warnings: Vec<String>,
    },
    /// A process was started; its descriptors come in the order of [`Stream`] numbers given.
    Exec {
        exec: u64,
        pid: i32,
        streams: Vec<Stream>,
        warnings: Vec<String>,
    },
    Attached {
        streams: Vec<Stream>,
    },
    Containers(Vec<Listed>),
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
    Terminal,
}

/// A container as its keeper sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) pid: Option<i32>,
    pub(crate) state: ListedState,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ListedState {
    Created,
    Running {
        /// Nanoseconds since 1970.
        #[serde(with = "crate::state::nanoseconds")]
        started_at: std::time::SystemTime,
    },
    Exited(Exit),
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// What was being done; for [`FailureKind::Program`] the program.
    pub(crate) step: String,
    pub(crate) errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FailureKind {
    /// No such container.
    NotFound,
    /// It does not run (any more).
    NotRunning,
    /// The id is taken.
    Exists,
    /// A step failed.
    Step,
    /// The program could not be executed.
    Program,
    /// The request makes no sense.
    Bad,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, step: impl Into<String>, errno: i32) -> Self {
        Self { kind, step: step.into(), errno }
    }

    /// Why, as an error to be a source.
    pub(crate) fn source(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// The frame of a message.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length as usize <= MAX_FRAME);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    };
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// The request in a frame. If only its number can be understood, that: a keeper lives for months, and its clients
/// may have become newer than it is.
pub(crate) fn call(frame: &[u8]) -> io::Result<Result<Call, u64>> {
    #[derive(Deserialize)]
    struct Numbered {
        id: u64,
    }
    match serde_json::from_slice(frame) {
        Ok(call) => Ok(Ok(call)),
        Err(_) => Ok(Err(serde_json::from_slice::<Numbered>(frame)?.id)),
    }
}

/// Collects bytes until they are a frame. Reads no further than the frame's end, so that descriptors belong
/// to the frame they came with.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; 4],
    body: Vec<u8>,
    /// Bytes of head and body that are there.
    filled: usize,
}

impl Frames {
    /// Where the next bytes go; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.filled < 4 { &mut self.head[self.filled..] } else { &mut self.body[self.filled - 4..] }
    }

    /// Takes note of `count` bytes put there; gives a frame's content when it is whole.
    pub(crate) fn filled(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        self.filled += count;
        if self.filled == 4 {
            let length = u32::from_le_bytes(self.head) as usize;
            if length == 0 || length > MAX_FRAME {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of impossible length"));
            }
            self.body = vec![0; length];
        }
        if self.filled > 4 && self.filled - 4 == self.body.len() {
            self.filled = 0;
            return Ok(Some(std::mem::take(&mut self.body)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(frames: &mut Frames, mut bytes: &[u8], step: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut whole = Vec::new();
        while !bytes.is_empty() {
            let space = frames.space();
            let count = space.len().min(step).min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            whole.extend(frames.filled(count)?);
        }
        Ok(whole)
    }

    #[test]
    fn frames_are_found_however_bytes_arrive() {
        let mut bytes = frame(&"first").unwrap();
        bytes.extend(frame(&"second").unwrap());
        for step in 1..20 {
            let whole = feed(&mut Frames::default(), &bytes, step).unwrap();
            assert_eq!(whole, [b"\"first\"".to_vec(), b"\"second\"".to_vec()], "{step} at a time");
        }
    }

    #[test]
    fn requests_of_newer_clients_have_a_number_at_least() {
        let known = call(br#"{"id":7,"request":"list","since":"tomorrow"}"#).unwrap().unwrap();
        assert!(matches!(known, Call { id: 7, request: Request::List }));
        assert_eq!(call(br#"{"id":8,"request":{"teleport":{"where":"away"}}}"#).unwrap().unwrap_err(), 8);
        assert!(call(b"nonsense").is_err());
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert!(feed(&mut Frames::default(), &u32::MAX.to_le_bytes(), 4).is_err());
        assert!(feed(&mut Frames::default(), &[0; 4], 4).is_err());
    }
}
