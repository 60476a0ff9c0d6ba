//! Tables over [`status`].

use std::sync::Arc;

use super::*;
use crate::fixture;
use crate::pod::decide::{Waiting, decide};
use crate::pod::observe::{ProbesSeen, SandboxSeen, StepSeen, Stop};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn seen(spec: &str) -> Observed {
    Observed {
        pod: Arc::new(fixture::pod(&format!("{{{spec}}}"))),
        now: at(100),
        intent: Intent::Run,
        sandbox: SandboxSeen::Ready { attempt: 0 },
        containers: BTreeMap::new(),
        images: BTreeMap::new(),
        volumes: StepSeen::Done,
        failures: BTreeMap::new(),
        in_progress: Default::default(),
        evicted: None,
        left: false,
        torn_down: false,
        confirmed: false,
        pod_ips: vec!["10.42.0.2".into()],
        host_ips: vec!["192.0.2.1".into()],
        resizing: None,
        resize_failures: BTreeMap::new(),
        last_status: PodStatus::default(),
    }
}

fn run(state: RunState, attempt: u32) -> ContainerSeen {
    ContainerSeen {
        id: format!("id{attempt}"),
        attempt,
        in_sandbox: true,
        hash: String::new(),
        image: "i".into(),
        image_id: "sha256:1".into(),
        created_at: at(0),
        delay: None,
        state,
        probes: ProbesSeen::default(),
        hook_failed: false,
        stop_signal: String::new(),
        resources: None,
        user: None,
    }
}

fn running() -> RunState {
    RunState::Running { started_at: at(10) }
}

fn exited(code: i32) -> RunState {
    RunState::Exited(Exit {
        code,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started_at: Some(at(10)),
        finished_at: Some(at(20)),
    })
}

/// `phase Condition…(those that are true) container=state/ready` in one line.
fn line(status: &PodStatus) -> String {
    let mut words = vec![status.phase.clone().unwrap()];
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status == "True") {
        words.push(condition.type_.clone());
    }
    for status in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
        let state = status.state.as_ref().unwrap();
        let state = if let Some(waiting) = &state.waiting {
            waiting.reason.clone().unwrap()
        } else if let Some(terminated) = &state.terminated {
            format!("{}({})", terminated.reason.as_deref().unwrap(), terminated.exit_code)
        } else {
            "Running".to_owned()
        };
        let ready = if status.ready { "+" } else { "" };
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.map_or_else(String::new, |last| format!("<{}", last.exit_code));
        words.push(format!("{}={state}{ready}{last}#{}", status.name, status.restart_count));
    }
    words.join(" ")
}

#[track_caller]
fn check(seen: &Observed, expected: &str) {
    let status = status(seen, &decide(seen));
    assert_eq!(line(&status).replace("PodReadyToStartContainers", "Sandbox"), expected);
}

fn with(mut seen: Observed, name: &str, runs: &[RunState]) -> Observed {
    let count = u32::try_from(runs.len()).unwrap();
    let runs = runs.iter().zip(0..).map(|(state, index)| run(state.clone(), count - 1 - index)).collect();
    seen.containers.insert(name.into(), runs);
    seen
}

const ONE: &str = "containers: [{name: a, image: i}]";
const TWO: &str = "containers: [{name: a, image: i}, {name: b, image: i}]";
const INIT: &str = "initContainers: [{name: i, image: i}], containers: [{name: a, image: i}]";
const NEVER: &str = "restartPolicy: Never, containers: [{name: a, image: i}, {name: b, image: i}]";
const SIDECAR: &str = "restartPolicy: Never, initContainers: [{name: s, image: i, restartPolicy: Always}], containers: [{name: a, image: i}]";
const INIT_NEVER: &str =
    "restartPolicy: Never, initContainers: [{name: i, image: i}], containers: [{name: a, image: i}]";

