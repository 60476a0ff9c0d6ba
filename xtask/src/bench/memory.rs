//! Memory and processor time of all processes of one instance.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::cluster::Cluster;

/// Memory of an instance's processes, in MiB.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) pss: f64,
    pub(crate) rss: f64,
    by_role: BTreeMap<String, (usize, f64, f64)>,
}

impl Memory {
    pub(crate) fn detail(&self) -> String {
        let roles: Vec<String> = self
            .by_role
            .iter()
            .map(|(role, (count, pss, rss))| {
                if *count == 1 {
                    format!("{role} {pss:.1} (RSS {rss:.1})")
                } else {
                    format!("{count} × {role} {:.2} each", pss / *count as f64)
                }
            })
            .collect();
        roles.join(", ")
    }
}

/// The instance's own processes, by role: `up`, `proxy`, `keeper`. Pods are not counted.
fn processes(cluster: &Cluster) -> Vec<(u32, String)> {
    let marker = cluster.path("run").display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if words.iter().any(|word| word.contains(&marker)) && words.len() > 1 {
            found.push((pid, words[1].clone()));
        }
    }
    found
}

pub(crate) fn of_instance(cluster: &Cluster) -> anyhow::Result<Memory> {
    let mut memory = Memory::default();
    for (pid, role) in processes(cluster) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("process {pid}"))?;
        let field = |name: &str| -> f64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
                / 1024.0
        };
        let (pss, rss) = (field("Pss:"), field("Rss:"));
        memory.pss += pss;
        memory.rss += rss;
        let entry = memory.by_role.entry(role).or_default();
        *entry = (entry.0 + 1, entry.1 + pss, entry.2 + rss);
    }
    Ok(memory)
}

/// Processor time in clock ticks, user and system.
fn ticks(cluster: &Cluster) -> u64 {
    processes(cluster)
        .iter()
        .filter_map(|(pid, _)| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        })
        .sum()
}

pub(crate) async fn idle_percent(cluster: &Cluster, over: Duration) -> anyhow::Result<f64> {
    let (before, begin) = (ticks(cluster), Instant::now());
    tokio::time::sleep(over).await;
    let seconds = (ticks(cluster) - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(seconds / begin.elapsed().as_secs_f64() * 100.0)
}
