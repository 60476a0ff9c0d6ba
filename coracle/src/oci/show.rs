//! What the commands print.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::oci::{self, Engine, Listed, OciError, StateView, Status};
use serde::Serialize;

use super::flags::Format;
use crate::commands::print;

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

pub(super) fn state(state: &StateView) -> anyhow::Result<()> {
    json(state)
}

pub(super) fn list(containers: &[Listed], format: Format, quiet: bool) -> anyhow::Result<()> {
    if quiet {
        return print(&containers.iter().fold(String::new(), |all, one| all + &one.id + "\n"));
    }
    if format == Format::Json {
        return print(&format!("{}\n", serde_json::to_string(containers)?));
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = containers.iter().map(|one| {
        let columns =
            [&one.id, &one.pid.to_string(), one.status.name(), &one.bundle, &one.created, &one.owner];
        columns.map(str::to_owned)
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    });
    print(&lines.collect::<String>())
}

pub(super) fn processes(pids: &[i32], format: Format, arguments: &[String]) -> anyhow::Result<()> {
    if format == Format::Json {
        return print(&format!("{}\n", serde_json::to_string(pids)?));
    }
    let arguments = if arguments.is_empty() { vec!["-ef".to_owned()] } else { arguments.to_vec() };
    let output = Command::new("ps").args(&arguments).output().context("running ps")?;
    if !output.status.success() {
        bail!("ps {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|word| word == "PID") else {
        bail!("ps {} shows no PID", arguments.join(" "));
    };
    let ours = lines.filter(|line| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    });
    print(&std::iter::once(head).chain(ours).fold(String::new(), |all, line| all + line + "\n"))
}

/// One line of `events`.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    data: serde_json::Value,
}

pub(super) fn events(engine: &Engine, id: &str, once: bool, interval: &str) -> anyhow::Result<()> {
    let interval =
        duration(interval).with_context(|| format!("--interval {interval:?} is not a duration"))?;
    let mut seen = false;
    loop {
        let state = match engine.state(id) {
            // Removed while we looked at it.
            Err(OciError::NotFound(_)) if seen => return Ok(()),
            state => state?,
        };
        if state.status == Status::Stopped {
            if once {
                bail!("container {id:?} is not running");
            }
            return Ok(());
        }
        seen = true;
        let data = match oci::usage(engine, id) {
            Err(OciError::NotFound(_)) if !once => return Ok(()),
            data => data?,
        };
        // Readers of the stream look for the type first.
        let event = Event { kind: "stats", id, data };
        print(&format!("{}\n", serde_json::to_string(&event)?))?;
        if once {
            return Ok(());
        }
        std::thread::sleep(interval);
    }
}

/// `5s`, `1m30s`, `250ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += match &rest[..unit] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        rest = &rest[unit..];
    }
    Some(total).filter(|total| !total.is_zero())
}

pub(super) fn spec(bundle: Option<PathBuf>, rootless: bool) -> anyhow::Result<()> {
    let path = bundle.unwrap_or_default().join("config.json");
    let value = if rootless {
        oci::rootless_template(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    } else {
        oci::template()
    };
    let file = std::fs::File::options().write(true).create_new(true).open(&path);
    let mut file = file.with_context(|| format!("writing {}", path.display()))?;
    Ok(writeln!(file, "{}", serde_json::to_string_pretty(&value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "0s", "5d", "-1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
