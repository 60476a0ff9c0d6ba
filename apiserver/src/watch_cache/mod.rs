//! What GET, LIST and WATCH are served from: every object's bytes, and the recent past.
//!
//! One watch on the store feeds all resources in order, so one number says how far all of them have come.
//!
//! ```text
//! store ──watch /registry/──▶ follow ──▶ ResourceCache (objects + ring) ──▶ handlers copy bytes
//!                                  └───▶ Freshness (revision reached)   ──▶ consistent reads wait
//! ```
//!
//! When the watch on the store is lost for good (compacted, cut off), everything is listed again and all watchers
//! are sent away: they come back and list, which is what a client does with 410 anyway.

mod event;
mod filter;
mod fresh;
mod resource;
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use futures_util::StreamExt;
use store::{ListOptions, Revision, Store, StoreError, WatchMessage};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use event::Seen;
pub(crate) use filter::{FieldRequirement, Filter};
pub(crate) use fresh::Freshness;
pub(crate) use resource::{Change, Listed, Lost, Query, ResourceCache, Storage};
pub(crate) use ring::TooOld;

use crate::object::EventType;

/// All keys of the cluster start with this.
pub(crate) const ROOT: &str = "/registry/";

/// Keys of what services hold: addresses and node ports. What follows is `kind/value`.
pub(crate) const CLAIMS: &str = "/registry/ranges/";

/// Objects are read in chunks of this many when a cache is filled.
const FILL_CHUNK: usize = 500;
/// How long to wait before the store is asked again after a failure: first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// The caches of all resources over one store.
#[derive(Debug)]
pub(crate) struct Caches {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fresh: Freshness,
    by_prefix: BTreeMap<String, Arc<ResourceCache>>,
    /// What is held, after [`CLAIMS`].
    claims: RwLock<BTreeSet<Box<str>>>,
}

impl Caches {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        resources: impl IntoIterator<Item = Arc<ResourceCache>>,
    ) -> Caches {
        let by_prefix = resources.into_iter().map(|cache| (cache.storage.prefix.clone(), cache)).collect();
        Caches { store, fresh: Freshness::new(), by_prefix, claims: RwLock::default() }
    }

    /// Whether somebody holds an address or a port.
    pub(crate) fn is_claimed(&self, claim: &str) -> bool {
        self.claims.read().unwrap_or_else(PoisonError::into_inner).contains(claim)
    }

    fn claims(&self) -> RwLockWriteGuard<'_, BTreeSet<Box<str>>> {
        self.claims.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which resource a key belongs to, and the rest of the key. Prefixes end in a slash and never nest.
    fn locate<'k>(&self, key: &'k str) -> Option<(&str, &'k str)> {
        let (prefix, _) =
            self.by_prefix.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        Some((prefix, key.strip_prefix(prefix.as_str())?))
    }

    /// Reads everything from the store. Returns the revision that is shown.
    pub(crate) async fn fill(&self) -> Result<Revision, StoreError> {
        let mut found: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        let mut claims = BTreeSet::new();
        let mut options = ListOptions { revision: None, limit: FILL_CHUNK, after: None };
        let revision = loop {
            let listing = self.store.list(ROOT, &options).await?;
            options.revision = Some(listing.revision);
            options.after = listing.items.last().map(|item| item.key.clone());
            for item in listing.items {
                if let Some(claim) = item.key.strip_prefix(CLAIMS) {
                    claims.insert(claim.into());
                }
                let Some((prefix, relative)) = self.locate(&item.key) else { continue };
                let storage = &self.by_prefix[prefix].storage;
                match storage.read(relative, EventType::Added, &item.value, item.mod_revision.0) {
                    Ok(object) => found.entry(prefix).or_default().push(object),
                    Err(error) => {
                        tracing::error!(key = item.key, %error, "what the store has is not an object");
                    }
                }
            }
            if listing.remaining == 0 {
                break listing.revision;
            }
        };
        *self.claims() = claims;
        for (prefix, cache) in &self.by_prefix {
            cache.fill(found.remove(prefix.as_str()).unwrap_or_default(), revision.0);
        }
        self.fresh.advance(revision.0);
        Ok(revision)
    }

    /// Keeps the caches up to date from a revision on, until told to stop. Failures of the store are retried for ever:
    /// until it is back, reads that must be fresh fail and all others go on.
    pub(crate) async fn follow(&self, from: Revision, stop: &CancellationToken) {
        let mut at = from;
        let mut pause = RETRY_FIRST;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.follow_once(&mut at) => outcome,
            };
            let error = match outcome {
                Ok(()) => "the watch has ended".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(%error, revision = %at, "the watch on the store broke off");
            if self.fresh.applied() > at.0 {
                // Something was applied since the last failure.
                pause = RETRY_FIRST;
                at = Revision(self.fresh.applied());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    /// Follows until the watch breaks off. `at` is where it has come.
    async fn follow_once(&self, at: &mut Revision) -> Result<(), StoreError> {
        let mut stream = match self.store.watch(ROOT, *at).await {
            Ok(stream) => stream,
            Err(StoreError::Compacted { .. } | StoreError::Future { .. } | StoreError::Slow) => {
                *at = self.fill().await?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        while let Some(message) = stream.next().await {
            match message {
                Ok(WatchMessage::Events(events)) => {
                    if let Some(reached) = self.apply(events) {
                        *at = reached;
                    }
                }
                Ok(WatchMessage::Progress(revision)) => {
                    *at = revision.max(*at);
                    self.fresh.advance(revision.0);
                }
                Err(StoreError::Compacted { .. } | StoreError::Slow) => {
                    *at = self.fill().await?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Applies the events of whole revisions: per resource at once, then says that the revision is reached.
    fn apply(&self, events: Vec<store::Event>) -> Option<Revision> {
        let now = Instant::now();
        let mut reached = None;
        let mut changes: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
        for event in events {
            let (key, revision, value) = match event {
                store::Event::Put { now, .. } => (now.key, now.mod_revision, Some(now.value)),
                store::Event::Delete { key, revision, .. } => (key, revision, None),
            };
            reached = Some(revision);
            if let Some(claim) = key.strip_prefix(CLAIMS) {
                match value {
                    Some(_) => self.claims().insert(claim.into()),
                    None => self.claims().remove(claim),
                };
                continue;
            }
            let Some((prefix, relative)) = self.locate(&key) else { continue };
            let (key, revision) = (relative.to_owned(), revision.0);
            changes.entry(prefix).or_default().push(match value {
                Some(stored) => Change::Put { key, stored, revision },
                None => Change::Delete { key, revision },
            });
        }
        for (prefix, changes) in changes {
            self.by_prefix[prefix].apply(changes, now);
        }
        if let Some(revision) = reached {
            self.fresh.advance(revision.0);
        }
        reached
    }
}
