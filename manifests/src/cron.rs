//! Schedules of CronJobs: five fields, or a word for some of them.
//!
//! Follows `github.com/robfig/cron/v3`, which upstream uses: `*`, lists, ranges, steps, names of months and days, `?`,
//! `@daily` and its like, `@every 5m`, and a `TZ=` in front. When both the day of the month and the day of the week are
//! restricted, either will do. A time that a change of the clocks skips is skipped; one that comes twice is taken once.

use std::time::Duration;

use k8s_openapi::jiff::civil::{Date, DateTime};
use k8s_openapi::jiff::tz::{AmbiguousOffset, TimeZone};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::go;

/// The lowest and the highest value of each field.
const BOUNDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Where days of the month and of the week stand.
const DAY: usize = 2;
const WEEKDAY: usize = 4;
/// A schedule that does not come up for so many days never does: 29 February may be eight years away.
const PATIENCE: usize = 366 * 9;
/// The shortest interval.
const SECOND: Duration = Duration::from_secs(1);

/// When something is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    when: When,
    zone: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    /// After each other.
    Every(SignedDuration),
    At {
        /// One bit per value, for each field.
        fields: [u64; 5],
        /// Both kinds of days are restricted.
        either_day: bool,
    },
}

impl Schedule {
    /// Reads a schedule. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        let (zone, text) = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            Some(rest) => {
                let (zone, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                (Some(zone.to_owned()), rest.trim())
            }
            None => (None, text),
        };
        let when =
            if let Some(duration) = text.strip_prefix("@every ").filter(|duration| !duration.is_empty()) {
                let pause = go_duration(duration).ok_or_else(|| {
                    format!("failed to parse duration {text}: invalid duration {}", go::quote(duration))
                })?;
                let whole =
                    SignedDuration::from_secs(i64::try_from(pause.max(SECOND).as_secs()).unwrap_or(i64::MAX));
                When::Every(whole)
            } else if text.starts_with('@') {
                let fields = match text {
                    "@yearly" | "@annually" => "0 0 1 1 *",
                    "@monthly" => "0 0 1 * *",
                    "@weekly" => "0 0 * * 0",
                    "@daily" | "@midnight" => "0 0 * * *",
                    "@hourly" => "0 * * * *",
                    _ => return Err(format!("unrecognized descriptor: {text}")),
                };
                parse_fields(fields)?
            } else {
                parse_fields(text)?
            };
        Ok(Schedule { when, zone })
    }

    /// The time zone that the schedule itself names.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The first time after another, if there is one.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (fields, either_day) = match &self.when {
            When::Every(pause) => {
                return Timestamp::from_second(after.as_second()).ok()?.checked_add(*pause).ok();
            }
            When::At { fields, either_day } => (fields, *either_day),
        };
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..PATIENCE {
            if day_fits(fields, either_day, date) {
                let found = times(fields)
                    .filter_map(|(hour, minute)| instant(date.at(hour, minute, 0, 0), zone))
                    .find(|at| *at > after);
                if found.is_some() {
                    return found;
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

/// Hours and minutes of a day, in order.
fn times(fields: &[u64; 5]) -> impl Iterator<Item = (i8, i8)> + use<> {
    let (minutes, hours) = (fields[0], fields[1]);
    let given = |bits: u64, end: i8| (0..end).filter(move |value| bits >> value & 1 == 1);
    given(hours, 24).flat_map(move |hour| given(minutes, 60).map(move |minute| (hour, minute)))
}

fn day_fits(fields: &[u64; 5], either_day: bool, date: Date) -> bool {
    let has = |field: usize, value: i8| fields[field] >> value & 1 == 1;
    if !has(3, date.month()) {
        return false;
    }
    let day = has(DAY, date.day());
    let weekday = has(WEEKDAY, date.weekday().to_sunday_zero_offset());
    if either_day { day || weekday } else { day && weekday }
}

/// When it is that time of day, unless the clocks skip it.
fn instant(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } => None,
        _ => ambiguous.earlier().ok(),
    }
}

fn parse_fields(text: &str) -> Result<When, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() != BOUNDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", words.len(), words.join(" ")));
    }
    let (mut fields, mut open) = ([0; 5], [false; 5]);
    for (at, word) in words.iter().enumerate() {
        (fields[at], open[at]) = parse_field(at, word)?;
    }
    // Sunday has two numbers.
    fields[WEEKDAY] |= fields[WEEKDAY] >> 7 & 1;
    Ok(When::At { fields, either_day: !open[DAY] && !open[WEEKDAY] })
}

