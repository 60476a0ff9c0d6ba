//! What to do next for a pod: a pure function of what is seen.
//!
//! ```text
//!            ┌─────────── Run ───────────┐            ┌────────── Stop ───────────┐
//!   sandbox, volumes, image   (at once)  │            │ leave the service table   │
//!   init containers, one after the other │ ─────────▶ │ app containers, at once   │ ──▶ tear down ──▶ confirm
//!   sidecars as they come in that order  │  deleted,  │ sidecars, last one first  │     everything
//!   app containers, all at once          │  finished  │                           │
//!   └── ended: back-off, start again ────┘            └───────────────────────────┘
//! ```
//!
//! No action is repeated while it is under way, so deciding again right after applying a plan yields nothing to do.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{Container, PodSpec};

use super::admit;
use super::backoff::{self, LastRun, Restart};
use super::hash::container_hash;
use super::observe::{
    ContainerSeen, Exit, ImageSeen, Intent, Observed, Operation, Role, RunState, SandboxSeen, StepSeen, Stop,
    containers, ephemeral,
};
use super::resize::{self, Verdict};
use crate::clock::is_early;
use crate::names::pod_id;

/// What is left to a pod that has to go at once.
const IMMEDIATE_GRACE: SignedDuration = SignedDuration::from_secs(1);
/// Sidecars get this much even when the others have used the grace period up.
const MINIMUM_GRACE: SignedDuration = SignedDuration::from_secs(2);

/// What to do, what to say, and when to look again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be begun now, in this order, without waiting for each other.
    pub actions: Vec<Action>,
    /// Why containers do not run, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod is over for this reason, whatever its containers say.
    pub failed: Option<PodFailure>,
    /// What becomes of other resources that are wanted.
    pub resize: Option<Verdict>,
    /// Nothing of it will run again.
    pub finished: bool,
    /// When something will be due, if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make namespaces, cgroup and network; `replaces` says that one died before.
    CreateSandbox {
        /// How many came before it.
        attempt: u32,
        /// There is a dead one to remove.
        replaces: bool,
    },
    /// Put volumes in place.
    PrepareVolumes,
    /// Make sure that a container's image is there.
    EnsureImage {
        /// Name of the container.
        container: String,
    },
    /// Start a container.
    StartContainer {
        /// Its name.
        container: String,
        /// How many runs came before.
        attempt: u32,
        /// How long to wait when this run ends.
        delay: Option<SignedDuration>,
    },
    /// Stop a container.
    StopContainer {
        /// Its name.
        container: String,
        /// Its id.
        id: String,
        /// When it is killed.
        deadline: Timestamp,
        /// Why.
        cause: StopCause,
    },
    /// Tell the proxy that no new connection should come.
    Leave,
    /// Hold a running container to what its pod was given.
    ResizeContainer {
        /// Its name.
        container: String,
        /// Its id.
        id: String,
    },
    /// Remove what the kernel has of the pod.
    TearDown,
    /// Tell the server that the pod is gone.
    Confirm,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The pod goes.
    PodStops,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its definition changed.
    Changed,
    /// Its postStart hook failed.
    PostStartHook,
    /// It has to start anew to have other resources.
    Resized,
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// One word.
    pub reason: String,
    /// A sentence; may be empty.
    pub message: String,
}

/// Why a pod failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFailure {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// What the event says about it, if it is a warning; else it is an ordinary one with the message.
    pub warning: Option<String>,
    /// How long processes may take to end, if that is not up to the pod.
    pub grace: Option<SignedDuration>,
    /// Somebody else is the reason, so the pod may be replaced without counting against it.
    pub disruption: bool,
}

impl PodFailure {
    /// The pod may not run here.
    pub fn rejected(reason: &str, message: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            message: format!("Pod was rejected: {message}"),
            warning: Some(message.to_owned()),
            grace: None,
            disruption: false,
        }
    }

    /// The node has no room for the pod any more.
    pub fn evicted(message: String, grace: Option<SignedDuration>) -> Self {
        let warning = Some(message.clone());
        Self { reason: "Evicted".to_owned(), message, warning, grace, disruption: true }
    }

    /// The pod uses more than it said it would.
    pub fn over_limit(message: String) -> Self {
        Self { disruption: false, ..Self::evicted(message, Some(IMMEDIATE_GRACE)) }
    }
}

