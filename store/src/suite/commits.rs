//! Writing one key and several.

use super::*;
use crate::MAX_TXN_BYTES;

pub(super) async fn an_absent_key(keys: Keys) {
    let (nothing, revision) = keys.store.get(&keys.key("a")).await.unwrap();
    assert_eq!(nothing, None);
    assert!(revision >= Revision(1), "the empty store has revision 1");
    assert_eq!(keys.state(None).await, []);
}

pub(super) async fn revisions_grow_by_one(keys: Keys) {
    let start = keys.revision().await;
    for i in 1..=20 {
        let revision = keys.put(&format!("{}", i % 3), "x").await;
        assert_eq!(revision, Revision(start.0 + i));
        assert_eq!(keys.revision().await, revision);
    }
}

pub(super) async fn a_value_is_bytes(keys: Keys) {
    let binary: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for (name, value) in [("empty", vec![]), ("binary", binary), ("zeros", vec![0; 1000])] {
        let revision = keys.put(name, value.clone()).await;
        assert_eq!(keys.get(name).await, Some(kv(&keys.key(name), value, revision, revision)));
    }
    // Keys are text, and not only the plain part of it.
    let odd = "ключ with spaces/%2F/\u{1f6f6}";
    let revision = keys.put(odd, "boat").await;
    assert_eq!(keys.get(odd).await, Some(kv(&keys.key(odd), "boat", revision, revision)));
}

pub(super) async fn create_only_if_absent(keys: Keys) {
    let key = keys.key("a");
    let create = |value: &'static str| {
        keys.commit(vec![Compare::Absent(key.clone())], vec![Op::Put(key.clone(), value.into())])
    };
    let first = done(create("one").await);
    let before = keys.revision().await;
    let seen = conflict(create("two").await);
    assert_eq!(seen, [Some(kv(&key, "one", first, first))]);
    assert_eq!(keys.revision().await, before, "a conflict takes no revision");
    let deleted = keys.delete("a").await;
    let again = done(create("three").await);
    assert!(again > deleted);
    assert_eq!(keys.get("a").await, Some(kv(&key, "three", again, again)));
}

pub(super) async fn replace_only_the_revision_seen(keys: Keys) {
    let key = keys.key("a");
    let replace = |revision, value: &'static str| {
        let compare = vec![Compare::ModRevision(key.clone(), revision)];
        keys.commit(compare, vec![Op::Put(key.clone(), value.into())])
    };
    assert_eq!(conflict(replace(Revision(1), "x").await), [None], "an absent key has no revision");
    let first = keys.put("a", "one").await;
    let second = done(replace(first, "two").await);
    assert_eq!(conflict(replace(first, "late").await), [Some(kv(&key, "two", first, second))]);
    assert_eq!(keys.get("a").await, Some(kv(&key, "two", first, second)));
    let delete = |revision| {
        keys.commit(vec![Compare::ModRevision(key.clone(), revision)], vec![Op::Delete(key.clone())])
    };
    conflict(delete(first).await);
    done(delete(second).await);
    assert_eq!(conflict(delete(second).await), [None]);
}

pub(super) async fn a_conflict_shows_all_compared_keys(keys: Keys) {
    let (a, b, c) = (keys.key("a"), keys.key("b"), keys.key("c"));
    let first = keys.put("a", "1").await;
    let second = keys.put("c", "3").await;
    let compare = vec![
        Compare::ModRevision(c.clone(), second),
        Compare::Absent(b.clone()),
        Compare::ModRevision(a.clone(), second),
    ];
    let seen = conflict(keys.commit(compare, vec![Op::Put(b, "2".into()), Op::Delete(c.clone())]).await);
    assert_eq!(seen, [Some(kv(&c, "3", second, second)), None, Some(kv(&a, "1", first, first))]);
    assert_eq!(keys.state(None).await.len(), 2, "nothing of the transaction happened");
}

pub(super) async fn a_transaction_is_one_revision(keys: Keys) {
    let old = keys.put("gone", "x").await;
    let kept = keys.put("kept", "1").await;
    let compare = vec![Compare::ModRevision(keys.key("kept"), kept), Compare::Absent(keys.key("new"))];
    let ops = vec![
        Op::Put(keys.key("new"), "n".into()),
        Op::Delete(keys.key("gone")),
        Op::Put(keys.key("kept"), "2".into()),
        Op::Delete(keys.key("never-there")),
    ];
    let revision = done(keys.commit(compare, ops).await);
    assert_eq!(revision, Revision(kept.0 + 1));
    assert_eq!(keys.get("new").await, Some(kv(&keys.key("new"), "n", revision, revision)));
    assert_eq!(keys.get("kept").await, Some(kv(&keys.key("kept"), "2", kept, revision)));
    assert_eq!(keys.get("gone").await, None);
    let before = keys.state(Some(kept)).await;
    assert_eq!(before, [("gone".to_owned(), Bytes::from("x")), ("kept".to_owned(), Bytes::from("1"))]);
    assert!(old < kept);
}

