//! Terminals and /dev/null, from the container's own /dev.

use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::path::{self, Make};
use super::{Fault, State, TERMINAL};
use crate::spec::WindowSize;
use crate::sys::process;

/// What statfs(2) says of devpts.
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

impl State<'_> {
    /// Opens a terminal in the container's devpts, so that its name means something there. The image chose
    /// what lies at that path, so it is trusted only after a look: a character device of the right number on
    /// the right file system. The other side is opened through the first (TIOCGPTPEER), not by name.
    pub(super) fn terminal(&mut self, size: Option<WindowSize>, console: bool) -> Result<(), Fault> {
        if self.root.is_none() {
            // An exec: the container's root is ours already.
            self.root = Some(rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
        }
        let main = path::open(self.root()?, c"/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
        let file_system = rustix::fs::fstatfs(&main)?;
        if file_system.f_type != DEVPTS_MAGIC || !path::is_device(main.as_fd(), 5, 2) {
            return Err(Errno::NOTTY.into());
        }
        rustix::pty::unlockpt(&main)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = rustix::pty::ioctl_tiocgptpeer(&main, flags)?;
        if let Some(size) = size {
            let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&main, size)?;
        }
        if console {
            let place = path::ensure(self.root()?, c"/dev/console", Make::File)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let mount = rustix::mount::open_tree(&peer, c"", flags)?;
            super::mounts::attach(mount.as_fd(), place.as_fd())?;
        }
        for number in 0..3 {
            process::become_standard(peer.as_fd(), number)?;
        }
        rustix::process::ioctl_tiocsctty(&peer)?;
        self.send_with(TERMINAL, 0, &[], Some(main.as_fd()));
        Ok(())
    }

    /// Reads from the container's /dev/null rather than the host's, if it has a true one.
    pub(super) fn null_input(&mut self) {
        let root = match &self.root {
            Some(root) => root.as_fd(),
            None => CWD,
        };
        let null = if self.root.is_some() {
            path::open(root, c"/dev/null", OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)
        } else {
            let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, c"/dev/null", flags, Mode::empty())
        };
        if let Ok(null) = null
            && path::is_device(null.as_fd(), 1, 3)
        {
            let _ = process::become_standard(null.as_fd(), 0);
        }
    }
}
