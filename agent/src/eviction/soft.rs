//! Thresholds that pods may be beyond for a while: `--eviction-soft`, with a period for each.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::thresholds::{Shortage, Signal, Supplies, ThresholdError, Thresholds};

/// Soft thresholds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Soft {
    thresholds: Option<Thresholds>,
    periods: BTreeMap<Signal, Duration>,
    /// The most that pods which go because of them have to end.
    pub max_grace: Duration,
}

/// Since when something has been short.
pub(super) type Since = BTreeMap<Signal, Instant>;

impl Soft {
    /// From `memory.available<500Mi` and `memory.available=1m30s`: each threshold needs its period.
    pub fn parse(thresholds: &str, periods: &str, max_grace: Duration) -> Result<Self, ThresholdError> {
        let thresholds: Thresholds = thresholds.parse()?;
        let mut read = BTreeMap::new();
        for part in periods.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| ThresholdError::Period(part.to_owned()))?;
            let period = duration(value.trim()).ok_or_else(|| ThresholdError::Period(part.to_owned()))?;
            read.insert(Signal::named(name.trim())?, period);
        }
        if let Some(signal) = thresholds.signals().find(|signal| !read.contains_key(signal)) {
            return Err(ThresholdError::NoPeriod(signal.name()));
        }
        Ok(Self { thresholds: Some(thresholds), periods: read, max_grace })
    }

    /// The thresholds, for whoever does not ask for how long.
    pub fn thresholds(&self) -> Option<&Thresholds> {
        self.thresholds.as_ref()
    }

    /// What has been short for longer than it may; remembers since when.
    pub(super) fn overdue(&self, supplies: &Supplies, since: &mut Since, now: Instant) -> Option<Shortage> {
        let short = self.thresholds.as_ref().map(|all| all.shortages(supplies)).unwrap_or_default();
        since.retain(|signal, _| short.iter().any(|shortage| shortage.signal == *signal));
        short.into_iter().find(|shortage| {
            let begin = *since.entry(shortage.signal).or_insert(now);
            let period = self.periods.get(&shortage.signal).copied().unwrap_or_default();
            now.saturating_duration_since(begin) >= period
        })
    }
}

/// A duration as Go writes it: `1m30s`, `1.5h`, `200ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let factor = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = &after[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::super::thresholds::Supply;
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, expected) in [
            ("90s", Some(90_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("200ms", Some(200)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("5x", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn each_threshold_has_a_period() {
        let parse = |thresholds, periods| Soft::parse(thresholds, periods, Duration::ZERO).map(drop);
        assert_eq!(parse("memory.available<1Gi", "memory.available=1m"), Ok(()));
        assert_eq!(
            parse("memory.available<1Gi,nodefs.available<10%", "memory.available=1m"),
            Err(ThresholdError::NoPeriod("nodefs.available"))
        );
        assert_eq!(
            parse("", "memory.available:1m"),
            Err(ThresholdError::Period("memory.available:1m".into()))
        );
        assert_eq!(parse("", "swap=1m"), Err(ThresholdError::Signal("swap".into())));
    }

    #[tokio::test]
    async fn short_for_longer_than_it_may() {
        let soft = Soft::parse("memory.available<500", "memory.available=60s", Duration::ZERO).unwrap();
        let left =
            |available| Supplies { memory: Supply { available, capacity: 1000 }, ..Supplies::default() };
        let (start, mut since) = (Instant::now(), Since::new());
        let mut check = |seconds, available, expected: bool| {
            let found = soft.overdue(&left(available), &mut since, start + Duration::from_secs(seconds));
            assert_eq!(found.is_some(), expected, "after {seconds} s, {available} left");
        };
        check(0, 400, false);
        check(59, 300, false);
        check(60, 300, true);
        check(61, 600, false);
        // It counts from the beginning again.
        check(62, 400, false);
        check(122, 400, true);
    }
}
