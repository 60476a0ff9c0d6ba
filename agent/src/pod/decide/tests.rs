//! Tables over [`decide`]: a small world in, a line of actions out.

use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::PodStatus;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::fixture;
use crate::pod::observe::{Failure, ProbesSeen};

/// Seconds on the test's clock.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

const NOW: i64 = 1000;

fn failure(reason: &str, retry_at: i64) -> Failure {
    Failure { reason: reason.into(), message: format!("{reason} happened"), retry_at: at(retry_at) }
}

struct World(Observed);

fn world(spec: &str) -> World {
    World(Observed {
        pod: Arc::new(fixture::pod(spec)),
        now: at(NOW),
        intent: Intent::Run,
        sandbox: SandboxSeen::None,
        containers: BTreeMap::new(),
        images: BTreeMap::new(),
        volumes: StepSeen::Todo,
        failures: BTreeMap::new(),
        in_progress: Default::default(),
        evicted: None,
        left: false,
        torn_down: false,
        confirmed: false,
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        resizing: None,
        resize_failures: BTreeMap::new(),
        last_status: PodStatus::default(),
    })
}

impl World {
    fn change(mut self, change: impl FnOnce(&mut Observed)) -> Self {
        change(&mut self.0);
        self
    }

    /// Sandbox and volumes are there.
    fn prepared(self) -> Self {
        self.change(|seen| {
            seen.sandbox = SandboxSeen::Ready { attempt: 0 };
            seen.volumes = StepSeen::Done;
        })
    }

    fn image(self, container: &str) -> Self {
        self.change(|seen| drop(seen.images.insert(container.into(), ImageSeen::Ready)))
    }

    fn busy(self, operation: Operation) -> Self {
        self.change(|seen| assert!(seen.in_progress.insert(operation)))
    }

    fn run(self, name: &str, state: RunState, delay: Option<i64>) -> Self {
        self.change(|seen| {
            let spec = seen.pod.spec.as_ref().unwrap();
            let hash = containers(spec).find(|(c, _)| c.name == name).map(|(c, _)| container_hash(c));
            let runs = seen.containers.entry(name.into()).or_default();
            let attempt = u32::try_from(runs.len()).unwrap();
            runs.insert(
                0,
                ContainerSeen {
                    id: format!("{name}{attempt}"),
                    attempt,
                    in_sandbox: true,
                    hash: hash.unwrap(),
                    image: "i".into(),
                    image_id: "sha256:1".into(),
                    created_at: at(NOW - 100),
                    delay: delay.map(SignedDuration::from_secs),
                    state,
                    probes: ProbesSeen::default(),
                    hook_failed: false,
                    stop_signal: String::new(),
                    resources: None,
                    user: None,
                },
            );
        })
    }

    fn running(self, name: &str) -> Self {
        self.run(name, RunState::Running { started_at: at(NOW - 100) }, None)
    }

    fn exited(self, name: &str, code: i32, finished: i64, delay: Option<i64>) -> Self {
        let exit = Exit {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            message: None,
            started_at: Some(at(NOW - 100)),
            finished_at: Some(at(finished)),
        };
        self.run(name, RunState::Exited(exit), delay)
    }

    fn probes(self, name: &str, probes: ProbesSeen) -> Self {
        self.change(|seen| seen.containers.get_mut(name).unwrap()[0].probes = probes)
    }

    /// The keeper died, and everything with it.
    fn keeper_died(self) -> Self {
        self.change(|seen| {
            seen.sandbox = SandboxSeen::Dead { attempt: 0 };
            seen.containers.values_mut().flatten().for_each(|run| run.in_sandbox = false);
        })
    }

    fn stop(self, grace: i64, removed: bool) -> Self {
        self.change(|seen| {
            let grace = SignedDuration::from_secs(grace);
            seen.intent = Intent::Stop(Stop { since: at(NOW), grace, removed });
        })
    }

