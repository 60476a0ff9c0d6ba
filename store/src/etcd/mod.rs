//! The store in etcd: several servers share one.
//!
//! - Reads are linearizable, and are repeated at the next endpoint when one fails. Writes are repeated only when
//!   they were certainly not sent; otherwise the answer is [`StoreError::Unknown`].
//! - One etcd watch over all keys feeds the shared ring that all our watches read (see `feed`). Every revision of etcd
//!   changes some key, so the ring always reaches [`Store::revision`] by itself: no progress requests, which older
//!   versions answer too early. It also means one watch per server, however many resources there are.
//! - History is compacted by whoever uses the store, or at intervals if the options say so.
//!
//! With authentication on, the user needs read and write access to all keys.

mod call;
mod convert;
mod feed;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{GetOptions, GetResponse, Txn as EtcdTxn, TxnOp, TxnOpResponse};
use tokio::task::AbortHandle;

use crate::hub::{Hub, RingLimits};
use crate::{Committed, KeyValue, ListOptions, Listing, Revision, Store, StoreError, Txn, WatchStream, txn};
use call::{Endpoints, Failed};

pub use call::ConnectError;

/// The part of the past that is kept in memory; watches that are further behind ask etcd.
const RING: RingLimits = RingLimits { commits: 4096, bytes: 4 << 20 };

/// A page of a list aims at this many bytes, and has between so many and so many keys.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_KEYS: (usize, usize) = (8, 2000);

/// How to reach etcd.
#[derive(Clone)]
pub struct Options {
    /// `http://10.0.0.1:2379`, `https://…`, or `10.0.0.1:2379`. The first that works is used until it fails.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: Option<Tls>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// For one request, with all its repetitions.
    pub timeout: Duration,
    /// Keep this much history, and compact what is older. `None` leaves it to the caller: the API server does it.
    pub compact_every: Option<Duration>,
}

impl Options {
    /// The given endpoints without TLS and user.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Options {
        Options {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            user: None,
            timeout: Duration::from_secs(10),
            compact_every: None,
        }
    }
}

/// Passwords and keys are not for logs.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls.is_some())
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("timeout", &self.timeout)
            .field("compact_every", &self.compact_every)
            .finish()
    }
}

/// Certificates as PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who may have signed the server's certificate.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name to expect in the server's certificate, if it is not the host of the endpoint.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct EtcdStore {
    etcd: Arc<Endpoints>,
    hub: Arc<Hub>,
    /// The oldest revision we know to be readable.
    compacted: Arc<AtomicU64>,
    tasks: Vec<AbortHandle>,
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.hub.close();
    }
}

impl EtcdStore {
    /// Connect, and ask for the revision to see that it works. Needs a tokio runtime, for as long as the store lives.
    pub async fn connect(options: Options) -> Result<EtcdStore, ConnectError> {
        let etcd = Arc::new(Endpoints::new(&options)?);
        let revision = revision(&etcd).await.map_err(|source| ConnectError::Unreachable {
            endpoints: options.endpoints.join(","),
            source: Box::new(source),
        })?;
        let hub = Arc::new(Hub::new(revision, RING));
        let compacted = Arc::new(AtomicU64::new(0));
        let mut tasks = vec![tokio::spawn(feed::run(Arc::clone(&etcd), Arc::clone(&hub))).abort_handle()];
        if let Some(every) = options.compact_every {
            let (etcd, compacted) = (Arc::clone(&etcd), Arc::clone(&compacted));
            tasks.push(tokio::spawn(compact_regularly(etcd, compacted, every)).abort_handle());
        }
        Ok(EtcdStore { etcd, hub, compacted, tasks })
    }

    /// One page, and the size that the next one should have.
    async fn page(
        &self,
        start: &[u8],
        end: &[u8],
        at: Option<Revision>,
        keys: usize,
    ) -> Result<GetResponse, Failed> {
        let options = GetOptions::new().with_range(end).with_limit(convert::number(keys as u64));
        let options = match at {
            Some(at) => options.with_revision(convert::number(at.0)),
            None => options,
        };
        self.etcd
            .read(|mut etcd| {
                let (start, options) = (start.to_owned(), options.clone());
                async move { etcd.kv.get(start, Some(options)).await }
            })
            .await
    }

