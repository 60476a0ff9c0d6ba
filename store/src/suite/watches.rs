//! Watching: everything, in order, once.

use std::collections::BTreeMap;

use super::*;

pub(super) async fn changes_with_their_values_before(keys: Keys) {
    let key = keys.key("a");
    let start = keys.revision().await;
    let mut watch = keys.watch(start).await;
    let r1 = keys.put("a", "1").await;
    let r2 = keys.put("a", "2").await;
    let r3 = keys.delete("a").await;
    let r4 = keys.put("a", "3").await;
    let one = kv(&key, "1", r1, r1);
    let two = kv(&key, "2", r1, r2);
    let three = kv(&key, "3", r4, r4);
    let expected = [
        Event::Put { now: one.clone(), before: None },
        Event::Put { now: two.clone(), before: Some(one) },
        Event::Delete { key, revision: r3, before: Some(two) },
        Event::Put { now: three, before: None },
    ];
    assert_eq!(watch.until(r4).await, expected, "live");
    assert_eq!(keys.watch(start).await.until(r4).await, expected, "again, from the past");
}

pub(super) async fn only_the_prefix(keys: Keys) {
    let start = keys.revision().await;
    let inner = Keys { prefix: keys.key("b/"), store: Arc::clone(&keys.store) };
    let mut watch = inner.watch(start).await;
    let mut expected = Vec::new();
    for name in ["a", "b", "b/1", "b0", "b/2", "c", "b/3"] {
        let revision = keys.put(name, "x").await;
        if name.starts_with("b/") {
            expected.push((keys.key(name), revision));
        }
    }
    let last = keys.put("z", "x").await;
    let seen: Vec<_> =
        watch.until(last).await.iter().map(|event| (event.key().to_owned(), event.revision())).collect();
    assert_eq!(seen, expected);
}

pub(super) async fn progress_without_events(keys: Keys) {
    keys.put("elsewhere/1", "x").await;
    let start = keys.revision().await;
    let inner = Keys { prefix: keys.key("here/"), store: Arc::clone(&keys.store) };
    let mut watch = inner.watch(start).await;
    assert_eq!(watch.message().await.unwrap(), WatchMessage::Progress(start), "nothing to deliver");
    for _ in 0..5 {
        let revision = keys.put("elsewhere/1", "y").await;
        while watch.after < revision {
            assert!(matches!(watch.message().await.unwrap(), WatchMessage::Progress(_)));
        }
        assert_eq!(watch.after, revision, "no further than the store is");
    }
}

pub(super) async fn from_a_revision_of_the_past(keys: Keys) {
    let mut revisions = vec![keys.revision().await];
    for i in 0..30 {
        revisions.push(keys.put(&format!("{}", i % 4), format!("{i}")).await);
    }
    let last = revisions[30];
    let all = keys.watch(revisions[0]).await.until(last).await;
    assert_eq!(all.len(), 30);
    for (i, after) in revisions.iter().enumerate() {
        assert_eq!(keys.watch(*after).await.until(last).await, all[i..], "after {after}");
    }
}

pub(super) async fn a_transaction_is_one_message(keys: Keys) {
    let start = keys.revision().await;
    let mut watch = keys.watch(start).await;
    let mut last = start;
    for round in 0..20 {
        let ops = (0..50).map(|i| Op::Put(keys.key(&format!("{i:02}")), format!("{round}").into()));
        last = done(keys.commit(vec![], ops.collect()).await);
    }
    for mut watch in [keys.watch(start).await, std::mem::replace(&mut watch, keys.watch(last).await)] {
        let mut counts: BTreeMap<Revision, usize> = BTreeMap::new();
        while watch.after < last {
            if let WatchMessage::Events(events) = watch.message().await.unwrap() {
                events.iter().for_each(|event| *counts.entry(event.revision()).or_default() += 1);
                assert!(counts.values().all(|count| *count == 50), "a message ends within a revision");
            }
        }
        assert_eq!(counts.len(), 20);
    }
}

pub(super) async fn large_events(keys: Keys) {
    let start = keys.revision().await;
    let mut last = start;
    for i in 0..6_u8 {
        last = keys.put("large", vec![i; 1 << 20]).await;
    }
    let events = keys.watch(start).await.until(last).await;
    assert_eq!(events.len(), 6);
    for (i, event) in events.iter().enumerate() {
        let Event::Put { now, .. } = event else { panic!("a put: {:?}", event.key()) };
        assert!(now.value.len() == 1 << 20 && now.value.iter().all(|byte| usize::from(*byte) == i));
    }
}