#[test]
fn from_pending_to_running() {
    let mut new = seen(ONE);
    new.sandbox = SandboxSeen::None;
    check(&new, "Pending Initialized PodScheduled a=ContainerCreating#0");
    check(&seen(ONE), "Pending Sandbox Initialized PodScheduled a=ContainerCreating#0");
    check(
        &with(seen(ONE), "a", &[running()]),
        "Running Sandbox Initialized Ready ContainersReady PodScheduled a=Running+#0",
    );
    check(
        &with(seen(TWO), "a", &[running()]),
        "Pending Sandbox Initialized PodScheduled a=Running+#0 b=ContainerCreating#0",
    );
}

#[test]
fn init_containers() {
    check(&seen(INIT), "Pending Sandbox PodScheduled i=PodInitializing#0 a=PodInitializing#0");
    check(
        &with(seen(INIT), "i", &[running()]),
        "Pending Sandbox PodScheduled i=Running#0 a=PodInitializing#0",
    );
    check(
        &with(seen(INIT), "i", &[exited(0)]),
        "Pending Sandbox Initialized PodScheduled i=Completed(0)+#0 a=PodInitializing#0",
    );
    check(
        &with(seen(INIT_NEVER), "i", &[exited(1)]),
        "Failed Sandbox PodScheduled i=Error(1)#0 a=PodInitializing#0",
    );
    check(
        &with(with(seen(INIT), "i", &[exited(0)]), "a", &[running()]),
        "Running Sandbox Initialized Ready ContainersReady PodScheduled i=Completed(0)+#0 a=Running+#0",
    );
}

