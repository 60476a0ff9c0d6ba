//! Commits per second of the engines, with 1, 16 and 64 writers: `cargo run --release -p store --example throughput [engine]`.
//!
//! Values have 2 KiB, as a pod has; each commit replaces one of a hundred keys per writer, compared by revision.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a table for people")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::embedded::{EmbeddedStore, Options};
use store::etcd::{EtcdStore, Options as EtcdOptions};
use store::memory::MemoryStore;
use store::suite::RealEtcd;
use store::{Committed, Compare, Op, Store, Txn};

const TIME: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let only = std::env::args().nth(1);
    let wanted = |engine: &str| only.as_deref().is_none_or(|only| only == engine);
    let directory = tempfile::tempdir_in(".").unwrap();
    println!("{:10} {:>8} {:>12} {:>10} {:>10}", "engine", "writers", "commits/s", "p50", "p99");
    for writers in [1, 16, 64].into_iter().filter(|_| wanted("memory")) {
        measure("memory", Arc::new(MemoryStore::new()), writers).await;
    }
    for writers in [1, 16, 64].into_iter().filter(|_| wanted("embedded")) {
        let path = directory.path().join(writers.to_string());
        let store = Arc::new(EmbeddedStore::open(&path, Options::default()).unwrap());
        measure("embedded", Arc::clone(&store) as Arc<dyn Store>, writers).await;
        println!("{:30} {:?}", "", store.size().await.unwrap());
    }
    if wanted("etcd") {
        let etcd = RealEtcd::start_in(directory.path());
        for writers in [1, 16, 64] {
            let store = EtcdStore::connect(EtcdOptions::new([&etcd.endpoint])).await.unwrap();
            measure("etcd", Arc::new(store), writers).await;
        }
    }
    println!("resident: {}", resident());
}

async fn measure(name: &str, store: Arc<dyn Store>, writers: usize) {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let mut revisions = vec![None; 100];
            let mut times = Vec::new();
            for i in (0..100).cycle() {
                let key = format!("/registry/pods/{writer}/{i}");
                let compare = match revisions[i] {
                    Some(revision) => Compare::ModRevision(key.clone(), revision),
                    None => Compare::Absent(key.clone()),
                };
                let txn =
                    Txn { compare: vec![compare], ops: vec![Op::Put(key, Bytes::from(vec![b'x'; 2048]))] };
                let start = Instant::now();
                match store.commit(txn).await.unwrap() {
                    Committed::Done(revision) => revisions[i] = Some(revision),
                    Committed::Conflict(seen) => {
                        revisions[i] = seen.into_iter().flatten().next().map(|kv| kv.mod_revision);
                    }
                }
                times.push(start.elapsed());
                if begun.elapsed() > TIME {
                    break;
                }
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let rate = times.len() as f64 / seconds;
    println!("{name:10} {writers:>8} {rate:>12.0} {:>10.1?} {:>10.1?}", at(50), at(99));
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
        .collect::<Vec<_>>()
        .join(", ")
}
