//! A pod's status: a pure function of what was seen and of the status before it. Phases, reasons and conditions are
//! spelled as the kubelet spells them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, PodIP, PodStatus, VolumeMount, VolumeMountStatus,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::qos;

use super::conditions;
use super::decide::{Plan, should_restart};
use super::observe::{ContainerSeen, Exit, Intent, Observed, Role, RunState, containers, ephemeral};
use crate::names::is_static;
use crate::spec::is_recursive;

/// Prefix of container ids in statuses.
pub const ID_PREFIX: &str = "coracle://";

/// Computes the status of a pod.
pub fn status(seen: &Observed, plan: &Plan) -> PodStatus {
    let old = &seen.last_status;
    let mut init_statuses = Vec::new();
    let mut app_statuses = Vec::new();
    for (container, role) in containers(seen.spec()) {
        let status = container_status(seen, plan, container, role);
        if role == Role::App { &mut app_statuses } else { &mut init_statuses }.push(status);
    }

    let passing = ephemeral(seen.spec());
    let passing: Vec<ContainerStatus> =
        passing.iter().map(|container| container_status(seen, plan, container, Role::Ephemeral)).collect();
    let stopped = matches!(seen.intent, Intent::Stop(_)) && !any_alive(seen);
    let mut phase = phase(seen, &init_statuses, &app_statuses, stopped && !is_static(&seen.pod));
    // A pod that is over stays over.
    if let Some(over) = old.phase.as_deref().filter(|phase| is_terminal(phase)) {
        over.clone_into(&mut phase);
    }
    let mut reason = None;
    let mut message = None;
    if old.phase.as_deref() == Some(phase.as_str()) {
        reason.clone_from(&old.reason);
        message.clone_from(&old.message);
    }
    if let Some(failed) = &plan.failed {
        "Failed".clone_into(&mut phase);
        reason = Some(failed.reason.clone());
        message = Some(failed.message.clone());
    }

    let host_network = seen.spec().host_network.unwrap_or(false);
    let pod_ips = if !seen.pod_ips.is_empty() {
        seen.pod_ips.clone()
    } else if host_network {
        seen.host_ips.clone()
    } else {
        // The address of a pod that is over is still told, so that its last log lines can be placed.
        old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    let mut status = PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: None,
        container_statuses: Some(app_statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        ephemeral_container_statuses: (!passing.is_empty()).then_some(passing),
        host_ip: seen.host_ips.first().cloned(),
        host_ips: (!seen.host_ips.is_empty())
            .then(|| seen.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(qos::class(&seen.pod).as_str().to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or(Time(whole_second(seen.now)))),
        observed_generation: seen.pod.metadata.generation,
        nominated_node_name: old.nominated_node_name.clone(),
        ..PodStatus::default()
    };
    status.conditions = Some(conditions::conditions(seen, plan, &status));
    status
}

/// Times in statuses have whole seconds; a fraction would be cut on the way and look like a change.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether a pod in this phase is over.
pub fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn any_alive(seen: &Observed) -> bool {
    seen.containers.values().flatten().any(|run| run.in_sandbox && run.is_alive())
}

fn container_status(seen: &Observed, plan: &Plan, container: &Container, role: Role) -> ContainerStatus {
    let name = &container.name;
    let old = old_status(seen, name, role);
    let mut status = ContainerStatus {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        volume_mounts: container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mounted).collect()),
        resources: container.resources.clone().filter(|resources| *resources != Default::default()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        ..ContainerStatus::default()
    };
    let runs = seen.containers.get(name).map(Vec::as_slice).unwrap_or_default();
    match runs.first() {
        Some(run) => {
            status.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
            status.image.clone_from(&run.image);
            status.image_id.clone_from(&run.image_id);
            status.container_id = Some(container_id(run));
            status.state = Some(state(run));
            if let (RunState::Running { .. }, Some(applied)) = (&run.state, &run.resources) {
                status.resources = Some(applied.clone()).filter(|resources| *resources != Default::default());
            }
            let own = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_ref());
            status.stop_signal = own.map(|_| run.stop_signal.clone());
            status.user = run.user.clone().map(|linux| ContainerUser { linux: Some(linux) });
            let before = runs.get(1).and_then(|run| Some((run, run.exit()?)));
            status.last_state = match before {
                Some((run, exit)) => Some(terminated(run, exit)),
                None => old.and_then(|old| last_state_of_old(old, run)),
            };
        }
        None => {
            if let Some(old) = old {
                status.restart_count = old.restart_count;
                status.last_state.clone_from(&old.last_state);
                let ended = old.state.as_ref().and_then(|state| state.terminated.as_ref());
                if ended.is_some() {
                    status.state.clone_from(&old.state);
                    status.container_id.clone_from(&old.container_id);
                    status.image_id.clone_from(&old.image_id);
                }
            }
        }
    }
    if let Some(waiting) = plan.waiting.get(name) {
        // What is being waited for says more than how the last run ended; that moves to the last state.
        let ended = status.state.take().filter(|state| state.terminated.is_some());
        status.last_state = ended.or(status.last_state.take());
        status.state = Some(waiting_state(&waiting.reason, &waiting.message));
    }
    if status.state.is_none() {
        let init = seen.spec().init_containers.as_ref().is_some_and(|list| !list.is_empty());
        status.state = Some(waiting_state(if init { "PodInitializing" } else { "ContainerCreating" }, ""));
    }
    if let Some(run) = runs.first().filter(|run| run.in_sandbox) {
        let started = seen.is_started(container, run);
        status.started = Some(started);
        status.ready = match role {
            Role::Init => run.exit().is_some_and(|exit| exit.code == 0),
            // Nobody sends anything to it.
            Role::Ephemeral => false,
            Role::App | Role::Sidecar => {
                started && (container.readiness_probe.is_none() || run.probes.readiness == Some(true))
            }
        };
    } else if role == Role::Init {
        let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        status.ready = ended.is_some_and(|ended| ended.exit_code == 0);
    }
    status
}