    #[track_caller]
    fn does(&self, expected: &str) -> &Self {
        let plan = decide(&self.0);
        let seconds = |time: Timestamp| time.duration_since(at(0)).as_secs();
        let words: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::CreateSandbox { attempt, replaces } => {
                    format!("sandbox{attempt}{}", if *replaces { "!" } else { "" })
                }
                Action::PrepareVolumes => "volumes".into(),
                Action::EnsureImage { container } => format!("image:{container}"),
                Action::StartContainer { container, attempt, delay } => {
                    let delay = delay.map_or_else(String::new, |delay| format!("/{}", delay.as_secs()));
                    format!("start:{container}#{attempt}{delay}")
                }
                Action::StopContainer { id, deadline, cause, .. } => {
                    format!("stop:{id}@{}:{cause:?}", seconds(*deadline))
                }
                Action::ResizeContainer { id, .. } => format!("resize:{id}"),
                Action::Leave => "leave".into(),
                Action::TearDown => "teardown".into(),
                Action::Confirm => "confirm".into(),
            })
            .chain(plan.waiting.iter().map(|(name, waiting)| format!("{name}={}", waiting.reason)))
            .chain(plan.wake_at.map(|at| format!("wake@{}", seconds(at))))
            .chain(plan.failed.map(|failure| format!("failed={}", failure.reason)))
            .collect();
        assert_eq!(words.join(" "), expected);
        self
    }
}

const ONE: &str = "containers: [{name: a, image: i}]";
const TWO: &str = "containers: [{name: a, image: i}, {name: b, image: i}]";
const INIT: &str =
    "initContainers: [{name: i, image: i}, {name: j, image: i}], containers: [{name: a, image: i}]";
const SIDECAR: &str = "initContainers: [{name: s, image: i, restartPolicy: Always}, {name: i, image: i}], containers: [{name: a, image: i}]";

fn spec(text: &str) -> World {
    world(&format!("{{{text}}}"))
}

fn with_policy(text: &str, policy: &str) -> World {
    world(&format!("{{{text}, restartPolicy: {policy}}}"))
}

#[test]
fn everything_that_needs_nothing_begins_at_once() {
    spec(ONE).does("sandbox0 volumes image:a");
    spec(TWO).does("sandbox0 volumes image:a image:b");
    spec(INIT).does("sandbox0 volumes image:i");
}

#[test]
fn nothing_is_begun_twice() {
    spec(ONE).busy(Operation::Sandbox).busy(Operation::Volumes).busy(Operation::Image("a".into())).does("");
    spec(ONE).prepared().image("a").busy(Operation::Start("a".into())).does("");
}

#[test]
fn containers_start_when_all_is_there() {
    spec(ONE).image("a").does("sandbox0 volumes");
    spec(ONE).prepared().does("image:a");
    spec(ONE).prepared().image("a").does("start:a#0");
    spec(TWO).prepared().image("b").does("image:a start:b#0");
    spec(TWO).prepared().image("a").image("b").does("start:a#0 start:b#0");
    spec(TWO).prepared().running("a").running("b").does("");
}

#[test]
fn init_containers_run_one_after_the_other() {
    spec(INIT).prepared().image("i").does("start:i#0");
    spec(INIT).prepared().running("i").does("");
    spec(INIT).prepared().exited("i", 0, NOW, None).does("image:j");
    spec(INIT).prepared().exited("i", 0, NOW, None).exited("j", 0, NOW, None).image("a").does("start:a#0");
    spec(INIT).prepared().exited("i", 1, NOW, None).image("i").does("start:i#1/10");
    spec(INIT).prepared().exited("i", 1, NOW, Some(10)).does("i=CrashLoopBackOff wake@1010");
    spec(INIT).prepared().running("a").does("");
    with_policy(INIT, "Never").prepared().exited("i", 1, NOW, None).does("teardown");
}

#[test]
fn sidecars_run_beside_the_others() {
    spec(SIDECAR).prepared().image("s").does("start:s#0");
    spec(SIDECAR).prepared().running("s").does("image:i");
    spec(SIDECAR).prepared().running("s").exited("i", 0, NOW, None).image("a").does("start:a#0");
    spec(SIDECAR).prepared().exited("s", 0, NOW, None).exited("i", 0, NOW, None).running("a").does("image:s");
    with_policy(SIDECAR, "Never")
        .prepared()
        .running("s")
        .exited("i", 0, NOW, None)
        .exited("a", 0, NOW, None)
        .does("leave");
}

#[test]
fn crashes_back_off() {
    let crashed = |delay, finished| spec(ONE).prepared().exited("a", 1, finished, delay).image("a");
    crashed(None, NOW).does("start:a#1/10");
    crashed(Some(10), NOW - 3).does("a=CrashLoopBackOff wake@1007");
    crashed(Some(10), NOW - 10).does("start:a#1/20");
    crashed(Some(300), NOW - 1).does("a=CrashLoopBackOff wake@1299");
    let plan = decide(&crashed(Some(80), NOW - 3).0);
    assert_eq!(plan.waiting["a"].message, "back-off 1m20s restarting failed container=a pod=web_default(u1)");
}

