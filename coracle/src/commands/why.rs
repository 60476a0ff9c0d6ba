//! `coracle why`: what stands in the way, from recorded facts: verdicts of the scheduler's filters on every node, states of
//! containers, conditions, and what has happened last.

use anyhow::bail;
use clap::Args;
use manifests::k8s_openapi::api::core::v1::Pod;
use scheduler::schedule;
use serde_json::Value;

use super::output::align;
use super::resources::query;
use super::targets::{self, Selection, Target};
use super::{Session, events, plan, print, say};
use crate::flags::ApiArgs;

/// So many events tell enough.
const EVENTS: usize = 10;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle why pod/web\n  coracle why deployment/web\n  coracle why service/web\n\n\
                        Of a pod that waits for a node, every node's reasons are told; of others, which container is in which state and why."
)]
pub(crate) struct WhyArgs {
    /// TYPE/NAME, TYPE NAME, or the name of a pod
    #[arg(value_name = "RESOURCE", required = true, num_args = 1..=2)]
    resource: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: WhyArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let words = match args.resource.as_slice() {
        [only] if !only.contains('/') => vec![format!("pods/{only}")],
        words => words.to_vec(),
    };
    let target = targets::parse(&session, &words, &Selection::default()).await?.into_iter().next();
    let Some(Target::Named { resource, namespace, name }) = target else {
        bail!("give the name of one object, such as pod/web")
    };
    let object = session.get(&resource.object(&namespace, &name)).await?;
    if resource.kind == "Pod" {
        return pod(&session, &object).await;
    }
    for line in of_object(&resource.kind, &name, &object) {
        say(line)?;
    }
    recent(&session, &resource.kind, &namespace, &name).await?;
    let selector = match resource.kind.as_str() {
        "Service" => &object["spec"]["selector"],
        _ => &object["spec"]["selector"]["matchLabels"],
    };
    let labels: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if labels.is_empty() {
        return Ok(());
    }
    let pods = session.resource("pods").await?;
    let path = pods.collection(Some(&namespace)) + &query(&[("labelSelector", Some(&labels.join(",")))]);
    let found = targets::items(pods, session.get(&path).await?);
    if found.is_empty() {
        say(format_args!("No pod has the labels {}.", labels.join(",")))?;
    }
    for found in found.iter().filter(|pod| !is_ready(pod)) {
        say("")?;
        pod(&session, found).await?;
    }
    Ok(())
}

async fn pod(session: &Session, object: &Value) -> anyhow::Result<()> {
    for line in of_pod(object) {
        say(line)?;
    }
    let metadata = &object["metadata"];
    if object["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        let pod: Pod = serde_json::from_value(object.clone())?;
        match schedule(&plan::snapshot(session).await?, &pod) {
            Ok(placement) => {
                let node = &placement.node;
                say(format_args!(
                    "Node {node} would do now: it will be bound when the scheduler comes to it."
                ))?;
            }
            Err(why) => print(&plan::verdicts(&why))?,
        }
    }
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    recent(session, "Pod", text("namespace"), text("name")).await
}

async fn recent(session: &Session, kind: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
    let resource = session.resource("events").await?;
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let path = resource.collection(Some(namespace)) + &query(&[("fieldSelector", Some(&fields))]);
    let found = targets::items(resource, session.get(&path).await?);
    let mut rows: Vec<Vec<String>> = found.iter().map(|event| events::row(event, false)).collect();
    rows.sort();
    let skipped = rows.len().saturating_sub(EVENTS);
    if rows.is_empty() {
        return Ok(());
    }
    say("What has happened last:")?;
    print(&align(&rows[skipped..]))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// `, because` and what there is of reason and message.
fn because(reason: &Value, message: &Value) -> String {
    let parts: Vec<&str> =
        [reason, message].into_iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(": ")) }
}

fn conditions(object: &Value) -> impl Iterator<Item = String> {
    let good = |condition: &Value| match condition["type"].as_str() {
        Some("ReplicaFailure" | "MemoryPressure" | "DiskPressure" | "PIDPressure" | "Failed") => {
            condition["status"] == "False"
        }
        _ => condition["status"] == "True",
    };
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(move |condition| !good(condition)).map(|condition| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        format!(
            "{} is {}{}",
            text("type"),
            text("status"),
            because(&condition["reason"], &condition["message"])
        )
    })
}