/// The values of a field, and whether it leaves all open.
fn parse_field(at: usize, field: &str) -> Result<(u64, bool), String> {
    let (low, high) = BOUNDS[at];
    let (mut bits, mut open) = (0, false);
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let every = match step.map(str::parse::<u32>) {
            None => 1,
            Some(Ok(step)) if step > 0 => step,
            Some(_) => return Err(format!("step of range should be a positive number: {part}")),
        };
        let (first, last) = if range == "*" || (range == "?" && (at == DAY || at == WEEKDAY)) {
            open |= every == 1;
            (low, high)
        } else {
            let (first, last) =
                range.split_once('-').map_or((range, None), |(first, last)| (first, Some(last)));
            let first = number(at, field, first)?;
            let last = match last {
                Some(last) => number(at, field, last)?,
                // `5/10` means from five on.
                None if step.is_some() => high,
                None => first,
            };
            if last < first {
                return Err(format!("beginning of range ({first}) beyond end of range: {part}"));
            }
            (first, last)
        };
        let mut value = first;
        while value <= last {
            bits |= 1 << value;
            value = value.saturating_add(every);
        }
    }
    Ok((bits, open))
}

fn number(at: usize, field: &str, word: &str) -> Result<u32, String> {
    let (low, high) = BOUNDS[at];
    let lower = word.to_ascii_lowercase();
    let named = match at {
        3 => MONTHS.iter().position(|name| *name == lower).map(|index| index + 1),
        WEEKDAY => DAYS.iter().position(|name| *name == lower),
        _ => None,
    };
    let found = named.and_then(|index| u32::try_from(index).ok()).or_else(|| word.parse().ok());
    let found = found.ok_or_else(|| {
        format!("failed to parse int from {word}: strconv.Atoi: parsing {}: invalid syntax", go::quote(word))
    })?;
    if found < low {
        return Err(format!("beginning of range ({found}) below minimum ({low}): {field}"));
    }
    if found > high {
        return Err(format!("end of range ({found}) above maximum ({high}): {field}"));
    }
    Ok(found)
}

/// A duration as Go writes it, for example `1h30m`; at most to the second.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::parse(schedule).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        for expected in expected {
            at = schedule.next(at, &zone).unwrap();
            assert_eq!(at.to_string(), *expected, "{schedule:?}");
        }
    }

    #[test]
    fn times_follow_each_other() {
        let utc = |schedule, after, expected: &[&str]| check(schedule, "UTC", after, expected);
        utc("* * * * *", "2026-01-01T00:00:00.5Z", &["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]);
        utc(
            "*/20 * * * *",
            "2026-01-01T00:10:00Z",
            &["2026-01-01T00:20:00Z", "2026-01-01T00:40:00Z", "2026-01-01T01:00:00Z"],
        );
        utc(
            "5/30 1 * * *",
            "2026-01-01T00:00:00Z",
            &["2026-01-01T01:05:00Z", "2026-01-01T01:35:00Z", "2026-01-02T01:05:00Z"],
        );
        utc("0 0 29 2 *", "2025-03-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        utc("30 9 * * mon-fri", "2026-01-02T10:00:00Z", &["2026-01-05T09:30:00Z"]);
        utc("0 0 * * 7", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z"]);
        // Either kind of day will do if both are restricted.
        utc(
            "0 0 13 * fri",
            "2026-02-01T00:00:00Z",
            &["2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"],
        );
        utc("0 0 1 * ?", "2026-02-01T00:00:00Z", &["2026-03-01T00:00:00Z"]);
        utc("@monthly", "2026-01-01T00:00:00Z", &["2026-02-01T00:00:00Z"]);
        utc("@every 1m30s", "2026-01-01T00:00:00Z", &["2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"]);
        utc("@every 1ms", "2026-01-01T00:00:00Z", &["2026-01-01T00:00:01Z"]);
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap().next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        assert_eq!(Schedule::parse("TZ=Asia/Tokyo 0 0 * * *").unwrap().zone(), Some("Asia/Tokyo"));
    }

    #[test]
    fn clocks_change() {
        let vienna = |schedule, after, expected: &[&str]| check(schedule, "Europe/Vienna", after, expected);
        vienna("0 12 * * *", "2026-03-28T00:00:00Z", &["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"]);
        // There is no half past two on that day.
        vienna("30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-30T00:30:00Z"]);
        vienna("30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn mistakes_are_named() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * x *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@sometimes",
            "@every x",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
        for good in ["*/5 0-6 1,15 jan-mar MON-FRI", "@daily", "@every 1h", "TZ=UTC 1 2 3 4 5"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        assert_eq!(
            Schedule::parse("a * * * *").unwrap_err(),
            r#"failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax"#
        );
    }
}