/// Decides.
pub fn decide(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    match seen.intent {
        Intent::Stop(stop) => decide_stop(seen, stop, &mut plan),
        Intent::Run => decide_run(seen, &mut plan),
    }
    plan
}

fn decide_run(seen: &Observed, plan: &mut Plan) {
    let spec = seen.spec();
    let over = matches!(seen.last_status.phase.as_deref(), Some("Succeeded" | "Failed"));
    // A pod that is over stays what it was.
    if !over {
        plan.failed = seen.evicted.clone().or_else(|| refused(seen)).or_else(|| past_deadline(seen, plan));
    }
    if over || plan.failed.is_some() || is_finished(seen) {
        plan.finished = true;
        // What still runs (sidecars, or everything at a deadline) goes as in a deletion, only that the pod stays.
        let grace = seen.evicted.as_ref().and_then(|evicted| evicted.grace).unwrap_or(grace_period(spec));
        stop_containers(seen, Stop { since: seen.now, grace, removed: false }, plan);
        if plan.actions.is_empty()
            && !is_anything_alive(seen)
            && seen.in_progress.is_empty()
            && !seen.torn_down
        {
            plan.actions.push(Action::TearDown);
        }
        return;
    }
    plan.resize = seen.resizing.as_ref().map(resize::verdict);
    decide_containers(seen, plan);
    for container in ephemeral(spec).iter().filter(|container| seen.newest(&container.name).is_none()) {
        start(seen, container, 0, None, plan);
    }
    prepare(seen, plan);
}

/// Sandbox and volumes, which need nothing and may take a while: before and beside images.
fn prepare(seen: &Observed, plan: &mut Plan) {
    let mut actions = Vec::new();
    if !seen.is_busy(&Operation::Sandbox) {
        match &seen.sandbox {
            SandboxSeen::Ready { .. } => {}
            SandboxSeen::None => {
                let attempt = seen.last_sandbox_attempt().map_or(0, |last| last + 1);
                actions.push(Action::CreateSandbox { attempt, replaces: false });
            }
            // How its containers ended, and how many there were, is about to be heard.
            SandboxSeen::Dead { .. } if is_undecided(seen) => {}
            SandboxSeen::Dead { attempt } => {
                actions.push(Action::CreateSandbox { attempt: attempt + 1, replaces: true });
            }
            SandboxSeen::Failed(failure) if is_early(seen.now, failure.retry_at) => {
                plan.wake(failure.retry_at)
            }
            SandboxSeen::Failed(_) => {
                let attempt = seen.last_sandbox_attempt().map_or(0, |last| last + 1);
                actions.push(Action::CreateSandbox { attempt, replaces: false });
            }
        }
    }
    if !seen.is_busy(&Operation::Volumes) {
        match &seen.volumes {
            StepSeen::Done => {}
            StepSeen::Failed(failure) if is_early(seen.now, failure.retry_at) => plan.wake(failure.retry_at),
            StepSeen::Stale { retry_at } if is_early(seen.now, *retry_at) => plan.wake(*retry_at),
            StepSeen::Todo | StepSeen::Stale { .. } | StepSeen::Failed(_) => {
                actions.push(Action::PrepareVolumes)
            }
        }
    }
    plan.actions.splice(0..0, actions);
}

/// Init containers in order, then the others; what is unhealthy is stopped, what ended starts again.
fn decide_containers(seen: &Observed, plan: &mut Plan) {
    let spec = seen.spec();
    let initialized = spec.containers.iter().any(|container| seen.current(&container.name).is_some());
    for (container, role) in containers(spec) {
        let run = seen.current(&container.name);
        match role {
            Role::Init if initialized => continue,
            Role::Init => {
                if run.and_then(ContainerSeen::exit).is_some_and(|exit| exit.code == 0) {
                    continue;
                }
                decide_container(seen, container, role, plan);
                return;
            }
            Role::Sidecar => {
                decide_container(seen, container, role, plan);
                // Once the app containers run, a sidecar that restarts holds nobody up.
                if !initialized && !run.is_some_and(|run| seen.is_started(container, run)) {
                    return;
                }
            }
            Role::App => decide_container(seen, container, role, plan),
            // Not among them: they hold nobody up, and nobody holds them up.
            Role::Ephemeral => {}
        }
    }
}

