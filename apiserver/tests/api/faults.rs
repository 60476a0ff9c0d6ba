//! A store that breaks off its watches, or does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, Config};
use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::json;
use store::memory::MemoryStore;
use store::{Committed, KeyValue, ListOptions, Listing, Revision, Store, StoreError, Txn, WatchStream};
use tokio::sync::watch;

use crate::common::*;

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    down: AtomicBool,
    /// Each change ends the watches that are open, with an error.
    cuts: watch::Sender<u32>,
    /// What the broken watches end with.
    slow: AtomicBool,
}

impl Faulty {
    fn check(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("it is down".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check()?;
        self.inner.revision().await
    }
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.check()?;
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError> {
        self.check()?;
        self.inner.list(prefix, options).await
    }
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.check()?;
        self.inner.commit(txn).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.check()?;
        let mut cuts = self.cuts.subscribe();
        cuts.borrow_and_update();
        let slow = self.slow.load(Ordering::SeqCst);
        let cut = async move {
            let _ = cuts.changed().await;
        };
        let error = if slow { StoreError::Slow } else { StoreError::Unavailable("the watch was cut".into()) };
        let stream = self.inner.watch(prefix, after).await?.take_until(cut);
        Ok(stream.chain(futures_util::stream::iter([Err(error)])).boxed())
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
}

async fn start(slow: bool) -> (Arc<Faulty>, Cluster) {
    let store = Arc::new(Faulty {
        inner: MemoryStore::new(),
        down: AtomicBool::new(false),
        cuts: watch::Sender::new(0),
        slow: AtomicBool::new(slow),
    });
    let server = ApiServer::new(store.clone(), Config::default());
    server.start().await.expect("starts");
    (store, Cluster { server, store: Arc::new(MemoryStore::new()) })
}

#[tokio::test]
async fn a_watch_on_the_store_that_breaks_off_goes_on_where_it_was() {
    let (store, cluster) = start(false).await;
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    for n in 0..5 {
        store.cuts.send_modify(|cuts| *cuts += 1);
        let name = format!("m{n}");
        cluster.post(MAPS, config_map(&name, json!({}))).await.expect(201);
        assert_eq!(cluster.get(&format!("{MAPS}/{name}")).await.expect(200)["metadata"]["name"], *name);
        assert_eq!(events.named().await, ("ADDED".into(), name));
    }
}

#[tokio::test]
async fn a_watch_that_cannot_go_on_sends_watchers_away_and_fills_the_cache_anew() {
    let (store, cluster) = start(true).await;
    let a = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&a))).await;
    store.cuts.send_modify(|cuts| *cuts += 1);
    let (kind, status) = events.next().await.expect("an event");
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(events.next().await, None);
    cluster.delete(&format!("{MAPS}/a")).await.expect(200);
    cluster.post(MAPS, config_map("b", json!({}))).await.expect(201);
    let list = cluster.get(MAPS).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn without_a_store_old_reads_go_on_and_nothing_else() {
    let (store, cluster) = start(false).await;
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    cluster.get(&format!("{MAPS}/a")).await.expect(200);
    store.down.store(true, Ordering::SeqCst);
    store.cuts.send_modify(|cuts| *cuts += 1);
    cluster.get(&format!("{MAPS}/a?resourceVersion=0")).await.expect(200);
    cluster.get(&format!("{MAPS}/a")).await.refused(503, "ServiceUnavailable");
    cluster.post(MAPS, config_map("b", json!({}))).await.refused(503, "ServiceUnavailable");
    let ready = cluster.get("/readyz").await;
    assert_eq!(ready.code, 500);
    assert!(
        ready.body.as_str().is_some_and(|text| text.contains("[-]etcd failed: reason withheld")),
        "{ready:?}"
    );
    store.down.store(false, Ordering::SeqCst);
    let again = tokio::time::timeout(Duration::from_secs(10), async {
        while cluster.get("/readyz").await.code != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    again.await.expect("ready again");
    cluster.post(MAPS, config_map("b", json!({}))).await.expect(201);
    cluster.get(&format!("{MAPS}/b")).await.expect(200);
}
