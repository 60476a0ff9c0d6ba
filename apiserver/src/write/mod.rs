//! Writes: one loop that decides on the newest known state and commits if that state has not changed.
//!
//! ```text
//!          ┌──────────────── refresh the caches ◀──────────────┐
//!          ▼                                                   │ refused, or nothing to do, on a state that may be old
//!  read from the cache ──▶ decide (hooks) ──▶ commit ──conflict┘
//!                                                └──done──▶ answer
//! ```
//!
//! The first attempt trusts the cache: right nearly always, and the commit checks it. A refusal only counts on a state
//! that is known not to be older than the request.

pub(crate) mod decode;
pub(crate) mod metadata;

use bytes::Bytes;
use store::{Committed, Compare, Op, Txn};

use crate::error::Error;
use crate::object::Object;
use crate::registry::{AnyObject, Claims, Row};
use crate::server::ApiServer;

/// What an attempt decides.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Write the object, under further conditions.
    Put(Box<dyn AnyObject>, Claims),
    /// Remove the object. The answer shows this state of it.
    Delete(Box<dyn AnyObject>, Claims),
    /// Leave everything as it is.
    Keep,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Updated,
    Deleted,
    Unchanged,
}

/// A write that was done, or would have been done in a dry run.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) outcome: Outcome,
    /// The object as it is now; as it was, when it is deleted.
    pub(crate) json: Bytes,
}

/// The state that an attempt starts from.
pub(crate) struct Current {
    /// Absent if there is no such object.
    pub(crate) object: Option<Box<dyn AnyObject>>,
    pub(crate) revision: u64,
    /// The object with its resourceVersion, encoded.
    pub(crate) json: Bytes,
}

impl Current {
    /// The object as a value, without what changes with every write.
    pub(crate) fn bare(&self) -> Result<serde_json::Value, Error> {
        let value = crate::ownership::without_owners(&self.json)
            .map_err(|source| Error::Stored { key: String::new(), source })?;
        Ok(crate::ownership::bare(value))
    }
}

impl ApiServer {
    /// Decides and commits until it is done. `decide` may be called several times and must not have effects.
    pub(crate) async fn write(
        &self,
        row: &Row,
        key: &str,
        dry_run: bool,
        mut decide: impl FnMut(&Current) -> Result<Decision, Error> + Send,
    ) -> Result<Written, Error> {
        let full_key = row.cache.storage.key(key);
        let mut fresh = false;
        loop {
            if dry_run && !fresh {
                self.refresh().await?;
                fresh = true;
            }
            let cached = row.cache.get(key);
            let current = current(row, cached.as_deref())?;
            let decision = match decide(&current) {
                Err(_) if !fresh => {
                    self.refresh().await?;
                    fresh = true;
                    continue;
                }
                decision => decision?,
            };
            let layout = &row.cache.storage.layout;
            let encode = |mut object: Box<dyn AnyObject>| {
                // The version is where the object is in the store, not in the object.
                object.meta_mut().resource_version = None;
                object.encode(layout).map_err(|source| Error::Encode { key: full_key.clone(), source })
            };
            let (outcome, stored, op, claims) = match decision {
                Decision::Keep => (Outcome::Unchanged, None, None, Claims::default()),
                Decision::Put(object, claims) => {
                    let stored = Bytes::from(encode(object)?);
                    let same = cached.as_ref().is_some_and(|cached| cached.is_stored_as(layout, &stored));
                    if same && claims == Claims::default() {
                        (Outcome::Unchanged, None, None, claims)
                    } else {
                        let outcome = if cached.is_some() { Outcome::Updated } else { Outcome::Created };
                        (outcome, Some(stored.clone()), Some(Op::Put(full_key.clone(), stored)), claims)
                    }
                }
                Decision::Delete(object, claims) => {
                    let stored = Bytes::from(encode(object)?);
                    (Outcome::Deleted, Some(stored), Some(Op::Delete(full_key.clone())), claims)
                }
            };
            let (Some(stored), Some(op)) = (stored, op) else {
                if !fresh {
                    self.refresh().await?;
                    fresh = true;
                    continue;
                }
                return Ok(Written { outcome, json: current.json });
            };
            if dry_run {
                let json =
                    if cached.is_some() { layout.splice(&stored, current.revision) } else { stored.to_vec() };
                return Ok(Written { outcome, json: json.into() });
            }
            let own = match cached {
                Some(_) => Compare::ModRevision(full_key.clone(), store::Revision(current.revision)),
                None => Compare::Absent(full_key.clone()),
            };
            let mut txn = Txn { compare: vec![own], ops: vec![op] };
            txn.compare.extend(claims.compare);
            txn.ops.extend(claims.ops);
            match self.caches.store.commit(txn).await? {
                Committed::Done(revision) => {
                    return Ok(Written { outcome, json: layout.splice(&stored, revision.0).into() });
                }
                Committed::Conflict(_) => {
                    self.refresh().await?;
                    fresh = true;
                }
            }
        }
    }
}

fn current(row: &Row, cached: Option<&Object>) -> Result<Current, Error> {
    let Some(cached) = cached else {
        return Ok(Current { object: None, revision: 0, json: Bytes::new() });
    };
    let json = cached.json();
    let object = row
        .hooks
        .read(&json)
        .map_err(|source| Error::Stored { key: row.cache.storage.key(cached.key()), source })?;
    Ok(Current { object: Some(object), revision: cached.revision(), json })
}
