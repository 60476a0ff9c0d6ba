//! The recent past of a resource: events in order, bounded by number, size and age.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::event::Event;
use crate::object::Object;

/// At most this many events are kept.
const MAX_EVENTS: usize = 1 << 16;
/// At most this many bytes are kept alive by events. It is what a healthy watcher may fall behind while others write as
/// fast as they can; a cluster at rest keeps none of it for longer than [`MAX_AGE`].
const MAX_BYTES: usize = 8 << 20;
/// Events older than this go when newer ones come, or when somebody tidies up. Clients that reconnect do so within
/// seconds, and bookmarks move quiet ones forward.
const MAX_AGE: Duration = Duration::from_secs(300);
/// So many are kept whatever their age, unless they are large: they cost next to nothing.
const ALWAYS_KEPT: usize = 16;
/// What that may cost.
const ALWAYS_KEPT_BYTES: usize = 32 << 10;

/// Events after `floor`, oldest first.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Everything after this revision is in `events`.
    floor: u64,
    events: VecDeque<(Instant, Arc<Event>)>,
    bytes: usize,
}

/// The ring no longer reaches back that far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    /// The oldest revision from which a watch can start.
    pub(crate) floor: u64,
}

impl Ring {
    pub(crate) fn new(floor: u64) -> Ring {
        Ring { floor, events: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn push(&mut self, now: Instant, event: Event) {
        self.bytes += event.weight();
        self.events.push_back((now, Arc::new(event)));
        self.trim(now);
    }

    /// Drops what is over the bounds.
    pub(crate) fn trim(&mut self, now: Instant) {
        while self.over(now) {
            let Some((_, oldest)) = self.events.pop_front() else { break };
            self.floor = oldest.revision;
            self.bytes = self.bytes.saturating_sub(oldest.weight());
        }
    }

    /// The same, and gives the memory of the list itself back after a busy time.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.trim(now);
        self.events.shrink_to(2 * self.events.len().max(ALWAYS_KEPT));
    }

    fn over(&self, now: Instant) -> bool {
        let count = self.events.len();
        if count > MAX_EVENTS || (self.bytes > MAX_BYTES && count > 1) {
            return true;
        }
        // Events of the newest revision stay together: the floor is a whole revision.
        let old = |(at, _): &(Instant, Arc<Event>)| now.duration_since(*at) > MAX_AGE;
        let cheap = count <= ALWAYS_KEPT && self.bytes <= ALWAYS_KEPT_BYTES;
        !cheap && self.events.front().is_some_and(old)
    }

    /// At most `limit` events after a revision.
    pub(crate) fn after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        if revision < self.floor {
            return Err(TooOld { floor: self.floor });
        }
        let start = self.events.partition_point(|(_, event)| event.revision <= revision);
        let mut taken: Vec<_> =
            self.events.range(start..).take(limit).map(|(_, event)| event.clone()).collect();
        // A cursor is a revision, so a revision is never cut in two.
        if let Some(last) = taken.last().map(|event| event.revision) {
            let rest = self.events.range(start + taken.len()..);
            taken
                .extend(rest.take_while(|(_, event)| event.revision == last).map(|(_, event)| event.clone()));
        }
        Ok(taken)
    }

