//! QEMU's own control socket (docs/interop/qmp-spec): pulling the network cable, and the power switch.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// Why QEMU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens.
    #[error("connecting to QEMU at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The line broke.
    #[error("speaking to QEMU")]
    Line(#[source] io::Error),
    /// It refused.
    #[error("QEMU refuses {command}: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its words.
        reason: String,
    },
}

/// A connection.
#[derive(Debug)]
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects and agrees on capabilities. Blocks.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(QmpError::Line)?;
        let mut qmp = Self(BufReader::new(stream));
        // It greets first.
        qmp.read()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command. Blocks.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.0.get_mut().write_all(line.as_bytes()).map_err(QmpError::Line)?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let reason = error["desc"].as_str().unwrap_or("without a word").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            // Everything else is an event.
        }
    }

    /// Plugs the network cable in or pulls it out.
    pub fn set_link(&mut self, up: bool) -> Result<(), QmpError> {
        self.execute("set_link", &json!({"name": crate::machine::NETWORK, "up": up})).map(drop)
    }

    fn read(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).map_err(QmpError::Line)?;
        if length == 0 {
            return Err(QmpError::Line(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| QmpError::Line(error.into()))
    }
}
