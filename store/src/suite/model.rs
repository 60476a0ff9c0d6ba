//! Random operations, compared with the simplest thing that could be right: a copy of the state per revision.

use std::collections::BTreeMap;

use super::*;

type State = BTreeMap<String, KeyValue>;

pub(super) async fn random_operations(keys: Keys) {
    let mut dice = Dice(0x00c0_ac1e);
    let mut now: State = BTreeMap::new();
    let start = keys.revision().await;
    let mut states = vec![(start, now.clone())];
    for step in 0..400 {
        let next = Revision(states.last().unwrap().0.0 + 1);
        let (mut compare, mut ops) = (Vec::new(), Vec::new());
        let mut after = now.clone();
        let mut holds = true;
        let mut changed = false;
        for name in pick(&mut dice) {
            let key = keys.key(&name);
            let current = now.get(&key);
            match dice.roll(4) {
                0 => {
                    holds &= current.is_none();
                    compare.push(Compare::Absent(key.clone()));
                }
                1 => {
                    let revision = match (dice.roll(4), current) {
                        (1.., Some(kv)) => kv.mod_revision,
                        _ => start,
                    };
                    holds &= current.is_some_and(|kv| kv.mod_revision == revision);
                    compare.push(Compare::ModRevision(key.clone(), revision));
                }
                _ => {}
            }
            if dice.roll(3) == 0 {
                changed |= after.remove(&key).is_some();
                ops.push(Op::Delete(key));
            } else {
                let create = current.map_or(next, |kv| kv.create_revision);
                let value = Bytes::from(format!("{step}"));
                after.insert(key.clone(), kv(&key, value.clone(), create, next));
                ops.push(Op::Put(key, value));
                changed = true;
            }
        }
        let compared: Vec<String> = compare.iter().map(|compare| compare.key().to_owned()).collect();
        match keys.commit(compare, ops).await {
            Committed::Done(revision) if holds && changed => {
                assert_eq!(revision, next);
                now = after;
                states.push((revision, now.clone()));
            }
            Committed::Done(revision) => {
                assert!(holds, "step {step} should have been a conflict");
                assert_eq!(revision.0 + 1, next.0, "step {step} changed nothing");
            }
            Committed::Conflict(seen) => {
                assert!(!holds, "step {step} should not have been a conflict");
                let expected: Vec<_> = compared.iter().map(|key| now.get(key).cloned()).collect();
                assert_eq!(seen, expected);
            }
        }
    }
    check_lists(&keys, &states, &mut dice).await;
    check_watches(&keys, &states, &mut dice).await;
}

/// One to three different keys.
fn pick(dice: &mut Dice) -> Vec<String> {
    let mut names: Vec<String> =
        (0..=dice.roll(3)).map(|_| format!("{}/{}", dice.roll(3), dice.roll(4))).collect();
    names.sort();
    names.dedup();
    names
}

async fn check_lists(keys: &Keys, states: &[(Revision, State)], dice: &mut Dice) {
    for (revision, state) in states {
        let part = keys.key(&format!("{}/", dice.roll(3)));
        let limit = usize::try_from(dice.roll(4)).unwrap();
        let after = (dice.roll(2) == 0).then(|| format!("{part}{}", dice.roll(4)));
        let expected: Vec<&KeyValue> = state
            .values()
            .filter(|kv| kv.key.starts_with(&part) && after.as_ref().is_none_or(|after| kv.key > *after))
            .collect();
        let options = ListOptions { revision: Some(*revision), limit, after };
        let listing = keys.store.list(&part, &options).await.unwrap();
        assert_eq!(listing.revision, *revision);
        assert_eq!(listing.items.len() as u64 + listing.remaining, expected.len() as u64);
        assert!(listing.remaining == 0 || listing.items.len() == limit);
        assert!(listing.items.iter().eq(expected.into_iter().take(listing.items.len())));
    }
}

async fn check_watches(keys: &Keys, states: &[(Revision, State)], dice: &mut Dice) {
    let end = states.last().unwrap().0;
    for _ in 0..10 {
        let from = usize::try_from(dice.roll(states.len() as u64)).unwrap();
        let (after, mut state) = states[from].clone();
        let mut at = from;
        for event in keys.watch(after).await.until(end).await {
            while states[at].0 < event.revision() {
                assert_eq!(state, states[at].1, "after all events of revision {}", states[at].0);
                at += 1;
            }
            assert_eq!(event.before(), state.get(event.key()), "before revision {}", event.revision());
            match event {
                Event::Put { now, .. } => state.insert(now.key.clone(), now),
                Event::Delete { key, .. } => state.remove(&key),
            };
        }
        assert_eq!(state, states.last().unwrap().1);
    }
}