#[test]
fn restart_policies() {
    for (policy, code, expected) in [
        ("Always", 0, "start:a#1/10"),
        ("Always", 1, "start:a#1/10"),
        ("OnFailure", 0, "teardown"),
        ("OnFailure", 1, "start:a#1/10"),
        ("Never", 0, "teardown"),
        ("Never", 1, "teardown"),
    ] {
        with_policy(ONE, policy).prepared().exited("a", code, NOW, None).image("a").does(expected);
    }
    with_policy(TWO, "Never").prepared().exited("a", 1, NOW, None).running("b").does("");
    let rules = "containers: [{name: a, image: i, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]}]";
    with_policy(rules, "Never").prepared().exited("a", 42, NOW, None).image("a").does("start:a#1/10");
    with_policy(rules, "Never").prepared().exited("a", 1, NOW, None).image("a").does("teardown");
}

#[test]
fn a_dead_keeper_is_replaced() {
    let dead = |seen: &mut Observed| seen.sandbox = SandboxSeen::Dead { attempt: 0 };
    spec(ONE).prepared().running("a").change(dead).does("");
    spec(ONE).prepared().busy(Operation::Start("a".into())).change(dead).does("");
    spec(ONE).prepared().exited("a", 137, NOW, None).keeper_died().does("sandbox1! image:a");
    spec(TWO)
        .prepared()
        .exited("a", 137, NOW, None)
        .exited("b", 137, NOW, None)
        .keeper_died()
        .change(|seen| seen.sandbox = SandboxSeen::Ready { attempt: 1 })
        .image("a")
        .image("b")
        .does("start:a#1/10 start:b#1/10");
    with_policy(ONE, "Never").prepared().exited("a", 137, NOW, None).keeper_died().does("teardown");
    // What completed does not run again.
    with_policy(TWO, "OnFailure")
        .prepared()
        .exited("a", 0, NOW, None)
        .exited("b", 137, NOW, None)
        .keeper_died()
        .does("sandbox1! image:b");
}

#[test]
fn failures_wait() {
    spec(ONE)
        .prepared()
        .image("a")
        .change(|seen| drop(seen.failures.insert("a".into(), failure("CreateContainerConfigError", 1010))))
        .does("a=CreateContainerConfigError wake@1010");
    spec(ONE)
        .prepared()
        .image("a")
        .change(|seen| drop(seen.failures.insert("a".into(), failure("CreateContainerConfigError", 1000))))
        .does("start:a#0 a=CreateContainerConfigError");
    spec(ONE)
        .change(|seen| seen.sandbox = SandboxSeen::Failed(failure("FailedCreatePodSandBox", 1003)))
        .change(|seen| seen.volumes = StepSeen::Failed(failure("FailedMount", 1002)))
        .image("a")
        .does("wake@1002");
}

#[test]
fn stale_volumes_are_made_again_and_hold_nobody_up() {
    let stale = |retry_at| {
        let stale = StepSeen::Stale { retry_at: at(retry_at) };
        spec(ONE).prepared().image("a").change(|seen| seen.volumes = stale)
    };
    stale(NOW).does("volumes start:a#0");
    stale(NOW + 5).does("start:a#0 wake@1005");
}

#[test]
fn images_are_tried_again() {
    let failed = |flip_at, retry_at| {
        spec(ONE).prepared().change(|seen| {
            let image = ImageSeen::Failed {
                first: failure("ErrImagePull", retry_at),
                waiting: Some(("ImagePullBackOff".into(), "Back-off pulling image \"i\"".into())),
                flip_at: at(flip_at),
            };
            seen.images.insert("a".into(), image);
        })
    };
    failed(NOW + 1, NOW + 10).does("a=ErrImagePull wake@1001");
    failed(NOW - 1, NOW + 8).does("a=ImagePullBackOff wake@1008");
    failed(NOW - 9, NOW).does("image:a a=ImagePullBackOff");
    failed(NOW - 9, NOW).busy(Operation::Image("a".into())).does("a=ImagePullBackOff");
}

#[test]
fn unhealthy_containers_are_stopped() {
    const PROBED: &str = "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 5}, startupProbe: {tcpSocket: {port: 1}}}]";
    let probes =
        |startup, liveness| ProbesSeen { startup: Some(startup), liveness: Some(liveness), readiness: None };
    let running = || spec(PROBED).prepared().running("a");
    running().does("");
    running().probes("a", probes(true, true)).does("");
    running().probes("a", probes(true, false)).does("stop:a0@1005:Liveness");
    running().probes("a", probes(false, true)).does("stop:a0@1030:Startup");
    running().probes("a", probes(true, false)).busy(Operation::Stop("a0".into())).does("");
    spec(ONE)
        .prepared()
        .running("a")
        .change(|seen| seen.containers.get_mut("a").unwrap()[0].hash = "other".into())
        .does("stop:a0@1030:Changed");
    spec(ONE)
        .prepared()
        .running("a")
        .change(|seen| seen.containers.get_mut("a").unwrap()[0].hook_failed = true)
        .does("stop:a0@1030:PostStartHook");
}

