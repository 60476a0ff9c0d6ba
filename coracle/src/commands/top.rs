//! `coracle top`: what nodes and pods use now, as the metrics API says it.

use anyhow::bail;
use clap::{Args, Subcommand};
use manifests::quantity::Quantity;
use serde_json::Value;

use super::output::align;
use super::resources::{encode, query};
use super::{Session, print};
use crate::flags::ApiArgs;

const API: &str = "/apis/metrics.k8s.io/v1beta1";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coracle top nodes\n  coracle top pods -A --containers\n\n\
                        CPU is a rate and needs two looks: the first time it takes a second.")]
pub(crate) struct TopArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What nodes use, and how much of what they offer
    #[command(visible_aliases = ["node", "no"])]
    Nodes(OfNodes),
    /// What pods use
    #[command(visible_aliases = ["pod", "po"])]
    Pods(OfPods),
}

#[derive(Debug, Args)]
struct OfNodes {
    /// Only this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only nodes with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct OfPods {
    /// Only this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only pods with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Pods of every namespace
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Each container by itself
    #[arg(long)]
    containers: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    match args.what {
        What::Nodes(args) => nodes(args).await,
        What::Pods(args) => pods(args).await,
    }
}

fn items(answer: Value) -> Vec<Value> {
    match answer {
        Value::Object(mut list) if list.contains_key("items") => {
            list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
        }
        one => vec![one],
    }
}

async fn nodes(args: OfNodes) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let path = match &args.name {
        Some(name) => format!("{API}/nodes/{}", encode(name)),
        None => format!("{API}/nodes{}", query(&[("labelSelector", args.selector.as_deref())])),
    };
    let used = items(session.get(&path).await?);
    let nodes = session.resource("nodes").await?.collection(None);
    let nodes = items(session.get(&nodes).await?);
    if used.is_empty() {
        bail!("no node has told what it uses: see `coracle get nodes`");
    }
    print(&align(&of_nodes(&used, &nodes)))
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Cores in thousandths, rounded up as upstream does.
fn cpu(quantity: &Value) -> i64 {
    quantity.as_str().and_then(|text| text.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.milli())
}

fn bytes(quantity: &Value) -> i64 {
    quantity.as_str().and_then(|text| text.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.value())
}

fn mebibytes(bytes: i64) -> String {
    format!("{}Mi", bytes >> 20)
}

fn share(used: i64, of: i64) -> String {
    if of > 0 { format!("{}%", used.saturating_mul(100) / of) } else { "<unknown>".to_owned() }
}

fn of_nodes(used: &[Value], nodes: &[Value]) -> Vec<Vec<String>> {
    let heading = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(used.iter().map(|used| {
        let node = nodes.iter().find(|node| name(node) == name(used)).unwrap_or(&Value::Null);
        let offered = &node["status"]["allocatable"];
        let (cores, memory) = (cpu(&used["usage"]["cpu"]), bytes(&used["usage"]["memory"]));
        vec![
            name(used).to_owned(),
            format!("{cores}m"),
            share(cores, cpu(&offered["cpu"])),
            mebibytes(memory),
            share(memory, bytes(&offered["memory"])),
        ]
    }));
    rows
}

async fn pods(args: OfPods) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let namespace = encode(&session.namespace);
    let selector = query(&[("labelSelector", args.selector.as_deref())]);
    let path = match &args.name {
        Some(_) if args.all_namespaces => {
            bail!("a resource cannot be retrieved by name across all namespaces")
        }
        Some(name) => format!("{API}/namespaces/{namespace}/pods/{}", encode(name)),
        None if args.all_namespaces => format!("{API}/pods{selector}"),
        None => format!("{API}/namespaces/{namespace}/pods{selector}"),
    };
    let used = items(session.get(&path).await?);
    if used.is_empty() {
        eprintln!("No running pods found");
        return Ok(());
    }
    print(&align(&of_pods(&used, args.all_namespaces, args.containers)))
}

fn of_pods(used: &[Value], namespaces: bool, containers: bool) -> Vec<Vec<String>> {
    let mut heading = Vec::new();
    if namespaces {
        heading.push("NAMESPACE");
    }
    heading.extend(if containers { &["POD", "NAME"][..] } else { &["NAME"] });
    heading.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let mut rows = vec![heading.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for pod in used {
        let parts = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = |container: Option<&str>, parts: &[Value]| {
            let mut row = Vec::new();
            if namespaces {
                row.push(pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
            }
            row.push(name(pod).to_owned());
            row.extend(container.map(str::to_owned));
            row.push(format!("{}m", parts.iter().map(|part| cpu(&part["usage"]["cpu"])).sum::<i64>()));
            row.push(mebibytes(parts.iter().map(|part| bytes(&part["usage"]["memory"])).sum()));
            row
        };
        if containers {
            rows.extend(parts.iter().map(|part| row(part["name"].as_str(), std::slice::from_ref(part))));
        } else {
            rows.push(row(None, parts));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_in_the_units_that_people_know() {
        let nodes =
            [json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "8Gi"}}})];
        let used =
            [json!({"metadata": {"name": "n"}, "usage": {"cpu": "499999999n", "memory": "1048576Ki"}})];
        assert_eq!(of_nodes(&used, &nodes)[1], ["n", "500m", "25%", "1024Mi", "12%"]);
        let pods = [json!({"metadata": {"name": "p", "namespace": "x"}, "containers": [
            {"name": "a", "usage": {"cpu": "1m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "2m", "memory": "3Mi"}}]})];
        assert_eq!(of_pods(&pods, true, false)[1], ["x", "p", "3m", "4Mi"]);
        assert_eq!(of_pods(&pods, false, true)[2], ["p", "b", "2m", "3Mi"]);
    }
}
