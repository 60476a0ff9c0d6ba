//! The resources that `update` asks for.

use std::io::Read;

use anyhow::Context;
use runtime::oci::LinuxResources;
use serde_json::{Map, Value, json};

use super::flags::UpdateArgs;

/// From a file, or from flags.
pub(super) fn resources(args: &UpdateArgs) -> anyhow::Result<LinuxResources> {
    if let Some(path) = &args.resources {
        let mut text = Vec::new();
        if path.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut text).context("reading standard input")?;
        } else {
            text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        }
        return serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()));
    }
    let bytes = |name: &str, text: &Option<String>| -> anyhow::Result<Option<i64>> {
        let read = |text: &String| size(text).with_context(|| format!("--{name} {text:?} is not a size"));
        text.as_ref().map(read).transpose()
    };
    let mut value = json!({});
    let mut put = |section: &str, key: &str, entry: Option<Value>| {
        if let Some(entry) = entry {
            let sections = &mut value[section];
            if !sections.is_object() {
                *sections = Value::Object(Map::new());
            }
            sections[key] = entry;
        }
    };
    put("cpu", "shares", args.cpu_share.map(Value::from));
    put("cpu", "quota", args.cpu_quota.map(Value::from));
    put("cpu", "period", args.cpu_period.map(Value::from));
    put("cpu", "burst", args.cpu_burst.map(Value::from));
    put("cpu", "realtimePeriod", args.cpu_rt_period.map(Value::from));
    put("cpu", "realtimeRuntime", args.cpu_rt_runtime.map(Value::from));
    put("cpu", "idle", args.cpu_idle.map(Value::from));
    put("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    put("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    put("memory", "limit", bytes("memory", &args.memory)?.map(Value::from));
    put("memory", "reservation", bytes("memory-reservation", &args.memory_reservation)?.map(Value::from));
    put("memory", "swap", bytes("memory-swap", &args.memory_swap)?.map(Value::from));
    // The smallest limit there is. In a configuration 0 has long meant none, on a command line nobody means that.
    put("pids", "limit", args.pids_limit.map(|limit| if limit == 0 { 1 } else { limit }).map(Value::from));
    put("blockIO", "weight", args.blkio_weight.map(Value::from));
    Ok(serde_json::from_value(value)?)
}

/// Bytes as people write them: `-1`, `4096`, `64k`, `128m`, `1g`, also with a `b` at the end.
fn size(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (number, shift) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: i64 = number.parse().ok()?;
    if number < 0 {
        return (number == -1 && shift == 0).then_some(-1);
    }
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("-1", Some(-1)),
            ("4096", Some(4096)),
            ("64k", Some(65536)),
            ("128M", Some(128 << 20)),
            ("1gb", Some(1 << 30)),
            ("2GiB", Some(2 << 30)),
            ("x", None),
            ("", None),
            ("-5", None),
            ("99999999999g", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