#[test]
fn stopping_goes_in_order() {
    let running =
        || spec(SIDECAR).prepared().running("s").exited("i", 0, NOW, None).running("a").stop(30, false);
    running().does("leave");
    running().busy(Operation::Leave).does("");
    running().change(|seen| seen.left = true).does("stop:a0@1030:PodStops");
    running().change(|seen| seen.left = true).busy(Operation::Stop("a0".into())).does("");
    let apps_gone = || {
        spec(SIDECAR)
            .prepared()
            .running("s")
            .exited("a", 0, NOW, None)
            .stop(0, false)
            .change(|seen| seen.left = true)
    };
    apps_gone().does("stop:s0@1002:PodStops");
    let all_gone = || spec(ONE).prepared().exited("a", 0, NOW, None).stop(30, false);
    all_gone().does("teardown");
    all_gone().busy(Operation::TearDown).does("");
    all_gone().change(|seen| seen.torn_down = true).does("confirm");
    all_gone().change(|seen| (seen.torn_down, seen.confirmed) = (true, true)).does("");
}

#[test]
fn what_is_gone_from_the_api_goes_at_once() {
    let running = || spec(ONE).prepared().running("a").stop(0, true);
    running().does("teardown");
    running().change(|seen| seen.pod_ips = vec!["10.42.0.2".into()]).does("leave teardown");
    running().busy(Operation::Start("a".into())).does("");
    running().change(|seen| seen.torn_down = true).does("confirm");
}

#[test]
fn nothing_new_begins_while_stopping() {
    spec(ONE).stop(30, false).does("teardown");
    spec(ONE).busy(Operation::Sandbox).stop(30, false).does("");
    spec(ONE).busy(Operation::Image("a".into())).stop(30, false).does("teardown");
}

#[test]
fn deadlines_end_pods() {
    let started = |limit: i64, ago: i64| {
        world(&format!("{{{ONE}, activeDeadlineSeconds: {limit}}}"))
            .prepared()
            .running("a")
            .change(|seen| seen.last_status.start_time = Some(Time(at(NOW - ago))))
    };
    started(60, 10).does("wake@1050");
    started(60, 60).does("leave failed=DeadlineExceeded");
    started(60, 60).change(|seen| seen.left = true).does("stop:a0@1030:PodStops failed=DeadlineExceeded");
    started(60, 90)
        .change(|seen| seen.last_status.phase = Some("Failed".into()))
        .change(|seen| seen.containers.clear())
        .does("teardown");
}

#[test]
fn what_is_over_stays_over() {
    spec(ONE).change(|seen| seen.last_status.phase = Some("Succeeded".into())).does("teardown");
    spec(ONE)
        .change(|seen| seen.last_status.phase = Some("Succeeded".into()))
        .change(|seen| seen.torn_down = true)
        .does("");
}

#[test]
fn containers_are_held_to_what_their_pod_was_given() {
    let policy = "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    let text = format!(
        "containers: [{{name: a, image: i, {policy}, resources: {{requests: {{cpu: 1, memory: 1Mi}}}}}}]"
    );
    let with = |applied: &str| {
        let applied = serde_yaml::from_str(applied).unwrap();
        let world = spec(&text).prepared().running("a");
        world.change(|seen| seen.containers.get_mut("a").unwrap()[0].resources = Some(applied))
    };
    with("{requests: {cpu: 1, memory: 1Mi}}").does("");
    with("{requests: {cpu: 2, memory: 1Mi}}").does("resize:a0");
    with("{requests: {cpu: 2, memory: 1Mi}}").busy(Operation::Resize("a0".into())).does("");
    with("{requests: {cpu: 1, memory: 2Mi}}").does(&format!("stop:a0@{}:Resized", NOW + 30));
    let failure = Failure { reason: "Error".into(), message: "no".into(), retry_at: at(NOW + 5) };
    with("{requests: {cpu: 2, memory: 1Mi}}")
        .change(|seen| drop(seen.resize_failures.insert("a0".into(), failure)))
        .does(&format!("wake@{}", NOW + 5));
}
