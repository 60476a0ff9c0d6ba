//! Figures of cgroups. Each is read from one small file: asking the `cgroups-rs` crate would read a dozen.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::layout::Mode;
use super::tree::Tree;
use crate::state::Stats;

/// What a container (or, without one, a sandbox) uses.
pub(crate) fn stats(tree: &Tree, sandbox: &str, container: Option<&str>) -> Stats {
    let v2 = tree.layout().mode() == Mode::V2;
    let directory = |controller| tree.directory(sandbox, container, controller);
    let mut stats = Stats::default();

    if v2 {
        let text = read(directory("cpu").as_deref(), "cpu.stat");
        stats.cpu_usage = keyed(&text, "usage_usec").map(Duration::from_micros);
    } else {
        stats.cpu_usage =
            number(&read(directory("cpuacct").as_deref(), "cpuacct.usage")).map(Duration::from_nanos);
    }

    let memory = directory("memory");
    let memory = memory.as_deref();
    let detail = read(memory, "memory.stat");
    // On v1 the plain names leave out the cgroups below; those with total_ have them.
    let (usage, limit, oom) = if v2 {
        ("memory.current", "memory.max", "memory.events")
    } else {
        ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control")
    };
    let (inactive, anonymous, faults, major) = if v2 {
        ("inactive_file", "anon", "pgfault", "pgmajfault")
    } else {
        ("total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault")
    };
    stats.memory_usage = number(&read(memory, usage));
    stats.memory_working_set = match (stats.memory_usage, keyed(&detail, inactive)) {
        (Some(usage), Some(inactive)) => Some(usage.saturating_sub(inactive)),
        (usage, None) => usage,
        (None, _) => None,
    };
    stats.memory_rss = keyed(&detail, anonymous);
    stats.page_faults = keyed(&detail, faults);
    stats.major_page_faults = keyed(&detail, major);
    // "No limit" is the word max on v2 and the largest number of pages on v1.
    stats.memory_limit = number(&read(memory, limit)).filter(|limit| *limit < 1 << 62);
    stats.oom_kills = keyed(&read(memory, oom), "oom_kill");

    stats.pids = number(&read(directory("pids").as_deref(), "pids.current"));
    stats
}

/// How many processes of a cgroup the kernel has killed for want of memory: the file is `memory.oom_control`
/// or `memory.events`, which both have a line for it.
pub(crate) fn oom_kills(file: &Path) -> Option<u64> {
    keyed(&fs::read_to_string(file).ok()?, "oom_kill")
}

fn read(directory: Option<&Path>, file: &str) -> String {
    directory.and_then(|directory| fs::read_to_string(directory.join(file)).ok()).unwrap_or_default()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 1\noom_kill 7\n";
        assert_eq!(keyed(text, "oom_kill"), Some(7));
        assert_eq!(keyed(text, "under_oom"), Some(1));
        assert_eq!(keyed(text, "oom"), None);
        assert_eq!(keyed("", "oom_kill"), None);
    }
}