fn decide_container(seen: &Observed, container: &Container, role: Role, plan: &mut Plan) {
    let Some(run) = seen.current(&container.name) else {
        // Runs in an earlier sandbox count: what completed there must not run twice.
        let ended = seen.newest(&container.name).and_then(|run| Some((run, run.exit()?)));
        return match ended {
            Some((_, exit)) if role == Role::App && !should_restart(seen.spec(), container, role, exit) => {}
            Some((run, exit)) => restart(seen, container, run, exit, plan),
            None => start(seen, container, 0, None, plan),
        };
    };
    match &run.state {
        RunState::Created | RunState::Running { .. } => {
            if let Some(cause) = unhealthy(container, role, run)
                && !seen.is_busy(&Operation::Stop(run.id.clone()))
            {
                let grace = probe_grace(container, cause).unwrap_or_else(|| grace_period(seen.spec()));
                plan.actions.push(Action::StopContainer {
                    container: container.name.clone(),
                    id: run.id.clone(),
                    deadline: seen.now.saturating_add(grace).unwrap_or(Timestamp::MAX),
                    cause,
                });
            } else {
                hold_to_resources(seen, container, run, plan);
            }
        }
        RunState::Exited(exit) if should_restart(seen.spec(), container, role, exit) => {
            restart(seen, container, run, exit, plan);
        }
        RunState::Exited(_) => {}
    }
}

/// A container that runs with other resources than its pod was given gets these.
fn hold_to_resources(seen: &Observed, container: &Container, run: &ContainerSeen, plan: &mut Plan) {
    let applied = run.resources.as_ref().filter(|_| matches!(run.state, RunState::Running { .. }));
    let Some(applied) = applied.filter(|applied| !resize::same(container.resources.as_ref(), Some(*applied)))
    else {
        return;
    };
    let (name, id) = (container.name.clone(), run.id.clone());
    if seen.is_busy(&Operation::Stop(id.clone())) || seen.is_busy(&Operation::Resize(id.clone())) {
        return;
    }
    if resize::needs_restart(container, applied) {
        let deadline = seen.now.saturating_add(grace_period(seen.spec())).unwrap_or(Timestamp::MAX);
        plan.actions.push(Action::StopContainer { container: name, id, deadline, cause: StopCause::Resized });
        return;
    }
    match seen.resize_failures.get(&id) {
        Some(failure) if is_early(seen.now, failure.retry_at) => plan.wake(failure.retry_at),
        _ => plan.actions.push(Action::ResizeContainer { container: name, id }),
    }
}

fn unhealthy(container: &Container, role: Role, run: &ContainerSeen) -> Option<StopCause> {
    if run.hook_failed {
        Some(StopCause::PostStartHook)
    } else if run.probes.startup == Some(false) {
        Some(StopCause::Startup)
    } else if run.probes.liveness == Some(false) {
        Some(StopCause::Liveness)
    } else if role == Role::App && run.hash != container_hash(container) {
        Some(StopCause::Changed)
    } else {
        None
    }
}

fn restart(seen: &Observed, container: &Container, run: &ContainerSeen, exit: &Exit, plan: &mut Plan) {
    if seen.is_busy(&Operation::Start(container.name.clone())) {
        return;
    }
    let finished_at = exit.finished_at.unwrap_or(run.created_at);
    let last = LastRun { delay: run.delay, created_at: run.created_at, finished_at };
    match backoff::restart(last, seen.now) {
        Restart::Now { next } => start(seen, container, run.attempt + 1, Some(next), plan),
        Restart::Wait { delay, until } => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                backoff::display(delay),
                container.name,
                pod_id(&seen.pod)
            );
            plan.wait_for(container, "CrashLoopBackOff", message);
            plan.wake(until);
        }
    }
}

