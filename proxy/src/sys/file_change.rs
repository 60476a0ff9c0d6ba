//! Waiting for a file to change.

#![expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Resolves when the file has been written or replaced since the call. Its directory must exist; if it does not, or
/// watching is impossible, this never resolves.
pub(crate) fn changed(path: &Path) -> impl Future<Output = ()> + use<> {
    let name = path.file_name().map(std::ffi::OsStr::to_owned);
    let watched = watch(path);
    async move {
        let Ok(watched) = watched else { return std::future::pending().await };
        loop {
            let events = watched.async_io(Interest::READABLE, |watch| Ok(watch.0.read_events()?)).await;
            match events {
                Ok(events) if events.iter().any(|event| event.name == name) => return,
                Ok(_) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// Owns its descriptor until it is dropped.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn watch(path: &Path) -> std::io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // The directory: files are replaced by renaming, which ends a watch of the file itself.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    inotify.add_watch(directory, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)?;
    // SAFETY: a `Watch` always answers the one descriptor that it owns, and closes it only when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn writing_and_replacing_are_changes_and_neighbours_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let soon = |future| timeout(Duration::from_secs(5), future);
        let waiting = changed(&path);
        std::fs::write(&path, "one").unwrap();
        soon(waiting).await.unwrap();
        let waiting = changed(&path);
        std::fs::write(directory.path().join("new"), "two").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        soon(waiting).await.unwrap();
        let waiting = changed(&path);
        std::fs::write(directory.path().join("other"), "x").unwrap();
        assert!(timeout(Duration::from_millis(50), waiting).await.is_err());
    }
}
