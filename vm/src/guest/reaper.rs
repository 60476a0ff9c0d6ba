//! Every process that nobody waits for ends up as a child of process number one. One thread waits for all of them and tells
//! those who started one how it ended.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who is told of which process.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    started: Mutex<HashMap<i32, Sender<i32>>>,
}

/// Receives the exit status of a process, once.
pub(crate) type Waiting = Receiver<i32>;

impl Reaper {
    /// Starts a process. Its end is told to the receiver, and only there.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Waiting)> {
        // Held over the start: who reaps it first must find the entry.
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let (sender, receiver) = channel();
        started.insert(child.id().cast_signed(), sender);
        Ok((child, receiver))
    }

    /// Reaps until this process has ended: its status. Only one thread may be in here.
    pub(crate) fn reap_until(&self, waiting: &Waiting) -> Option<i32> {
        loop {
            match waiting.try_recv() {
                Ok(status) => return Some(status),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            match waitpid(None, None) {
                Ok(status) => self.tell(status),
                Err(Errno::EINTR) => {}
                // No children at all: then this one has been reaped.
                Err(_) => return waiting.try_recv().ok(),
            }
        }
    }

    /// Ends every other process of the machine: politely, then not.
    pub(crate) fn end_all(&self, grace: Duration) {
        let everybody = Pid::from_raw(-1);
        let deadline = Instant::now() + grace;
        // An error means that nobody is left.
        let _ = signal::kill(everybody, Signal::SIGTERM);
        let mut killed = false;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if killed => std::thread::sleep(Duration::from_millis(5)),
                Ok(WaitStatus::StillAlive) if Instant::now() >= deadline => {
                    killed = true;
                    let _ = signal::kill(everybody, Signal::SIGKILL);
                }
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(20)),
                Ok(status) => self.tell(status),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn tell(&self, status: WaitStatus) {
        let (pid, code) = match status {
            WaitStatus::Exited(pid, code) => (pid, code),
            WaitStatus::Signaled(pid, signal, _) => (pid, 128 + signal as i32),
            _ => return,
        };
        let sender = self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw());
        if let Some(sender) = sender {
            // Who asked may have given up.
            let _ = sender.send(code);
        }
    }
}
