//! What host and guest say to each other over the guest's second serial port: a line of JSON each way.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A line is at most so long; output beyond it is cut.
pub(crate) const LINE: u64 = 4 << 20;
/// Output of a command is cut after so many bytes; the whole is under [`LINE`] even if every byte is escaped.
pub(crate) const OUTPUT: usize = 512 << 10;

/// What a guest can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Are you there?
    Ping,
    /// Run a command and tell what became of it.
    Run {
        /// Program and arguments; the program `coracle` is the guest's own.
        argv: Vec<String>,
    },
    /// End everything in order and switch off.
    PowerOff,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// It is done, or under way.
    Done,
    /// The command has ended.
    Ended {
        /// Exit status; 128 and the signal's number if a signal ended it.
        code: i32,
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
    },
    /// It could not be done.
    Failed(String),
}

/// Why a guest did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No QEMU listens.
    #[error("connecting to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The line broke, or nothing came in time.
    #[error("waiting for the guest's answer")]
    Line(#[source] io::Error),
    /// The guest said something else.
    #[error("the guest's answer is not understood: {line:?}")]
    Malformed {
        /// What it said, shortened.
        line: String,
    },
}

/// Asks a guest. One question at a time: QEMU takes one connection, and further ones wait. Blocks.
pub fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Response, ControlError> {
    let stream = UnixStream::connect(socket)
        .map_err(|source| ControlError::Connect { path: socket.to_owned(), source })?;
    exchange(stream, request, patience)
}

fn exchange(mut stream: UnixStream, request: &Request, patience: Duration) -> Result<Response, ControlError> {
    stream.set_read_timeout(Some(patience)).map_err(ControlError::Line)?;
    let mut line = serde_json::to_string(request).unwrap_or_default();
    // What an earlier, interrupted question left on the line ends here; the guest ignores empty lines.
    line.insert(0, '\n');
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(ControlError::Line)?;
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::new();
    io::Read::take(&mut reader, LINE).read_until(b'\n', &mut answer).map_err(ControlError::Line)?;
    let text = String::from_utf8_lossy(&answer);
    serde_json::from_str(text.trim())
        .map_err(|_| ControlError::Malformed { line: text.chars().take(200).collect() })
}
