//! One look at everything.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtime::Stats;

use crate::eviction::Supplies;
use crate::names::{name, namespace, uid};
use crate::node::Facts;
use crate::pod::worker::View;

/// The kernel counts time in hundredths of a second for user space, on every architecture that there is.
const TICKS_PER_SECOND: u64 = 100;

/// What the node and its pods use at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(super) at: Timestamp,
    /// Over which time the rates are.
    pub(super) window: Option<Duration>,
    pub(super) node: NodeSample,
    pub(super) pods: Vec<PodSample>,
}

/// The node as a whole.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeSample {
    pub(super) name: String,
    /// Nanoseconds of work in a second, since an earlier look.
    pub(super) cpu_rate: Option<u64>,
    /// All processors, since the start of the machine.
    pub(super) cpu: Option<Duration>,
    pub(super) processors: u64,
    pub(super) started_at: Option<Timestamp>,
    pub(super) supplies: Supplies,
    pub(super) image_store: Supplies,
}

/// A pod with a sandbox.
#[derive(Debug, Clone, Default)]
pub(super) struct PodSample {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) started_at: Option<Timestamp>,
    pub(super) stats: Stats,
    /// As that of the node.
    pub(super) cpu_rate: Option<u64>,
    pub(super) containers: Vec<ContainerSample>,
}

/// A container that runs.
#[derive(Debug, Clone, Default)]
pub(super) struct ContainerSample {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) started_at: Option<Timestamp>,
    pub(super) stats: Stats,
    /// As that of the node.
    pub(super) cpu_rate: Option<u64>,
}

impl Sample {
    /// Reads the figures. A pod that cannot be read is left out: it is on its way out.
    pub(crate) async fn take(node: &str, data_dir: PathBuf, views: Vec<View>) -> Self {
        let at = Timestamp::now();
        let mut pods = Vec::new();
        for view in &views {
            pods.extend(pod(view).await);
        }
        let name = node.to_owned();
        let node = tokio::task::spawn_blocking(move || NodeSample {
            name,
            cpu_rate: None,
            cpu: fs::read_to_string("/proc/stat").ok().and_then(|text| busy(&text)),
            processors: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            started_at: fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text)),
            supplies: Facts::supplies(&data_dir),
            image_store: Facts::supplies(&data_dir.join("images")),
        });
        // Only fails when the process is stopping.
        Self { at, window: None, node: node.await.unwrap_or_default(), pods }
    }
}

/// An earlier look, to tell how fast figures grow: there is no timer, so it is an earlier question's.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    /// At least [`Earlier::APART`] before the last.
    base: Option<Sample>,
    last: Option<Sample>,
}

impl Earlier {
    /// Less tells more of chance than of load.
    pub(crate) const APART: SignedDuration = SignedDuration::from_secs(1);

    /// What was used over a longer time says nothing about now.
    const STALE: SignedDuration = SignedDuration::from_secs(60);

    /// Fills the rates of a sample in if there is one to compare it with, and keeps the sample for the next.
    pub(crate) fn rates(&mut self, sample: &mut Sample) -> bool {
        let fresh = |one: &Sample| sample.at.duration_since(one.at) < Self::STALE;
        self.base = self.base.take().filter(fresh);
        self.last = self.last.take().filter(fresh);
        if self.last.as_ref().is_none_or(|last| sample.at.duration_since(last.at) >= Self::APART) {
            self.base = self.last.take();
            self.last = Some(sample.clone());
        }
        if let Some(base) = &self.base {
            sample.rates_since(base);
        }
        self.base.is_some()
    }
}

