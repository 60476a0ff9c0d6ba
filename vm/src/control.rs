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
/// So much of a file goes with one line.
pub(crate) const PART: u64 = 128 << 10;

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
    /// Give the part of a file that begins there.
    Read {
        /// The file.
        path: String,
        /// Where the part begins.
        offset: u64,
    },
    /// Put this into a file from there on; at its beginning the file is made anew.
    Write {
        /// The file.
        path: String,
        /// Where the part begins.
        offset: u64,
        /// Who may do what with a new file.
        mode: u32,
        /// The part.
        data: Hex,
    },
    /// End everything in order and switch off.
    PowerOff,
}

/// Bytes as two digits each: a line of JSON holds them, whatever they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex(pub Vec<u8>);

impl From<Hex> for String {
    fn from(bytes: Hex) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = bytes.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.map(Self).ok_or("not pairs of hexadecimal digits")
    }
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
    /// A part of a file; an empty one is behind its end.
    Data(Hex),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_kinds_fit_into_a_line() {
        let all = Hex((0..=255).collect());
        let request = Request::Write { path: "/a".into(), offset: 7, mode: 0o644, data: all };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        for wrong in ["0", "0x", "é1"] {
            assert!(Hex::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