fn start(
    seen: &Observed,
    container: &Container,
    attempt: u32,
    delay: Option<SignedDuration>,
    plan: &mut Plan,
) {
    let name = &container.name;
    if seen.is_busy(&Operation::Start(name.clone())) {
        return;
    }
    if let Some(failure) = seen.failures.get(name) {
        plan.wait_for(container, &failure.reason, failure.message.clone());
        if is_early(seen.now, failure.retry_at) {
            plan.wake(failure.retry_at);
            return;
        }
    }
    let image_ready = match seen.images.get(name) {
        Some(ImageSeen::Ready) => true,
        Some(ImageSeen::Failed { first, waiting, flip_at }) => {
            match waiting {
                Some((reason, message)) if !is_early(seen.now, *flip_at) => {
                    plan.wait_for(container, reason, message.clone());
                }
                _ => plan.wait_for(container, &first.reason, first.message.clone()),
            }
            if is_early(seen.now, *flip_at) {
                plan.wake(*flip_at);
            }
            if is_early(seen.now, first.retry_at) {
                plan.wake(first.retry_at);
            } else {
                ensure_image(seen, container, plan);
            }
            false
        }
        None => {
            ensure_image(seen, container, plan);
            false
        }
    };
    let prepared = matches!(seen.sandbox, SandboxSeen::Ready { .. })
        && !seen.is_busy(&Operation::Sandbox)
        && matches!(seen.volumes, StepSeen::Done | StepSeen::Stale { .. });
    if image_ready && prepared {
        plan.actions.push(Action::StartContainer { container: name.clone(), attempt, delay });
    }
}

fn ensure_image(seen: &Observed, container: &Container, plan: &mut Plan) {
    if !seen.is_busy(&Operation::Image(container.name.clone())) {
        plan.actions.push(Action::EnsureImage { container: container.name.clone() });
    }
}

fn decide_stop(seen: &Observed, stop: Stop, plan: &mut Plan) {
    plan.finished = true;
    let at_once = stop.removed && stop.grace.is_zero();
    if !at_once {
        stop_containers(seen, stop, plan);
        if !plan.actions.is_empty() || is_anything_alive(seen) {
            return;
        }
    }
    // What is under way may yet make something that has to be removed; pulls are given up by the worker.
    let makes_things = |operation: &Operation| {
        matches!(operation, Operation::Sandbox | Operation::Volumes | Operation::Start(_) | Operation::Leave)
    };
    if seen.in_progress.iter().any(makes_things) || seen.is_busy(&Operation::TearDown) {
        return;
    }
    if !seen.torn_down {
        if at_once && !seen.left && !seen.pod_ips.is_empty() {
            plan.actions.push(Action::Leave);
        }
        plan.actions.push(Action::TearDown);
    } else if !seen.confirmed && !seen.is_busy(&Operation::Confirm) {
        plan.actions.push(Action::Confirm);
    }
}

/// The pod leaves the service table, then its app containers are asked to end, then its sidecars in reverse order.
fn stop_containers(seen: &Observed, stop: Stop, plan: &mut Plan) {
    let alive = |container: &Container| seen.current(&container.name).filter(|run| run.is_alive()).cloned();
    let spec = seen.spec();
    let mut apps = Vec::new();
    let mut sidecars = Vec::new();
    let passing = ephemeral(spec);
    apps.extend(passing.iter().filter_map(|container| Some((container, alive(container)?))));
    for (container, role) in containers(spec) {
        if let Some(run) = alive(container) {
            if role == Role::Sidecar { &mut sidecars } else { &mut apps }.push((container, run));
        }
    }
    if apps.is_empty() && sidecars.is_empty() {
        return;
    }
    if !seen.left {
        if !seen.is_busy(&Operation::Leave) {
            plan.actions.push(Action::Leave);
        }
        return;
    }
    let mut deadline = stop.deadline();
    if apps.is_empty() {
        deadline = deadline.max(seen.now.saturating_add(MINIMUM_GRACE).unwrap_or(Timestamp::MAX));
        apps.extend(sidecars.pop());
    }
    for (container, run) in apps {
        if !seen.is_busy(&Operation::Stop(run.id.clone())) {
            plan.actions.push(Action::StopContainer {
                container: container.name.clone(),
                id: run.id,
                deadline,
                cause: StopCause::PodStops,
            });
        }
    }
}

