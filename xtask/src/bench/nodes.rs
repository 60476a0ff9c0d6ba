//! Three nodes on this machine: virtual machines, and network namespaces. Beside them what others publish of theirs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use client::{Client, ListParams};
use manifests::k8s_openapi::api::core::v1::Node;

use super::cluster::{Cluster, IMAGE};

const NODES: usize = 3;
/// MiB of each machine: as little as will do without pods (a node with less than 100 MiB to spare takes none), and the default.
const MEMORY: [(&str, bool); 2] = [("128", false), ("512", true)];

/// From minikube's own comparison (site/content/en/docs/benchmarks/timeToK8s, v1.36.0): one node, until an application answers by name.
const PUBLISHED: &str = "published by minikube for one node, until an application answers: k3d 19.9 s, kind 33.0 s, minikube 50.8 s";

/// Nothing else is measured.
pub(crate) fn run_alone() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

pub(super) async fn run() -> anyhow::Result<()> {
    println!("\n{:<46} {:>12}   how", "three nodes on this machine", "coracle");
    let (ready, running) = namespaces().await?;
    row("up --nodes 3 to 3 Ready, s", ready.as_secs_f64(), "network namespaces");
    row("up --nodes 3 to a first running pod, s", running.as_secs_f64(), "image present");
    for (memory, pods) in MEMORY {
        machines(memory, pods)?;
    }
    println!("{PUBLISHED}");
    Ok(())
}

async fn namespaces() -> anyhow::Result<(Duration, Duration)> {
    let begin = Instant::now();
    let mut cluster = Cluster::start_nodes(NODES)?;
    cluster.wait_readyz().await?;
    let client = cluster.client()?;
    wait_ready(&mut cluster, &client).await?;
    let ready = begin.elapsed();
    let kubeconfig = cluster.path("data/kubeconfig");
    first_pod(&cluster, &kubeconfig)?;
    let running = begin.elapsed();
    cluster.down()?;
    Ok((ready, running))
}

async fn wait_ready(cluster: &mut Cluster, client: &Client) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        cluster.alive()?;
        let nodes = client.all::<Node>().list(&ListParams::default()).await?;
        let ready = |node: &&Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        if nodes.items.iter().filter(ready).count() == NODES {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("three nodes do not become Ready");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Three machines, from nothing to a pod, off and on again, and what they hold meanwhile.
fn machines(memory: &str, pods: bool) -> anyhow::Result<()> {
    let cluster = Cluster::prepare_machines()?;
    let _down = Down(&cluster);
    let kernel = output(Command::new("hack/guest-kernel").arg("path"))?;
    let begin = Instant::now();
    let nodes = NODES.to_string();
    let up =
        ["vm", "up", "--nodes", &nodes, "--memory", memory, "--timeout", "300s", "--kernel", kernel.trim()];
    let said = output(&mut cluster.command(&up))?;
    let ready = begin.elapsed();
    if pods {
        first_pod(&cluster, &cluster.path("data/vm/default/kubeconfig"))?;
    }
    let running = begin.elapsed();
    let how = said.lines().find_map(|line| line.split_once("acceleration: ")).map_or("", |(_, how)| how);
    row(&format!("vm up, {memory} MiB each, to 3 Ready, s"), ready.as_secs_f64(), how);
    if pods {
        row(
            &format!("vm up, {memory} MiB each, to a running pod, s"),
            running.as_secs_f64(),
            "image present",
        );
    }
    let told = |what: &str| said.lines().find(|line| line.contains(what)).and_then(at);
    if let (Some(started), Some(answers)) = (told("n1 is starting"), told("the API server answers")) {
        row("  of it: the server's kernel to its API, s", answers - started, "three kernels boot at once");
    }
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for number in 1..=NODES {
        let name = format!("n{number}");
        inside.push(used_inside(&cluster, &name)?);
        outside.push(resident(&cluster.path(&format!("data/vm/default/{name}/pid")))?);
    }
    let list =
        |values: &[f64]| values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ");
    row("  memory in use inside, server, MiB", inside[0], &format!("of each: {}", list(&inside)));
    row("  resident memory of QEMU, server, MiB", outside[0], &format!("of each: {}", list(&outside)));
    output(&mut cluster.command(&["vm", "stop"]))?;
    let begin = Instant::now();
    output(&mut cluster.command(&["vm", "start"]))?;
    row("  vm start after vm stop, to 3 Ready, s", begin.elapsed().as_secs_f64(), "same disks");
    Ok(())
}

/// `[ 12.3 s] something`
fn at(line: &str) -> Option<f64> {
    line.trim_start_matches('[').split_once(" s]")?.0.trim().parse().ok()
}

struct Down<'a>(&'a Cluster);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        // Without machines there is nothing to take down.
        _ = self.0.command(&["vm", "down"]).output();
    }
}

fn first_pod(cluster: &Cluster, kubeconfig: &Path) -> anyhow::Result<()> {
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "a", "image": IMAGE, "command": ["sleep", "100000"]}],
    }});
    let file = cluster.path("first.json");
    fs::write(&file, pod.to_string())?;
    let file = file.display().to_string();
    for arguments in
        [&["apply", "-f", &file][..], &["wait", "--for=condition=Ready", "pod/first", "--timeout=120s"]]
    {
        output(Cluster::client_command().args(arguments).arg("--kubeconfig").arg(kubeconfig))?;
    }
    Ok(())
}

/// MiB that cannot be had for something else.
fn used_inside(cluster: &Cluster, node: &str) -> anyhow::Result<f64> {
    let file = cluster.path("meminfo");
    let (from, to) = (format!("{node}:/proc/meminfo"), file.display().to_string());
    output(&mut cluster.command(&["vm", "cp", &from, &to]))?;
    let text = fs::read_to_string(file)?;
    let field = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let used = field("MemTotal:").zip(field("MemAvailable:")).map(|(total, available)| total - available);
    Ok(used.context("the guest's /proc/meminfo")? / 1024.0)
}

fn resident(pid_file: &Path) -> anyhow::Result<f64> {
    let pid = fs::read_to_string(pid_file)?;
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory of QEMU")?;
    let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib / 1024.0)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn row(what: &str, ours: f64, how: &str) {
    println!("{what:<46} {ours:>12.2}   {how}");
}
