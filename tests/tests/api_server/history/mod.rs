//! Histories: what clients were told, under kills of server and etcd, held against the store's own log.
//!
//! A few clients fight over a few keys while watchers follow them; processes are killed and started again. Afterwards
//! the store is opened without a server, and its log says what really happened: see [`check`].

mod check;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Api, Client};
use futures_util::StreamExt as _;
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use store::embedded::EmbeddedStore;
use store::etcd::EtcdStore;
use store::suite::RealEtcd;
use store::{Event, Revision, Store, WatchMessage};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use check::{Change, Done, check};
use record::Dice;

const NAMESPACE: &str = "history";
const CLIENTS: u64 = 6;
const WATCHERS: usize = 3;

/// Every change of our keys that the store knows of.
async fn log_of(store: &dyn Store) -> Vec<Change> {
    let prefix = format!("/registry/configmaps/{NAMESPACE}/");
    let newest = store.revision().await.unwrap();
    let mut stream = store.watch(&prefix, Revision(1)).await.unwrap();
    let mut log = Vec::new();
    let mut at = Revision(1);
    while at < newest {
        match stream.next().await.unwrap().unwrap() {
            WatchMessage::Progress(revision) => at = revision,
            WatchMessage::Events(events) => {
                for event in events {
                    at = event.revision();
                    let key = event.key().strip_prefix(&prefix).unwrap().to_owned();
                    let value = match &event {
                        Event::Put { now, .. } => Some(value(&now.value)),
                        Event::Delete { .. } => None,
                    };
                    if key != "kube-root-ca.crt" {
                        log.push(Change { revision: at.0, key, value });
                    }
                }
            }
        }
    }
    log
}

fn value(stored: &Bytes) -> String {
    let map: serde_json::Value = serde_json::from_slice(stored).unwrap();
    map["data"]["v"].as_str().unwrap().to_owned()
}

/// Lets clients of several servers run while `trouble` happens, and checks what they have seen.
async fn run(
    servers: &mut [Server],
    trouble: impl AsyncFnOnce(&mut [Server]),
    open: impl AsyncFnOnce(&mut [Server]) -> Arc<dyn Store>,
) {
    let mut clients: Vec<Client> = Vec::new();
    for server in servers.iter_mut() {
        clients.push(server.ready().await);
    }
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    clients[0].all::<Namespace>().create(&namespace).await.unwrap();
    let api = |number: usize| clients[number % clients.len()].namespaced::<ConfigMap>(NAMESPACE);

    let stop = CancellationToken::new();
    let mut working = JoinSet::new();
    for number in 0..CLIENTS {
        working.spawn(record::client(api(usize::try_from(number).unwrap()), number, stop.clone()));
    }
    let mut watching = JoinSet::new();
    for number in 0..WATCHERS {
        let api: Arc<Api<ConfigMap>> = Arc::new(api(number));
        watching.spawn(record::watcher(api));
    }
    trouble(servers).await;
    stop.cancel();
    let operations = working.join_all().await.concat();
    record::write_end(&api(0)).await;
    let watchers = tokio::time::timeout(Duration::from_secs(30), watching.join_all())
        .await
        .expect("a watcher never saw the end");

    let store = open(servers).await;
    let log = log_of(&*store).await;
    let wrong = check(&log, &operations, &watchers);
    let mut counts = BTreeMap::new();
    for operation in &operations {
        let kind = match operation.done {
            Done::Read(_) => "read",
            Done::Wrote { .. } => "written",
            Done::Deleted { .. } => "deleted",
            Done::Refused { .. } => "refused",
            Done::Unknown { .. } => "unknown",
        };
        *counts.entry(kind).or_insert(0) += 1;
    }
    let told: usize = watchers.iter().flatten().map(|segment| segment.told.len()).sum();
    let lists: usize = watchers.iter().map(Vec::len).sum();
    println!(
        "{counts:?}; {} changes in the log; {told} told to {WATCHERS} watchers, which listed {lists} times",
        log.len()
    );
    assert!(
        wrong.is_empty(),
        "{} things are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert!(log.len() > 100 && operations.len() > 300, "hardly anything happened");
}

/// Kills and starts again, so often, with pauses of about a second.
async fn kill_servers(servers: &mut [Server], times: u32, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(400 + dice.below(800))).await;
        let count = servers.len() as u64;
        let victim = &mut servers[usize::try_from(dice.below(count)).unwrap()];
        victim.kill();
        victim.launch();
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
}

async fn open_embedded(servers: &mut [Server]) -> Arc<dyn Store> {
    // Killed, not stopped: what was acknowledged is on disk.
    servers[0].kill();
    let store = EmbeddedStore::open(servers[0].path("data/store"), store::embedded::Options::default());
    Arc::new(store.unwrap())
}

async fn open_etcd(endpoint: &str) -> Arc<dyn Store> {
    Arc::new(EtcdStore::connect(store::etcd::Options::new([endpoint])).await.unwrap())
}

async fn embedded(kills: u32, seed: u64) {
    let mut servers = [Server::start(&[])];
    run(&mut servers, async |servers| kill_servers(servers, kills, seed).await, open_embedded).await;
}

/// Two servers over one etcd; both kinds of processes die.
async fn etcd(kills: u32, seed: u64) {
    let mut etcd = RealEtcd::start();
    let endpoint = etcd.endpoint.clone();
    let endpoints = [endpoint.clone()];
    let mut servers = [Server::start(&endpoints), Server::start(&endpoints)];
    let trouble = async |servers: &mut [Server]| {
        for round in 0..kills {
            kill_servers(servers, 1, seed + u64::from(round)).await;
            etcd.restart();
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
    };
    run(&mut servers, trouble, async |_| open_etcd(&endpoint).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_with_kills() {
    embedded(8, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_over_etcd_with_kills() {
    etcd(4, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make soak"]
async fn many_rounds_of_kills() {
    for seed in 0..10 {
        embedded(12, 100 + seed).await;
        etcd(6, 100 + seed).await;
    }
}
