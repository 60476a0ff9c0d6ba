//! Reads that are never older than the newest acknowledged write.
//!
//! A read asks the store for its revision and waits until the cache has reached it. All readers that wait at the
//! same time share one question: a reader may use any answer to a question that was asked after the reader came.

use std::sync::atomic::{AtomicU64, Ordering};

use store::{Store, StoreError};
use tokio::sync::{Mutex, watch};

/// How far the caches have come, and the questions to the store.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Everything up to this revision is in the caches.
    applied: watch::Sender<u64>,
    arrivals: AtomicU64,
    /// Held while the store is asked.
    turn: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    /// The question was asked after this many readers had come.
    covers: u64,
    revision: u64,
}

impl Freshness {
    pub(crate) fn new() -> Freshness {
        Freshness {
            applied: watch::Sender::new(0),
            arrivals: AtomicU64::new(0),
            turn: Mutex::new(Answer::default()),
        }
    }

    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Says that the caches have everything up to a revision.
    pub(crate) fn advance(&self, revision: u64) {
        self.applied.send_if_modified(|applied| {
            let newer = revision > *applied;
            *applied = revision.max(*applied);
            newer
        });
    }

    /// The store's revision, not older than this call.
    pub(crate) async fn newest(&self, store: &dyn Store) -> Result<u64, StoreError> {
        let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answer = self.turn.lock().await;
        if answer.covers < arrival {
            let covers = self.arrivals.load(Ordering::SeqCst);
            let revision = store.revision().await?.0;
            *answer = Answer { covers, revision };
        }
        Ok(answer.revision)
    }

    /// Waits until the caches show something. The caller bounds the time.
    pub(crate) async fn advanced_to(&self, shows: impl Fn() -> bool) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|_| shows()).await;
    }

    /// Waits until the caches have a revision. The caller bounds the time.
    pub(crate) async fn reached(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|applied| *applied >= revision).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::memory::MemoryStore;
    use store::{Committed, Op, Txn};

    use super::*;

    #[tokio::test]
    async fn readers_see_every_write_before_them() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let fresh = Arc::new(Freshness::new());
        let mut readers = Vec::new();
        for n in 0..50 {
            let ops = vec![Op::Put(format!("/k{n}"), "v".into())];
            let Committed::Done(written) = store.commit(Txn { compare: vec![], ops }).await.expect("commits")
            else {
                panic!("unconditional")
            };
            let (store, fresh) = (store.clone(), fresh.clone());
            readers.push(tokio::spawn(async move {
                assert!(fresh.newest(&*store).await.expect("answers") >= written.0);
            }));
        }
        for reader in readers {
            reader.await.expect("no panic");
        }
    }
}
