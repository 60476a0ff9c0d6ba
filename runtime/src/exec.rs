//! Processes run in containers, and connections to containers' streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::termios::Winsize;
use tokio::sync::{mpsc, oneshot};

use crate::error::RequestError;
use crate::link::Outgoing;
use crate::protocol::{Request, Stream};
use crate::sandbox::{call, request_error};
use crate::spec::{Signal, WindowSize};
use crate::stream::{ReadStream, WriteStream};

/// A process that was started in a container by [`Sandbox::exec`](crate::Sandbox::exec). Dropping it does not
/// end the process.
#[derive(Debug)]
pub struct Exec {
    /// Standard input, if it was asked for. With a terminal, dropping it closes nothing.
    pub stdin: Option<WriteStream>,
    /// Standard output, or the terminal's output.
    pub stdout: Option<ReadStream>,
    /// Standard error; none with a terminal.
    pub stderr: Option<ReadStream>,
    sandbox: String,
    id: u64,
    pid: i32,
    terminal: Option<OwnedFd>,
    calls: Option<mpsc::Sender<Outgoing>>,
    end: oneshot::Receiver<i32>,
    ended: Option<i32>,
}

/// A container's streams, shared with its log and with other clients.
#[derive(Debug)]
pub struct Attach {
    /// Standard input, if the container was created with one.
    pub stdin: Option<WriteStream>,
    /// What the container writes to standard output or its terminal from now on.
    pub stdout: Option<ReadStream>,
    /// What it writes to standard error; none with a terminal.
    pub stderr: Option<ReadStream>,
    terminal: Option<OwnedFd>,
}

/// The streams that descriptors are.
#[derive(Default)]
struct Streams {
    stdin: Option<WriteStream>,
    stdout: Option<ReadStream>,
    stderr: Option<ReadStream>,
    terminal: Option<OwnedFd>,
}

impl Streams {
    fn new(fds: impl Iterator<Item = (Stream, OwnedFd)>) -> io::Result<Self> {
        let mut streams = Self::default();
        for (stream, fd) in fds {
            match stream {
                Stream::Stdin => streams.stdin = Some(WriteStream::new(fd)?),
                Stream::Stdout => streams.stdout = Some(ReadStream::new(fd)?),
                Stream::Stderr => streams.stderr = Some(ReadStream::new(fd)?),
                Stream::Terminal => streams.terminal = Some(fd),
            }
        }
        // A terminal is written to directly; it is read directly only where nobody else reads it.
        if let Some(terminal) = &streams.terminal
            && streams.stdin.is_none()
        {
            streams.stdin = Some(WriteStream::new(terminal.try_clone()?)?);
        }
        Ok(streams)
    }
}

impl Exec {
    pub(crate) fn new(
        sandbox: String,
        id: u64,
        pid: i32,
        calls: Option<mpsc::Sender<Outgoing>>,
        end: oneshot::Receiver<i32>,
        fds: impl Iterator<Item = (Stream, OwnedFd)>,
    ) -> io::Result<Self> {
        let mut streams = Streams::new(fds)?;
        if let Some(terminal) = &streams.terminal {
            streams.stdout = Some(ReadStream::new(terminal.try_clone()?)?);
        }
        let Streams { stdin, stdout, stderr, terminal } = streams;
        Ok(Self { stdin, stdout, stderr, sandbox, id, pid, terminal, calls, end, ended: None })
    }

    /// Its process, as the host numbers it.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Sets the size of its terminal. Nothing happens if it has none.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        resize(self.terminal.as_ref(), size)
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: Signal) -> Result<(), RequestError> {
        let calls = self.calls.as_ref().ok_or_else(|| self.gone())?;
        let request = Request::SignalExec { exec: self.id, signal: signal.number() };
        match call(calls, request, Duration::from_secs(15), &self.sandbox).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(request_error(failure)),
        }
    }

    /// Waits for its end; gives the exit code, or 128 plus the number of the signal that ended it.
    /// Cancel safe.
    pub async fn wait(&mut self) -> Result<i32, RequestError> {
        if let Some(code) = self.ended {
            return Ok(code);
        }
        let code = (&mut self.end).await.map_err(|_| self.gone())?;
        self.ended = Some(code);
        Ok(code)
    }

    fn gone(&self) -> RequestError {
        RequestError::KeeperGone(self.sandbox.clone())
    }
}

impl Attach {
    pub(crate) fn new(fds: impl Iterator<Item = (Stream, OwnedFd)>) -> io::Result<Self> {
        let Streams { stdin, stdout, stderr, terminal } = Streams::new(fds)?;
        Ok(Self { stdin, stdout, stderr, terminal })
    }

    /// Sets the size of the container's terminal. Nothing happens if it has none.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        resize(self.terminal.as_ref(), size)
    }
}

fn resize(terminal: Option<&OwnedFd>, size: WindowSize) -> io::Result<()> {
    match terminal {
        Some(terminal) => {
            let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            Ok(rustix::termios::tcsetwinsize(terminal.as_fd(), size)?)
        }
        None => Ok(()),
    }
}
