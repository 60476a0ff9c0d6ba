//! Pods. Their STATUS is not a field but a summary of what holds them up: the phase, unless a condition, an init
//! container, a container or the deletion has more to say, each overriding what came before.

use super::column::{AGE, NAME, RowCondition, string, wide};
use super::human::{age, instant, name, non_empty};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::core::v1::{
    ContainerState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use manifests::k8s_openapi::jiff::Timestamp;

pub(super) const POD: Printer = Printer {
    columns: &[
        NAME,
        string("Ready", "How many of the pod's containers are ready."),
        string("Status", "The state of the pod as a whole, or what keeps it from running."),
        string("Restarts", "How often containers were restarted, and when the last time was."),
        AGE,
        wide("IP", "The address of the pod."),
        wide("Node", "The node that the pod is bound to."),
        wide("Nominated Node", "The node on which room is being made for the pod."),
        wide("Readiness Gates", "How many of the pod's readiness gates hold."),
    ],
    row: |object, now| print::<Pod>(object, |pod| row(pod, now)),
};

const SUCCEEDED: [RowCondition; 1] = [RowCondition {
    kind: "Completed",
    status: "True",
    reason: "Succeeded",
    message: "The pod has completed successfully.",
}];
const FAILED: [RowCondition; 1] =
    [RowCondition { kind: "Completed", status: "True", reason: "Failed", message: "The pod failed." }];

fn row(pod: &Pod, now: Timestamp) -> Row {
    let no_spec = PodSpec::default();
    let no_status = PodStatus::default();
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let phase = status.phase.as_deref().unwrap_or_default();
    let summary = Summary::of(pod, spec, status);
    let address = status.pod_ips.iter().flatten().next().map(|address| address.ip.as_str());
    Row {
        cells: vec![
            name(&pod.metadata),
            format!("{}/{}", summary.ready, summary.containers).into(),
            summary.reason.into(),
            summary.restarts.print(now).into(),
            age(&pod.metadata, now),
            non_empty(address.unwrap_or_default(), "<none>").into(),
            non_empty(spec.node_name.as_deref().unwrap_or_default(), "<none>").into(),
            non_empty(status.nominated_node_name.as_deref().unwrap_or_default(), "<none>").into(),
            readiness_gates(spec, status).into(),
        ],
        conditions: match phase {
            "Succeeded" => &SUCCEEDED,
            "Failed" => &FAILED,
            _ => &[],
        },
    }
}

/// How often containers were restarted, and when the last of them had ended.
#[derive(Debug, Default, Clone, Copy)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .and_then(|terminated| instant(terminated.finished_at.as_ref()));
        self.last = self.last.max(ended);
    }

    fn print(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, manifests::time::age(now.duration_since(last)))
            }
            _ => self.count.to_string(),
        }
    }
}

struct Summary {
    ready: usize,
    containers: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
        let phase = status.phase.as_deref().unwrap_or_default();
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| is_sidecar(c.restart_policy.as_deref()));
        let mut summary = Summary {
            ready: 0,
            containers: spec.containers.len() + sidecars.count(),
            reason: non_empty(status.reason.as_deref().unwrap_or_default(), phase),
            restarts: Restarts::default(),
        };
        let gated = |condition: &PodCondition| {
            condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
        };
        if status.conditions.iter().flatten().any(gated) {
            summary.reason = "SchedulingGated".to_string();
        }

        let (initializing, sidecar_restarts) = summary.add_init_containers(spec, status);
        if !initializing || condition_holds(status, "Initialized") {
            summary.restarts = sidecar_restarts;
            summary.add_containers(status);
        }

        if pod.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                summary.reason = "Unknown".to_string();
            } else if phase != "Succeeded" && phase != "Failed" {
                summary.reason = "Terminating".to_string();
            }
        }
        summary
    }

    /// Goes through the init containers up to the first that is not done; says whether there is one, and how often
    /// those that stay beside the containers were restarted.
    fn add_init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> (bool, Restarts) {
        let declared = spec.init_containers.as_deref().unwrap_or_default();
        let mut sidecar_restarts = Restarts::default();
        for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.add(container);
            let sidecar = declared.iter().any(|declared| {
                declared.name == container.name && is_sidecar(declared.restart_policy.as_deref())
            });
            if sidecar {
                sidecar_restarts.add(container);
            }
            let no_state = ContainerState::default();
            let state = container.state.as_ref().unwrap_or(&no_state);
            let waiting =
                state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            match &state.terminated {
                Some(terminated) if terminated.exit_code == 0 => continue,
                _ if sidecar && container.started == Some(true) => {
                    self.ready += usize::from(container.ready);
                    continue;
                }
                Some(_) => self.reason = format!("Init:{}", ending(state)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => {
                    self.reason = format!("Init:{waiting}");
                }
                None => self.reason = format!("Init:{index}/{}", declared.len()),
            }
            return (true, sidecar_restarts);
        }
        (false, sidecar_restarts)
    }

    /// Goes through the containers from the last, so that the first one that has something to say is heard.
    fn add_containers(&mut self, status: &PodStatus) {
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let Some(state) = &container.state else { continue };
            let waiting =
                state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            if !waiting.is_empty() {
                self.reason = waiting.to_string();
            } else if state.terminated.is_some() {
                self.reason = ending(state);
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // One container has completed and another still runs: the pod as a whole runs.
        if self.reason == "Completed" && running {
            let ready = condition_holds(status, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_string();
        }
    }
}

/// How a container ended: its reason, or the signal or exit code when nobody gave one.
fn ending(state: &ContainerState) -> String {
    let Some(terminated) = &state.terminated else { return String::new() };
    match (terminated.reason.as_deref().unwrap_or_default(), terminated.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", terminated.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

fn is_sidecar(restart_policy: Option<&str>) -> bool {
    restart_policy == Some("Always")
}

fn condition_holds(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_string();
    }
    let holding = gates.iter().filter(|gate| condition_holds(status, &gate.condition_type)).count();
    format!("{holding}/{}", gates.len())
}
