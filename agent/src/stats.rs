//! What pods use: `/stats/summary` as the kubelet answers it, and a few counters for Prometheus.

use std::fmt::Write as _;

use jiff::Timestamp;
use runtime::Stats;
use serde_json::{Map, Value, json};

use crate::names::{name, namespace, uid};
use crate::pod::worker::View;

/// The figures of all pods. One that cannot be read is left out: its pod is on its way out.
pub(crate) async fn summary(node: &str, views: Vec<View>) -> Value {
    let time = Timestamp::now();
    let mut pods = Vec::new();
    for view in views {
        let Some(sandbox) = view.sandbox.clone().filter(|sandbox| sandbox.is_ready()) else { continue };
        let mut containers = Vec::new();
        for (name, container) in view.containers.iter().filter(|(_, container)| container.running) {
            if let Ok(stats) = sandbox.stats(&container.id).await {
                let mut entry = figures(&stats, time);
                entry.insert("name".to_owned(), json!(name));
                if let Some(started) = started_at(&view, name) {
                    entry.insert("startTime".to_owned(), json!(started));
                }
                containers.push(Value::Object(entry));
            }
        }
        let Ok(stats) = sandbox.sandbox_stats().await else { continue };
        let mut entry = figures(&stats, time);
        let reference =
            json!({"name": name(&view.pod), "namespace": namespace(&view.pod), "uid": uid(&view.pod)});
        entry.insert("podRef".to_owned(), reference);
        entry.insert("startTime".to_owned(), json!(view.status.start_time));
        entry.insert("containers".to_owned(), Value::Array(containers));
        if let Some(pids) = stats.pids {
            entry.insert("process_stats".to_owned(), json!({"process_count": pids}));
        }
        pods.push(Value::Object(entry));
    }
    json!({"node": {"nodeName": node}, "pods": pods})
}

fn started_at(view: &View, container: &str) -> Option<String> {
    let status = &view.status;
    let mut all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let running = all.find(|status| status.name == container)?.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0.to_string())
}

fn figures(stats: &Stats, time: Timestamp) -> Map<String, Value> {
    let mut cpu = Map::from_iter([("time".to_owned(), json!(time.to_string()))]);
    let mut memory = cpu.clone();
    if let Some(used) = stats.cpu_usage {
        let nanoseconds = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        cpu.insert("usageCoreNanoSeconds".to_owned(), json!(nanoseconds));
    }
    for (key, value) in [
        ("usageBytes", stats.memory_usage),
        ("workingSetBytes", stats.memory_working_set),
        ("rssBytes", stats.memory_rss),
        ("pageFaults", stats.page_faults),
        ("majorPageFaults", stats.major_page_faults),
    ] {
        if let Some(value) = value {
            memory.insert(key.to_owned(), json!(value));
        }
    }
    if let (Some(limit), Some(used)) = (stats.memory_limit, stats.memory_working_set) {
        memory.insert("availableBytes".to_owned(), json!(limit.saturating_sub(used)));
    }
    Map::from_iter([("cpu".to_owned(), Value::Object(cpu)), ("memory".to_owned(), Value::Object(memory))])
}

/// Counts of pods and containers, named as the kubelet names them.
pub(crate) fn metrics(views: &[View]) -> String {
    let running = views.iter().filter(|view| view.status.phase.as_deref() == Some("Running")).count();
    let (mut alive, mut ended) = (0, 0);
    for container in views.iter().flat_map(|view| view.containers.values()) {
        *if container.running { &mut alive } else { &mut ended } += 1;
    }
    let mut text = String::new();
    let _ = write!(
        text,
        "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {running}\n\
         # HELP kubelet_running_containers Number of containers, by state\n\
         # TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"exited\"}} {ended}\n\
         kubelet_running_containers{{container_state=\"running\"}} {alive}\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_there_are() {
        let stats = Stats {
            cpu_usage: Some(std::time::Duration::from_millis(5)),
            memory_working_set: Some(100),
            memory_limit: Some(150),
            ..Stats::default()
        };
        let figures = Value::Object(figures(&stats, Timestamp::UNIX_EPOCH));
        assert_eq!(figures["cpu"]["usageCoreNanoSeconds"], 5_000_000);
        assert_eq!(figures["memory"]["availableBytes"], 50);
        assert_eq!(figures["memory"].get("rssBytes"), None);
    }
}
