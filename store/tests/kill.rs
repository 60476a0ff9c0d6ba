//! No acknowledged write is lost, and none is there by half, whenever the owner of an embedded store is killed.
//!
//! A child process writes with eight tasks and says on a pipe what has been acknowledged; the parent kills it with
//! SIGKILL at random moments, opens the store itself and compares.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use store::embedded::{EmbeddedStore, Options};
use store::{Committed, ListOptions, Op, Revision, Store, Txn, WatchMessage};

const KILLS: u32 = 200;
const WRITERS: u64 = 8;
const CHILD: &str = "CORACLE_TEST_STORE_TO_WRITE";

/// Small history, so that sweeping and reusing pages happen under fire too.
fn options() -> Options {
    Options { history_revisions: 300, ..Options::default() }
}

/// What writer `writer` writes as its `n`th transaction: two keys that must always agree, and a growing value
/// that makes pages split and merge.
fn transaction(writer: u64, n: u64) -> Txn {
    let value = Bytes::from(format!("{n}"));
    let filler = Bytes::from(vec![b'x'; usize::try_from(n * 37 % 6000).unwrap()]);
    let slot = format!("/w/{writer}/slot/{}", n % 23);
    let slot = if n % 5 == 4 { Op::Delete(slot) } else { Op::Put(slot, filler) };
    let ops = vec![
        Op::Put(format!("/w/{writer}/first"), value.clone()),
        slot,
        Op::Put(format!("/w/{writer}/second"), value),
    ];
    Txn { compare: vec![], ops }
}

/// Not a test of its own: the child that [`nothing_acknowledged_is_lost`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(EmbeddedStore::open(directory, options()).unwrap());
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            let (last, _) = store.get(&format!("/w/{writer}/first")).await.unwrap();
            let last = last.map_or(0, |kv| number(&kv.value));
            for n in last + 1.. {
                let outcome = store.commit(transaction(writer, n)).await.unwrap();
                let Committed::Done(revision) = outcome else { panic!("nothing was compared") };
                // One write call per line: a killed process leaves whole lines.
                let line = format!("ack {writer} {n} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let begun = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    let (mut newest, mut total) = (Revision(1), 0_u64);
    for kill in 0..KILLS {
        let patience = Duration::from_micros(500 + u64::from(kill) * 7919 % 40_000);
        for (writer, n, revision) in write_and_kill(directory.path(), patience) {
            let last = acknowledged.insert(writer, n).unwrap_or(0);
            assert!(
                n > last,
                "kill {kill}: writer {writer} began again at {n} although {last} was acknowledged"
            );
            newest = newest.max(revision);
            total += 1;
        }
        runtime.block_on(check(directory.path(), &mut acknowledged, newest, kill));
    }
    let size = std::fs::metadata(directory.path().join("store.redb")).unwrap().len();
    println!(
        "{KILLS} kills in {:.1?}: {total} acknowledged transactions, all there; revision {newest}; file {} KiB",
        begun.elapsed(),
        size / 1024
    );
    assert!(total > u64::from(KILLS), "the child hardly wrote anything");
    assert!(size < 32 << 20, "the file has grown to {size} bytes");
}

/// Let a child write; kill it this long after its first acknowledgement; return all of them.
fn write_and_kill(directory: &Path, patience: Duration) -> Vec<(u64, u64, Revision)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let mut killed = false;
    let mut first: Option<Instant> = None;
    for line in lines {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let mut next = || words.next().unwrap().parse::<u64>().unwrap();
            seen.push((next(), next(), Revision(next())));
            let first = *first.get_or_insert_with(Instant::now);
            if !killed && first.elapsed() >= patience {
                // What is still in the pipe was acknowledged too: read on to its end.
                child.kill().unwrap();
                killed = true;
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    seen
}

/// Open the store as the next owner would, and compare.
async fn check(directory: &Path, acknowledged: &mut HashMap<u64, u64>, newest: Revision, kill: u32) {
    let store = EmbeddedStore::open(directory, options()).unwrap();
    let revision = store.revision().await.unwrap();
    assert!(revision >= newest, "kill {kill}: revision {revision}, but {newest} was acknowledged");
    for writer in 0..WRITERS {
        let value = async |name: &str| {
            let (kv, _) = store.get(&format!("/w/{writer}/{name}")).await.unwrap();
            kv.map(|kv| (number(&kv.value), kv.mod_revision))
        };
        let (first, second) = (value("first").await, value("second").await);
        assert_eq!(first, second, "kill {kill}: half a transaction of writer {writer}");
        let (n, _) = first.unwrap_or_default();
        let last = acknowledged.get(&writer).copied().unwrap_or(0);
        assert!(n == last || n == last + 1, "kill {kill}: writer {writer} has {n}, acknowledged {last}");
        // Whoever has seen it may rely on it, too.
        acknowledged.insert(writer, n);
    }
    check_history(&store, revision).await;
}

/// The history that is kept is whole: every revision once, and replayed on the oldest state it gives the newest.
async fn check_history(store: &EmbeddedStore, revision: Revision) {
    let mut after = Revision(revision.0.saturating_sub(250).max(1));
    let options = ListOptions { revision: Some(after), ..Default::default() };
    let old = store.list("/w/", &options).await.unwrap();
    let mut state: HashMap<String, Bytes> = old.items.into_iter().map(|kv| (kv.key, kv.value)).collect();
    let mut watch = store.watch("/w/", after).await.unwrap();
    while after < revision {
        match watch.next().await.unwrap().unwrap() {
            WatchMessage::Progress(progress) => after = progress,
            WatchMessage::Events(events) => {
                for event in events {
                    assert!(
                        event.revision() == after || event.revision().0 == after.0 + 1,
                        "a gap in the history"
                    );
                    after = event.revision();
                    assert_eq!(event.before().map(|kv| &kv.value), state.get(event.key()));
                    match event {
                        store::Event::Put { now, .. } => state.insert(now.key, now.value),
                        store::Event::Delete { key, .. } => state.remove(&key),
                    };
                }
            }
        }
    }
    let now = store.list("/w/", &ListOptions::default()).await.unwrap();
    assert_eq!(state.len(), now.items.len());
    assert!(now.items.iter().all(|kv| state.get(&kv.key) == Some(&kv.value)), "the replay ends elsewhere");
}
