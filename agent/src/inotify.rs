//! Changes of files and directories, as the kernel reports them: nothing is polled.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use runtime::ReadStream;
use rustix::fs::inotify;
pub use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::io::AsyncReadExt as _;

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

/// A queue of changes. The kernel's queue reads like a pipe, so it is one of the runtime's streams.
#[derive(Debug)]
pub struct Watcher {
    queue: ReadStream,
}

impl Watcher {
    /// An empty queue. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self { queue: ReadStream::new(inotify::init(inotify::CreateFlags::CLOEXEC)?)? })
    }

    /// Watches a path from now on.
    pub fn add(&self, path: &Path, what: WatchFlags) -> io::Result<i32> {
        Ok(inotify::add_watch(self.queue.as_fd(), path, what)?)
    }

    /// No longer watches a path. Fails if the path is gone, which ended the watch already.
    pub fn remove(&self, watch: i32) -> io::Result<()> {
        Ok(inotify::remove_watch(self.queue.as_fd(), watch)?)
    }

    /// Waits for changes and gives what is there. Cancel safe: the kernel gives whole changes, in one read.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        let mut buffer = [0; 4096];
        let length = self.queue.read(&mut buffer).await?;
        Ok(parse(&buffer[..length]))
    }
}

/// Reads `struct inotify_event`: watch, mask, cookie, length of the name, and the name padded with zeros.
fn parse(mut bytes: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let word =
            |index: usize| -> [u8; 4] { [head[index], head[index + 1], head[index + 2], head[index + 3]] };
        let length = (u32::from_ne_bytes(word(12)) as usize).min(rest.len());
        let (name, after) = rest.split_at(length);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        changes.push(Change {
            watch: i32::from_ne_bytes(word(0)),
            flags: ReadFlags::from_bits_retain(u32::from_ne_bytes(word(4))),
            name: OsString::from_vec(name.to_vec()),
        });
        bytes = after;
    }
    changes
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
