//! `/stats/summary` as the kubelet answers it.

use jiff::Timestamp;
use runtime::Stats;
use serde_json::{Map, Value, json};

use super::sample::{ContainerSample, NodeSample, PodSample, Sample};
use crate::eviction::Supplies;

/// All figures of a sample.
pub(crate) fn summary(sample: &Sample) -> Value {
    let pods: Vec<Value> = sample.pods.iter().map(|taken| pod(taken, sample.at)).collect();
    let mut summary = json!({"node": node(&sample.node, sample.at), "pods": pods});
    // Our own: whoever goes on with the rates has to say over which time they are.
    if let Some(window) = sample.window {
        summary["windowSeconds"] = json!(window.as_secs_f64());
    }
    summary
}

fn node(node: &NodeSample, time: Timestamp) -> Value {
    let stats = Stats { cpu_usage: node.cpu, ..Stats::default() };
    let mut entry = figures(&stats, node.cpu_rate, time);
    entry.insert("nodeName".to_owned(), json!(node.name));
    if let Some(started) = node.started_at {
        entry.insert("startTime".to_owned(), json!(started.to_string()));
    }
    let memory = node.supplies.memory;
    if memory.capacity > 0 {
        let used = memory.capacity.saturating_sub(memory.available);
        let figures =
            json!({"time": time.to_string(), "availableBytes": memory.available, "workingSetBytes": used});
        entry.insert("memory".to_owned(), figures);
    }
    entry.insert("fs".to_owned(), file_system(&node.supplies, time));
    let images = file_system(&node.image_store, time);
    entry.insert("runtime".to_owned(), json!({"imageFs": images}));
    let pids = node.supplies.pids;
    if pids.capacity > 0 {
        let current = pids.capacity.saturating_sub(pids.available);
        let limits = json!({"time": time.to_string(), "maxpid": pids.capacity, "curproc": current});
        entry.insert("rlimit".to_owned(), limits);
    }
    Value::Object(entry)
}

fn file_system(supplies: &Supplies, time: Timestamp) -> Value {
    let (disk, inodes) = (supplies.disk, supplies.inodes);
    json!({
        "time": time.to_string(),
        "availableBytes": disk.available,
        "capacityBytes": disk.capacity,
        "usedBytes": disk.capacity.saturating_sub(disk.available),
        "inodesFree": inodes.available,
        "inodes": inodes.capacity,
        "inodesUsed": inodes.capacity.saturating_sub(inodes.available),
    })
}

fn pod(pod: &PodSample, time: Timestamp) -> Value {
    let mut entry = figures(&pod.stats, pod.cpu_rate, time);
    let reference = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
    entry.insert("podRef".to_owned(), reference);
    entry.insert("startTime".to_owned(), json!(pod.started_at.map(|time| time.to_string())));
    let containers = pod.containers.iter().map(|taken| container(taken, time)).collect();
    entry.insert("containers".to_owned(), Value::Array(containers));
    if let Some(pids) = pod.stats.pids {
        entry.insert("process_stats".to_owned(), json!({"process_count": pids}));
    }
    Value::Object(entry)
}

fn container(container: &ContainerSample, time: Timestamp) -> Value {
    let mut entry = figures(&container.stats, container.cpu_rate, time);
    entry.insert("name".to_owned(), json!(container.name));
    if let Some(started) = container.started_at {
        entry.insert("startTime".to_owned(), json!(started.to_string()));
    }
    Value::Object(entry)
}

fn figures(stats: &Stats, cpu_rate: Option<u64>, time: Timestamp) -> Map<String, Value> {
    let mut cpu = Map::from_iter([("time".to_owned(), json!(time.to_string()))]);
    let mut memory = cpu.clone();
    if let Some(used) = stats.cpu_usage {
        let nanoseconds = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        cpu.insert("usageCoreNanoSeconds".to_owned(), json!(nanoseconds));
    }
    if let Some(rate) = cpu_rate {
        cpu.insert("usageNanoCores".to_owned(), json!(rate));
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
        let figures = Value::Object(figures(&stats, Some(7), Timestamp::UNIX_EPOCH));
        assert_eq!(figures["cpu"]["usageCoreNanoSeconds"], 5_000_000);
        assert_eq!(figures["cpu"]["usageNanoCores"], 7);
        assert_eq!(figures["memory"]["availableBytes"], 50);
        assert_eq!(figures["memory"].get("rssBytes"), None);
    }
}
