//! Exponential back-off with jitter.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Delays that double from `base` to `max`; each is spread so that many clients do not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub base: Duration,
    /// Longest delay before jitter.
    pub max: Duration,
}

impl Backoff {
    /// From `base`, doubling, to `max`.
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    /// The delay after `failures` failures before this one, without jitter.
    pub fn ceiling(&self, failures: u32) -> Duration {
        self.base
            .checked_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX))
            .unwrap_or(self.max)
            .min(self.max)
    }

    /// The delay after `failures` failures before this one: between a half and the whole of the ceiling.
    pub fn delay(&self, failures: u32) -> Duration {
        let ceiling = self.ceiling(failures);
        ceiling.mul_f64(0.5 + 0.5 * random_unit())
    }
}

/// `duration` and up to `share` of it more (0.1 adds up to a tenth).
pub fn jittered(duration: Duration, share: f64) -> Duration {
    duration.mul_f64(1.0 + share.max(0.0) * random_unit())
}

/// A number from 0 up to 1. Spreading load needs no better source than the standard library's seeds.
fn random_unit() -> f64 {
    let bits = RandomState::new().hash_one(0u8) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double's mantissa")]
    let numerator = bits as f64;
    numerator / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum_and_stays_there() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let ceilings: Vec<u128> = (0..9).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(1));
        for failures in 0..40 {
            let delay = backoff.delay(failures);
            assert!(delay >= backoff.ceiling(failures) / 2 && delay <= backoff.ceiling(failures));
        }
    }

    #[test]
    fn jitter_spreads() {
        let delays: std::collections::BTreeSet<Duration> =
            (0..32).map(|_| jittered(Duration::from_secs(1), 0.5)).collect();
        assert!(delays.len() > 16);
        assert!(delays.iter().all(|delay| (1.0..1.5).contains(&delay.as_secs_f64())));
    }
}