fn is_anything_alive(seen: &Observed) -> bool {
    seen.containers.values().flatten().any(|run| run.in_sandbox && run.is_alive())
}

/// Whether the last word on the containers of a dead sandbox is still to come.
fn is_undecided(seen: &Observed) -> bool {
    let starting = seen.in_progress.iter().any(|operation| matches!(operation, Operation::Start(_)));
    starting || is_anything_alive(seen)
}

/// Whether no container will run again, so that the pod is over.
fn is_finished(seen: &Observed) -> bool {
    let spec = seen.spec();
    if spec.containers.is_empty() {
        return false;
    }
    let over = |container: &Container, role: Role| {
        let exit = seen.newest(&container.name).and_then(ContainerSeen::exit);
        exit.is_some_and(|exit| !should_restart(spec, container, role, exit))
    };
    let init_failed = containers(spec).filter(|(_, role)| *role == Role::Init).any(|(container, role)| {
        let exit = seen.newest(&container.name).and_then(ContainerSeen::exit);
        exit.is_some_and(|exit| exit.code != 0) && over(container, role)
    });
    let starting = spec.containers.iter().any(|c| seen.is_busy(&Operation::Start(c.name.clone())));
    init_failed || (!starting && spec.containers.iter().all(|container| over(container, Role::App)))
}

/// Whether a container that ended like this runs again.
pub fn should_restart(spec: &PodSpec, container: &Container, role: Role, exit: &Exit) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::App => {}
    }
    if let Some(own) = container.restart_policy.as_deref() {
        for rule in container.restart_policy_rules.iter().flatten() {
            if let Some(codes) = &rule.exit_codes {
                let listed = codes.values.iter().flatten().any(|code| *code == exit.code);
                let matches = match codes.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                };
                if matches && rule.action == "Restart" {
                    return true;
                }
            }
        }
        return by_policy(own, role, exit);
    }
    by_policy(spec.restart_policy.as_deref().unwrap_or("Always"), role, exit)
}

fn by_policy(policy: &str, role: Role, exit: &Exit) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit.code != 0,
        // An init container that succeeded is done, whatever the policy of the pod.
        _ => role != Role::Init || exit.code != 0,
    }
}

/// Whether the pod may run here is asked once: before anything of it runs.
fn refused(seen: &Observed) -> Option<PodFailure> {
    let untouched = seen.containers.is_empty() && seen.sandbox.attempt().is_none();
    if untouched { admit::refuse(&seen.pod) } else { None }
}

fn past_deadline(seen: &Observed, plan: &mut Plan) -> Option<PodFailure> {
    let limit = seen.spec().active_deadline_seconds?;
    let started = seen.last_status.start_time.as_ref()?.0;
    let deadline = started.saturating_add(SignedDuration::from_secs(limit)).ok()?;
    if seen.now < deadline {
        plan.wake(deadline);
        return None;
    }
    Some(PodFailure {
        warning: None,
        grace: None,
        disruption: false,
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
    })
}

/// The pod's own period for ending.
pub fn grace_period(spec: &PodSpec) -> SignedDuration {
    SignedDuration::from_secs(spec.termination_grace_period_seconds.unwrap_or(30).max(0))
}

fn probe_grace(container: &Container, cause: StopCause) -> Option<SignedDuration> {
    let probe = match cause {
        StopCause::Liveness => container.liveness_probe.as_ref(),
        StopCause::Startup => container.startup_probe.as_ref(),
        StopCause::PodStops | StopCause::Changed | StopCause::PostStartHook | StopCause::Resized => None,
    };
    probe?.termination_grace_period_seconds.map(SignedDuration::from_secs)
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn wait_for(&mut self, container: &Container, reason: &str, message: String) {
        self.waiting.insert(container.name.clone(), Waiting { reason: reason.to_owned(), message });
    }
}

impl Observed {
    /// The number of the last sandbox, if there was one; a pod that ran before had one, known or not.
    fn last_sandbox_attempt(&self) -> Option<u32> {
        self.sandbox.attempt().or_else(|| (!self.containers.is_empty()).then_some(0))
    }
}

#[cfg(test)]
mod tests;