fn mounted(mount: &VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only.unwrap_or(false);
    let recursive = if is_recursive(mount) { "Enabled" } else { "Disabled" };
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursive.to_owned()),
        ..VolumeMountStatus::default()
    }
}

fn old_status<'a>(seen: &'a Observed, name: &str, role: Role) -> Option<&'a ContainerStatus> {
    let old = &seen.last_status;
    let list = match role {
        Role::App => &old.container_statuses,
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|status| status.name == name)
}

/// What an earlier status says of the run before `run`, when the runtime has forgotten that one.
fn last_state_of_old(old: &ContainerStatus, run: &ContainerSeen) -> Option<ContainerState> {
    if old.container_id.as_deref() == Some(container_id(run).as_str()) {
        return old.last_state.clone();
    }
    let ended = old.state.clone().filter(|state| state.terminated.is_some());
    ended.or_else(|| old.last_state.clone())
}

/// A container's id as statuses have it.
pub fn container_id(run: &ContainerSeen) -> String {
    format!("{ID_PREFIX}{}", run.id)
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn state(run: &ContainerSeen) -> ContainerState {
    match &run.state {
        RunState::Created => waiting_state("ContainerCreating", ""),
        RunState::Running { started_at } => {
            let running = ContainerStateRunning { started_at: Some(Time(whole_second(*started_at))) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        RunState::Exited(exit) => terminated(run, exit),
    }
}

fn terminated(run: &ContainerSeen, exit: &Exit) -> ContainerState {
    let time = |time: Option<Timestamp>| time.map(|time| Time(whole_second(time)));
    let terminated = ContainerStateTerminated {
        container_id: Some(container_id(run)),
        exit_code: exit.code,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: time(exit.started_at),
        finished_at: time(exit.finished_at),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// How a status counts towards the phase.
enum Counts {
    Running,
    /// Ended; says with what, and whether it runs again.
    Stopped {
        code: i32,
        again: bool,
    },
    Waiting,
}

fn counts(seen: &Observed, container: &Container, role: Role, status: &ContainerStatus) -> Counts {
    let state = status.state.as_ref();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let stopped = |ended: &ContainerStateTerminated| {
        let exit = Exit {
            code: ended.exit_code,
            reason: String::new(),
            message: None,
            started_at: None,
            finished_at: None,
        };
        Counts::Stopped { code: ended.exit_code, again: should_restart(seen.spec(), container, role, &exit) }
    };
    if state.is_some_and(|state| state.running.is_some()) {
        Counts::Running
    } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        stopped(ended)
    } else if let Some(ended) = last {
        stopped(ended)
    } else {
        Counts::Waiting
    }
}

/// The phase by the states of all containers. `stopped`: the pod was stopped, so nothing runs again whatever its policy.
fn phase(
    seen: &Observed,
    init_statuses: &[ContainerStatus],
    app_statuses: &[ContainerStatus],
    stopped: bool,
) -> String {
    let by_name: BTreeMap<&str, &ContainerStatus> =
        init_statuses.iter().chain(app_statuses).map(|status| (status.name.as_str(), status)).collect();
    let (mut running, mut waiting, mut ended, mut succeeded, mut again) = (0, 0, 0, 0, 0);
    let (mut init_pending, mut sidecar_pending) = (false, false);
    let app_ran = app_statuses.iter().any(|status| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || status.last_state.is_some()
    });
    for (container, role) in containers(seen.spec()) {
        let Some(status) = by_name.get(container.name.as_str()) else { continue };
        match (role, counts(seen, container, role, status)) {
            (Role::Init, Counts::Running | Counts::Waiting) => init_pending = true,
            (Role::Init, Counts::Stopped { code: 0, .. }) => {}
            (Role::Init, Counts::Stopped { again: false, .. }) => return "Failed".to_owned(),
            (Role::Init, Counts::Stopped { .. }) => init_pending = true,
            (Role::Sidecar, Counts::Running) => {
                sidecar_pending |= status.started != Some(true);
                running += 1;
            }
            (Role::Sidecar, Counts::Waiting) => {
                sidecar_pending = true;
                waiting += 1;
            }
            (Role::Sidecar, Counts::Stopped { .. }) => {}
            (Role::Ephemeral, _) => {}
            (Role::App, Counts::Running) => running += 1,
            (Role::App, Counts::Waiting) => waiting += 1,
            (Role::App, Counts::Stopped { code, again: restarts }) => {
                ended += 1;
                succeeded += i32::from(code == 0);
                again += i32::from(restarts);
            }
        }
    }
    // Init containers of a pod that has run are history, also when the runtime has forgotten them.
    let pending = (init_pending || sidecar_pending) && !app_ran;
    let phase = if pending || waiting > 0 {
        "Pending"
    } else if running > 0 || (again > 0 && !stopped) {
        "Running"
    } else if ended > 0 && ended == succeeded {
        "Succeeded"
    } else if ended > 0 {
        "Failed"
    } else {
        "Pending"
    };
    phase.to_owned()
}

#[cfg(test)]
mod tests;