    /// What has to be put back to see the state at a revision: key → object then, or absent then.
    pub(crate) fn undo(&self, revision: u64) -> Result<BTreeMap<Box<str>, Option<Arc<Object>>>, TooOld> {
        if revision < self.floor {
            return Err(TooOld { floor: self.floor });
        }
        let newer = self.events.iter().rev().take_while(|(_, event)| event.revision > revision);
        Ok(newer.map(|(_, event)| (event.key().into(), event.before.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Extracted;
    use crate::object::{EventType, Layout};

    fn object(key: &str, revision: u64, size: usize) -> Arc<Object> {
        let layout = Layout::new("v1", "X");
        let stored =
            format!(r#"{{"apiVersion":"v1","kind":"X","metadata":{{"name":"{}"}}}}"#, "x".repeat(size));
        Arc::new(Object::new(
            &layout,
            key,
            EventType::Added,
            stored.as_bytes(),
            revision,
            Extracted::default(),
        ))
    }

    fn put(key: &str, revision: u64, before: Option<Arc<Object>>) -> Event {
        Event::new(revision, Some(object(key, revision, 1)), before)
    }

    fn revisions(ring: &Ring, after: u64, limit: usize) -> Vec<u64> {
        ring.after(after, limit).expect("in the ring").iter().map(|event| event.revision).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_is_never_cut() {
        let mut ring = Ring::new(1);
        for revision in [2, 3, 3, 3, 4] {
            ring.push(Instant::now(), put("a", revision, None));
        }
        assert_eq!(revisions(&ring, 1, 2), [2, 3, 3, 3]);
        assert_eq!(revisions(&ring, 3, 9), [4]);
        assert_eq!(revisions(&ring, 9, 9), [0; 0]);
        assert_eq!(ring.after(0, 9).err(), Some(TooOld { floor: 1 }));
    }

    #[tokio::test(start_paused = true)]
    async fn number_size_and_age_are_bounded() {
        // Objects that are still there cost the ring nothing; their number is bounded all the same.
        let mut ring = Ring::new(1);
        for revision in 2..=70_000 {
            ring.push(Instant::now(), put("a", revision, None));
        }
        assert!(ring.events.len() <= MAX_EVENTS && ring.events.len() > 20_000, "{}", ring.events.len());
        assert_eq!(ring.events.front().map(|(_, event)| event.revision), Some(ring.floor + 1));

        // What was replaced is kept alive by the ring alone.
        let mut ring = Ring::new(1);
        let mut before = None;
        for revision in 2..=29 {
            let now = object("a", revision, 1_000_000);
            ring.push(Instant::now(), Event::new(revision, Some(now.clone()), before.replace(now)));
        }
        assert_eq!(ring.events.len(), 8);
        tokio::time::advance(MAX_AGE * 2).await;
        ring.tidy(Instant::now());
        assert_eq!((ring.events.len(), ring.bytes, ring.floor), (0, 0, 29));

        let mut ring = Ring::new(1);
        for revision in 2..=101 {
            ring.push(Instant::now(), put("a", revision, None));
        }
        tokio::time::advance(MAX_AGE / 2).await;
        ring.trim(Instant::now());
        assert_eq!(ring.events.len(), 100);
        tokio::time::advance(MAX_AGE).await;
        ring.push(Instant::now(), put("a", 102, None));
        assert_eq!((ring.events.len(), ring.floor), (ALWAYS_KEPT, 86));
        ring.tidy(Instant::now());
        assert!(ring.events.capacity() <= 4 * ALWAYS_KEPT, "{}", ring.events.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn undo_gives_the_state_at_a_revision() {
        let mut ring = Ring::new(1);
        let a2 = object("a", 2, 1);
        ring.push(Instant::now(), Event::new(2, Some(a2.clone()), None));
        let a3 = object("a", 3, 1);
        ring.push(Instant::now(), Event::new(3, Some(a3.clone()), Some(a2.clone())));
        ring.push(Instant::now(), put("b", 4, None));
        ring.push(Instant::now(), Event::new(5, None, Some(a3.clone())));
        let then = |revision| {
            let undo = ring.undo(revision).expect("in the ring");
            undo.into_iter()
                .map(|(key, was)| (key.into_string(), was.map(|o| o.revision())))
                .collect::<Vec<_>>()
        };
        assert_eq!(then(5), []);
        assert_eq!(then(4), [("a".to_owned(), Some(3))]);
        assert_eq!(then(2), [("a".to_owned(), Some(2)), ("b".to_owned(), None)]);
        assert_eq!(then(1), [("a".to_owned(), None), ("b".to_owned(), None)]);
        assert!(ring.undo(0).is_err());
    }
}
