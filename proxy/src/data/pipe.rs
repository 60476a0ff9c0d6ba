//! Pipes for splicing, kept for the next stream: making one costs more than moving a small message.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What we ask the kernel to let a pipe hold; it may grant less.
const CAPACITY: usize = 512 * 1024;

/// Pipes in use at most; streams beyond copy. Each takes two descriptors.
const IN_USE: usize = 512;

/// Idle pipes kept.
const KEPT: usize = 16;

/// A pool of empty pipes.
#[derive(Debug, Default)]
pub(crate) struct PipePool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Ends>,
    in_use: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// A pipe on loan. Goes back when dropped, if it is empty.
#[derive(Debug)]
pub(crate) struct Pipe<'a> {
    pool: &'a PipePool,
    ends: Option<Ends>,
    holds: usize,
}

impl PipePool {
    /// A pipe, or none when too many are in use or no more can be made.
    pub(crate) fn take(&self) -> Option<Pipe<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.in_use >= IN_USE {
            return None;
        }
        let ends = match state.idle.pop() {
            Some(ends) => ends,
            None => Ends::new().ok()?,
        };
        state.in_use += 1;
        Some(Pipe { pool: self, ends: Some(ends), holds: 0 })
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity = fcntl_setpipe_size(&write, CAPACITY).unwrap_or(64 * 1024);
        Ok(Self { read, write, capacity })
    }
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_use -= 1;
        // What is left inside belongs to a connection that failed: nobody else may get it.
        if self.holds == 0
            && state.idle.len() < KEPT
            && let Some(ends) = self.ends.take()
        {
            state.idle.push(ends);
        }
    }
}

impl Pipe<'_> {
    fn ends(&self) -> &Ends {
        match &self.ends {
            Some(ends) => ends,
            // Only `drop` takes them.
            None => unreachable!("a pipe on loan has its ends"),
        }
    }

    /// May this pipe be kept while nothing comes? Not when they are getting short.
    pub(crate) fn may_wait(&self) -> bool {
        self.pool.state.lock().unwrap_or_else(PoisonError::into_inner).in_use <= IN_USE / 2
    }

    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves what has arrived into the (empty) pipe. 0 is the end of the stream.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let ends = self.ends();
        let moved = from.try_io(Interest::READABLE, || {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            Ok(splice(from, None, &ends.write, None, ends.capacity, flags)?)
        })?;
        self.holds += moved;
        Ok(moved)
    }

    /// Moves what the pipe holds on, as far as the other side takes it.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<()> {
        while self.holds > 0 {
            let ends = self.ends();
            let moved = to.try_io(Interest::WRITABLE, || {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                Ok(splice(&ends.read, None, to, None, self.holds, flags)?)
            })?;
            self.holds -= moved.min(self.holds);
        }
        Ok(())
    }
}