/// What a pod's status says about what is missing. Pure.
fn of_pod(pod: &Value) -> Vec<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let status = &pod["status"];
    let phase = status["phase"].as_str().unwrap_or("Unknown");
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let place = node.map_or_else(|| "has no node yet".to_owned(), |node| format!("is on node {node}"));
    let ready = if is_ready(pod) { ", ready" } else { "" };
    let mut lines = vec![format!(
        "Pod {name} is {phase}{ready} and {place}{}.",
        because(&status["reason"], &status["message"])
    )];
    if let Some(since) = pod["metadata"]["deletionTimestamp"].as_str() {
        lines.push(format!("It is being deleted, by {since} at the latest."));
    }
    if is_ready(pod) && restarts(status) == 0 {
        return lines;
    }
    // A node that is missing is explained by the scheduler's own verdicts.
    let told = |line: &String| node.is_some() || !line.starts_with("PodScheduled");
    lines.extend(conditions(pod).filter(told).map(|line| format!("  {line}")));
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for container in status[list].as_array().into_iter().flatten() {
            lines.extend(of_container(container));
        }
    }
    lines
}

fn restarts(status: &Value) -> u64 {
    let containers = status["containerStatuses"].as_array().into_iter().flatten();
    containers.filter_map(|container| container["restartCount"].as_u64()).sum()
}

fn ended(state: &Value) -> String {
    let code = state["exitCode"].as_i64().unwrap_or(0);
    let how = match state["signal"].as_i64() {
        Some(signal) if signal != 0 => format!("was ended by signal {signal}"),
        _ => format!("ended with exit code {code}"),
    };
    let when = state["finishedAt"].as_str().map_or(String::new(), |when| format!(" at {when}"));
    format!("{how}{when}{}", because(&state["reason"], &state["message"]))
}

fn of_container(container: &Value) -> Vec<String> {
    let name = container["name"].as_str().unwrap_or_default();
    let (state, last) = (&container["state"], &container["lastState"]["terminated"]);
    let now = if state["waiting"].is_object() {
        let waiting = &state["waiting"];
        format!("waits{}", because(&waiting["reason"], &waiting["message"]))
    } else if state["terminated"].is_object() {
        ended(&state["terminated"])
    } else if state["running"].is_object() {
        let ready = if container["ready"] == true { "is ready" } else { "is not ready" };
        let since = state["running"]["startedAt"].as_str().unwrap_or_default();
        format!("runs since {since} and {ready}")
    } else {
        "has not been started".to_owned()
    };
    let mut lines = vec![format!("  Container {name} {now}.")];
    let restarts = container["restartCount"].as_u64().unwrap_or(0);
    if restarts > 0 || last.is_object() {
        let times = if restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
        lines.push(format!("    It was restarted {times}; the run before {}.", ended(last)));
    }
    lines
}

/// The same of anything else with conditions.
fn of_object(kind: &str, name: &str, object: &Value) -> Vec<String> {
    let mut lines = vec![format!("{kind} {name}:")];
    let status = &object["status"];
    if let Some(wanted) = object["spec"]["replicas"].as_u64() {
        let ready = status["readyReplicas"].as_u64().unwrap_or(0);
        lines.push(format!("  {ready} of {wanted} replicas are ready."));
    }
    lines.extend(conditions(object).map(|line| format!("  {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crash_loop_is_told_with_its_last_end() {
        let pod = json!({
            "metadata": {"name": "web"}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running",
                "conditions": [{"type": "Initialized", "status": "True"},
                    {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [a]"}],
                "containerStatuses": [{"name": "a", "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:00Z"}}}]},
        });
        assert_eq!(
            of_pod(&pod),
            [
                "Pod web is Running and is on node n1.",
                "  Ready is False: ContainersNotReady: containers with unready status: [a]",
                "  Container a waits: CrashLoopBackOff: back-off 40s.",
                "    It was restarted 3 times; the run before ended with exit code 137 at 2026-01-01T00:00:00Z: OOMKilled.",
            ]
        );
    }

    #[test]
    fn what_is_well_needs_few_words() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(of_pod(&pod), ["Pod web is Running, ready and is on node n1."]);
        let waiting = json!({"metadata": {"name": "web"}, "spec": {}, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]}});
        assert_eq!(of_pod(&waiting), ["Pod web is Pending and has no node yet."]);
    }
}
