//! How much history to forget, and forgetting it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redb::{ReadableTable, StorageError};

use super::Options;
use super::tables::{Meta, Tables, changes};
use crate::Revision;

/// When revisions happened, to an accuracy that costs nothing: one mark per 32nd of the age.
#[derive(Debug)]
pub(super) struct Clock {
    marks: VecDeque<(Instant, Revision)>,
    age: Duration,
    /// The newest revision that is known to be older than the age. Kept, because one sweep may not get that far.
    expired: Revision,
}

impl Clock {
    /// The age of what is there already is not known; it counts from now.
    pub(super) fn new(age: Duration, now: Instant, revision: Revision) -> Clock {
        Clock { marks: VecDeque::from([(now, revision)]), age, expired: Revision(0) }
    }

    /// Note that `revision` has been reached.
    pub(super) fn mark(&mut self, now: Instant, revision: Revision) {
        match self.marks.back_mut() {
            // A mark says "everything up to here is at least as old as this": moving the revision of the newest
            // mark on would make young revisions look old, so a new one waits for its time.
            Some((at, _)) if now.duration_since(*at) < self.age / 32 => {}
            _ => self.marks.push_back((now, revision)),
        }
    }

    /// The newest revision that is older than the age.
    fn expired(&mut self, now: Instant) -> Revision {
        while let Some((_, revision)) = self.marks.pop_front_if(|(at, _)| now.duration_since(*at) > self.age)
        {
            self.expired = revision;
        }
        self.expired
    }
}

/// How far history may be forgotten by age and number.
pub(super) fn horizon(clock: &mut Clock, now: Instant, meta: &Meta, options: &Options) -> Revision {
    let by_number = Revision(meta.revision.0.saturating_sub(options.history_revisions));
    by_number.max(clock.expired(now)).max(meta.compacted)
}

/// Forget up to `horizon`, and further while history has too many bytes; at most `budget` revisions.
pub(super) fn sweep(
    tables: &mut Tables<'_>,
    meta: &mut Meta,
    horizon: Revision,
    max_bytes: u64,
    mut budget: usize,
) -> Result<(), StorageError> {
    while budget > 0 && meta.compacted < meta.revision {
        let next = Revision(meta.compacted.0 + 1);
        if next > horizon && meta.history_bytes <= max_bytes {
            break;
        }
        budget -= 1;
        meta.compacted = next;
        let Some(row) = tables.log.remove(next.0)? else { continue };
        let row = row.value().to_vec();
        meta.history_bytes = meta.history_bytes.saturating_sub(row.len() as u64 + 8);
        for change in changes(&row)?.iter().filter(|change| change.before.0 != 0) {
            if let Some(old) = tables.old.remove((change.key, change.before.0))? {
                let bytes = change.key.len() + 8 + old.value().len();
                meta.history_bytes = meta.history_bytes.saturating_sub(bytes as u64);
            }
        }
    }
    debug_assert!(meta.compacted < meta.revision || tables.log.first()?.is_none());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn horizon_by_age_and_number() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let options =
            Options { history_age: Duration::from_secs(320), history_revisions: 100, ..Options::default() };
        let mut clock = Clock::new(options.history_age, start, Revision(1));
        let meta = |revision, compacted| Meta {
            revision: Revision(revision),
            compacted: Revision(compacted),
            history_bytes: 0,
        };
        clock.mark(at(5), Revision(10));
        clock.mark(at(20), Revision(20));
        clock.mark(at(25), Revision(25));
        clock.mark(at(100), Revision(30));
        assert_eq!(horizon(&mut clock, at(320), &meta(30, 1), &options), Revision(1), "nothing is old yet");
        assert_eq!(
            horizon(&mut clock, at(341), &meta(30, 1), &options),
            Revision(20),
            "marks are 10 s apart"
        );
        assert_eq!(horizon(&mut clock, at(342), &meta(30, 20), &options), Revision(20), "and never back");
        assert_eq!(horizon(&mut clock, at(343), &meta(190, 20), &options), Revision(90), "too many");
        assert_eq!(horizon(&mut clock, at(421), &meta(190, 90), &options), Revision(90));
    }
}
