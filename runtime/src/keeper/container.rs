//! A container, from its clone to its exit record.
//!
//! ```text
//!            clone                   ready                  go                 program
//!   request ───────▶ Starting ─────────────▶ Created ──────────────▶ Starting ─────────▶ Running
//!                       │  ╰───────────────────── program ──────────────────────────────▶  │
//!                       │ a step failed                                                    │ wait
//!                       ▼                                                                  ▼
//!                    (gone, and the reply says which step)                               Exited
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Pid, WaitStatus};

use super::log::Log;
use super::output::Output;
use super::process::Birth;
use crate::protocol::{CgroupFiles, Listed, ListedState};
use crate::state::Exit;

/// Who is to be told when something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) connection: u32,
    pub(super) call: u64,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its process executes its plan; who asked is waiting.
    Starting(Waiter),
    /// It waits at the gate.
    Created,
    Running {
        started_at: SystemTime,
    },
    Exited(Exit),
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) serial: u32,
    pub(super) id: String,
    pub(super) phase: Phase,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// While its process is not yet its program.
    pub(super) birth: Option<Birth>,
    /// Standard output and error, or the terminal.
    pub(super) outputs: Vec<Output>,
    pub(super) log: Option<Log>,
    /// Our end of its standard input.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdin_once: bool,
    /// The other side of its terminal, for clients.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) record: PathBuf,
    pub(super) files: CgroupFiles,
    /// Its pid namespace is another container's: what it leaves behind does not end with its first process.
    pub(super) joined: bool,
    /// Who waits for its end in order to forget it.
    pub(super) forgetting: Vec<Waiter>,
}

impl Container {
    pub(super) fn listed(&self) -> Listed {
        let (pid, state) = match &self.phase {
            // Not there yet for anybody but who asked for it; as good as created.
            Phase::Starting(_) | Phase::Created => (Some(self.pid), ListedState::Created),
            Phase::Running { started_at } => {
                (Some(self.pid), ListedState::Running { started_at: *started_at })
            }
            Phase::Exited(exit) => (None, ListedState::Exited(exit.clone())),
        };
        Listed { id: self.id.clone(), pid: pid.map(Pid::as_raw_pid), state }
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Exited(_))
    }

    /// Reads output, of one stream or of all.
    pub(super) fn read_output(&mut self, stream: Option<usize>, buffer: &mut [u8], rounds: usize) {
        for index in 0..self.outputs.len() {
            if stream.is_some_and(|stream| stream != index) {
                continue;
            }
            let others = self.outputs.iter().enumerate().all(|(i, output)| i == index || output.between());
            self.outputs[index].read(buffer, self.log.as_mut(), rounds, others);
        }
    }

    /// How it ended, as of now.
    pub(super) fn exit(&self, status: WaitStatus, started_at: SystemTime) -> Exit {
        let signal = status.terminating_signal();
        let code = match signal {
            Some(signal) => 128 + signal,
            None => status.exit_status().unwrap_or(255),
        };
        // A cgroup is made for one container, so any such kill in it happened during the container's life.
        let oom = self
            .files
            .oom
            .as_ref()
            .and_then(|file| crate::cgroup::oom_kills(Path::new(file.as_c_str().to_str().ok()?)));
        Exit {
            code,
            signal,
            oom_killed: oom.is_some_and(|kills| kills > 0),
            started_at,
            finished_at: SystemTime::now(),
        }
    }

    /// Kills every process of the container: at once where the kernel can, else by the list, first
    /// process last, so that a shared namespace does not keep stragglers.
    pub(super) fn kill_all(&self) {
        if let Some(file) = self.files.kill.as_ref().and_then(|file| file.as_c_str().to_str().ok())
            && std::fs::write(file, "1").is_ok()
        {
            return;
        }
        let listed = self.files.procs.as_ref().and_then(|file| file.as_c_str().to_str().ok());
        // Twice, for what was forked while the list was read.
        for _ in 0..2 {
            let text = listed.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
            for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
