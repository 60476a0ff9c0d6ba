//! Keys that need work: each at most once in the queue and never in two hands at a time.
//!
//! ```text
//!   add ─▶ ready ──next──▶ processing ──done──▶ (gone)
//!            ▲                 │ add meanwhile: again after done
//!            │                 └──────────────────────────┐
//!            ├──── delayed (add_after, add_rate_limited) ◀┘
//! ```
//!
//! A key that changes while it is worked on runs again afterwards. A key that fails comes back after a
//! growing pause with jitter and is never given up. Memory is bounded by the number of distinct keys.
//! Nothing is polled: [`WorkQueue::next`] sleeps until a key is added or the earliest delay is over.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::error::ErrorChain;

/// First pause of a failing key, and the longest.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(60));

struct State<K> {
    ready: VecDeque<K>,
    /// Wanted: in `ready`, or to be put there when done.
    dirty: HashSet<K>,
    processing: HashSet<K>,
    /// By time, then by order of arrival.
    delayed: BTreeMap<(Instant, u64), K>,
    delays: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    notify: Notify,
    backoff: Backoff,
}

/// The queue; cheap to clone.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("WorkQueue")
            .field("ready", &state.ready.len())
            .field("processing", &state.processing.len())
            .field("delayed", &state.delayed.len())
            .finish()
    }
}

impl<K: Hash + Eq + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a reconcile says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing to do until the key is added again.
    Wait,
    /// Look again after this, whatever happens.
    After(Duration),
}

impl<K> WorkQueue<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::with_backoff(BACKOFF)
    }

    /// An empty queue whose failing keys wait so long.
    pub fn with_backoff(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BTreeMap::new(),
            delays: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), notify: Notify::new(), backoff }) }
    }

    /// The key needs work.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        state.add(key);
        drop(state);
        self.shared.notify.notify_one();
    }

    /// The key needs work after a while. Of several times, the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.lock();
        state.add_at(key, Instant::now() + delay);
        drop(state);
        self.shared.notify.notify_one();
    }

    /// The key has failed: it needs work after a pause that grows with each failure.
    pub fn add_rate_limited(&self, key: K) {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        let delay = self.shared.backoff.delay(*failures);
        *failures = failures.saturating_add(1);
        state.add_at(key, Instant::now() + delay);
        drop(state);
        self.shared.notify.notify_one();
    }

    /// The key has succeeded: its next failure waits the shortest pause again.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key to work on; None when the queue is closed. Call [`done`](Self::done) with it later.
    ///
    /// Cancel safe: a key is handed out only with the return.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.shared.notify.notified();
            let wake = {
                let mut state = self.lock();
                if state.closed {
                    // Another worker may be waiting for the same news.
                    self.shared.notify.notify_one();
                    return None;
                }
                let wake = state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.shared.notify.notify_one();
                    }
                    return Some(key);
                }
                wake
            };
            match wake {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Work on the key is over. If it was added meanwhile, it is ready again.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.notify.notify_one();
        }
    }

    /// No more keys are handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.notify.notify_waiters();
        self.shared.notify.notify_one();
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no key is ready or in work. Delayed keys do not count.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.ready.is_empty() && state.processing.is_empty()
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(place) = self.delays.get(&key).copied() {
            if place.0 <= at {
                return;
            }
            self.delayed.remove(&place);
        }
        self.sequence += 1;
        let place = (at, self.sequence);
        self.delays.insert(key.clone(), place);
        self.delayed.insert(place, key);
    }

    /// Makes keys ready whose time has come; says when the next one's comes.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let key = entry.remove();
            self.delays.remove(&key);
            self.add(key);
        }
        None
    }
}

impl<K: Hash + Eq + Clone + fmt::Display> WorkQueue<K> {
    /// Works keys off, `workers` at a time, until told to stop; keys in work are finished first.
    ///
    /// A failure is logged here and the key comes back after a pause. So does a key whose reconcile
    /// panics: a bug in one object's handling must not stop the others.
    pub async fn work<F, R, E>(&self, name: &str, workers: usize, stop: &CancellationToken, reconcile: F)
    where
        F: Fn(K) -> R,
        R: Future<Output = Result<Next, E>>,
        E: std::error::Error + 'static,
    {
        let closer = async {
            stop.cancelled().await;
            self.close();
        };
        let work = join_all((0..workers.max(1)).map(|_| async {
            while let Some(key) = self.next().await {
                let outcome = AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await;
                self.settle(name, &key, outcome);
                self.done(&key);
            }
        }));
        tokio::join!(closer, work);
    }

    fn settle<E>(&self, name: &str, key: &K, outcome: std::thread::Result<Result<Next, E>>)
    where
        E: std::error::Error + 'static,
    {
        match outcome {
            Ok(Ok(next)) => {
                self.forget(key);
                if let Next::After(delay) = next {
                    self.add_after(key.clone(), delay);
                }
            }
            Ok(Err(error)) => {
                let failures = self.failures(key);
                let error = ErrorChain(&error);
                // Conflicts are ordinary; a key that keeps failing is not.
                if failures >= 3 {
                    tracing::warn!(controller = name, %key, failures, %error, "reconcile keeps failing");
                } else {
                    tracing::debug!(controller = name, %key, failures, %error, "reconcile failed");
                }
                self.add_rate_limited(key.clone());
            }
            Err(_panic) => {
                tracing::error!(controller = name, %key, "reconcile panicked");
                self.add_rate_limited(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