/// Watches that begin, end and go on at any moment of a storm of writes see every revision once.
pub(super) async fn resume_without_a_gap(keys: Keys) {
    const WRITERS: u64 = 6;
    const WRITES: u64 = 60;
    let start = keys.revision().await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let keys = keys.clone();
        writers.push(tokio::spawn(async move {
            for i in 0..WRITES {
                // Every third write is outside of what is watched.
                let name = if i % 3 == 2 { format!("out/{writer}") } else { format!("in/{writer}") };
                if i % 10 == 9 {
                    keys.delete(&name).await
                } else {
                    keys.put(&name, format!("{i}")).await
                };
            }
        }));
    }
    let inner = Keys { prefix: keys.key("in/"), store: Arc::clone(&keys.store) };
    let mut watchers = Vec::new();
    for watcher in 0..6 {
        let inner = inner.clone();
        watchers.push(tokio::spawn(async move {
            let mut dice = Dice(watcher + 1);
            let (mut after, mut seen) = (start, Vec::new());
            let end = Revision(start.0 + WRITERS * WRITES);
            while after < end {
                let mut watch = inner.watch(after).await;
                for _ in 0..=dice.roll(4) {
                    if let WatchMessage::Events(events) = watch.message().await.unwrap() {
                        seen.extend(events);
                    }
                    if watch.after >= end {
                        break;
                    }
                }
                after = watch.after;
            }
            seen
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let end = keys.revision().await;
    assert_eq!(end, Revision(start.0 + WRITERS * WRITES), "every write took effect");
    let expected = inner.watch(start).await.until(end).await;
    assert_eq!(expected.len() as u64, WRITERS * WRITES / 3 * 2);
    check_chain(&expected);
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}

/// Every value before is the value that the same key had, and the end is the state.
fn check_chain(events: &[Event]) {
    let mut state: BTreeMap<&str, &KeyValue> = BTreeMap::new();
    for event in events {
        assert_eq!(event.before(), state.get(event.key()).copied(), "before {event:?}");
        match event {
            Event::Put { now, .. } => state.insert(&now.key, now),
            Event::Delete { key, .. } => state.remove(key.as_str()),
        };
    }
}

pub(super) async fn many_watchers_see_the_same(keys: Keys) {
    let start = keys.revision().await;
    let end = Revision(start.0 + 100);
    let mut watchers = Vec::new();
    for _ in 0..100 {
        let keys = keys.clone();
        watchers.push(tokio::spawn(async move { keys.watch(start).await.until(end).await }));
    }
    for i in 0..100 {
        keys.put(&format!("{}", i % 7), format!("{i}")).await;
    }
    let expected = keys.watch(start).await.until(end).await;
    assert_eq!(expected.len(), 100);
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}

/// It does not hold up writers, and when it reads at last it gets everything or is told that it cannot.
pub(super) async fn a_watcher_that_does_not_read(keys: Keys) {
    let start = keys.revision().await;
    let mut idle = keys.watch(start).await;
    let mut last = start;
    for round in 0..40 {
        let ops = (0..50).map(|i| Op::Put(keys.key(&format!("{i}")), Bytes::from(vec![round; 1000])));
        last = done(keys.commit(vec![], ops.collect()).await);
    }
    let mut seen = 0;
    while idle.after < last {
        match idle.message().await {
            Ok(WatchMessage::Events(events)) => seen += events.len(),
            Ok(WatchMessage::Progress(_)) => {}
            Err(StoreError::Slow) => {
                assert!(idle.stream.next().await.is_none(), "nothing follows an error");
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, 2000);
}

pub(super) async fn the_future(keys: Keys) {
    let current = keys.put("a", "1").await;
    let outcome = keys.store.watch(&keys.prefix, Revision(current.0 + 1)).await;
    assert!(matches!(outcome, Err(StoreError::Future { .. })), "{:?}", outcome.err());
    let mut watch = keys.watch(current).await;
    let next = keys.put("a", "2").await;
    assert_eq!(watch.until(next).await.len(), 1);
}

pub(super) async fn compaction(keys: Keys) {
    let r1 = keys.put("a", "1").await;
    let r2 = keys.put("b", "1").await;
    let r3 = keys.put("a", "2").await;
    let r4 = keys.delete("b").await;
    let r5 = keys.put("a", "3").await;
    let state = |value: &'static str| vec![("a".to_owned(), Bytes::from(value))];
    keys.store.compact(r3).await.unwrap();
    for gone in [r1, r2] {
        let options = ListOptions { revision: Some(gone), ..Default::default() };
        let outcome = keys.store.list(&keys.prefix, &options).await;
        assert!(matches!(outcome, Err(StoreError::Compacted { .. })), "{outcome:?}");
    }
    let outcome = match keys.store.watch(&keys.prefix, r1).await {
        Ok(mut stream) => stream.next().await.unwrap().err(),
        Err(error) => Some(error),
    };
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    assert_eq!(keys.state(Some(r3)).await.len(), 2, "the revision itself is kept");
    assert_eq!(keys.state(Some(r4)).await, state("2"));
    let (a, b) = (keys.key("a"), keys.key("b"));
    let two = kv(&a, "2", r1, r3);
    let expected = [
        Event::Delete { key: b, revision: r4, before: Some(kv(&keys.key("b"), "1", r2, r2)) },
        Event::Put { now: kv(&a, "3", r1, r5), before: Some(two) },
    ];
    assert_eq!(keys.watch(r3).await.until(r5).await, expected);
    keys.store.compact(r2).await.unwrap();
    keys.store.compact(r3).await.unwrap();
    assert_eq!(keys.state(Some(r3)).await.len(), 2, "what is forgotten already changes nothing");
    keys.store.compact(r5).await.unwrap();
    assert_eq!(keys.state(None).await, state("3"), "the newest values are always kept");
    assert_eq!(keys.get("a").await, Some(kv(&a, "3", r1, r5)));
    let r6 = keys.put("a", "4").await;
    assert_eq!(keys.watch(r5).await.until(r6).await.len(), 1);
}
