//! The same figures for Prometheus and for whoever computes `kubectl top`.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;
use runtime::Stats;

use super::sample::Sample;
use crate::pod::worker::View;

/// Text in Prometheus' format, one family after the other.
#[derive(Default)]
struct Families(String);

impl Families {
    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        lines: impl IntoIterator<Item = (String, String)>,
    ) {
        let mut lines = lines.into_iter().peekable();
        if lines.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn cpu(stats: &Stats) -> Option<f64> {
    stats.cpu_usage.map(|used| used.as_secs_f64())
}

/// Seconds since 1970, which Prometheus likes as a number with a fraction.
fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

/// `/metrics/resource`: what is needed to say who uses what.
pub(crate) fn resource(sample: &Sample) -> String {
    let stamp = sample.at.as_millisecond();
    let timed = |labels: String, value: &dyn Display| (labels, format!("{value} {stamp}"));
    let containers = || {
        sample.pods.iter().flat_map(|pod| {
            pod.containers.iter().map(move |container| {
                let pairs = [
                    ("container", container.name.as_str()),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                ];
                (labels(&pairs), container)
            })
        })
    };
    let pods =
        || sample.pods.iter().map(|pod| (labels(&[("namespace", &pod.namespace), ("pod", &pod.name)]), pod));
    let mut text = Families::default();
    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        containers().filter_map(|(labels, container)| Some(timed(labels, &cpu(&container.stats)?))),
    );
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        containers()
            .filter_map(|(labels, container)| Some(timed(labels, &container.stats.memory_working_set?))),
    );
    text.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        containers()
            .filter_map(|(labels, container)| Some((labels, seconds(container.started_at?).to_string()))),
    );
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        sample.node.cpu.map(|used| timed(String::new(), &used.as_secs_f64())),
    );
    let memory = sample.node.supplies.memory;
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
        (memory.capacity > 0)
            .then(|| timed(String::new(), &memory.capacity.saturating_sub(memory.available))),
    );
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        pods().filter_map(|(labels, pod)| Some(timed(labels, &cpu(&pod.stats)?))),
    );
    text.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
        pods().filter_map(|(labels, pod)| Some(timed(labels, &pod.stats.memory_working_set?))),
    );
    text.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [(String::new(), "0".to_owned())],
    );
    text.0
}

/// One of cAdvisor's families and where its figure is.
type Figure = (&'static str, &'static str, &'static str, fn(&Stats) -> Option<f64>);

/// A count as Prometheus has it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing but such numbers")]
fn number(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

const FIGURES: &[Figure] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", cpu),
    (
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        |stats| number(stats.page_faults),
    ),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |stats| number(stats.memory_rss)),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |stats| number(stats.memory_usage),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |stats| {
        number(stats.memory_working_set)
    }),
    (
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        |stats| number(stats.oom_kills),
    ),
    ("container_processes", "gauge", "Number of processes running inside the container.", |stats| {
        number(stats.pids)
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |stats| {
        number(stats.memory_limit)
    }),
];

/// `/metrics/cadvisor`: the figures that dashboards look for, by container, and for the pod as a whole without one.
pub(crate) fn cadvisor(sample: &Sample) -> String {
    let mut rows: Vec<(String, &Stats)> = Vec::new();
    let mut starts = Vec::new();
    for pod in &sample.pods {
        let base = |container: &str, id: &str, image: &str| {
            let mut pairs = vec![("container", container), ("id", id), ("image", image), ("name", id)];
            pairs.extend([("namespace", pod.namespace.as_str()), ("pod", &pod.name)]);
            labels(&pairs)
        };
        rows.push((base("", &pod.uid, ""), &pod.stats));
        for container in &pod.containers {
            let labels = base(&container.name, &container.id, &container.image);
            starts.extend(container.started_at.map(|at| (labels.clone(), seconds(at).to_string())));
            rows.push((labels, &container.stats));
        }
    }
    let mut text = Families::default();
    for (name, kind, help, figure) in FIGURES {
        let lines =
            rows.iter().filter_map(|(labels, stats)| Some((labels.clone(), figure(stats)?.to_string())));
        text.family(name, kind, help, lines);
    }
    let help = "Start time of the container since unix epoch in seconds.";
    text.family("container_start_time_seconds", "gauge", help, starts);
    let one = |value: u64| [(String::new(), value.to_string())];
    text.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.", one(sample.node.processors));
    let memory = sample.node.supplies.memory.capacity;
    text.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", one(memory));
    text.0
}

/// `/metrics`: counts of pods and containers, named as the kubelet names them.
pub(crate) fn metrics(views: &[View]) -> String {
    let running = views.iter().filter(|view| view.status.phase.as_deref() == Some("Running")).count();
    let (mut alive, mut ended) = (0, 0);
    for container in views.iter().flat_map(|view| view.containers.values()) {
        *if container.running { &mut alive } else { &mut ended } += 1;
    }
    let mut text = Families::default();
    text.family(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
        [(String::new(), running.to_string())],
    );
    let state = |state: &str, count: i32| (labels(&[("container_state", state)]), count.to_string());
    text.family(
        "kubelet_running_containers",
        "gauge",
        "Number of containers, by state",
        [state("exited", ended), state("running", alive)],
    );
    text.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::{ContainerSample, NodeSample, PodSample};
    use super::*;
    use crate::eviction::{Supplies, Supply};

    fn sample() -> Sample {
        let stats = Stats {
            cpu_usage: Some(Duration::from_millis(1500)),
            memory_working_set: Some(4096),
            ..Stats::default()
        };
        let container = ContainerSample {
            name: "a".into(),
            id: "c1".into(),
            image: "i".into(),
            started_at: Timestamp::from_millisecond(1_700_000_000_500).ok(),
            stats: stats.clone(),
            cpu_rate: None,
        };
        Sample {
            window: None,
            at: Timestamp::from_second(1_700_000_100).unwrap(),
            node: NodeSample {
                cpu: Some(Duration::from_secs(7)),
                processors: 2,
                supplies: Supplies { memory: Supply { available: 30, capacity: 100 }, ..Supplies::default() },
                ..NodeSample::default()
            },
            pods: vec![PodSample {
                name: "p".into(),
                namespace: "n\"s".into(),
                stats,
                containers: vec![container],
                ..PodSample::default()
            }],
        }
    }

    #[test]
    fn resources_carry_their_times() {
        let text = resource(&sample());
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\\\"s\",pod=\"p\"} 1.5 1700000100000",
                "container_memory_working_set_bytes{container=\"a\",namespace=\"n\\\"s\",pod=\"p\"} 4096 1700000100000",
                "container_start_time_seconds{container=\"a\",namespace=\"n\\\"s\",pod=\"p\"} 1700000000.5",
                "node_cpu_usage_seconds_total 7 1700000100000",
                "node_memory_working_set_bytes 70 1700000100000",
                "pod_cpu_usage_seconds_total{namespace=\"n\\\"s\",pod=\"p\"} 1.5 1700000100000",
                "pod_memory_working_set_bytes{namespace=\"n\\\"s\",pod=\"p\"} 4096 1700000100000",
                "resource_scrape_error 0",
            ]
        );
    }

    #[test]
    fn cadvisors_figures_that_there_are() {
        let text = cadvisor(&sample());
        let line = "container_memory_working_set_bytes{container=\"a\",id=\"c1\",image=\"i\",name=\"c1\",namespace=\"n\\\"s\",pod=\"p\"} 4096\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("machine_cpu_cores 2\n"), "{text}");
        assert!(!text.contains("container_memory_rss"), "{text}");
    }
}
