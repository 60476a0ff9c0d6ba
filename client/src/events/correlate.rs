//! Which events are written, counted up, combined or dropped: upstream's rules, no I/O.
//!
//! - The same event again (same source, object, type, reason, message) counts the first one up.
//! - From the tenth different message of one source, object, type and reason within ten minutes on, they
//!   are combined into one event whose message says so.
//! - A source may write 25 events about an object at once and one every five minutes after that.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::Event;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Entries per table; the oldest are forgotten, which at worst starts a count anew.
const LIMIT: usize = 2048;

const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_mins(10);

const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Write it.
    First(Event),
    /// Count the one of that name up.
    Repeat(Event),
    /// Say nothing.
    Skip,
}

/// Remembers a bounded number of past events, by hashes of what makes them equal.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    hasher: RandomState,
    seen: Table<Seen>,
    similar: Table<Similar>,
    budgets: Table<Budget>,
}

#[derive(Debug)]
struct Seen {
    name: String,
    count: i32,
    first: Option<Time>,
}

#[derive(Debug)]
struct Similar {
    messages: Vec<u64>,
    last: Timestamp,
}

#[derive(Debug)]
struct Budget {
    tokens: f64,
    at: Timestamp,
}

impl Correlator {
    pub(super) fn observe(&mut self, event: Event) -> Verdict {
        let at = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let (event, key) = self.combine(event, at);
        let verdict = self.count(event, key, at);
        let event = match &verdict {
            Verdict::First(event) | Verdict::Repeat(event) => event,
            Verdict::Skip => return Verdict::Skip,
        };
        if self.within_budget(event, at) { verdict } else { Verdict::Skip }
    }

    fn source_hash(&self, event: &Event) -> u64 {
        let source = event.source.as_ref().map(|source| (&source.component, &source.host));
        let object = &event.involved_object;
        self.hash((source, &object.kind, &object.namespace, &object.name, &object.uid, &object.api_version))
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    fn combine(&mut self, event: Event, at: Timestamp) -> (Event, u64) {
        let group = self.hash((self.source_hash(&event), &event.type_, &event.reason));
        let message = self.hash(&event.message);
        let key = self.hash((group, message, &event.involved_object.field_path));
        let similar = self.similar.entry(group, at, || Similar { messages: Vec::new(), last: at });
        if at.duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = at;
        if similar.messages.contains(&message) {
            if similar.messages.len() < SIMILAR_LIMIT {
                return (event, key);
            }
        } else if similar.messages.len() + 1 < SIMILAR_LIMIT {
            similar.messages.push(message);
            return (event, key);
        }
        let message = event.message.as_deref().unwrap_or_default();
        let message = format!("(combined from similar events): {message}");
        (Event { message: Some(message), ..event }, group)
    }

    fn count(&mut self, mut event: Event, key: u64, at: Timestamp) -> Verdict {
        let mut first = true;
        let seen = self.seen.entry(key, at, || Seen {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 0,
            first: event.first_timestamp.clone(),
        });
        if seen.count > 0 {
            first = false;
            event.metadata.name = Some(seen.name.clone());
            event.first_timestamp.clone_from(&seen.first);
        }
        seen.count = seen.count.saturating_add(1);
        event.count = Some(seen.count);
        if first { Verdict::First(event) } else { Verdict::Repeat(event) }
    }

    fn within_budget(&mut self, event: &Event, at: Timestamp) -> bool {
        let source = self.source_hash(event);
        let budget = self.budgets.entry(source, at, || Budget { tokens: BURST, at });
        let passed = at.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.tokens = (budget.tokens + passed * REFILL_PER_SECOND).min(BURST);
        budget.at = at;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }
}

/// A map that forgets its oldest half when it is full.
#[derive(Debug)]
struct Table<V>(HashMap<u64, (Timestamp, V)>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> Table<V> {
    fn entry(&mut self, key: u64, at: Timestamp, new: impl FnOnce() -> V) -> &mut V {
        if self.0.len() >= LIMIT && !self.0.contains_key(&key) {
            let mut times: Vec<Timestamp> = self.0.values().map(|(used, _)| *used).collect();
            let (_, middle, _) = times.select_nth_unstable(LIMIT / 2);
            let middle = *middle;
            self.0.retain(|_, (used, _)| *used > middle);
        }
        let (used, value) = self.0.entry(key).or_insert_with(|| (at, new()));
        *used = at;
        value
    }
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn event(object: &str, message: &str, second: i64) -> Event {
        let at = Time(Timestamp::from_second(second).unwrap());
        let mut event = Event {
            involved_object: ObjectReference { name: Some(object.into()), ..Default::default() },
            reason: Some("Failed".into()),
            message: Some(message.into()),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            ..Event::default()
        };
        event.metadata.name = Some(format!("{object}.{second}"));
        event
    }

    #[test]
    fn repeats_count_up() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.observe(event("a", "x", 1)), Verdict::First(_)));
        let Verdict::Repeat(second) = correlator.observe(event("a", "x", 9)) else { panic!("not a repeat") };
        assert_eq!(second.count, Some(2));
        assert_eq!(second.metadata.name.as_deref(), Some("a.1"));
        assert_eq!(second.first_timestamp.unwrap().0.as_second(), 1);
        assert_eq!(second.last_timestamp.unwrap().0.as_second(), 9);
        assert!(matches!(correlator.observe(event("b", "x", 9)), Verdict::First(_)));
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let verdict = correlator.observe(event("a", &format!("try {n}"), n));
            assert!(matches!(verdict, Verdict::First(_)), "{n}");
        }
        let Verdict::First(combined) = correlator.observe(event("a", "try 9", 10)) else { panic!() };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): try 9"));
        let Verdict::Repeat(combined) = correlator.observe(event("a", "try 10", 11)) else { panic!() };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): try 10"));
        assert_eq!(combined.count, Some(2));
        // After a quiet time they count as different again.
        let later = correlator.observe(event("a", "try 11", 1000));
        assert!(matches!(later, Verdict::First(event) if event.message.as_deref() == Some("try 11")));
    }

    #[test]
    fn a_chatty_source_is_throttled() {
        let mut correlator = Correlator::default();
        let written = |correlator: &mut Correlator, from: i64, n: i64| {
            (0..n).filter(|_| correlator.observe(event("a", "x", from)) != Verdict::Skip).count()
        };
        assert_eq!(written(&mut correlator, 0, 100), 25);
        assert_eq!(written(&mut correlator, 299, 5), 0);
        assert_eq!(written(&mut correlator, 301, 5), 1);
        assert!(matches!(correlator.observe(event("b", "x", 301)), Verdict::First(_)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..20_000 {
            correlator.observe(event(&format!("pod-{n}"), "x", n));
        }
        assert!(correlator.seen.0.len() <= LIMIT);
        assert!(correlator.similar.0.len() <= LIMIT);
        assert!(correlator.budgets.0.len() <= LIMIT);
    }
}
