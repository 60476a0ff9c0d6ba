//! What only the embedded store promises: its file.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use store::embedded::{EmbeddedStore, OpenError, Options};
use store::{Committed, ListOptions, Op, Revision, Store, StoreError, Txn};

async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) -> Revision {
    let txn = Txn { compare: vec![], ops: vec![Op::Put(key.to_owned(), value.into())] };
    match store.commit(txn).await.unwrap() {
        Committed::Done(revision) => revision,
        Committed::Conflict(_) => unreachable!("nothing was compared"),
    }
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options::default()).unwrap()
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = put(&store, "/a", "1").await;
    let second = put(&store, "/a", "2").await;
    let mut watch = store.watch("/", second).await.unwrap();
    watch.next().await.unwrap().unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Unavailable(_)))), "closing ends the watches");
    let store = open(directory.path());
    assert_eq!(store.revision().await.unwrap(), second);
    let old = ListOptions { revision: Some(first), ..Default::default() };
    assert_eq!(store.list("/", &old).await.unwrap().items[0].value, "1");
    let mut watch = store.watch("/", first).await.unwrap();
    assert!(format!("{:?}", watch.next().await).contains("Revision(3)"));
}

#[tokio::test]
async fn the_file_is_private_and_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("deep/store");
    let store = open(&inside);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inside.join("store.redb")), 0o600);
    assert_eq!(mode(&inside), 0o700);
    match EmbeddedStore::open(&inside, Options::default()) {
        Err(error @ OpenError::InUse { owner, .. }) => {
            assert_eq!(owner, Some(std::process::id()));
            assert!(
                error.to_string().contains(&format!("in use by process {}", std::process::id())),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    open(&inside);
}

#[tokio::test]
async fn a_damaged_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let error = EmbeddedStore::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
}

/// A thousand times the live data is written; the file stays within a few times of data and history.
#[tokio::test(flavor = "multi_thread")]
async fn churn_does_not_grow_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { history_revisions: 1000, ..Options::default() };
    let store = Arc::new(EmbeddedStore::open(directory.path(), options).unwrap());
    let mut sizes = Vec::new();
    for round in 0..6 {
        let mut writers = Vec::new();
        for writer in 0..32 {
            let store = Arc::clone(&store);
            writers.push(tokio::spawn(async move {
                for i in 0..40 {
                    put(&*store, &format!("/registry/pods/{writer}/{}", i % 4), vec![round; 3000 + i * 10])
                        .await;
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        sizes.push(store.size().await.unwrap());
    }
    let last = sizes.last().unwrap();
    assert_eq!(last.keys, 128);
    assert!(last.history < 1200 * 4200, "history is bounded by number: {last:?}");
    assert!(last.file < 24 << 20, "{sizes:?}");
    assert!(last.file <= sizes[2].file * 3 / 2, "the file grows: {sizes:?}");
    // And by bytes, whatever the number.
    drop(store);
    let options = Options { history_bytes: 1 << 20, ..Options::default() };
    let store = EmbeddedStore::open(directory.path(), options).unwrap();
    for _ in 0..100 {
        put(&store, "/a", vec![0; 4000]).await;
    }
    let size = store.size().await.unwrap();
    assert!(size.history < (1 << 20) + 10_000, "{size:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("a"));
    for i in 0..50 {
        put(&store, &format!("/{}", i % 9), format!("{i}")).await;
    }
    let copied = store.backup(directory.path().join("b")).await.unwrap();
    put(&store, "/later", "x").await;
    let copy = open(&directory.path().join("b"));
    assert_eq!(copy.revision().await.unwrap(), copied);
    for revision in [None, Some(Revision(20))] {
        let options = ListOptions { revision, ..Default::default() };
        let original = ListOptions { revision: Some(revision.unwrap_or(copied)), ..Default::default() };
        let (copy, original) =
            (copy.list("/", &options).await.unwrap(), store.list("/", &original).await.unwrap());
        assert_eq!(copy.items, original.items);
    }
    let again = store.backup(directory.path().join("c")).await.unwrap();
    assert!(again > copied);
    let mode = std::fs::metadata(directory.path().join("c/store.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A watch far behind reads the file, in bounded messages, and misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_behind_the_ring_reads_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let mut watch = store.watch("/", Revision(1)).await.unwrap();
    watch.next().await.unwrap().unwrap();
    let mut writers = Vec::new();
    for writer in 0..50 {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            for i in 0..60 {
                put(&*store, &format!("/{writer}/{}", i % 3), vec![0; 1000]).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let (mut expected, mut messages) = (2, 0);
    while expected <= 3001 {
        let Some(Ok(store::WatchMessage::Events(events))) = watch.next().await else { panic!("events") };
        for event in &events {
            assert_eq!(event.revision(), Revision(expected));
            expected += 1;
        }
        messages += 1;
    }
    assert!(messages > 3, "{messages} messages for 3000 events");
    // One that is behind what is kept is told.
    let mut slow = store.watch("/", Revision(1)).await.unwrap();
    slow.next().await.unwrap().unwrap();
    store.compact(Revision(2500)).await.unwrap();
    let end = loop {
        match slow.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, StoreError::Slow), "{end:?}");
}
