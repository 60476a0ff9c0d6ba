//! A container's output: read, logged, and copied to whoever is attached.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::log::{Lines, Log};

/// Clients that may be attached to one stream at a time.
const MAX_ATTACHED: usize = 16;

/// How far a client may fall behind: the size of its pipe, which takes memory only when it is full.
const ATTACHED_PIPE: usize = 1 << 20;

/// One stream of output.
#[derive(Debug)]
pub(super) struct Output {
    /// Where it is read from; `None` once it has ended.
    pub(super) source: Option<OwnedFd>,
    lines: Lines,
    attached: Vec<OwnedFd>,
}

impl Output {
    pub(super) fn new(source: OwnedFd, name: &'static str, terminal: bool) -> Self {
        Self { source: Some(source), lines: Lines::new(name, terminal), attached: Vec::new() }
    }

    /// Reads what is there, at most `rounds` buffers of it. `others_between`: the container's other stream has
    /// not left a line unfinished in the log.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        log: Option<&mut Log>,
        rounds: usize,
        others_between: bool,
    ) {
        let mut log = log;
        for _ in 0..rounds {
            let Some(source) = &self.source else { return };
            match rustix::io::retry_on_intr(|| rustix::io::read(source, &mut *buffer)) {
                // A terminal whose last process is gone says so with EIO.
                Ok(0) | Err(Errno::IO) => {
                    self.finish(log.as_deref_mut());
                    return;
                }
                Ok(count) => {
                    let chunk = &buffer[..count];
                    if let Some(log) = log.as_deref_mut() {
                        self.lines.take(chunk, log, others_between);
                    }
                    // One that is full or closed is cut off: a client must not hold the container up.
                    self.attached.retain(|pipe| {
                        let written = rustix::io::retry_on_intr(|| rustix::io::write(pipe, chunk));
                        written == Ok(count)
                    });
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// No more is read.
    pub(super) fn finish(&mut self, log: Option<&mut Log>) {
        if self.source.take().is_some()
            && let Some(log) = log
        {
            self.lines.finish(log);
        }
        self.attached = Vec::new();
    }

    /// Gives a pipe that everything is copied to from now on.
    pub(super) fn attach(&mut self) -> Result<OwnedFd, Errno> {
        if self.attached.len() >= MAX_ATTACHED {
            return Err(Errno::MFILE);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Smaller pipes work as well, they are only sooner full.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, ATTACHED_PIPE);
        if self.source.is_some() {
            self.attached.push(writer);
        }
        Ok(reader)
    }

    pub(super) fn between(&self) -> bool {
        self.lines.between()
    }
}
