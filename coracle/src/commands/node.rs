//! `coracle node`: what can happen to the nodes of `coracle up --nodes`, made to happen.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::output::align;
use super::{print, say};
use crate::flags::InstanceArgs;
use crate::instance::Instance;
use crate::nodes::cables::Cables;
use crate::nodes::control::{Request, ask};
use crate::nodes::layout::{Layout, Place};

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Show the nodes
    List(ListArgs),
    /// Cut a node's power, as a failure would: everything on it ends at once
    Kill(NamedArgs),
    /// Switch a node on whose power was cut
    Start(NamedArgs),
    /// Pull a node's network cable
    Partition(NamedArgs),
    /// Plug a node's network cable in again
    Heal(NamedArgs),
    /// Run a program of this machine in a node's network
    Exec(ExecArgs),
    /// Show what a node's agent has logged
    Logs(NamedArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct NamedArgs {
    /// Name of the node
    node: String,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// Name of the node
    node: String,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Program and arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) async fn run(args: NodeArgs) -> anyhow::Result<()> {
    match args.command {
        NodeCommand::List(args) => list(&args.instance).await,
        NodeCommand::Kill(args) => one(args, Request::Kill, "is off").await,
        NodeCommand::Start(args) => one(args, Request::Start, "is starting").await,
        NodeCommand::Partition(args) => one(args, Request::Partition, "is cut off").await,
        NodeCommand::Heal(args) => one(args, Request::Heal, "is plugged in").await,
        NodeCommand::Exec(args) => exec(&args),
        NodeCommand::Logs(args) => {
            let (instance, place, _) = find(&args.instance, &args.node)?;
            let path = place.instance(&instance).data_dir.join("agent.log");
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            print(&String::from_utf8_lossy(&text))
        }
    }
}

async fn one(args: NamedArgs, request: fn(String) -> Request, words: &str) -> anyhow::Result<()> {
    ask(&Instance::new(&args.instance)?, &request(args.node.clone())).await?;
    say(format_args!("{} {words}", args.node))
}

async fn list(args: &InstanceArgs) -> anyhow::Result<()> {
    let mut rows = vec![["NODE", "ADDRESS", "STATE"].map(str::to_owned).to_vec()];
    for node in ask(&Instance::new(args)?, &Request::List).await? {
        let state = match (node.on, node.plugged) {
            (false, _) => "off",
            (true, true) => "running",
            (true, false) => "cut off",
        };
        rows.push(vec![node.name, node.address, state.to_owned()]);
    }
    print(&align(&rows))
}

fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    let (_, place, cables) = find(&args.instance, &args.node)?;
    let netns = cables.open(&place).with_context(|| format!("node {} is off", place.name))?;
    let (program, rest) = args.command.split_first().context("a program")?;
    // This process has one thread and ends here.
    netns.enter()?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("starting {program}"))
}

fn find(args: &InstanceArgs, name: &str) -> anyhow::Result<(Instance, Place, Cables)> {
    let instance = Instance::new(args)?;
    let Some(layout) = Layout::open(&instance)? else {
        bail!("{} has no nodes: `coracle up --nodes N` makes them", instance.data_dir.display());
    };
    let place = layout.nodes.iter().find(|place| place.name == name).cloned();
    let place = place.with_context(|| format!("there is no node {name:?}"))?;
    let cables = Cables::new(&instance, &layout);
    Ok((instance, place, cables))
}
