//! Reading ranges, now and in the past.

use super::*;

pub(super) async fn a_prefix_in_byte_order(keys: Keys) {
    for name in ["b/2", "a", "b/10", "b", "b/1", "b0", "c/1", "b/ä", "b/~", "b/\u{10ffff}x"] {
        keys.put(name, name.to_owned()).await;
    }
    let listing = keys.store.list(&keys.key("b/"), &ListOptions::default()).await.unwrap();
    assert_eq!(listing.revision, keys.revision().await);
    let names: Vec<String> = keys.strip(listing.items).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b/1", "b/10", "b/2", "b/~", "b/ä", "b/\u{10ffff}x"]);
    assert_eq!(keys.state(None).await.len(), 10);
    assert_eq!(keys.store.list(&keys.key("x"), &ListOptions::default()).await.unwrap().items, []);
    let exact = keys.store.list(&keys.key("b/10"), &ListOptions::default()).await.unwrap();
    assert_eq!(exact.items.len(), 1, "a whole key is a prefix of itself");
}

pub(super) async fn chunks(keys: Keys) {
    for i in 0..25 {
        keys.put(&format!("{i:02}"), format!("{i}")).await;
    }
    for limit in [1, 2, 7, 24, 25, 26] {
        let (mut after, mut seen) = (None, 0);
        loop {
            let options = ListOptions { revision: None, limit, after };
            let chunk = keys.store.list(&keys.prefix, &options).await.unwrap();
            assert_eq!(chunk.items.len(), limit.min(25 - seen));
            seen += chunk.items.len();
            assert_eq!(chunk.remaining, 25 - seen as u64);
            after = chunk.items.last().map(|kv| kv.key.clone());
            if chunk.remaining == 0 {
                break;
            }
        }
        assert_eq!(seen, 25);
    }
    // The key to continue after need not exist, nor be under the prefix.
    let after = |after: String| ListOptions { after: Some(after), limit: 3, ..Default::default() };
    let first = |listing: crate::Listing| keys.strip(listing.items)[0].0.clone();
    let listing = keys.store.list(&keys.prefix, &after(keys.key("115"))).await.unwrap();
    assert_eq!(listing.remaining, 10);
    assert_eq!(first(listing), "12");
    let listing = keys.store.list(&keys.prefix, &after("/".to_owned())).await.unwrap();
    assert_eq!(first(listing), "00");
    let listing = keys.store.list(&keys.prefix, &after(keys.key("99"))).await.unwrap();
    assert_eq!((listing.items.len(), listing.remaining), (0, 0));
    let listing = keys.store.list(&keys.prefix, &after("zzz".to_owned())).await.unwrap();
    assert_eq!((listing.items.len(), listing.remaining), (0, 0));
}

pub(super) async fn the_state_at_a_revision(keys: Keys) {
    let names = |state: Vec<(String, Bytes)>| {
        state
            .into_iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(&value)))
            .collect::<Vec<_>>()
    };
    let r1 = keys.put("a", "1").await;
    let r2 = keys.put("b", "1").await;
    let r3 = keys.put("a", "2").await;
    let r4 = keys.delete("b").await;
    let r5 = keys.put("b", "3").await;
    let r6 = keys.delete("a").await;
    assert_eq!(names(keys.state(Some(r1)).await), ["a=1"]);
    assert_eq!(names(keys.state(Some(r2)).await), ["a=1", "b=1"]);
    assert_eq!(names(keys.state(Some(r3)).await), ["a=2", "b=1"]);
    assert_eq!(names(keys.state(Some(r4)).await), ["a=2"]);
    assert_eq!(names(keys.state(Some(r5)).await), ["a=2", "b=3"]);
    assert_eq!(names(keys.state(Some(r6)).await), ["b=3"]);
    assert_eq!(names(keys.state(None).await), ["b=3"]);
    let options = ListOptions { revision: Some(r5), limit: 1, after: None };
    let chunk = keys.store.list(&keys.prefix, &options).await.unwrap();
    assert_eq!(chunk.items, [kv(&keys.key("a"), "2", r1, r3)]);
    assert_eq!((chunk.remaining, chunk.revision), (1, r5));
    let options = ListOptions { after: Some(keys.key("a")), ..options };
    let chunk = keys.store.list(&keys.prefix, &options).await.unwrap();
    assert_eq!(chunk.items, [kv(&keys.key("b"), "3", r5, r5)]);
    assert_eq!((chunk.remaining, chunk.revision), (0, r5));
}

/// A list in chunks at the revision of the first is one consistent state, whatever is written meanwhile.
pub(super) async fn chunks_under_concurrent_writes(keys: Keys) {
    const PAIRS: usize = 20;
    // The two keys of a pair always have the same value; 'a' keys come long before 'b' keys.
    let pair = |keys: &Keys, i: usize, value: String| {
        let value = Bytes::from(value);
        vec![
            Op::Put(keys.key(&format!("a{i:02}")), value.clone()),
            Op::Put(keys.key(&format!("b{i:02}")), value),
        ]
    };
    for i in 0..PAIRS {
        keys.commit(vec![], pair(&keys, i, "0".to_owned())).await;
    }
    let writer = {
        let keys = keys.clone();
        tokio::spawn(async move {
            for round in 0..300 {
                keys.commit(vec![], pair(&keys, round * 7 % PAIRS, format!("{round}"))).await;
            }
        })
    };
    let mut lists = 0;
    while !writer.is_finished() || lists < 3 {
        let mut options = ListOptions { limit: 7, ..Default::default() };
        let mut items = Vec::new();
        loop {
            let chunk = keys.store.list(&keys.prefix, &options).await.unwrap();
            assert_eq!(*options.revision.get_or_insert(chunk.revision), chunk.revision);
            options.after = chunk.items.last().map(|kv| kv.key.clone());
            items.extend(chunk.items);
            assert_eq!(items.len() as u64 + chunk.remaining, 2 * PAIRS as u64);
            if chunk.remaining == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        for i in 0..PAIRS {
            assert_eq!(items[i].value, items[PAIRS + i].value, "half a transaction in a list");
            assert_eq!(items[i].mod_revision, items[PAIRS + i].mod_revision);
        }
        lists += 1;
    }
    writer.await.unwrap();
}

pub(super) async fn the_future(keys: Keys) {
    let current = keys.put("a", "1").await;
    let options = ListOptions { revision: Some(Revision(current.0 + 1)), ..Default::default() };
    let outcome = keys.store.list(&keys.prefix, &options).await;
    assert!(
        matches!(outcome, Err(StoreError::Future { requested, current: now })
            if requested.0 == current.0 + 1 && now == current),
        "{outcome:?}"
    );
    let outcome = keys.store.compact(Revision(current.0 + 1)).await;
    assert!(matches!(outcome, Err(StoreError::Future { .. })), "{outcome:?}");
}
