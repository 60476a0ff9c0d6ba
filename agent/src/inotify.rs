//! Changes of files and directories, as the kernel reports them: nothing is polled.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::inotify;
pub use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What [`Watcher::add`] returned for the watched path.
    pub watch: i32,
    /// What happened.
    pub flags: ReadFlags,
    /// To which entry of a watched directory; empty for the watched path itself.
    pub name: OsString,
}

/// A queue of changes.
#[derive(Debug)]
pub struct Watcher {
    fd: AsyncFd<OwnedFd>,
}

impl Watcher {
    /// An empty queue. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self { fd: AsyncFd::with_interest(fd, Interest::READABLE)? })
    }

    /// Watches a path from now on.
    pub fn add(&self, path: &Path, what: WatchFlags) -> io::Result<i32> {
        Ok(inotify::add_watch(self.fd.get_ref(), path, what)?)
    }

    /// No longer watches a path. Fails if the path is gone, which ended the watch already.
    pub fn remove(&self, watch: i32) -> io::Result<()> {
        Ok(inotify::remove_watch(self.fd.get_ref(), watch)?)
    }

    /// Waits for changes and gives all that are there. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(|fd| read(fd.get_ref())) {
                Ok(Ok(changes)) if changes.is_empty() => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

fn read(fd: &OwnedFd) -> io::Result<Vec<Change>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut changes = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => changes.push(Change {
                watch: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .map(|name| OsString::from_vec(name.to_bytes().to_vec()))
                    .unwrap_or_default(),
            }),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if !changes.is_empty() => return Ok(changes),
            Err(error) => return Err(error.into()),
        }
        if reader.is_buffer_empty() {
            return Ok(changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        let watch = watcher.add(dir.path(), WatchFlags::CLOSE_WRITE | WatchFlags::DELETE).unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        let changes = watcher.next().await.unwrap();
        assert_eq!((changes[0].watch, changes[0].name.to_str()), (watch, Some("a")));
        std::fs::remove_file(dir.path().join("a")).unwrap();
        let changes = watcher.next().await.unwrap();
        assert!(changes[0].flags.contains(ReadFlags::DELETE));
    }
}
