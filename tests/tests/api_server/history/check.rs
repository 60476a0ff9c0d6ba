//! What a history must be, decided from plain values.
//!
//! The truth is the store's own log of a few keys: every change with its revision. Against it are held
//!
//! - **operations** (linearisability of each key): a write that was acknowledged is in the log once, at its revision; one
//!   that was refused is not; one whose answer was lost is there once or not at all. Every read can be given a point in
//!   the log at which the key had what was read, so that an operation that began after another had ended never has an
//!   earlier point;
//! - **watches**: what a watcher was told is the log after its list, change by change: nothing lost, doubled or out
//!   of order, however often it had to connect again.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// A change in the log; without a value it is a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

/// What a client did, and what it knows of the outcome. Values are unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// Saw this value of this revision, or that there is none.
    Read(Option<(u64, String)>),
    Wrote {
        revision: u64,
        value: String,
    },
    /// Deleted what had this revision.
    Deleted {
        revision: u64,
    },
    /// The write was refused.
    Refused {
        value: String,
    },
    /// The answer was lost.
    Unknown {
        value: String,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) key: String,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    pub(crate) done: Done,
}

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Added(Change),
    Modified(Change),
    /// The value is the last one.
    Deleted(Change),
    /// Nothing is missing up to here.
    Bookmark(u64),
}

/// From a list to the moment when the watcher had to list again.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) from: u64,
    pub(crate) listed: BTreeMap<String, (u64, String)>,
    pub(crate) told: Vec<Told>,
}