    /// What a revision that etcd refused should have been.
    async fn explain(&self, failed: Failed, requested: Revision) -> StoreError {
        match failed {
            Failed::Compacted => {
                let compacted = Revision(self.compacted.load(Ordering::Relaxed).max(requested.0 + 1));
                StoreError::Compacted { requested, compacted }
            }
            Failed::Future => match self.revision().await {
                Ok(current) => StoreError::Future { requested, current },
                Err(error) => error,
            },
            other => other.into(),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        revision(&self.etcd).await
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let response = self.etcd.read(|mut etcd| async move { etcd.kv.get(key, None).await }).await?;
        let revision = convert::revision(response.header())?;
        Ok((convert::key_values(response).pop(), revision))
    }

    async fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError> {
        let end = convert::prefix_end(prefix);
        let mut start = match &options.after {
            Some(after) if after.as_str() >= prefix => [after.as_bytes(), b"\0"].concat(),
            _ if prefix.is_empty() => vec![0],
            _ => prefix.as_bytes().to_owned(),
        };
        let mut listing = Listing { items: Vec::new(), revision: Revision(0), remaining: 0 };
        let mut at = options.revision;
        let mut keys = 64;
        loop {
            let wanted = match options.limit {
                0 => keys,
                limit => keys.min(limit - listing.items.len()),
            };
            let page = match self.page(&start, &end, at, wanted).await {
                Ok(page) => page,
                Err(Failed::TooLarge(_)) if keys > PAGE_KEYS.0 => {
                    keys = (keys / 8).max(PAGE_KEYS.0);
                    continue;
                }
                Err(failed) => return Err(self.explain(failed, at.unwrap_or_default()).await),
            };
            if at.is_none() {
                at = Some(convert::revision(page.header())?);
            }
            let (more, count) = (page.more(), u64::try_from(page.count()).unwrap_or(0));
            let before = listing.items.len();
            listing.items.extend(convert::key_values(page));
            let got = &listing.items[before..];
            listing.remaining = count.saturating_sub(got.len() as u64);
            let full = options.limit != 0 && listing.items.len() >= options.limit;
            let Some(last) = got.last().filter(|_| more && !full) else {
                listing.revision = at.unwrap_or_default();
                return Ok(listing);
            };
            let bytes: usize = got.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            keys = (PAGE_BYTES * got.len() / bytes.max(1)).clamp(PAGE_KEYS.0, PAGE_KEYS.1);
            start = [last.key.as_bytes(), b"\0"].concat();
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn::check(&txn)?;
        let compares: Vec<_> = txn.compare.iter().map(convert::compare).collect();
        let reads: Vec<_> = txn.compare.iter().map(|compare| TxnOp::get(compare.key(), None)).collect();
        let ops: Vec<_> = txn.ops.into_iter().map(convert::op).collect();
        let request = EtcdTxn::new().when(compares).and_then(ops).or_else(reads);
        let response = self
            .etcd
            .write(|mut etcd| {
                let request = request.clone();
                async move { etcd.kv.txn(request).await }
            })
            .await?;
        if response.succeeded() {
            return Ok(Committed::Done(convert::revision(response.header())?));
        }
        let newest = response.op_responses().into_iter().map(|answer| match answer {
            TxnOpResponse::Get(get) => convert::key_values(get).pop(),
            _ => None,
        });
        Ok(Committed::Conflict(newest.collect()))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        if after > self.hub.head() {
            let current = self.revision().await?;
            if after > current {
                return Err(StoreError::Future { requested: after, current });
            }
        }
        let compacted = Revision(self.compacted.load(Ordering::Relaxed));
        if after < compacted {
            return Err(StoreError::Compacted { requested: after, compacted });
        }
        let past = feed::EtcdPast::new(Arc::clone(&self.etcd), Arc::downgrade(&self.hub));
        Ok(self.hub.watch(Arc::new(past), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match compact(&self.etcd, &self.compacted, revision).await {
            // Somebody has gone further already.
            Ok(()) | Err(Failed::Compacted) => Ok(()),
            Err(failed) => Err(self.explain(failed, revision).await),
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

async fn revision(etcd: &Endpoints) -> Result<Revision, StoreError> {
    // A key that is never there: the answer is its header alone.
    let response = etcd
        .read(|mut etcd| async move { etcd.kv.get([0_u8], Some(GetOptions::new().with_count_only())).await })
        .await?;
    convert::revision(response.header())
}

async fn compact(etcd: &Endpoints, compacted: &AtomicU64, revision: Revision) -> Result<(), Failed> {
    etcd.read(|mut etcd| async move { etcd.kv.compact(convert::number(revision.0), None).await }).await?;
    compacted.fetch_max(revision.0, Ordering::Relaxed);
    Ok(())
}

/// Compact to where the store was one period ago. Several servers may do so: the second is told that it is late.
async fn compact_regularly(etcd: Arc<Endpoints>, compacted: Arc<AtomicU64>, every: Duration) {
    let mut last = None;
    loop {
        // Without news from etcd the old mark is still right.
        let now = revision(&etcd).await.ok();
        if let Some(last) = last.filter(|last| now.is_some_and(|now| now > *last)) {
            match compact(&etcd, &compacted, last).await {
                Ok(()) | Err(Failed::Compacted) => {}
                Err(failed) => {
                    let error = StoreError::from(failed);
                    tracing::warn!(revision = %last, error = &error as &dyn std::error::Error, "compacting etcd failed");
                }
            }
        }
        last = now.or(last);
        tokio::time::sleep(every).await;
    }
}
