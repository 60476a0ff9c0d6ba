//! The contract of [`Store`], as tests that every engine passes.
//!
//! ```no_run
//! # async fn example() {
//! store::suite::run(|| async { std::sync::Arc::new(store::memory::MemoryStore::new()) as _ }).await;
//! # }
//! ```
//!
//! Every case has its own keys and takes no revision for granted but the ones it was told, so all cases can run
//! one after the other on one etcd. Nobody else may write meanwhile.

#![expect(clippy::unwrap_used, reason = "these are tests, in a library so that every engine can run them")]
#![expect(clippy::print_stdout, reason = "a run says which case it is at")]

mod commits;
mod lists;
mod model;
mod real_etcd;
mod watches;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    Committed, Compare, Event, KeyValue, ListOptions, Op, Revision, Store, StoreError, Txn, WatchMessage,
    WatchStream,
};

pub use real_etcd::RealEtcd;

/// One case: its name and what it does with a store.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// Panics if the store breaks the contract.
    pub run: fn(Keys) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// All cases, in the order from simple to demanding.
        pub fn cases() -> Vec<Case> {
            vec![$(Case { name: stringify!($name), run: |keys| Box::pin($module::$name(keys)) }),*]
        }
    };
}

cases![
    commits::an_absent_key,
    commits::revisions_grow_by_one,
    commits::a_value_is_bytes,
    commits::create_only_if_absent,
    commits::replace_only_the_revision_seen,
    commits::a_conflict_shows_all_compared_keys,
    commits::a_transaction_is_one_revision,
    commits::delete_and_recreate,
    commits::what_changes_nothing_takes_no_revision,
    commits::large_values,
    commits::what_is_refused,
    commits::an_acknowledged_write_is_seen,
    commits::no_lost_update,
    lists::a_prefix_in_byte_order,
    lists::chunks,
    lists::the_state_at_a_revision,
    lists::chunks_under_concurrent_writes,
    lists::the_future,
    watches::changes_with_their_values_before,
    watches::only_the_prefix,
    watches::progress_without_events,
    watches::from_a_revision_of_the_past,
    watches::a_transaction_is_one_message,
    watches::large_events,
    watches::resume_without_a_gap,
    watches::many_watchers_see_the_same,
    watches::a_watcher_that_does_not_read,
    watches::the_future,
    watches::compaction,
    model::random_operations,
];

/// Run all cases, each on a store from `make`; panics with the names of those that failed.
pub async fn run<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let mut failed = Vec::new();
    for case in cases() {
        let begun = Instant::now();
        let keys = Keys { store: make().await, prefix: format!("/suite/{}/", case.name) };
        // A task of its own, so that a panic is a failed case and the next one still runs.
        let outcome = tokio::time::timeout(Duration::from_secs(60), tokio::spawn((case.run)(keys))).await;
        let verdict = match outcome {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED",
            Err(_) => "FAILED (not finished after a minute)",
        };
        println!("case {} ... {verdict} ({:.0?})", case.name, begun.elapsed());
        if verdict != "ok" {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "cases failed: {failed:?}");
}

/// A store, and the keys that a case may use in it.
#[derive(Debug, Clone)]
pub struct Keys {
    store: Arc<dyn Store>,
    prefix: String,
}

impl Keys {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn commit(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Committed {
        self.store.commit(Txn { compare, ops }).await.unwrap()
    }

    async fn put(&self, name: &str, value: impl Into<Bytes>) -> Revision {
        done(self.commit(vec![], vec![Op::Put(self.key(name), value.into())]).await)
    }

    async fn delete(&self, name: &str) -> Revision {
        done(self.commit(vec![], vec![Op::Delete(self.key(name))]).await)
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        self.store.get(&self.key(name)).await.unwrap().0
    }

    async fn revision(&self) -> Revision {
        self.store.revision().await.unwrap()
    }

    /// Names and values under the prefix, at a revision or now.
    async fn state(&self, revision: Option<Revision>) -> Vec<(String, Bytes)> {
        let options = ListOptions { revision, ..Default::default() };
        let listing = self.store.list(&self.prefix, &options).await.unwrap();
        assert_eq!(listing.remaining, 0, "a list without a limit is complete");
        self.strip(listing.items)
    }

    fn strip(&self, items: Vec<KeyValue>) -> Vec<(String, Bytes)> {
        let strip = |kv: KeyValue| (kv.key.strip_prefix(&self.prefix).unwrap().to_owned(), kv.value);
        items.into_iter().map(strip).collect()
    }

    async fn watch(&self, after: Revision) -> Watch {
        Watch { stream: self.store.watch(&self.prefix, after).await.unwrap(), after }
    }
}

/// A watch that checks what holds of every watch: revisions only grow, and nothing is said twice.
struct Watch {
    stream: WatchStream,
    after: Revision,
}

impl Watch {
    /// The next message; panics if none comes.
    async fn message(&mut self) -> Result<WatchMessage, StoreError> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.stream.next()).await;
        let message = next.expect("a message within 20 s").expect("a watch does not end without an error")?;
        match &message {
            WatchMessage::Progress(revision) => {
                assert!(*revision >= self.after, "progress went back");
                self.after = *revision;
            }
            WatchMessage::Events(events) => {
                assert!(!events.is_empty(), "a message without events");
                assert!(events.is_sorted_by_key(Event::revision), "events out of order");
                assert!(events[0].revision() > self.after, "events that were delivered already");
                self.after = events.last().unwrap().revision();
            }
        }
        Ok(message)
    }

    /// All events up to and including a revision.
    async fn until(&mut self, revision: Revision) -> Vec<Event> {
        let mut all = Vec::new();
        while self.after < revision {
            if let WatchMessage::Events(events) = self.message().await.unwrap() {
                all.extend(events);
            }
        }
        all
    }
}

fn done(committed: Committed) -> Revision {
    match committed {
        Committed::Done(revision) => revision,
        Committed::Conflict(seen) => panic!("a conflict where none can be: {seen:?}"),
    }
}

fn conflict(committed: Committed) -> Vec<Option<KeyValue>> {
    match committed {
        Committed::Conflict(seen) => seen,
        Committed::Done(revision) => panic!("a commit at {revision} that should have been a conflict"),
    }
}

fn kv(key: &str, value: impl Into<Bytes>, create: Revision, modified: Revision) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.into(), create_revision: create, mod_revision: modified }
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*: good enough to mix operations.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}
