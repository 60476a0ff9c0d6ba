//! Which probes run: those of containers that run, first the startup probe alone, then the others.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::observe::{RunState, containers};
use super::super::status::container_id;
use super::Worker;
use super::facts::Facts;
use crate::probe::{Kind, ProbeTarget, Probing};

impl Worker {
    /// Starts probes that are missing, and ends those whose containers have.
    pub(super) fn reconcile_probes(&mut self) {
        let mut wanted = BTreeMap::new();
        let address = self.facts.addresses.first().cloned().unwrap_or_default();
        if let (Some(sandbox), Some(spec)) = (&self.facts.sandbox, &self.facts.pod.spec) {
            for (container, _) in containers(spec) {
                let run = self.facts.runs.get(&container.name).and_then(|runs| runs.first());
                let Some(run) = run.filter(|run| run.in_sandbox) else { continue };
                let RunState::Running { started_at } = run.state else { continue };
                let target = || ProbeTarget {
                    pod: self.facts.pod.clone(),
                    container: container.clone(),
                    id: run.id.clone(),
                    sandbox: sandbox.clone(),
                    address: address.clone(),
                    started_at,
                };
                let mut want = |kind, probe: &Option<_>| {
                    if let Some(probe) = probe {
                        wanted.insert((run.id.clone(), kind), (target(), Clone::clone(probe)));
                    }
                };
                if container.startup_probe.is_some() && run.probes.startup != Some(true) {
                    want(Kind::Startup, &container.startup_probe);
                } else {
                    // A container that is going is not restarted for being unhealthy.
                    if self.stop.is_none() {
                        want(Kind::Liveness, &container.liveness_probe);
                    }
                    want(Kind::Readiness, &container.readiness_probe);
                }
            }
        }
        self.probes.retain(|key, _| wanted.contains_key(key));
        for ((id, kind), (target, probe)) in wanted {
            self.probes.entry((id, kind)).or_insert_with(|| {
                let (http, events) = (self.context.http.clone(), self.context.events.clone());
                Probing::start(target, kind, probe, http, events, self.verdicts.0.clone())
            });
        }
    }
}

/// After a restart of the agent probes begin anew, and what was ready is ready until they say otherwise: that is no
/// outage.
pub(super) fn restore_probes(facts: &mut Facts, pod: &Pod) {
    let Some(spec) = &pod.spec else { return };
    let old = facts.last_status.clone();
    let statuses = old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
    let statuses: BTreeMap<&str, _> = statuses.map(|status| (status.name.as_str(), status)).collect();
    for (container, _) in containers(spec) {
        let Some(run) = facts.runs.get_mut(&container.name).and_then(|runs| runs.first_mut()) else {
            continue;
        };
        let Some(status) = statuses.get(container.name.as_str()) else { continue };
        if status.container_id.as_deref() == Some(container_id(run).as_str()) {
            run.probes.startup =
                container.startup_probe.as_ref().and(status.started.filter(|started| *started));
            run.resources = Some(status.resources.clone().unwrap_or_default());
            run.probes.readiness = container.readiness_probe.as_ref().and(status.ready.then_some(true));
        }
    }
}
