//! Times as API objects hold them, and ages as people read them. Nothing here looks at a clock.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A time of an object: whole seconds, because that is what is written, and what is read back must be equal.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// A time of a Lease or Event: whole microseconds.
pub fn micro_time(now: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

/// `2026-11-22T12:42:47Z`.
pub fn rfc3339(time: Timestamp) -> String {
    k8s_openapi::jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_else(|_| time.to_string())
}

/// An age with the precision that kubectl shows: `5s`, `3m20s`, `45m`, `7h30m`, `2d4h`, `12d`, `2y10d`, `9y`.
pub fn age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    // Clocks of two machines differ a little: slightly negative is now, more is a mistake.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    let pair = |large: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(days, 'd', hours % 24, 'h')
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        pair(years, 'y', days % 365, 'd')
    } else {
        format!("{years}y")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (180 * 60, "3h"),
            (7 * 3600 + 30 * 60, "7h30m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (52 * 3600, "2d4h"),
            (8 * 86_400, "8d"),
            (729 * 86_400, "729d"),
            (740 * 86_400, "2y10d"),
            (365 * 9 * 86_400, "9y"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn times_read_back_equal() {
        let now: Timestamp = "2026-11-22T12:42:47.123456789Z".parse().unwrap();
        let time = time(now);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, "\"2026-11-22T12:42:47Z\"");
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), time);
        let micro = micro_time(now);
        let text = serde_json::to_string(&micro).unwrap();
        assert_eq!(text, "\"2026-11-22T12:42:47.123456Z\"");
        assert_eq!(serde_json::from_str::<MicroTime>(&text).unwrap(), micro);
        assert_eq!(rfc3339(now), "2026-11-22T12:42:47Z");
    }
}
