//! The machine's clock, which somebody may set.
//!
//! What has to happen after a while is timed by the monotonic clock. Times that others can see, and that survive this
//! process, are the machine's: two rules keep a clock that is set from doing harm. A wait that is longer than any that we
//! ask for is none, as the clock was set back; and what is good for a certain time only, tokens, is asked for anew.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// No wait of ours is longer: image and container back-offs end at five minutes.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);
/// Clocks that are kept right by small steps are not set.
const STEP: SignedDuration = SignedDuration::from_secs(5);

/// Whether it is too early yet.
pub fn is_early(now: Timestamp, until: Timestamp) -> bool {
    now < until && until.duration_since(now) <= LONGEST
}

/// Compares the machine's clock with the one that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    time: Timestamp,
    instant: Instant,
}

impl Clocks {
    pub(crate) fn now() -> Self {
        Self { time: Timestamp::now(), instant: Instant::now() }
    }

    /// Looks again; says whether the clock has been set since, or the machine has slept.
    pub(crate) fn was_set(&mut self) -> bool {
        let before = std::mem::replace(self, Self::now());
        self.disagree(before)
    }

    /// Whether not as much time has passed on one clock as on the other.
    fn disagree(&self, before: Self) -> bool {
        let passed = SignedDuration::try_from(self.instant - before.instant).unwrap_or(SignedDuration::MAX);
        (self.time.duration_since(before.time) - passed).abs() > STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_clock_that_was_set_back() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, early) in
            [(-1, false), (0, false), (1, true), (300, true), (600, true), (601, false), (3600, false)]
        {
            let until = now + SignedDuration::from_secs(seconds);
            assert_eq!(is_early(now, until), early, "{seconds}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let before = Clocks::now();
        for (time, instant, set) in
            [(10, 10, false), (14, 10, false), (3610, 10, true), (-3590, 10, true), (0, 10, true)]
        {
            let after = Clocks {
                time: before.time + SignedDuration::from_secs(time),
                instant: before.instant + std::time::Duration::from_secs(instant),
            };
            assert_eq!(after.disagree(before), set, "{time} {instant}");
        }
    }
}