pub(super) async fn delete_and_recreate(keys: Keys) {
    let key = keys.key("a");
    let one = keys.put("a", "1").await;
    let two = keys.put("a", "2").await;
    assert_eq!(keys.get("a").await, Some(kv(&key, "2", one, two)));
    keys.delete("a").await;
    assert_eq!(keys.get("a").await, None);
    let three = keys.put("a", "3").await;
    assert_eq!(keys.get("a").await, Some(kv(&key, "3", three, three)), "a new life begins");
}

pub(super) async fn what_changes_nothing_takes_no_revision(keys: Keys) {
    let revision = keys.put("a", "1").await;
    assert_eq!(done(keys.commit(vec![], vec![]).await), revision);
    assert_eq!(keys.delete("never-there").await, revision);
    let compare = vec![Compare::ModRevision(keys.key("a"), revision)];
    assert_eq!(done(keys.commit(compare, vec![]).await), revision, "a compare alone is a question");
    assert_eq!(keys.revision().await, revision);
}

pub(super) async fn large_values(keys: Keys) {
    let large = |byte: u8| Bytes::from(vec![byte; 1 << 20]);
    let mut revisions = Vec::new();
    for byte in 0..8 {
        revisions.push(keys.put(&format!("{byte}"), large(byte)).await);
    }
    assert_eq!(keys.get("3").await.unwrap().value, large(3));
    // More together than one message of most protocols.
    let all = keys.state(None).await;
    assert_eq!(all.len(), 8);
    assert!(all.iter().zip(0..).all(|((_, value), byte)| *value == large(byte)));
    let revision = keys.put("3", "small").await;
    assert_eq!(keys.state(Some(revisions[7])).await[3].1, large(3));
    assert_eq!(keys.state(Some(revision)).await[3].1, "small");
}

pub(super) async fn what_is_refused(keys: Keys) {
    let put = |name: &str, size: usize| Op::Put(keys.key(name), Bytes::from(vec![0; size]));
    let before = keys.revision().await;
    let too_much = vec![
        vec![put("a", 1), put("a", 2)],
        vec![put("a", 1), Op::Delete(keys.key("a"))],
        vec![put("a", MAX_TXN_BYTES)],
        (0..1000).map(|i| put(&format!("{i}"), 1)).collect(),
        vec![Op::Put(String::new(), "x".into())],
    ];
    for ops in too_much {
        let outcome = keys.store.commit(Txn { compare: vec![], ops }).await;
        assert!(matches!(outcome, Err(StoreError::Invalid(_))), "{outcome:?}");
    }
    assert_eq!(keys.revision().await, before);
}

/// Whoever asks after the answer sees the write, on whichever way.
pub(super) async fn an_acknowledged_write_is_seen(keys: Keys) {
    let mut tasks = Vec::new();
    for task in 0..8 {
        let keys = keys.clone();
        tasks.push(tokio::spawn(async move {
            let name = format!("{task}");
            for round in 0..10 {
                let revision = keys.put(&name, format!("{round}")).await;
                let (seen, at) = keys.store.get(&keys.key(&name)).await.unwrap();
                assert_eq!(seen.unwrap().mod_revision, revision);
                assert!(at >= revision);
                assert!(keys.revision().await >= at, "the revision went back");
                let listing = keys.store.list(&keys.key(&name), &ListOptions::default()).await.unwrap();
                assert!(listing.revision >= revision);
                assert_eq!(listing.items[0].mod_revision, revision);
                keys.watch(revision).await.until(revision).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

pub(super) async fn no_lost_update(keys: Keys) {
    const WRITERS: usize = 24;
    const ROUNDS: usize = 10;
    keys.put("counter", "0").await;
    let mut tasks = Vec::new();
    for _ in 0..WRITERS {
        let keys = keys.clone();
        tasks.push(tokio::spawn(async move {
            let mut revisions = Vec::new();
            let mut seen = keys.get("counter").await.unwrap();
            while revisions.len() < ROUNDS {
                let count: usize = std::str::from_utf8(&seen.value).unwrap().parse().unwrap();
                let next = Op::Put(seen.key.clone(), format!("{}", count + 1).into());
                let compare = Compare::ModRevision(seen.key.clone(), seen.mod_revision);
                match keys.commit(vec![compare], vec![next]).await {
                    Committed::Done(revision) => {
                        revisions.push(revision);
                        seen = keys.get("counter").await.unwrap();
                    }
                    // What the conflict shows is enough to try again.
                    Committed::Conflict(mut newest) => seen = newest.remove(0).unwrap(),
                }
            }
            revisions
        }));
    }
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), WRITERS * ROUNDS, "every commit has its own revision");
    assert_eq!(keys.get("counter").await.unwrap().value, format!("{}", WRITERS * ROUNDS));
}
