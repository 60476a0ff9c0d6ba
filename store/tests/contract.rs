//! Every engine keeps the contract.

use std::sync::Arc;

use store::Store;
use store::embedded::{EmbeddedStore, Options};
use store::etcd::{EtcdStore, Options as EtcdOptions};
use store::memory::MemoryStore;
use store::suite::RealEtcd;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    store::suite::run(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    store::suite::run(|| {
        let path =
            directory.path().join(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string());
        async move { Arc::new(EmbeddedStore::open(path, Options::default()).unwrap()) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let etcd = RealEtcd::start();
    store::suite::run(|| async {
        Arc::new(EtcdStore::connect(EtcdOptions::new([&etcd.endpoint])).await.unwrap()) as Arc<dyn Store>
    })
    .await;
}
