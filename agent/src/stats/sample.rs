//! One look at everything.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
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
    pub(super) node: NodeSample,
    pub(super) pods: Vec<PodSample>,
}

/// The node as a whole.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeSample {
    pub(super) name: String,
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
            cpu: fs::read_to_string("/proc/stat").ok().and_then(|text| busy(&text)),
            processors: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            started_at: fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text)),
            supplies: Facts::supplies(&data_dir),
            image_store: Facts::supplies(&data_dir.join("images")),
        });
        // Only fails when the process is stopping.
        Self { at, node: node.await.unwrap_or_default(), pods }
    }
}

async fn pod(view: &View) -> Option<PodSample> {
    let sandbox = view.sandbox.clone().filter(|sandbox| sandbox.is_ready())?;
    let mut containers = Vec::new();
    for (name, container) in view.containers.iter().filter(|(_, container)| container.running) {
        if let Ok(stats) = sandbox.stats(&container.id).await {
            let (image, started_at) = told(view, name);
            let (name, id) = (name.clone(), container.id.clone());
            containers.push(ContainerSample { name, id, image, started_at, stats });
        }
    }
    Some(PodSample {
        name: name(&view.pod).to_owned(),
        namespace: namespace(&view.pod).to_owned(),
        uid: uid(&view.pod).to_owned(),
        started_at: view.status.start_time.as_ref().map(|time| time.0),
        stats: sandbox.sandbox_stats().await.ok()?,
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
    fn the_machines_own_figures() {
        let stat = "cpu  100 10 50 9999 5 1 2 3 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1660)));
        assert_eq!(boot_time(stat), Some(Timestamp::from_second(1_700_000_000).unwrap()));
        assert_eq!(busy("intr 1"), None);
    }
}
