//! Taking over what a runtime and a disk have of the pod: how a worker begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::ErrorChain;
use manifests::k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerState, SandboxEvent};
use tokio::sync::broadcast;

use super::super::apply::attach;
use super::super::runs::{self, Messages};
use super::facts::Facts;
use super::find;
use super::probes::restore_probes;
use super::record::Record;
use crate::context::Context;
use crate::machine::PodSandbox;
use crate::names::{self, label};

/// Pause before a keeper that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What is there of a pod when its worker begins.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) record: Option<Record>,
    pub(super) sandboxes: Vec<Arc<dyn PodSandbox>>,
}

/// Takes what the runtime has of the pod: the newest sandbox is the pod's, others go.
pub(super) async fn adopt(
    context: &Context,
    facts: &mut Facts,
    Found { record, mut sandboxes }: Found,
) -> Option<broadcast::Receiver<SandboxEvent>> {
    let attempt = |sandbox: &Arc<dyn PodSandbox>| {
        sandbox.labels().get(label::ATTEMPT).and_then(|attempt| attempt.parse::<u32>().ok()).unwrap_or(0)
    };
    sandboxes.sort_by_key(attempt);
    let pod = facts.pod.clone();
    let newest = sandboxes.pop();
    let mut events = None;
    if let Some(sandbox) = newest {
        // Before looking: what happens meanwhile is then heard, at worst twice.
        events = sandbox.is_ready().then(|| sandbox.events());
        facts.sandbox_attempt = attempt(&sandbox);
        let reader = Reader { context, pod: &pod };
        for state in containers_of(&*sandbox).await {
            let Some(name) = state.labels.get(label::CONTAINER_NAME) else { continue };
            let ready = sandbox.is_ready();
            let run = runs::from_runtime(&state.id, &state.labels, &state.status, ready, &reader);
            tracing::debug!(pod = %names::pod_id(&pod), container = name, id = run.id, state = ?run.state, "container found");
            facts.runs.entry(name.clone()).or_default().push(run);
        }
        if sandbox.is_ready() {
            match attach(context, &pod, &*sandbox).await {
                Ok(addresses) => facts.addresses = addresses,
                Err(failure) => {
                    tracing::error!(pod = %names::pod_id(&pod), error = failure.message, "finding the address of a pod");
                    let known = facts.last_status.pod_ips.iter().flatten();
                    facts.addresses = known.map(|ip| ip.ip.clone()).collect();
                }
            }
        }
        facts.sandbox = Some(sandbox);
    }
    for old in sandboxes {
        if let Err(error) = old.remove().await {
            tracing::warn!(sandbox = old.id(), error = %ErrorChain(&error), "removing an old sandbox");
        }
        if let Err(error) = context.machine.network.detach(old.id()).await {
            tracing::warn!(sandbox = old.id(), error = %ErrorChain(&error), "detaching an old sandbox");
        }
    }
    for (name, run) in record.as_ref().map(Record::runs).unwrap_or_default() {
        let runs = facts.runs.entry(name).or_default();
        // What the runtime says is newer, if it knows the run at all.
        if !runs.iter().any(|known| known.id == run.id || known.attempt >= run.attempt) {
            runs.push(run);
        }
    }
    for runs in facts.runs.values_mut() {
        runs.sort_by_key(|run| std::cmp::Reverse(run.attempt));
    }
    restore_probes(facts, &pod);
    events
}

/// The containers that a sandbox has. Asks until it is told: whoever took silence for none would start them again.
async fn containers_of(sandbox: &dyn PodSandbox) -> Vec<ContainerState> {
    loop {
        match sandbox.containers().await {
            Ok(list) => return list,
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "listing containers");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Reads the last words of containers.
pub(super) struct Reader<'a> {
    pub(super) context: &'a Context,
    pub(super) pod: &'a Pod,
}

impl Messages for Reader<'_> {
    fn message(&self, labels: &BTreeMap<String, String>, code: i32) -> Option<String> {
        let name = labels.get(label::CONTAINER_NAME)?;
        let attempt = labels.get(label::RESTART_COUNT).map_or("0", String::as_str);
        let log = self.context.layout.container_logs(self.pod, name).join(format!("{attempt}.log"));
        runs::termination_message(&*find(self.pod, name)?, labels, code, &log)
    }
}
