//! Hooks: programs that are told the container's state on standard input, and must end well and in time.
//!
//! Both the state and what the hook says go through memory files, so that a hook which reads nothing or writes
//! much blocks nobody.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Fault;
use crate::plan::text::Text;
use crate::spec::Signal;

/// As much of a hook's words as is passed on.
const MAX_WORDS: u64 = 4096;

/// A hook to be run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) path: &'a Text,
    /// The program's name and arguments; the name is the path if there are none.
    pub(crate) argv: &'a [Text],
    /// The whole environment; ours if not given.
    pub(crate) env: Option<&'a [Text]>,
    /// Seconds.
    pub(crate) timeout: Option<u32>,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It could not be run.
    #[error("{0}")]
    Run(#[from] io::Error),
    /// It did not end in time.
    #[error("did not end within {0} s")]
    Late(u32),
    /// It ended badly.
    #[error("{how}{words}")]
    Ended {
        /// Its code or signal.
        how: String,
        /// What it said.
        words: String,
    },
}

impl Failure {
    /// For the parent of a new process.
    pub(super) fn into_fault(self) -> Fault {
        match self {
            Self::Run(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO).into(),
            Self::Late(_) => Fault::with_detail(Errno::TIMEDOUT, self.to_string().as_bytes()),
            Self::Ended { .. } => Fault::with_detail(Errno::CANCELED, self.to_string().as_bytes()),
        }
    }
}

impl Call<'_> {
    /// Runs the hook and waits for it.
    pub(crate) fn run(&self, state: &[u8]) -> Result<(), Failure> {
        let memory = |name: &str| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let mut input = memory("state").map_err(io::Error::from)?;
        input.write_all(state)?;
        input.rewind()?;
        let mut output = memory("output").map_err(io::Error::from)?;
        let name = |text: &Text| std::ffi::OsString::from(text.to_string());
        let mut command = Command::new(name(self.path));
        if let Some((own, arguments)) = self.argv.split_first() {
            command.arg0(name(own)).args(arguments.iter().map(name));
        }
        if let Some(env) = self.env {
            command.env_clear();
            for variable in env {
                let variable = variable.to_string();
                if let Some((key, value)) = variable.split_once('=').filter(|(key, _)| !key.is_empty()) {
                    command.env(key, value);
                }
            }
        }
        command.stdin(Stdio::from(input));
        command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output.try_clone()?));
        let mut child = command.spawn()?;
        if let Some(seconds) = self.timeout {
            let pid = i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            let ended = pidfd_open(pid, PidfdFlags::empty())
                .map_err(io::Error::from)
                .and_then(|pidfd| in_time(&pidfd, Duration::from_secs(seconds.into())));
            if !matches!(ended, Ok(true)) {
                let _ = child.kill();
                let _ = child.wait();
                ended?;
                return Err(Failure::Late(seconds));
            }
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by {}", told(signal)),
            (None, None) => "ended badly".to_owned(),
        };
        let mut words = Vec::new();
        output.rewind()?;
        output.take(MAX_WORDS).read_to_end(&mut words)?;
        let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
        Err(Failure::Ended { how, words: if words.is_empty() { words } else { format!(": {words}") } })
    }
}

/// A signal by its name, and for those that a hook earns by itself what they mean.
fn told(signal: i32) -> String {
    let name = Signal::new(signal).map_or_else(|| signal.to_string(), |signal| signal.to_string());
    let meaning = match signal {
        libc::SIGSYS => " (bad system call)",
        libc::SIGSEGV => " (segmentation fault)",
        libc::SIGABRT => " (aborted)",
        libc::SIGBUS => " (bus error)",
        _ => "",
    };
    name + meaning
}

fn in_time(pidfd: &rustix::fd::OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)))? > 0)
}
