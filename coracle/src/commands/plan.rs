//! `coracle plan`: where the scheduler would put pods now, decided by the same function, without creating anything.
//!
//! Pods are placed one after the other, each counted for the next, so that a plan says whether all of them fit together.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::pod_info::PodInfo;
use scheduler::{Snapshot, Unschedulable, schedule};
use serde_json::{Value, json};

use super::output::align;
use super::{FileArgs, Session, print};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coracle plan -f web.yaml\n  coracle plan -f web.yaml --replicas 10\n\n\
                        Nothing is created. The exit status is 1 if a pod would find no node.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    files: FileArgs,
    /// So many of each instead of what the files say
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    #[command(flatten)]
    api: ApiArgs,
}

/// More pods than this are not a plan for a small cluster.
const MOST: u64 = 10_000;

/// The state of the cluster, as the scheduler sees it.
pub(super) async fn snapshot(session: &Session) -> anyhow::Result<Snapshot> {
    let nodes = session.get(&session.resource("nodes").await?.collection(None)).await?;
    let pods = session.get(&session.resource("pods").await?.collection(None)).await?;
    let nodes: Vec<Node> = serde_json::from_value(nodes["items"].clone()).context("reading the nodes")?;
    let pods: Vec<Pod> = serde_json::from_value(pods["items"].clone()).context("reading the pods")?;
    Ok(Snapshot::of(nodes.into_iter().map(Arc::new), pods.iter()))
}

/// The pods that an object would have: how it is called, how many, and one of them.
fn pods_of(object: &Value) -> Option<(u64, Value)> {
    let template = |template: &Value, count: u64| {
        let mut pod = template.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        (count, pod)
    };
    let spec = &object["spec"];
    match object["kind"].as_str()? {
        "Pod" => Some((1, object.clone())),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
            Some(template(&spec["template"], spec["replicas"].as_u64().unwrap_or(1)))
        }
        "Job" => Some(template(&spec["template"], spec["parallelism"].as_u64().unwrap_or(1))),
        _ => None,
    }
}

pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<()> {
    let manifests = args.files.load()?;
    if manifests.is_empty() {
        bail!("give the files to plan for, such as `coracle plan -f web.yaml`");
    }
    let session = Session::open(&args.api)?;
    let mut snapshot = snapshot(&session).await?;
    let mut rows = vec![["POD", "NODE"].map(str::to_owned).to_vec()];
    let mut unplaced = Vec::new();
    let mut total = 0;
    for manifest in &manifests {
        let Some((count, pod)) = pods_of(&manifest.object) else { continue };
        let count = args.replicas.map_or(count, u64::from);
        total += count;
        if total > MOST {
            bail!("no more than {MOST} pods can be planned at once");
        }
        for number in 0..count {
            let name = match manifest.kind.as_str() {
                "Pod" if count == 1 => manifest.name.clone(),
                _ => format!("{}-{number}", manifest.name),
            };
            let mut object = pod.clone();
            // Each counts for the next, by a uid of its own.
            object["metadata"]["name"] = json!(name);
            object["metadata"]["uid"] = json!(format!("plan-{}-{name}", manifest.kind));
            object["metadata"]["namespace"] =
                json!(manifest.namespace.as_deref().unwrap_or(&session.namespace));
            let pod: Pod = serde_json::from_value(object)
                .with_context(|| format!("reading the pods of {} {}", manifest.kind, manifest.name))?;
            match schedule(&snapshot, &pod) {
                Ok(placement) => {
                    snapshot.add_pod(&placement.node, Arc::new(PodInfo::of(&pod)));
                    rows.push(vec![name, placement.node]);
                }
                Err(why) => {
                    rows.push(vec![name.clone(), "<none>".to_owned()]);
                    // The same reason again and again helps nobody.
                    if unplaced
                        .last()
                        .is_none_or(|(_, last, _): &(String, String, Unschedulable)| *last != why.to_string())
                    {
                        unplaced.push((name, why.to_string(), why));
                    }
                }
            }
        }
    }
    if rows.len() == 1 {
        bail!("the files define no pods, and nothing that has pods");
    }
    print(&align(&rows))?;
    if unplaced.is_empty() {
        return Ok(());
    }
    for (name, _, why) in &unplaced {
        print(&format!("\n{name}: {}", verdicts(why)))?;
    }
    bail!("not all pods would find a node")
}

/// Every node with everything that speaks against it.
pub(super) fn verdicts(why: &Unschedulable) -> String {
    let mut text = format!("{why}\n");
    let mut rows = vec![["NODE", "FILTER", "WHY"].map(str::to_owned).to_vec()];
    for verdict in &why.nodes {
        for refusal in &verdict.refusals {
            let reasons: Vec<&str> = refusal.reasons.iter().map(AsRef::as_ref).collect();
            rows.push(vec![verdict.node.clone(), refusal.plugin.name().to_owned(), reasons.join(", ")]);
        }
    }
    if rows.len() > 1 {
        text.push_str(&align(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_become_pods() {
        let deployment =
            json!({"kind": "Deployment", "spec": {"replicas": 3, "template": {"spec": {"containers": []}}}});
        let (count, pod) = pods_of(&deployment).unwrap();
        assert_eq!((count, pod["kind"].as_str()), (3, Some("Pod")));
        assert_eq!(pods_of(&json!({"kind": "Pod"})).unwrap().0, 1);
        assert_eq!(pods_of(&json!({"kind": "Service"})), None);
    }
}
