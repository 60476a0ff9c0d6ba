//! `coracle down`: ends everything of an instance, and leaves the machine as it was. What is stored stays, so that the next
//! `coracle up` brings the same cluster back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use proxy::Control;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use vm::machine::ended_by;

use super::node::Node;
use super::shutdown::{self, Periods};
use crate::commands::say;
use crate::flags::{ClusterArgs, InstanceArgs, NodeArgs};
use crate::instance::{Instance, Part};
use crate::nodes::{self, layout::Layout};

/// How long a process that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// How many seconds pods have to end by themselves; 0 ends them at once
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace_period: u64,
    /// How many of these seconds are for pods of system priority, which end after all others
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    grace_period_critical: u64,
}

pub(crate) async fn run(args: DownArgs) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    let node = Node::new(&instance, &args.cluster, &args.node)?;
    // The node first: it tells the server what became of its pods for as long as there is one.
    end_owner(&instance, Part::Node).await?;
    end_owner(&instance, Part::ControlPlane).await?;
    let mut failures = Vec::new();
    if let Some(layout) = Layout::open(&instance)? {
        let grace = [args.grace_period, args.grace_period_critical];
        note(&mut failures, "ending the nodes", nodes::down(&instance, &layout, grace).await);
    }
    let periods = Periods {
        all: Duration::from_secs(args.grace_period),
        critical: Duration::from_secs(args.grace_period_critical),
    };
    note(&mut failures, "ending the pods", end_sandboxes(&instance, &node, periods).await);
    note(&mut failures, "removing the control groups", remove_cgroups(&node.names.group));
    note(&mut failures, "ending the proxy", end_proxy(&instance).await);
    note(&mut failures, "removing the pod network", remove_network(&node).await);
    note(&mut failures, "unmounting", unmount_below(&[&instance.data_dir, &instance.run_dir]));
    if failures.is_empty() {
        match std::fs::remove_dir_all(&instance.run_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failures.push(format!("removing {}: {error}", instance.run_dir.display()));
            }
            _ => {}
        }
    }
    if !failures.is_empty() {
        bail!("something is left:\n  {}", failures.join("\n  "));
    }
    say("everything has ended")
}

fn note(failures: &mut Vec<String>, what: &str, result: anyhow::Result<()>) {
    if let Err(error) = result {
        failures.push(format!("{what}: {}", crate::error_line(&error).trim_start_matches("error: ")));
    }
}

/// Asks the process that runs the part to end, and waits until it has.
pub(crate) async fn end_owner(instance: &Instance, part: Part) -> anyhow::Result<()> {
    let Some(owner) = instance.owner(part) else { return Ok(()) };
    let pid = Pid::from_raw(owner).context("the lock names no process")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("ending process {owner}"))?;
    let instance = instance.clone();
    let gone = tokio::task::spawn_blocking(move || instance.wait_for_lock(part));
    match tokio::time::timeout(PATIENCE, gone).await {
        Ok(result) => result?,
        Err(_) => bail!("process {owner} does not end; `kill -9 {owner}` ends it without loss"),
    }
}

async fn end_sandboxes(instance: &Instance, node: &Node, periods: Periods) -> anyhow::Result<()> {
    if !instance.keeper_dir().exists() {
        return Ok(());
    }
    let runtime = runtime::Runtime::open(super::runtime_config(instance, &node.names.group))?;
    let sandboxes = runtime.sandboxes().await;
    shutdown::end_pods(&sandboxes, periods).await;
    let removals = sandboxes.iter().map(|sandbox| async move {
        sandbox.remove().await.with_context(|| format!("sandbox {}", sandbox.id()))
    });
    let results = futures_util::future::join_all(removals).await;
    results.into_iter().collect::<anyhow::Result<()>>()
}

/// Removes the instance's control group from every hierarchy, the innermost groups first. The kernel refuses to remove one
/// that still has a process, so nothing is lost by trying.
pub(crate) fn remove_cgroups(group: &str) -> anyhow::Result<()> {
    for path in trees(group)? {
        remove_tree(&path)?;
    }
    Ok(())
}

/// Every process in the instance's control group, in any hierarchy.
pub(crate) fn processes_of_group(group: &str) -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for path in trees(group)? {
        collect_processes(&path, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Groups that go meanwhile have no processes.
fn collect_processes(path: &Path, found: &mut Vec<i32>) {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

/// The instance's control group in every hierarchy that has it.
fn trees(group: &str) -> anyhow::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let hierarchies = table.lines().filter(|line| line.contains(" - cgroup"));
    let hierarchies = hierarchies.filter_map(|line| line.split(' ').nth(4).map(unescape));
    Ok(hierarchies.map(|path| Path::new(&path).join(group)).filter(|path| path.is_dir()).collect())
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        // A keeper that has said its last word may still be on its way out.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            wait_for_processes(path)?;
            std::fs::remove_dir(path)
        }
        result => result,
    }
    .with_context(|| format!("removing {}", path.display()))
}

/// Waits until the processes of a control group have ended, all within [`PATIENCE`].
fn wait_for_processes(group: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let list = group.join("cgroup.procs");
    let text = std::fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        ended_by(&process, deadline)?;
    }
    Ok(())
}

async fn end_proxy(instance: &Instance) -> anyhow::Result<()> {
    if let Ok(mut control) = Control::connect(&instance.proxy_dir()).await {
        control.step_aside(Duration::ZERO).await?;
        tokio::time::timeout(PATIENCE, control.ended()).await.context("it does not end")?;
    }
    // One that was started a moment ago does not listen yet.
    for pid in proxies(instance) {
        let Some(process) = Pid::from_raw(pid) else { continue };
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        kill_process(process, Signal::TERM).with_context(|| format!("ending process {pid}"))?;
        let ended =
            tokio::task::spawn_blocking(move || ended_by(&handle, Instant::now() + PATIENCE)).await??;
        if !ended {
            bail!("process {pid} does not end");
        }
    }
    Ok(())
}

/// Processes that were started as the proxy of this instance.
fn proxies(instance: &Instance) -> Vec<i32> {
    let run_dir = instance.run_dir.as_os_str().as_encoded_bytes();
    let is_ours = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"proxy".as_slice())
            && words.windows(2).any(|pair| pair[0] == b"--run-dir" && pair[1] == run_dir)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| is_ours(&line)))
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .collect()
}

async fn remove_network(node: &Node) -> anyhow::Result<()> {
    Ok(network::Network::new(node.network.clone())?.remove().await?)
}

/// Volumes and the like that a dead process has left mounted, the innermost first.
pub(crate) fn unmount_below(directories: &[&Path]) -> anyhow::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut ours: Vec<String> = points
        .filter(|point| directories.iter().any(|directory| Path::new(point).starts_with(directory)))
        .collect();
    ours.sort();
    for point in ours.iter().rev() {
        rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH)
            .with_context(|| point.clone())?;
    }
    Ok(())
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = code
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(r"/tmp/a\040b\134c"), r"/tmp/a b\c");
        assert_eq!(unescape(r"/plain"), "/plain");
        assert_eq!(unescape(r"\9"), r"\9");
    }
}
