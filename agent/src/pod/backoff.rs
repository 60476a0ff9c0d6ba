//! How long a crashing container waits before it is started again.
//!
//! The delay is derived from the container that ended last and from nothing else, so it survives a
//! restart of the agent: each container carries, as a label, the delay that holds if it ends.
//!
//! The first restart is immediate; then 10 s, 20 s, … up to 5 min. A container that ran for longer than
//! twice the maximum starts anew.

use jiff::{SignedDuration, Timestamp};

use crate::clock::is_early;

/// Delays double from here.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// And stay here.
pub const MAXIMUM: SignedDuration = SignedDuration::from_secs(300);
/// A run of this length forgives the crashes before it.
pub const FORGIVEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// What is known of the run that ended last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// The delay that was set for the end of that run; none for a container's first run.
    pub delay: Option<SignedDuration>,
    /// When the run began.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// When to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Now; the new run carries `next` as its delay.
    Now {
        /// The delay after the new run.
        next: SignedDuration,
    },
    /// Not before `until`; `delay` is what the message says.
    Wait {
        /// The whole delay.
        delay: SignedDuration,
        /// When it is over.
        until: Timestamp,
    },
}

/// Decides when the run after `last` may begin.
pub fn restart(last: LastRun, now: Timestamp) -> Restart {
    let Some(delay) = last.delay else { return Restart::Now { next: INITIAL } };
    if last.finished_at.duration_since(last.created_at) > FORGIVEN_AFTER {
        return Restart::Now { next: INITIAL };
    }
    let until = last.finished_at.saturating_add(delay).unwrap_or(Timestamp::MAX);
    if is_early(now, until) {
        Restart::Wait { delay, until }
    } else {
        Restart::Now { next: (delay * 2).min(MAXIMUM) }
    }
}

/// A delay as Go prints durations: `10s`, `1m20s`, `5m0s`.
pub fn display(delay: SignedDuration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn delays() {
        let secs = SignedDuration::from_secs;
        let run = |delay: Option<i64>, created, finished| LastRun {
            delay: delay.map(secs),
            created_at: at(created),
            finished_at: at(finished),
        };
        for (name, last, now, expected) in [
            ("the first crash restarts at once", run(None, 0, 1), 1, Restart::Now { next: secs(10) }),
            ("the second waits", run(Some(10), 0, 1), 5, Restart::Wait { delay: secs(10), until: at(11) }),
            ("until the delay is over", run(Some(10), 0, 1), 11, Restart::Now { next: secs(20) }),
            ("delays double", run(Some(160), 0, 1), 161, Restart::Now { next: secs(300) }),
            ("and are bounded", run(Some(300), 0, 1), 301, Restart::Now { next: secs(300) }),
            ("a long run is forgiven", run(Some(300), 0, 601), 601, Restart::Now { next: secs(10) }),
        ] {
            assert_eq!(restart(last, at(now)), expected, "{name}");
        }
    }

    #[test]
    fn delays_print_as_go_prints_them() {
        for (seconds, text) in [(10, "10s"), (20, "20s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s")] {
            assert_eq!(display(SignedDuration::from_secs(seconds)), text);
        }
    }
}