#[test]
fn restarts() {
    check(
        &with(seen(ONE), "a", &[running(), exited(3)]),
        "Running Sandbox Initialized Ready ContainersReady PodScheduled a=Running+<3#1",
    );
    let mut crashing = with(seen(ONE), "a", &[exited(1), exited(1)]);
    crashing.containers.get_mut("a").unwrap()[0].delay = Some(jiff::SignedDuration::from_secs(100));
    check(&crashing, "Running Sandbox Initialized PodScheduled a=CrashLoopBackOff<1#1");
    let status = status(&crashing, &decide(&crashing));
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap().clone();
    assert_eq!(condition.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(condition.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn ends() {
    let ended = |codes: [i32; 2]| with(with(seen(NEVER), "a", &[exited(codes[0])]), "b", &[exited(codes[1])]);
    check(&ended([0, 0]), "Succeeded Sandbox Initialized PodScheduled a=Completed(0)#0 b=Completed(0)#0");
    check(&ended([0, 1]), "Failed Sandbox Initialized PodScheduled a=Completed(0)#0 b=Error(1)#0");
    check(
        &with(with(seen(NEVER), "a", &[exited(1)]), "b", &[running()]),
        "Running Sandbox Initialized PodScheduled a=Error(1)#0 b=Running+#0",
    );
    check(
        &with(with(seen(SIDECAR), "a", &[exited(0)]), "s", &[running()]),
        "Running Sandbox Initialized PodScheduled s=Running+#0 a=Completed(0)#0",
    );
    check(
        &with(with(seen(SIDECAR), "a", &[exited(0)]), "s", &[exited(137)]),
        "Succeeded Sandbox Initialized PodScheduled s=Error(137)#0 a=Completed(0)#0",
    );
}

#[test]
fn a_pod_that_is_stopped_ends_whatever_its_policy() {
    let stop = |codes: RunState| {
        let mut seen = with(seen(ONE), "a", &[codes]);
        let grace = jiff::SignedDuration::from_secs(30);
        seen.intent = Intent::Stop(Stop { since: at(90), grace, removed: false });
        seen
    };
    check(&stop(running()), "Running Sandbox Initialized Ready ContainersReady PodScheduled a=Running+#0");
    check(&stop(exited(0)), "Succeeded Sandbox Initialized PodScheduled a=Completed(0)#0");
    check(&stop(exited(143)), "Failed Sandbox Initialized PodScheduled a=Error(143)#0");
}

#[test]
fn probes_make_ready() {
    const PROBED: &str = "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}}, startupProbe: {tcpSocket: {port: 1}}}]";
    let probed = |startup, readiness| {
        let mut seen = with(seen(PROBED), "a", &[running()]);
        seen.containers.get_mut("a").unwrap()[0].probes = ProbesSeen { startup, liveness: None, readiness };
        let status = status(&seen, &decide(&seen));
        let status = &status.container_statuses.as_ref().unwrap()[0];
        (status.started.unwrap(), status.ready)
    };
    assert_eq!(probed(None, None), (false, false));
    assert_eq!(probed(Some(true), None), (true, false));
    assert_eq!(probed(Some(true), Some(false)), (true, false));
    assert_eq!(probed(Some(true), Some(true)), (true, true));
}

#[test]
fn what_the_runtime_forgot_is_in_the_status_before() {
    let before = {
        let seen = with(seen(NEVER), "a", &[exited(1)]);
        let seen = with(seen, "b", &[exited(0)]);
        status(&seen, &decide(&seen))
    };
    let mut later = seen(NEVER);
    later.sandbox = SandboxSeen::None;
    later.torn_down = true;
    later.last_status = before.clone();
    let after = status(&later, &decide(&later));
    assert_eq!(after.phase.as_deref(), Some("Failed"));
    assert_eq!(
        after.container_statuses.as_ref().unwrap()[0].state,
        before.container_statuses.unwrap()[0].state
    );
    assert_eq!(after.start_time, before.start_time);
}

#[test]
fn transition_times_change_with_the_status_alone() {
    let mut seen = with(seen(ONE), "a", &[running()]);
    let first = status(&seen, &decide(&seen));
    seen.last_status = first.clone();
    seen.now = at(200);
    assert_eq!(status(&seen, &decide(&seen)), first, "nothing happened, nothing changes");
    seen.containers.get_mut("a").unwrap()[0].state = exited(1);
    let second = status(&seen, &decide(&seen));
    let time = |status: &PodStatus, kind: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        condition.last_transition_time.clone()
    };
    assert_ne!(time(&first, "Ready"), time(&second, "Ready"));
    assert_eq!(time(&first, "Initialized"), time(&second, "Initialized"));
}

#[test]
fn deadlines_have_their_reason() {
    let mut plan = Plan {
        failed: Some(crate::pod::decide::PodFailure {
            reason: "DeadlineExceeded".into(),
            message: "too long".into(),
            warning: None,
            grace: None,
            disruption: false,
        }),
        ..Plan::default()
    };
    let mut seen = with(seen(ONE), "a", &[running()]);
    let first = status(&seen, &plan);
    assert_eq!((first.phase.as_deref(), first.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    seen.last_status = first;
    plan.failed = None;
    let second = status(&seen, &plan);
    assert_eq!(
        (second.phase.as_deref(), second.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn gates_are_asked() {
    let gated = |conditions: &str| {
        let mut seen = with(
            seen("readinessGates: [{conditionType: x.io/y}], containers: [{name: a, image: i}]"),
            "a",
            &[running()],
        );
        let mut pod = (*seen.pod).clone();
        pod.status = Some(serde_yaml::from_str(&format!("{{conditions: [{conditions}]}}")).unwrap());
        seen.pod = Arc::new(pod);
        let status = status(&seen, &decide(&seen));
        status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap().message.clone()
    };
    assert_eq!(
        gated("").as_deref(),
        Some("corresponding condition of pod readiness gate \"x.io/y\" does not exist.")
    );
    assert_eq!(
        gated("{type: x.io/y, status: 'False'}").as_deref(),
        Some("the status of pod readiness gate \"x.io/y\" is not \"True\", but False")
    );
    assert_eq!(gated("{type: x.io/y, status: 'True'}"), None);
}

#[test]
fn waiting_reasons_are_told() {
    let plan = Plan {
        waiting: BTreeMap::from([(
            "a".to_owned(),
            Waiting { reason: "ErrImagePull".into(), message: "no route".into() },
        )]),
        ..Plan::default()
    };
    let status = status(&seen(ONE), &plan);
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!((state.reason.as_deref(), state.message.as_deref()), (Some("ErrImagePull"), Some("no route")));
}