/// Everything that is wrong; empty is right.
pub(crate) fn check(log: &[Change], operations: &[Operation], watchers: &[Vec<Segment>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for pair in log.windows(2) {
        if pair[0].revision >= pair[1].revision {
            wrong.push(format!("the log is out of order: {pair:?}"));
        }
    }
    check_operations(log, operations, &mut wrong);
    for (watcher, segments) in watchers.iter().enumerate() {
        for segment in segments {
            if let Err(why) = check_segment(log, segment) {
                wrong.push(format!("watcher {watcher}, list at {}: {why}", segment.from));
            }
        }
    }
    wrong
}

fn check_operations(log: &[Change], operations: &[Operation], wrong: &mut Vec<String>) {
    let mut by_key: HashMap<&str, Vec<&Change>> = HashMap::new();
    let mut by_value: HashMap<&str, u64> = HashMap::new();
    for change in log {
        by_key.entry(&change.key).or_default().push(change);
        if let Some(value) = &change.value
            && let Some(first) = by_value.insert(value, change.revision)
        {
            wrong.push(format!("{value} was written twice, at {first} and {}", change.revision));
        }
    }
    let mut operations: Vec<&Operation> = operations.iter().collect();
    operations.sort_by_key(|operation| operation.begin);
    // By key: the ends of operations so far, with the highest point of those that ended until then.
    let mut ended: HashMap<&str, BTreeMap<Instant, u64>> = HashMap::new();
    for operation in operations {
        let changes = by_key.get(operation.key.as_str()).map_or(&[][..], |changes| changes);
        let ended = ended.entry(&operation.key).or_default();
        let least = ended.range(..operation.begin).next_back().map_or(0, |(_, point)| *point);
        let point = match point_of(&operation.done, changes, least, &by_value) {
            Ok(None) => continue,
            Ok(Some(point)) => point,
            Err(why) => {
                wrong.push(format!("{}: {why} (before it: {least}): {:?}", operation.key, operation.done));
                continue;
            }
        };
        let before = ended.range(..=operation.end).next_back().map_or(0, |(_, point)| *point);
        ended.insert(operation.end, point.max(before));
        for (_, later) in ended.range_mut(operation.end..) {
            *later = point.max(*later);
        }
    }
}

/// The earliest point in the log, not before `least`, at which an operation can have happened.
fn point_of(
    done: &Done,
    changes: &[&Change],
    least: u64,
    by_value: &HashMap<&str, u64>,
) -> Result<Option<u64>, String> {
    // The change that made the state of the key at a revision.
    let at = |revision: u64| changes.partition_point(|change| change.revision <= revision).checked_sub(1);
    match done {
        Done::Unknown { .. } => Ok(None),
        Done::Refused { value } => match by_value.get(value.as_str()) {
            Some(revision) => Err(format!("refused, but written at {revision}")),
            None => Ok(None),
        },
        Done::Wrote { revision, value } => match by_value.get(value.as_str()) {
            None => Err("acknowledged, but lost".to_owned()),
            Some(found) if found != revision => Err(format!("acknowledged, but written at {found}")),
            Some(_) if *revision <= least => Err("written before something that came before it".to_owned()),
            Some(_) => Ok(Some(*revision)),
        },
        Done::Deleted { revision } => {
            let next = at(*revision).and_then(|index| changes.get(index + 1));
            match next {
                Some(Change { value: None, revision, .. }) if *revision > least => Ok(Some(*revision)),
                Some(Change { value: None, .. }) => {
                    Err("deleted before something that came before it".to_owned())
                }
                _ => Err("the deletion was acknowledged, but lost".to_owned()),
            }
        }
        Done::Read(Some((revision, value))) => {
            let Some(index) = at(*revision).filter(|index| {
                changes[*index].revision == *revision && changes[*index].value.as_ref() == Some(value)
            }) else {
                return Err("nobody wrote what was read".to_owned());
            };
            let point = least.max(*revision);
            match changes.get(index + 1) {
                Some(next) if next.revision <= point => Err(format!("stale: changed at {}", next.revision)),
                _ => Ok(Some(point)),
            }
        }
        Done::Read(None) => match at(least) {
            None => Ok(Some(least)),
            Some(index) if changes[index].value.is_none() => Ok(Some(least)),
            Some(index) => match changes[index..].iter().find(|change| change.value.is_none()) {
                Some(gone) => Ok(Some(gone.revision)),
                None => Err(format!("not found, but there since {}", changes[index].revision)),
            },
        },
    }
}

fn check_segment(log: &[Change], segment: &Segment) -> Result<(), String> {
    let start = log.partition_point(|change| change.revision <= segment.from);
    let mut state: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for change in &log[..start] {
        match &change.value {
            Some(value) => state.insert(&change.key, (change.revision, value)),
            None => state.remove(change.key.as_str()),
        };
    }
    let listed: BTreeMap<&str, (u64, &str)> = segment
        .listed
        .iter()
        .map(|(key, (revision, value))| (key.as_str(), (*revision, value.as_str())))
        .collect();
    if listed != state {
        return Err(format!("the list is {listed:?}, the log says {state:?}"));
    }
    let mut next = log[start..].iter();
    for told in &segment.told {
        if let Told::Bookmark(revision) = told {
            if next.as_slice().first().is_some_and(|missing| missing.revision <= *revision) {
                return Err(format!("{:?} is missing before a bookmark at {revision}", next.as_slice()[0]));
            }
            continue;
        }
        let Some(change) = next.next() else { return Err(format!("{told:?} is not in the log")) };
        let before = match &change.value {
            Some(value) => state.insert(&change.key, (change.revision, value)),
            None => state.remove(change.key.as_str()),
        };
        let expected = match (&change.value, before) {
            (Some(_), None) => Told::Added(change.clone()),
            (Some(_), Some(_)) => Told::Modified(change.clone()),
            (None, before) => {
                let value = before.map(|(_, value)| value.to_owned());
                Told::Deleted(Change { value, ..change.clone() })
            }
        };
        if *told != expected {
            return Err(format!("told {told:?}, the log says {expected:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn change(revision: u64, value: &str) -> Change {
        let value = (!value.is_empty()).then(|| value.to_owned());
        Change { revision, key: "k".to_owned(), value }
    }

    /// Operations with begin and end.
    fn verdict(log: &[Change], operations: &[(u64, u64, Done)]) -> Vec<String> {
        let origin = Instant::now();
        let at = |tick: u64| origin + Duration::from_millis(tick);
        let operations: Vec<_> = operations
            .iter()
            .map(|(begin, end, done)| Operation {
                key: "k".to_owned(),
                begin: at(*begin),
                end: at(*end),
                done: done.clone(),
            })
            .collect();
        check(log, &operations, &[])
    }

    fn read(revision: u64, value: &str) -> Done {
        Done::Read(Some((revision, value.to_owned())))
    }

    fn wrote(revision: u64, value: &str) -> Done {
        Done::Wrote { revision, value: value.to_owned() }
    }

    #[test]
    fn reads_and_writes_have_a_place_in_the_log() {
        let log = [change(2, "a"), change(5, "b"), change(7, ""), change(9, "c")];
        let right: [&[(u64, u64, Done)]; 5] = [
            &[(0, 1, wrote(2, "a")), (2, 3, read(2, "a")), (4, 5, wrote(5, "b")), (6, 7, read(5, "b"))],
            // While a write is under way, one may see it and another not yet.
            &[(0, 9, wrote(5, "b")), (1, 2, read(2, "a")), (3, 4, read(5, "b"))],
            &[(0, 1, Done::Read(None)), (2, 3, Done::Deleted { revision: 5 }), (4, 5, Done::Read(None))],
            &[(0, 1, Done::Unknown { value: "b".into() }), (2, 3, Done::Unknown { value: "z".into() })],
            &[(0, 1, Done::Refused { value: "z".into() }), (2, 3, read(9, "c"))],
        ];
        for operations in right {
            assert_eq!(verdict(&log, operations), [""; 0]);
        }
        type Wrong<'a> = (&'a [(u64, u64, Done)], &'a str);
        let wrong: [Wrong<'_>; 9] = [
            (&[(0, 1, wrote(4, "x"))], "lost"),
            (&[(0, 1, wrote(2, "b"))], "written at 5"),
            (&[(0, 1, wrote(5, "b")), (2, 3, read(2, "a"))], "stale"),
            (&[(0, 1, read(5, "b")), (2, 3, read(2, "a"))], "stale"),
            (&[(0, 1, wrote(9, "c")), (2, 3, Done::Read(None))], "not found"),
            (&[(0, 1, Done::Deleted { revision: 2 })], "lost"),
            (&[(0, 1, Done::Refused { value: "a".into() })], "refused, but written"),
            (&[(0, 1, read(2, "b"))], "nobody wrote"),
            (&[(0, 1, read(9, "c")), (2, 3, wrote(5, "b"))], "before something"),
        ];
        for (operations, expected) in wrong {
            let said = verdict(&log, operations).join("; ");
            assert!(said.contains(expected), "{operations:?}: {said}");
        }
        assert!(verdict(&[change(2, "a"), change(3, "a")], &[])[0].contains("twice"));
    }

    #[test]
    fn a_watch_is_the_log() {
        let log = [change(2, "a"), change(5, "b"), change(7, ""), change(9, "c")];
        let all = [
            Told::Added(change(2, "a")),
            Told::Modified(change(5, "b")),
            Told::Bookmark(6),
            Told::Deleted(change(7, "b")),
            Told::Added(change(9, "c")),
        ];
        let segment = |told: &[Told]| Segment { told: told.to_vec(), ..Segment::default() };
        for end in 0..=all.len() {
            assert_eq!(check_segment(&log, &segment(&all[..end])), Ok(()));
        }
        for lost in [0, 1, 3] {
            let mut told = all.to_vec();
            told.remove(lost);
            assert!(check_segment(&log, &segment(&told)).is_err(), "without {lost}");
            let mut told = all.to_vec();
            told.insert(lost, all[lost].clone());
            assert!(check_segment(&log, &segment(&told)).is_err(), "with {lost} twice");
        }
        let mut swapped = all.to_vec();
        swapped.swap(0, 1);
        assert!(check_segment(&log, &segment(&swapped)).is_err());
        let listed: BTreeMap<_, _> = [("k".to_owned(), (5, "b".to_owned()))].into();
        let resumed = Segment { from: 6, listed: listed.clone(), told: all[3..].to_vec() };
        assert_eq!(check_segment(&log, &resumed), Ok(()));
        assert!(check_segment(&log, &Segment { from: 8, listed, told: Vec::new() }).is_err());
    }
}
