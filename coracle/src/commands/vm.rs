//! `coracle vm`: local clusters of virtual machines.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::pki::{Pki, Subject, kubeconfig, write_private};
use clap::{Args, Subcommand};
use client::{Client, Object as _};
use manifests::k8s_openapi::api::core::v1::Node;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use vm::accel::{self, Accelerator};
use vm::cluster::{Cluster, NodeState, Plan};
use vm::control::Response;
use vm::guest::Config;
use vm::initramfs::Init;

use super::output::align;
use super::{ExitStatus, print, say};
use crate::flags::InstanceArgs;
use crate::instance::{self, Instance};

/// Disks are sparse: this is how far they can grow.
const DISK: u64 = 8 << 30;
const PORT: u16 = 6443;

#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    /// Make a cluster of virtual machines, or start one that was stopped, and wait until its nodes are Ready
    Up(UpArgs),
    /// Start a cluster that was stopped
    Start(NamedArgs),
    /// Switch the machines off in order; their disks stay
    Stop(NamedArgs),
    /// Remove a cluster with its disks and its network
    Down(NamedArgs),
    /// Show the clusters and their machines
    List(ListArgs),
    /// Run a command in a machine
    Exec(ExecArgs),
    /// Copy a file into a machine (FILE NODE:PATH) or out of it (NODE:PATH FILE)
    Cp(CpArgs),
    /// Show what a machine has printed on its console
    Logs(NodeArgs),
    /// Cut a machine's power, as a failure would
    Kill(NodeArgs),
    /// Pull a machine's network cable
    Partition(NodeArgs),
    /// Plug a machine's network cable in again
    Heal(NodeArgs),
    /// Write the initramfs that guests boot into, for a machine of your own
    Build(BuildArgs),
}

#[derive(Debug, Args)]
struct Name {
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: String,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// How many machines; the first one has the control plane, and all run pods
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    nodes: u8,
    /// Memory of each machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// Processors of each machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Kernel image, with its modules beside it as distributions install them [default: the best one in /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Give up waiting after this time
    #[arg(long, value_name = "TIME", value_parser = super::wait::duration, default_value = "180s")]
    timeout: Duration,
    #[command(flatten)]
    cluster: Name,
}

