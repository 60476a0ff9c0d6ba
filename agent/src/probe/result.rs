//! From single answers to a verdict: thresholds, and the times between.

use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::Probe;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Success,
    /// It is not, for this reason.
    Failure(String),
}

/// When a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After the container's start.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
}

impl Timing {
    /// A probe's times, with the defaults that the API server would have set.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
            Duration::from_secs(given.unwrap_or(default))
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
        }
    }
}

/// Counts answers of the same sort in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    success_threshold: u32,
    failure_threshold: u32,
    last_was_success: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Counter {
    /// Begins to count for a probe.
    pub fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            last_was_success: None,
            run: 0,
            verdict: None,
        }
    }

    /// Counts an answer; gives the verdict if it is a new one.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        if self.last_was_success == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last_was_success = Some(success);
            self.run = 1;
        }
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, answers: &str, expected: &str) {
        let probe =
            Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut counter = Counter::of(&probe);
        let verdicts: String = answers
            .chars()
            .map(|answer| match counter.count(answer == '+') {
                None => '.',
                Some(true) => '+',
                Some(false) => '-',
            })
            .collect();
        assert_eq!(verdicts, expected, "{answers}");
    }

    #[test]
    fn thresholds() {
        check(1, 3, "+++", "+..");
        check(1, 3, "---", "..-");
        check(1, 3, "--+---", "..+..-");
        check(1, 3, "+--+---", "+.....-");
        check(2, 1, "-++-+-++", "-.+-...+");
        check(1, 1, "+-+-", "+-+-");
    }

    #[test]
    fn times_have_defaults() {
        let timing = Timing::of(&Probe::default());
        assert_eq!(
            (timing.initial_delay, timing.period, timing.timeout),
            (Duration::ZERO, Duration::from_secs(10), Duration::from_secs(1))
        );
    }
}
