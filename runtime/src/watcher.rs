//! The task behind a sandbox in somebody's hands.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use crate::link::{self, Outgoing};
use crate::runtime::{Runtime, blocking};
use crate::spec::SandboxSpec;
use crate::state::SandboxEvent;

/// The task behind a sandbox: its connection, and what happens when that ends.
pub(crate) struct Watcher {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) spec: SandboxSpec,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) calls: mpsc::Receiver<Outgoing>,
    pub(crate) events: broadcast::Sender<SandboxEvent>,
    pub(crate) dead: watch::Sender<bool>,
    pub(crate) removing: Arc<AtomicBool>,
}

impl Watcher {
    /// Keeps the connection until nobody wants it any more.
    pub(crate) async fn run(mut self, mut socket: OwnedFd) {
        loop {
            let events = self.events.clone();
            let registered = crate::sys::async_fd(socket, Interest::READABLE | Interest::WRITABLE);
            let ended = match registered {
                Ok(socket) => {
                    link::run(socket, &mut self.calls, |event| {
                        let link::Event::Exited { container, exit } = event;
                        // Nobody listening is fine.
                        let _ = events.send(SandboxEvent::ContainerExited { id: container, exit });
                    })
                    .await
                }
                Err(error) => Err(error),
            };
            if ended.is_ok() {
                // The sandbox is not in anybody's hands any more. Its keeper goes on.
                return;
            }
            if self.has_died().await {
                return self.bury().await;
            }
            // It lives but has closed the connection: we had not read for too long. Begin anew.
            match self.reconnect().await {
                Some(again) => socket = again,
                None => return self.bury().await,
            }
        }
    }

    /// Connects again, however long it takes; `None` if the keeper has died meanwhile. One that hangs is left
    /// alone: its containers run.
    async fn reconnect(&self) -> Option<OwnedFd> {
        let mut pause = Duration::from_millis(100);
        loop {
            let (runtime, spec) = (Arc::clone(&self.runtime), self.spec.clone());
            match blocking(move || runtime.reconnect(&spec)).await {
                Ok(socket) => return socket,
                Err(error) => tracing::warn!(sandbox = %self.spec.id, %error, "cannot be reached"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    /// A process closes its connections a little before it is dead.
    async fn has_died(&self) -> bool {
        let Ok(pidfd) = self.pidfd.as_fd().try_clone_to_owned() else { return false };
        let Ok(pidfd) = crate::sys::async_fd(pidfd, Interest::READABLE) else { return false };
        timeout(Duration::from_secs(2), pidfd.readable()).await.is_ok()
    }

    async fn bury(mut self) {
        if !self.removing.load(Ordering::SeqCst) {
            let (runtime, spec) = (Arc::clone(&self.runtime), self.spec.clone());
            blocking(move || runtime.clean_up(&spec)).await;
        }
        let _ = self.dead.send(true);
        // Whoever waits for a reply is told by its end of the channel that none will come.
        self.calls.close();
        while self.calls.try_recv().is_ok() {}
        if !self.removing.load(Ordering::SeqCst) {
            let _ = self.events.send(SandboxEvent::KeeperDied);
        }
    }
}