#[derive(Debug, Args)]
struct NamedArgs {
    #[command(flatten)]
    cluster: Name,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Name of the machine
    node: String,
    #[command(flatten)]
    cluster: Name,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// Name of the machine
    node: String,
    #[command(flatten)]
    cluster: Name,
    /// Program and arguments; the guest has no other program than coracle
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct CpArgs {
    /// What is copied: a file here, or NODE:PATH
    from: String,
    /// Where to: a file here, or NODE:PATH
    to: String,
    #[command(flatten)]
    cluster: Name,
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Kernel whose modules go in [default: the best one in /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// File to write
    output: PathBuf,
}

pub(crate) async fn run(args: VmArgs) -> anyhow::Result<()> {
    match args.command {
        VmCommand::Up(args) => up(args).await,
        VmCommand::Start(NamedArgs { cluster }) => {
            let cluster = Cluster::open(&directory(&cluster)?)?;
            boot(&cluster, &Progress::new(), Duration::from_secs(180)).await
        }
        VmCommand::Stop(NamedArgs { cluster }) => stop(&Cluster::open(&directory(&cluster)?)?).await,
        VmCommand::Down(NamedArgs { cluster }) => down(&directory(&cluster)?).await,
        VmCommand::List(args) => list(&args.instance),
        VmCommand::Exec(args) => exec(&args),
        VmCommand::Cp(args) => copy(&args),
        VmCommand::Logs(args) => {
            let (cluster, node) = find(&args)?;
            let path = cluster.node_directory(&node).join("console.log");
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            print(&String::from_utf8_lossy(&text).replace('\r', ""))
        }
        VmCommand::Kill(args) => {
            let (cluster, node) = find(&args)?;
            cluster.kill(&node)?;
            say(format_args!("{} has no power; `coracle vm start` switches it on", node.name))
        }
        VmCommand::Partition(args) => {
            let (cluster, node) = find(&args)?;
            cluster.set_cable(&node, false)?;
            say(format_args!("{} is cut off; `coracle vm heal {}` plugs it in again", node.name, node.name))
        }
        VmCommand::Heal(args) => {
            let (cluster, node) = find(&args)?;
            cluster.set_cable(&node, true)?;
            say(format_args!("{} is plugged in", node.name))
        }
        VmCommand::Build(args) => {
            let kernel = kernel(args.kernel.as_deref())?;
            let program = vm::initramfs::read_program(&own_binary()?)?;
            vm::initramfs::write_base(&args.output, Init::Program(&program), kernel.modules.as_deref())?;
            say(format_args!("{} goes with {}", args.output.display(), kernel.image.display()))
        }
    }
}

/// What happens, and when since the start.
struct Progress(Instant);

impl Progress {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn say(&self, line: impl std::fmt::Display) -> anyhow::Result<()> {
        say(format_args!("[{:5.1} s] {line}", self.0.elapsed().as_secs_f64()))
    }
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let progress = Progress::new();
    let directory = directory(&args.cluster)?;
    let cluster = match Cluster::open(&directory) {
        Ok(cluster) => {
            if cluster.state.nodes.len() != usize::from(args.nodes) {
                bail!(
                    "cluster {} has {} machines; `coracle vm down --name {}` removes it, and another --name makes another",
                    cluster.state.name,
                    cluster.state.nodes.len(),
                    cluster.state.name
                );
            }
            cluster
        }
        Err(vm::cluster::Error::NoCluster { .. }) => {
            instance::node_name(Some(&args.cluster.name)).context("--name")?;
            let plan = Plan {
                name: args.cluster.name.clone(),
                nodes: usize::from(args.nodes),
                kernel: kernel(args.kernel.as_deref())?,
                memory: args.memory,
                cpus: args.cpus,
            };
            progress.say(format_args!(
                "making {} machines with kernel {}",
                args.nodes,
                plan.kernel.image.display()
            ))?;
            create(&directory, &plan, &args.cluster.instance)?
        }
        Err(error) => return Err(error.into()),
    };
    boot(&cluster, &progress, args.timeout).await
}

/// Everything of a cluster that is on disk: certificates, kubeconfigs, disks with the images of this machine.
fn create(directory: &Path, plan: &Plan, instance: &InstanceArgs) -> anyhow::Result<Cluster> {
    // What an interrupted attempt left has no state file and is nobody's.
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    instance::create_private_directory(directory)
        .with_context(|| format!("creating {}", directory.display()))?;
    let mut cluster = Cluster::create(directory, plan)?;
    cluster.write_program(&own_binary()?)?;
    let pki = Pki::open(directory.join("pki"))?;
    let server = cluster.state.nodes.first().context("a cluster has a machine")?;
    let url = format!("https://{}:{PORT}", server.address);
    let admin = Subject {
        common_name: "admin".into(),
        organization: Some("system:masters".into()),
        ..Subject::default()
    };
    write_private(
        &directory.join("kubeconfig"),
        kubeconfig(&url, pki.ca(), "admin", &pki.pair("admin", &admin)?).as_bytes(),
    )?;
    let images = Instance::new(instance)?.image_dir();
    for node in &cluster.state.nodes {
        let content = cluster.node_directory(node).join("content");
        write_content(&content, &pki, &url, node, node == server, &images)?;
        cluster.make_disk(node, &content, DISK)?;
        fs::remove_dir_all(&content).with_context(|| format!("removing {}", content.display()))?;
    }
    cluster.forget_program()?;
    cluster.save()?;
    Ok(cluster)
}

/// The first content of a machine's disk, its data directory.
fn write_content(
    content: &Path,
    pki: &Pki,
    url: &str,
    node: &NodeState,
    server: bool,
    images: &Path,
) -> anyhow::Result<()> {
    let own = content.join("pki");
    instance::create_private_directory(&own).with_context(|| format!("creating {}", own.display()))?;
    let copy = |name: &str, to: &str| -> anyhow::Result<()> {
        let (from, to) = (pki.ca_file().with_file_name(name), own.join(to));
        fs::copy(&from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
        Ok(())
    };
    copy("ca.crt", "ca.crt")?;
    if server {
        // It makes its own certificates, and everybody's.
        copy("ca.key", "ca.key")?;
    } else {
        let name = &node.name;
        let addresses = vec![node.address.into(), Ipv4Addr::LOCALHOST.into()];
        let subject = Subject {
            common_name: format!("system:node:{name}"),
            organization: Some("system:nodes".into()),
            dns_names: vec![name.clone()],
            addresses,
        };
        let pair = pki.pair(&format!("node-{name}"), &subject)?;
        copy(&format!("node-{name}.crt"), "node.crt")?;
        copy(&format!("node-{name}.key"), "node.key")?;
        write_private(
            &content.join("agent.kubeconfig"),
            kubeconfig(url, pki.ca(), &subject.common_name, &pair).as_bytes(),
        )?;
        let proxy = Subject {
            common_name: "system:kube-proxy".into(),
            organization: Some("system:node-proxier".into()),
            ..Subject::default()
        };
        let pair = pki.pair("proxy", &proxy)?;
        write_private(
            &content.join("proxy.kubeconfig"),
            kubeconfig(url, pki.ca(), &proxy.common_name, &pair).as_bytes(),
        )?;
    }
    if images.is_dir() {
        // Links where that is possible: mkfs reads them once, and then they go.
        let output =
            std::process::Command::new("cp").arg("-al").arg(images).arg(content.join("images")).output()?;
        if !output.status.success() {
            bail!("copying {}: {}", images.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

async fn boot(cluster: &Cluster, progress: &Progress, timeout: Duration) -> anyhow::Result<()> {
    let accelerator = accelerator(cluster, progress)?;
    cluster.ensure_network().await?;
    let nodes = &cluster.state.nodes;
    let mut waiting = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        if cluster.is_running(node) {
            waiting.push((node, None));
            continue;
        }
        waiting.push((node, Some(Timestamp::now())));
        cluster.start(node, &config(cluster, node, number), accelerator)?;
        progress.say(format_args!("{} is starting at {}", node.name, node.address))?;
    }
    let path = cluster.directory.join("kubeconfig");
    let client = Client::from_kubeconfig(&path)?;
    tokio::time::timeout(timeout, wait_ready(cluster, waiting, &client, progress)).await.with_context(
        || format!("the nodes are not Ready; `coracle vm logs {}` may say why", nodes[0].name),
    )??;
    say(format_args!("export KUBECONFIG={}", path.display()))
}

/// What each machine runs.
fn config(cluster: &Cluster, node: &NodeState, number: usize) -> Config {
    let mut program: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| program.extend(words.iter().map(|word| (*word).to_owned()));
    if number == 0 {
        add(&["coracle", "up", "--listen", &format!("{}:{PORT}", node.address)]);
    } else {
        add(&["coracle", "agent", "--kubeconfig", "/var/lib/coracle/agent.kubeconfig"]);
    }
    // The number of a machine is that of its share of the pod addresses.
    add(&[
        "--node-name",
        &node.name,
        "--node-ip",
        &node.address.to_string(),
        "--node-cidr",
        &format!("10.42.{number}.0/24"),
    ]);
    Config {
        hostname: node.name.clone(),
        address: ipnet::Ipv4Net::new(node.address, cluster.state.subnet.prefix_len()).ok(),
        gateway: Some(cluster.host()),
        nameservers: nameservers(),
        hosts: cluster
            .state
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.address))
            .collect::<BTreeMap<_, _>>(),
        disk: true,
        device: None,
        program,
        once: false,
    }
}

/// This machine's name servers that a guest can reach too.
fn nameservers() -> Vec<Ipv4Addr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
    lines.filter(|address: &Ipv4Addr| !address.is_loopback()).collect()
}

/// Waits until every one of the nodes is Ready, those that were started since then, and says so of each.
async fn wait_ready(
    cluster: &Cluster,
    mut waiting: Vec<(&NodeState, Option<Timestamp>)>,
    client: &Client,
    progress: &Progress,
) -> anyhow::Result<()> {
    let api = client.all::<Node>();
    let mut answered = false;
    loop {
        // A server that does not listen yet offers nothing to wait for.
        if let Ok(list) = api.list(&client::ListParams::default()).await {
            if !std::mem::replace(&mut answered, true) {
                progress.say("the API server answers")?;
            }
            let ready = |name: &str, since: Option<Timestamp>| {
                list.items.iter().any(|node| node.name() == name && is_ready(node, since))
            };
            for (node, _) in waiting.extract_if(.., |(node, since)| ready(&node.name, *since)) {
                progress.say(format_args!("{} is Ready", node.name))?;
            }
            if waiting.is_empty() {
                return Ok(());
            }
        }
        if let Some((node, _)) = waiting.iter().find(|(node, _)| !cluster.is_running(node)) {
            bail!("{} has switched itself off; `coracle vm logs {}` tells why", node.name, node.name);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Ready by a report of after that time: one that is coming back was Ready before it went.
fn is_ready(node: &Node, since: Option<Timestamp>) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True");
    // The machine's clock was set from this one's, to the second.
    let fresh = |at: &Time| since.is_none_or(|since| at.0 >= since - SignedDuration::from_secs(2));
    ready.any(|condition| condition.last_heartbeat_time.as_ref().is_some_and(fresh))
}

/// Found out once for each start of this machine: nothing changes it in between.
fn accelerator(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Accelerator> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let cache = cluster.directory.with_file_name(".accelerator");
    let known = fs::read_to_string(&cache).unwrap_or_default();
    if let Some(answer) = known.strip_prefix(boot.trim()) {
        return Ok(if answer.trim() == "kvm" { Accelerator::Kvm } else { Accelerator::Emulation });
    }
    let (accelerator, why) = accel::probe(&cluster.state.kernel)
        .context("starting QEMU (Debian: apt-get install qemu-system-x86)")?;
    let word = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Emulation => "emulation",
    };
    progress.say(format_args!("acceleration: {word} ({why})"))?;
    write_private(&cache, format!("{} {word}\n", boot.trim()).as_bytes())?;
    Ok(accelerator)
}

async fn stop(cluster: &Cluster) -> anyhow::Result<()> {
    // The control plane last: the others tell it what becomes of them.
    for node in cluster.state.nodes.iter().rev() {
        cluster.stop(node)?;
        say(format_args!("{} is off", node.name))?;
    }
    Ok(())
}

async fn down(directory: &Path) -> anyhow::Result<()> {
    let cluster = Cluster::open(directory)?;
    for node in &cluster.state.nodes {
        cluster.kill(node)?;
    }
    cluster.remove_network().await?;
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    say(format_args!("cluster {} is gone", cluster.state.name))
}

fn list(args: &InstanceArgs) -> anyhow::Result<()> {
    let mut rows = vec![["CLUSTER", "NODE", "ADDRESS", "MEMORY", "STATE"].map(str::to_owned).to_vec()];
    for cluster in Cluster::list(&parent(args)?)? {
        for node in &cluster.state.nodes {
            let state = if cluster.is_running(node) { "running" } else { "off" };
            rows.push(vec![
                cluster.state.name.clone(),
                node.name.clone(),
                node.address.to_string(),
                format!("{}Mi", cluster.state.memory),
                state.to_owned(),
            ]);
        }
    }
    print(&align(&rows))
}

fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    let cluster = Cluster::open(&directory(&args.cluster)?)?;
    let node = cluster.node(&args.node)?;
    match cluster.run(node, &args.command, Duration::from_secs(600))? {
        Response::Ended { code, stdout, stderr } => {
            print(&stdout)?;
            std::io::stderr().write_all(stderr.as_bytes())?;
            if code == 0 { Ok(()) } else { Err(ExitStatus(u8::try_from(code).unwrap_or(1)).into()) }
        }
        Response::Failed(reason) => bail!("{}: {reason}", node.name),
        Response::Done | Response::Data(_) => Ok(()),
    }
}

/// Over the guest's serial port, part by part: meant for files, not for disks.
fn copy(args: &CpArgs) -> anyhow::Result<()> {
    let cluster = Cluster::open(&directory(&args.cluster)?)?;
    let inside = |word: &str| -> Option<(String, String)> {
        let (node, path) = word.split_once(':')?;
        (!node.contains('/')).then(|| (node.to_owned(), path.to_owned()))
    };
    match (inside(&args.from), inside(&args.to)) {
        (None, Some((node, path))) => {
            let mut file = fs::File::open(&args.from).with_context(|| format!("opening {}", args.from))?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            // A folder means: under the same name.
            let name = Path::new(&args.from).file_name().unwrap_or_default().to_string_lossy();
            let path = if path.ends_with('/') { format!("{path}{name}") } else { path };
            Ok(cluster.write_file(cluster.node(&node)?, &mut file, &path, mode)?)
        }
        (Some((node, path)), None) => {
            let mut content = Vec::new();
            cluster.read_file(cluster.node(&node)?, &path, &mut content)?;
            fs::write(&args.to, content).with_context(|| format!("writing {}", args.to))
        }
        _ => bail!("one of the two is NODE:PATH, and the other one a file here"),
    }
}

fn find(args: &NodeArgs) -> anyhow::Result<(Cluster, NodeState)> {
    let cluster = Cluster::open(&directory(&args.cluster)?)?;
    let node = cluster.node(&args.node)?.clone();
    Ok((cluster, node))
}

fn parent(args: &InstanceArgs) -> anyhow::Result<PathBuf> {
    Ok(Instance::new(args)?.data_dir.join("vm"))
}

fn directory(name: &Name) -> anyhow::Result<PathBuf> {
    Ok(parent(&name.instance)?.join(&name.name))
}

fn kernel(asked: Option<&Path>) -> anyhow::Result<vm::kernel::Kernel> {
    Ok(match asked {
        Some(path) => vm::kernel::at(&std::path::absolute(path)?)?,
        None => vm::kernel::find(Path::new("/boot"))?,
    })
}

/// The file of this program: guests run it too.
fn own_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding the file of this program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_ready_before_it_went_is_not_back_yet() {
        let node = |status: &str, at: &str| -> Node {
            let condition = serde_json::json!({"type": "Ready", "status": status, "lastHeartbeatTime": at});
            serde_json::from_value(serde_json::json!({"status": {"conditions": [condition]}})).unwrap()
        };
        let started: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        assert!(is_ready(&node("True", "2026-01-01T11:00:00Z"), None));
        assert!(!is_ready(&node("True", "2026-01-01T11:59:00Z"), Some(started)));
        assert!(is_ready(&node("True", "2026-01-01T12:00:07Z"), Some(started)));
        assert!(!is_ready(&node("Unknown", "2026-01-01T12:00:07Z"), Some(started)));
    }
}
