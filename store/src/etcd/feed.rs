//! One watch over all keys of etcd fills the ring that all our watches read.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{WatchOptions, WatchStream};
use tracing::{info, warn};

use super::call::{Endpoints, classify};
use super::convert::{Collector, number};
use crate::hub::{Commit, Hub, Past};
use crate::{Revision, StoreError};

/// Waiting between attempts to watch again.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// One reading of the past is at most about this much.
const PAST_COMMITS: usize = 256;
const PAST_BYTES: usize = 1 << 20;

/// Keep the ring up to date until the task is aborted. While etcd is away the watches wait; afterwards they go
/// on without a gap, or are told that they cannot.
pub(super) async fn run(etcd: Arc<Endpoints>, hub: Arc<Hub>) {
    let mut failures = 0;
    loop {
        let head = hub.head();
        match follow(&etcd, &hub).await {
            End::Compacted(oldest) => {
                warn!(%head, %oldest, "etcd has compacted what the watches have not seen yet");
                // Everything after `oldest` can be had; cursors that are older will be told.
                hub.reset(oldest);
                failures = 0;
                continue;
            }
            End::Broken(reason) => {
                if hub.head() > head {
                    failures = 0;
                }
                if failures == 0 {
                    info!(reason, revision = %hub.head(), "the watch of etcd has ended; watching again");
                }
            }
        }
        tokio::time::sleep(PAUSES[failures.min(PAUSES.len() - 1)]).await;
        failures += 1;
    }
}

/// Why a watch is over.
enum End {
    /// What it asked for is gone; this is the oldest revision that can be watched from.
    Compacted(Revision),
    Broken(String),
}

async fn follow(etcd: &Endpoints, hub: &Hub) -> End {
    let (mut watch, place) = match open(etcd, hub.head()).await {
        Ok(opened) => opened,
        Err(error) => return End::Broken(error.to_string()),
    };
    let mut collector = Collector::default();
    let end = loop {
        match next(&mut watch, &mut collector).await {
            Ok(()) => {
                let mut commits = collector.commits().peekable();
                if commits.peek().is_some() {
                    hub.publish(commits);
                }
            }
            Err(end) => break end,
        }
    };
    if matches!(end, End::Broken(_)) {
        etcd.avoid(place);
    }
    end
}

async fn open(etcd: &Endpoints, after: Revision) -> Result<(WatchStream, usize), etcd_client::Error> {
    let (mut client, place) = etcd.preferred().await?;
    let options = WatchOptions::new()
        .with_all_keys()
        .with_start_revision(number(after.0 + 1))
        .with_prev_key()
        // So that no message is much larger than one value, whatever there is to catch up with.
        .with_fragment();
    match client.watch.watch([0_u8], Some(options)).await {
        Ok(stream) => Ok((stream, place)),
        Err(error) => {
            etcd.avoid(place);
            Err(error)
        }
    }
}

/// One message of a watch.
async fn next(watch: &mut WatchStream, collector: &mut Collector) -> Result<(), End> {
    let response = match watch.message().await {
        Ok(Some(response)) => response,
        Ok(None) => return Err(End::Broken("etcd closed the watch".to_owned())),
        Err(error) => return Err(End::Broken(error.to_string())),
    };
    if response.compact_revision() > 0 {
        return Err(End::Compacted(Revision(response.compact_revision().unsigned_abs())));
    }
    if response.canceled() {
        return Err(End::Broken(response.cancel_reason().to_owned()));
    }
    let response = response.0;
    let more = response.fragment;
    collector.add(response.events.into_iter().map(etcd_client::Event).collect(), more);
    Ok(())
}

/// Commits that have left the ring are asked of etcd again.
#[derive(Debug)]
pub(super) struct EtcdPast {
    etcd: Arc<Endpoints>,
    hub: Weak<Hub>,
}

impl EtcdPast {
    pub(super) fn new(etcd: Arc<Endpoints>, hub: Weak<Hub>) -> EtcdPast {
        EtcdPast { etcd, hub }
    }
}

#[async_trait]
impl Past for EtcdPast {
    async fn commits_after(&self, after: Revision) -> Result<Vec<Arc<Commit>>, StoreError> {
        let mut failures = 0;
        loop {
            let outcome = match open(&self.etcd, after).await {
                Ok((mut watch, _)) => self.collect(&mut watch).await,
                Err(error) => match classify(error).into() {
                    // A refusal will not pass; an etcd that is away comes back, and the watch waits for it.
                    error @ StoreError::Invalid(_) => return Err(error),
                    error => Err(End::Broken(error.to_string())),
                },
            };
            match outcome {
                Ok(commits) => return Ok(commits),
                Err(End::Compacted(compacted)) => {
                    return Err(StoreError::Compacted { requested: after, compacted });
                }
                Err(End::Broken(_)) => {
                    tokio::time::sleep(PAUSES[failures.min(PAUSES.len() - 1)]).await;
                    failures += 1;
                }
            }
        }
    }
}

impl EtcdPast {
    /// Read until the ring is reached, or there is enough for one message.
    async fn collect(&self, watch: &mut WatchStream) -> Result<Vec<Arc<Commit>>, End> {
        let (mut collector, mut commits, mut bytes) = (Collector::default(), Vec::new(), 0);
        loop {
            let floor = self.hub.upgrade().map_or(Revision(0), |hub| hub.floor());
            let reached = commits.last().is_some_and(|commit: &Arc<Commit>| commit.revision >= floor);
            if reached || commits.len() >= PAST_COMMITS || bytes >= PAST_BYTES {
                return Ok(commits);
            }
            match next(watch, &mut collector).await {
                Ok(()) => {}
                // What came before the break is good.
                Err(End::Broken(_)) if !commits.is_empty() => return Ok(commits),
                Err(end) => return Err(end),
            }
            for commit in collector.commits() {
                bytes += commit.weight();
                commits.push(Arc::new(commit));
            }
        }
    }
}
