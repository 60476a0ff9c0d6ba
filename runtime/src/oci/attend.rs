//! Staying with a process in the foreground: its terminal, its signals, its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::sys::process;

/// Signals that are for the container while we stay with it.
const FORWARDED: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// The signals of this process as something to be read. To be had before the container is started, so that none
/// gets lost or kills us.
#[derive(Debug)]
pub struct Attended {
    signals: OwnedFd,
}

/// Takes this process's signals for a container.
pub fn forward_signals() -> io::Result<Attended> {
    Ok(Attended { signals: process::signal_fd(&FORWARDED)? })
}

/// Our own terminal, raw for as long as this lives.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn new() -> Self {
        let stdin = process::standard(0);
        let before = rustix::termios::tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // The container's terminal leaves ends of lines to ours.
            raw.output_modes |= before.output_modes & OutputModes::OPOST;
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(process::standard(0), OptionalActions::Now, before);
        }
    }
}

/// Stays with a child until it ends: passes signals on, and bytes between its terminal and ours. Gives the exit
/// code, 128 and the signal's number for one that was killed.
pub fn attend(attended: &Attended, pidfd: &OwnedFd, terminal: Option<OwnedFd>) -> io::Result<i32> {
    let raw = terminal.as_ref().map(|_| Raw::new());
    if let Some(terminal) = &terminal {
        resize(terminal);
        let flags = rustix::fs::fcntl_getfl(terminal)?;
        rustix::fs::fcntl_setfl(terminal, flags | OFlags::NONBLOCK)?;
    }
    let mut input_open = terminal.is_some();
    let mut to_terminal: Vec<u8> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(&attended.signals, PollFlags::IN)];
        if let Some(terminal) = &terminal {
            let writes = if to_terminal.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(terminal, PollFlags::IN | writes));
            if input_open && to_terminal.is_empty() {
                fds.push(PollFd::from_borrowed_fd(process::standard(0), PollFlags::IN));
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[1] {
            forward(&attended.signals, pidfd, terminal.as_ref());
        }
        if let Some(terminal) = &terminal {
            if ready.get(2) == Some(&true) {
                pass(terminal.as_fd(), process::standard(1));
                if !to_terminal.is_empty()
                    && let Ok(written) = rustix::io::write(terminal, &to_terminal)
                {
                    to_terminal.drain(..written);
                }
            }
            if ready.get(3) == Some(&true) {
                let mut buffer = [0; 4096];
                match rustix::io::retry_on_intr(|| rustix::io::read(process::standard(0), &mut buffer)) {
                    Ok(0) | Err(_) => input_open = false,
                    Ok(length) => to_terminal.extend(&buffer[..length]),
                }
            }
        }
        if ready[0] {
            break;
        }
    }
    if let Some(terminal) = &terminal {
        // What it has written at last.
        while pass(terminal.as_fd(), process::standard(1)) {}
    }
    drop(raw);
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
    })?;
    let Some(status) = status else { return Ok(255) };
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    })
}

fn forward(signals: &OwnedFd, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) {
    let mut info = [0_u8; 128];
    let Ok(128) = rustix::io::read(signals, &mut info) else { return };
    let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    match (signal, terminal) {
        (libc::SIGWINCH, Some(terminal)) => resize(terminal),
        (libc::SIGWINCH, None) => {}
        _ => {
            let _ = process::send_signal(pidfd.as_fd(), signal);
        }
    }
}

/// Gives the container's terminal the size of ours.
fn resize(terminal: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(process::standard(0)) {
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

/// Passes on what is there to be read; says whether there was anything.
fn pass(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 8192];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            true
        }
    }
}