impl Sample {
    fn rates_since(&mut self, base: &Self) {
        let apart = Duration::try_from(self.at.duration_since(base.at)).unwrap_or_default();
        self.window = Some(apart);
        let at = self.at;
        // What has started since then had used nothing.
        let young = |since: Option<Timestamp>, used: Option<Duration>| {
            let since = since.filter(|since| *since > base.at)?;
            let apart = Duration::try_from(at.duration_since(since)).ok()?;
            u64::try_from(used?.as_nanos() * 1_000_000_000 / apart.as_nanos().max(1)).ok()
        };
        let rate = |before: Option<Duration>, after: Option<Duration>| {
            // Less than before: it began anew.
            let work = after?.checked_sub(before?)?;
            let rate = work.as_nanos() * 1_000_000_000 / apart.as_nanos().max(1);
            u64::try_from(rate).ok()
        };
        self.node.cpu_rate = rate(base.node.cpu, self.node.cpu);
        for pod in &mut self.pods {
            let before = base.pods.iter().find(|before| before.uid == pod.uid);
            pod.cpu_rate = match before {
                Some(before) => rate(before.stats.cpu_usage, pod.stats.cpu_usage),
                None => young(pod.started_at, pod.stats.cpu_usage),
            };
            for container in &mut pod.containers {
                let before = before.and_then(|pod| pod.containers.iter().find(|one| one.id == container.id));
                container.cpu_rate = match before {
                    Some(before) => rate(before.stats.cpu_usage, container.stats.cpu_usage),
                    None => young(container.started_at, container.stats.cpu_usage),
                };
            }
        }
    }
}

async fn pod(view: &View) -> Option<PodSample> {
    let sandbox = view.sandbox.clone().filter(|sandbox| sandbox.is_ready())?;
    let mut containers = Vec::new();
    for (name, container) in view.containers.iter().filter(|(_, container)| container.running) {
        if let Ok(stats) = sandbox.stats(&container.id).await {
            let (image, started_at) = told(view, name);
            let (name, id) = (name.clone(), container.id.clone());
            containers.push(ContainerSample { name, id, image, started_at, stats, cpu_rate: None });
        }
    }
    Some(PodSample {
        name: name(&view.pod).to_owned(),
        namespace: namespace(&view.pod).to_owned(),
        uid: uid(&view.pod).to_owned(),
        started_at: view.status.start_time.as_ref().map(|time| time.0),
        stats: sandbox.sandbox_stats().await.ok()?,
        cpu_rate: None,
        containers,
    })
}

/// What the status says of a container: its image, and since when it runs.
fn told(view: &View, container: &str) -> (String, Option<Timestamp>) {
    let status = &view.status;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    let mut all = all.chain(&status.ephemeral_container_statuses).flatten();
    let Some(status) = all.find(|status| status.name == container) else { return Default::default() };
    let running = status.state.as_ref().and_then(|state| state.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref()).map(|time| time.0);
    (status.image.clone(), started)
}

/// Time that was spent on work, by the first line of /proc/stat: all but idle and waiting.
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let work = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum::<u64>();
    Some(Duration::from_millis(work * 1000 / TICKS_PER_SECOND))
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_questions_that_are_apart() {
        let sample = |millis: i64, node: u64, container: u64| {
            let stats =
                |spent: u64| Stats { cpu_usage: Some(Duration::from_millis(spent)), ..Stats::default() };
            Sample {
                window: None,
                at: Timestamp::from_millisecond(millis).unwrap(),
                node: NodeSample { cpu: Some(Duration::from_millis(node)), ..NodeSample::default() },
                pods: vec![PodSample {
                    uid: "u".into(),
                    stats: stats(container),
                    containers: vec![ContainerSample {
                        id: "c".into(),
                        stats: stats(container),
                        ..Default::default()
                    }],
                    ..PodSample::default()
                }],
            }
        };
        let mut earlier = Earlier::default();
        let mut check = |mut sample: Sample, expected: [Option<u64>; 3]| {
            earlier.rates(&mut sample);
            assert_eq!(
                [sample.node.cpu_rate, sample.pods[0].cpu_rate, sample.pods[0].containers[0].cpu_rate],
                expected
            );
        };
        check(sample(0, 0, 0), [None; 3]);
        check(sample(100, 100, 50), [None; 3]);
        check(sample(2000, 1000, 500), [Some(500_000_000), Some(250_000_000), Some(250_000_000)]);
        // Asked again at once: over the same time as before.
        check(sample(2001, 1000, 500), [Some(499_750_124), Some(249_875_062), Some(249_875_062)]);
        check(sample(4000, 2000, 0), [Some(500_000_000), None, None]);
    }

    #[test]
    fn the_machines_own_figures() {
        let stat = "cpu  100 10 50 9999 5 1 2 3 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1660)));
        assert_eq!(boot_time(stat), Some(Timestamp::from_second(1_700_000_000).unwrap()));
        assert_eq!(busy("intr 1"), None);
    }
}
