//! What the release binary costs: start, memory, idle time, pod latency. Every figure is measured here and now; the
//! peer's figures beside them were measured on the same kind of machine (2 cores, cgroup v1, Linux 6.18).

mod cluster;
mod figures;
mod memory;
pub(crate) mod nodes;
pub(crate) mod oci;
mod pods;
mod runtime;

use std::time::{Duration, Instant};

use anyhow::Context;

use cluster::Cluster;
use figures::Series;

/// Kubernetes 1.20.2 with etcd, containerd and runc on the same kind of machine.
mod peer {
    pub(super) const READY_S: f64 = 16.0;
    pub(super) const READYZ_S: f64 = 3.66;
    pub(super) const MEMORY_MIB: f64 = 656.0;
    pub(super) const MEMORY_PER_POD_MIB: f64 = 5.5;
    pub(super) const IDLE_PERCENT: f64 = 6.1;
    pub(super) const RUNNING_MS: f64 = 1184.0;
    pub(super) const BURST_S: f64 = 4.1;
    pub(super) const GONE_MS: f64 = 2024.0;
}

pub(crate) fn run() -> anyhow::Result<()> {
    if let Err(error) = oci::in_private_mounts() {
        println!("OCI runtimes are not measured: {error:#}");
    }
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(runtime::run()).context("measuring sandboxes and containers")?;
    executor.block_on(measure())?;
    if let Err(error) = executor.block_on(nodes::run()) {
        println!("three nodes are not measured: {error:#}");
    }
    crate::load::short()
}

async fn measure() -> anyhow::Result<()> {
    println!("{:<46} {:>12} {:>12}   how", "", "coracle", "k8s 1.20");
    let mut readyz = Series::default();
    let mut ready = Series::default();
    for _ in 0..5 {
        let begin = Instant::now();
        let mut cluster = Cluster::start().await?;
        cluster.wait_readyz().await?;
        readyz.add(begin.elapsed());
        cluster.wait_node_ready().await?;
        ready.add(begin.elapsed());
        cluster.down()?;
    }
    row("up to /readyz, s", readyz.median_s(), peer::READYZ_S, &readyz.spread("s", 1.0));
    row("up to node Ready, s", ready.median_s(), peer::READY_S, &ready.spread("s", 1.0));

    let mut cluster = Cluster::start().await?;
    cluster.wait_node_ready().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = memory::of_instance(&cluster).context("reading memory")?;
    row("memory with 0 pods, MiB (PSS)", empty.pss, peer::MEMORY_MIB, &empty.detail());
    row("memory with 0 pods, MiB (RSS)", empty.rss, peer::MEMORY_MIB, "sum over processes");
    let idle = memory::idle_percent(&cluster, Duration::from_secs(60)).await?;
    row("idle CPU with 0 pods, % of a core", idle, peer::IDLE_PERCENT, "over 60 s");

    let latencies = pods::one_by_one(&cluster, 50).await?;
    row(
        "create to Running, ms (p50 of 50)",
        latencies.running.median_ms(),
        peer::RUNNING_MS,
        &latencies.running.spread("ms", 1000.0),
    );
    row("create to Running, ms (p99)", latencies.running.percentile_ms(99), f64::NAN, "");
    row(
        "delete, grace 0: object gone, ms (p50)",
        latencies.object_gone.median_ms(),
        6.7,
        &latencies.object_gone.spread("ms", 1000.0),
    );
    row(
        "delete, grace 0: process gone, ms (p50)",
        latencies.process_gone.median_ms(),
        peer::GONE_MS,
        &latencies.process_gone.spread("ms", 1000.0),
    );

    let burst = pods::at_once(&cluster, 30).await?;
    row("30 pods at once, all Running, s", burst.as_secs_f64(), peer::BURST_S, "image present");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let full = memory::of_instance(&cluster)?;
    row("memory with 30 pods, MiB (PSS)", full.pss, 821.0, &full.detail());
    row(
        "memory per pod, MiB (PSS)",
        (full.pss - empty.pss) / 30.0,
        peer::MEMORY_PER_POD_MIB,
        "all of coracle's, the keepers included",
    );
    let idle = memory::idle_percent(&cluster, Duration::from_secs(60)).await?;
    row("idle CPU with 30 pods, % of a core", idle, 8.75, "over 60 s");
    let gone = pods::delete_all(&cluster).await?;
    row("delete 30, grace 0, all processes gone, s", gone.as_secs_f64(), 2.49, "");
    cluster.down()?;

    let (cluster, took) = pods::of_directory(100).await?;
    row("directory of 100 pods, all executing, s", took.as_secs_f64(), f64::NAN, "from process start");
    cluster.down()?;
    let (cluster, took) = pods::of_directory(300).await?;
    row("directory of 300 pods, all executing, s", took.as_secs_f64(), f64::NAN, "from process start");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let full = memory::of_instance(&cluster)?;
    row("memory with 300 pods, MiB (PSS)", full.pss, f64::NAN, &full.detail());
    cluster.down()
}

fn row(what: &str, ours: f64, theirs: f64, how: &str) {
    let theirs = if theirs.is_nan() { String::new() } else { format!("{theirs:.2}") };
    println!("{what:<46} {ours:>12.2} {theirs:>12}   {how}");
}
