//! What a container uses, in the words of runc's `events --stats`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Engine, OciError, record};
use crate::cgroup::{Mode, Tree};

/// The figures of a container.
pub fn usage(engine: &Engine, id: &str) -> Result<Value, OciError> {
    let record = record::read(engine, id)?;
    let tree = engine.tree()?;
    let cgroup = record.cgroup.to_str().unwrap_or_default();
    let stats = crate::cgroup::stats(&tree, "", Some(cgroup));
    let files = Files { tree: &tree, cgroup };
    let v2 = tree.layout().mode() == Mode::V2;
    let nanos = |duration: Option<std::time::Duration>| {
        duration.map_or(0, |duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    };
    let cpu = files.keyed("cpu", "cpu.stat");
    let throttled = if v2 { "throttled_usec" } else { "throttled_time" };
    let get = |values: &Value, key: &str| values.get(key).and_then(Value::as_u64).unwrap_or(0);
    let memory_raw = files.keyed("memory", "memory.stat");
    let (failed, peak) =
        if v2 { ("", "memory.peak") } else { ("memory.failcnt", "memory.max_usage_in_bytes") };
    Ok(json!({
        "cpu": {
            "usage": {
                "total": nanos(stats.cpu_usage),
                "percpu": files.numbers("cpuacct", "cpuacct.usage_percpu"),
                "kernel": if v2 { get(&cpu, "system_usec") * 1000 } else { files.number("cpuacct", "cpuacct.usage_sys") },
                "user": if v2 { get(&cpu, "user_usec") * 1000 } else { files.number("cpuacct", "cpuacct.usage_user") },
            },
            "throttling": {
                "periods": get(&cpu, "nr_periods"),
                "throttledPeriods": get(&cpu, "nr_throttled"),
                "throttledTime": get(&cpu, throttled),
            },
        },
        "cpuset": {},
        "memory": {
            "cache": get(&memory_raw, if v2 { "file" } else { "total_cache" }),
            "usage": {
                "limit": stats.memory_limit.unwrap_or(u64::MAX),
                "usage": stats.memory_usage.unwrap_or(0),
                "max": files.number("memory", peak),
                "failcnt": if failed.is_empty() { 0 } else { files.number("memory", failed) },
            },
            "raw": memory_raw,
        },
        "pids": { "current": stats.pids.unwrap_or(0), "limit": files.number("pids", "pids.max") },
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    }))
}

struct Files<'a> {
    tree: &'a Tree,
    cgroup: &'a str,
}

impl Files<'_> {
    fn read(&self, controller: &str, file: &str) -> String {
        let directory: Option<PathBuf> = self.tree.directory("", Some(self.cgroup), controller);
        directory.and_then(|path| fs::read_to_string(Path::new(&path).join(file)).ok()).unwrap_or_default()
    }

    /// "max" is no limit, which is 0 here.
    fn number(&self, controller: &str, file: &str) -> u64 {
        self.read(controller, file).trim().parse().unwrap_or(0)
    }

    fn numbers(&self, controller: &str, file: &str) -> Vec<u64> {
        self.read(controller, file).split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    fn keyed(&self, controller: &str, file: &str) -> Value {
        let text = self.read(controller, file);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.trim().parse::<u64>().ok()?))))
            .collect()
    }
}
