//! The path that the agent takes: sandboxes and containers through the library, with the *full* specification that
//! the OCI runtimes are measured with, and what a keeper holds in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runtime::{Config, ContainerSpec, ExecSpec, LogSpec, Rootfs, Runtime, SandboxSpec};

use super::figures::Series;
use super::oci;

const ROUNDS: usize = 50;

/// What the kernel alone takes for a container with all that, back to back: mounts, limits, a filter, from fork to the
/// end of /bin/true (C, on the same kind of machine).
const FLOOR_MS: f64 = 2.73;

/// Measures and prints.
pub(crate) async fn run() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    oci::bundle(place.path(), "image", &["/bin/true"])?;
    let binary = fs::canonicalize(oci::binary()).context("looking for the release binary")?;
    let run_dir = place.path().join("run");
    let runtime = Runtime::open(Config {
        run_dir: run_dir.clone(),
        state_dir: place.path().join("state"),
        cgroup_parent: format!("coracle-bench-{}", std::process::id()),
        keeper_argv: vec![binary.into(), "keeper".into(), run_dir.into()],
    })?;
    println!(
        "{:<46} {:>12} {:>12}",
        "in-process, full specification, ms (median)", "30 ms pause", "no pause"
    );
    let paused = rounds(&runtime, place.path(), Duration::from_millis(30)).await?;
    let warm = rounds(&runtime, place.path(), Duration::ZERO).await?;
    for ((what, paused), (_, warm)) in paused.iter().zip(&warm) {
        let note = if *what == TRUE { format!("   the kernel's part: {FLOOR_MS} ms") } else { String::new() };
        println!("{what:<46} {:>12.2} {:>12.2}{note}", paused.median_ms(), warm.median_ms());
    }

    let sandbox = runtime.create_sandbox(SandboxSpec::new("memory", "pods/memory")).await?;
    sandbox.start(container(place.path(), "c", &["sleep", "1000"])?).await?;
    let keeper = sandbox.keeper_pid().context("a keeper")?;
    let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup"))?;
    let kib = |key: &str| -> f64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN)
    };
    println!(
        "{:<46} {:>12.0}   PSS {:.0} KiB",
        "keeper with one container, private KiB",
        kib("Private_Dirty:") + kib("Private_Clean:"),
        kib("Pss:")
    );
    sandbox.remove().await?;
    runtime.remove_empty_cgroups();
    Ok(())
}

const TRUE: &str = "start /bin/true, until its exit is recorded";

async fn rounds(
    runtime: &std::sync::Arc<Runtime>,
    place: &Path,
    pause: Duration,
) -> anyhow::Result<Vec<(&'static str, Series)>> {
    let steps = ["new sandbox", "start a container in it", "exec /bin/true in it", TRUE, "remove all"];
    let mut series: Vec<(&str, Series)> = steps.map(|what| (what, Series::default())).into();
    for round in 0..ROUNDS {
        let id = format!("s{round}");
        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        let sandbox = runtime.create_sandbox(SandboxSpec::new(&id, format!("pods/{id}"))).await?;
        series[0].1.add(begin.elapsed());

        let long = container(place, "c1", &["sleep", "1000"])?;
        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        sandbox.start(long).await?;
        series[1].1.add(begin.elapsed());

        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        let spec = ExecSpec { argv: vec!["true".into()], ..ExecSpec::default() };
        ensure!(sandbox.exec("c1", spec).await?.wait().await? == 0, "exec failed");
        series[2].1.add(begin.elapsed());

        let short = container(place, "c2", &["/bin/true"])?;
        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        sandbox.start(short).await?;
        ensure!(sandbox.wait("c2").await?.code == 0, "/bin/true failed");
        series[3].1.add(begin.elapsed());

        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        sandbox.remove().await?;
        series[4].1.add(begin.elapsed());
    }
    Ok(series)
}

fn container(place: &Path, id: &str, args: &[&str]) -> anyhow::Result<ContainerSpec> {
    let directory = |name: &str| -> anyhow::Result<PathBuf> {
        let path = place.join(format!("{name}-{id}"));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    };
    Ok(ContainerSpec {
        id: id.to_owned(),
        labels: std::collections::BTreeMap::new(),
        spec: serde_json::from_value(oci::config(args))?,
        rootfs: Rootfs::Overlay {
            lower: vec![place.join("image/rootfs")],
            upper: directory("upper")?,
            work: directory("work")?,
        },
        log: Some(LogSpec::new(place.join("logs").join(format!("{id}.log")))),
        stdin: false,
        stdin_once: false,
        tty: false,
        join_pid: None,
    })
}
