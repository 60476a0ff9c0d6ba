//! The conditions of a pod: PodReadyToStartContainers, Initialized, Ready, ContainersReady, PodScheduled.

use jiff::Timestamp;
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::Plan;
use super::observe::{Observed, Role, RunState, SandboxSeen, containers};
use super::resize;

/// Types that the agent owns; all others are kept as they are.
const OWN: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    RESIZE_PENDING,
    RESIZE_IN_PROGRESS,
];
const RESIZE_PENDING: &str = "PodResizePending";
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// A condition without its times.
struct Verdict {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self { kind, status: true, reason: None, message: None }
    }

    fn no(kind: &'static str, reason: Option<&'static str>, message: Option<String>) -> Self {
        Self { kind, status: false, reason, message }
    }
}

/// Computes the conditions that go with `status`, which has everything else already.
pub(super) fn conditions(seen: &Observed, plan: &Plan, status: &PodStatus) -> Vec<PodCondition> {
    let old = seen.last_status.conditions.as_deref().unwrap_or_default();
    // What others wrote into the API since then is newer than what we remember.
    let api = seen.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let foreign = |condition: &&PodCondition| !OWN.contains(&condition.type_.as_str());
    let mut list: Vec<PodCondition> = api.iter().filter(foreign).cloned().collect();
    for condition in old.iter().filter(foreign) {
        if !list.iter().any(|listed| listed.type_ == condition.type_) {
            list.push(condition.clone());
        }
    }
    let containers_ready = containers_ready(seen, status);
    let ready = ready(seen, &containers_ready, &list);
    let has_network = matches!(seen.sandbox, SandboxSeen::Ready { .. }) && !seen.torn_down;
    let to_start = match has_network {
        true => Verdict::yes("PodReadyToStartContainers"),
        false => Verdict::no("PodReadyToStartContainers", None, None),
    };
    let verdicts =
        [to_start, initialized(seen, status), ready, containers_ready, Verdict::yes("PodScheduled")];
    for verdict in verdicts.into_iter().chain(resize_pending(plan)).chain(resize_in_progress(seen)) {
        let before = old.iter().chain(api).find(|condition| condition.type_ == verdict.kind);
        list.push(with_times(verdict, before, seen));
    }
    if let Some(evicted) = seen.evicted.as_ref().filter(|evicted| evicted.disruption) {
        const KIND: &str = "DisruptionTarget";
        let message = Some(evicted.message.clone());
        let verdict = Verdict { reason: Some("TerminationByKubelet"), message, ..Verdict::yes(KIND) };
        let before =
            list.iter().position(|condition| condition.type_ == KIND).map(|index| list.remove(index));
        list.push(with_times(verdict, before.as_ref(), seen));
    }
    list
}

/// Other resources are wanted than the node gives.
fn resize_pending(plan: &Plan) -> Option<Verdict> {
    let (reason, message) = match plan.resize.as_ref()? {
        resize::Verdict::Give => return None,
        resize::Verdict::Deferred(message) => ("Deferred", message),
        resize::Verdict::Infeasible(message) => ("Infeasible", message),
    };
    Some(Verdict { reason: Some(reason), message: Some(message.clone()), ..Verdict::yes(RESIZE_PENDING) })
}

/// A container runs with other resources than it was given.
fn resize_in_progress(seen: &Observed) -> Option<Verdict> {
    let late = containers(seen.spec()).find_map(|(container, _)| {
        let run =
            seen.current(&container.name).filter(|run| matches!(run.state, RunState::Running { .. }))?;
        let applied = run.resources.as_ref()?;
        (!resize::same(container.resources.as_ref(), Some(applied))).then_some(run)
    })?;
    let failure = seen.resize_failures.get(&late.id);
    let reason = failure.map(|_| "Error");
    Some(Verdict {
        reason,
        message: failure.map(|failure| failure.message.clone()),
        ..Verdict::yes(RESIZE_IN_PROGRESS)
    })
}

fn with_times(verdict: Verdict, before: Option<&PodCondition>, seen: &Observed) -> PodCondition {
    let text = if verdict.status { "True" } else { "False" };
    let kept = before.filter(|before| before.status == text);
    let now = Timestamp::from_second(seen.now.as_second()).unwrap_or(seen.now);
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: text.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: kept.and_then(|before| before.last_transition_time.clone()).or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: seen.pod.metadata.generation,
    }
}

/// All statuses, init containers first.
fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

fn containers_ready(seen: &Observed, status: &PodStatus) -> Verdict {
    const KIND: &str = "ContainersReady";
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no(KIND, Some("PodCompleted"), None),
        Some("Failed") => return Verdict::no(KIND, Some("PodFailed"), None),
        _ => {}
    }
    let is_ready = |name: &str| all(status).any(|status| status.name == name && status.ready);
    let unready: Vec<&str> = containers(seen.spec())
        .filter(|(_, role)| *role != Role::Init)
        .map(|(container, _)| container.name.as_str())
        .filter(|name| !is_ready(name))
        .collect();
    if unready.is_empty() {
        return Verdict::yes(KIND);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::no(KIND, Some("ContainersNotReady"), Some(message))
}

fn ready(seen: &Observed, containers_ready: &Verdict, foreign: &[PodCondition]) -> Verdict {
    const KIND: &str = "Ready";
    if !containers_ready.status {
        return Verdict::no(KIND, containers_ready.reason, containers_ready.message.clone());
    }
    let mut messages = Vec::new();
    for gate in seen.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match foreign.iter().find(|condition| condition.type_ == *kind) {
            None => messages.push(format!(
                "corresponding condition of pod readiness gate {} does not exist.",
                quote(kind)
            )),
            Some(condition) if condition.status != "True" => messages.push(format!(
                "the status of pod readiness gate {} is not \"True\", but {}",
                quote(kind),
                condition.status
            )),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        Verdict::yes(KIND)
    } else {
        Verdict::no(KIND, Some("ReadinessGatesNotReady"), Some(messages.join(", ")))
    }
}

fn initialized(seen: &Observed, status: &PodStatus) -> Verdict {
    const KIND: &str = "Initialized";
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes(KIND) };
    }
    // A pod whose app containers have run was initialised, whatever its sidecars do now.
    let app_started = status.container_statuses.iter().flatten().any(|status| {
        let state = status.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    if app_started {
        return Verdict::yes(KIND);
    }
    let incomplete: Vec<&str> = containers(seen.spec())
        .filter(|(container, role)| {
            let status = all(status).find(|status| status.name == container.name);
            match role {
                Role::App | Role::Ephemeral => false,
                Role::Init => !status.is_some_and(|status| status.ready),
                Role::Sidecar => status.is_none_or(|status| status.started != Some(true)),
            }
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::yes(KIND);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::no(KIND, Some("ContainersNotInitialized"), Some(message))
}
