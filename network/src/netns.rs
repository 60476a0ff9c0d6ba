//! Network namespaces as file descriptors, entered on threads that are thrown away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

/// A handle on a network namespace; the namespace lives at least as long.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

/// Why a network namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// Opening its file.
    #[error("opening network namespace {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Copying its descriptor.
    #[error("duplicating the descriptor of a network namespace")]
    Duplicate(#[source] io::Error),
    /// Making one.
    #[error("creating a network namespace")]
    Create(#[source] io::Error),
    /// Entering one.
    #[error("entering a network namespace")]
    Enter(#[source] io::Error),
    /// A thread to enter it with.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

impl NetNs {
    /// A new, empty namespace. The calling thread stays where it is.
    pub fn create() -> Result<Self, NetNsError> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetNsError::Create(errno.into()))?;
            Self::current()
        })?
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open(Path::new(OF_THIS_THREAD))
    }

    /// The namespace behind a file such as `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        match File::open(path) {
            Ok(file) => Ok(Self(file.into())),
            Err(source) => Err(NetNsError::Open { path: path.to_owned(), source }),
        }
    }

    /// Another handle on the same namespace.
    pub fn try_clone(&self) -> Result<Self, NetNsError> {
        self.0.try_clone().map(Self).map_err(NetNsError::Duplicate)
    }

    /// Moves the calling thread, for good, into the namespace. For threads that live there or end soon.
    pub fn enter(&self) -> Result<(), NetNsError> {
        enter(self.0.as_fd())
    }

    /// Runs `operation` on a short-lived thread inside the namespace.
    pub fn run<T: Send>(&self, operation: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        run(self.0.as_fd(), operation)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for NetNs {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), NetNsError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| NetNsError::Enter(errno.into()))
}

/// Runs `operation` on a short-lived thread inside `netns`.
pub(crate) fn run<T: Send>(
    netns: BorrowedFd<'_>,
    operation: impl FnOnce() -> T + Send,
) -> Result<T, NetNsError> {
    on_a_thread(|| {
        enter(netns)?;
        Ok(operation())
    })?
}

fn on_a_thread<T: Send>(operation: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024);
        let thread = thread.spawn_scoped(scope, operation).map_err(NetNsError::Thread)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
