//! Whole lives of pods on a machine that lives in memory.

use std::sync::Arc;
use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::PodStatus;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::fixture::{self, context};
use crate::machine::Sandboxes as _;
use crate::machine::fake::FakeMachine;
use crate::sources::Source;

struct Life {
    dir: TempDir,
    machine: Arc<FakeMachine>,
    target: watch::Sender<Target>,
    view: watch::Receiver<View>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Life {
    async fn begin(spec: &str) -> Self {
        Self::on(tempfile::tempdir().unwrap(), Arc::default(), fixture::pod(spec)).await
    }

    async fn on(dir: TempDir, machine: Arc<FakeMachine>, pod: Pod) -> Self {
        let target =
            Target { source: Source::Api, pod: Arc::new(pod), mirror: None, removed: None, evicted: None };
        let (target, receiver) = watch::channel(target);
        let sandboxes = machine.list().await;
        let (worker, view) = Worker::new(context(&dir, &machine), receiver, sandboxes);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone()));
        Self { dir, machine, target, view, task, stop }
    }

    /// The agent goes and a new one comes; the machine stays.
    async fn restart(self) -> Self {
        self.stop.cancel();
        self.task.await.unwrap();
        let pod = (*self.target.borrow().pod).clone();
        Self::on(self.dir, self.machine, pod).await
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&PodStatus) -> bool) {
        let waited =
            tokio::time::timeout(Duration::from_secs(5), self.view.wait_for(|view| condition(&view.status)))
                .await
                .is_ok();
        assert!(
            waited,
            "{what} did not come: {:#?}\n{:#?}",
            self.view.borrow().status,
            self.machine.diary.lines()
        );
    }

    async fn phase(&mut self, phase: &str) {
        self.until(phase, |status| status.phase.as_deref() == Some(phase)).await;
    }

    async fn waiting(&mut self, reason: &str) -> String {
        let has = |status: &PodStatus| waiting_of(status).is_some_and(|(found, _)| found == reason);
        self.until(reason, has).await;
        waiting_of(&self.view.borrow().status).unwrap().1
    }

    fn change(&self, change: impl FnOnce(&mut Target)) {
        self.target.send_modify(change);
    }

    fn delete(&self, grace: i64) {
        self.change(|target| {
            let mut pod = (*target.pod).clone();
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            target.pod = Arc::new(pod);
        });
    }

    fn remove(&self) {
        self.change(|target| target.removed = Some(Timestamp::now()));
    }

    async fn gone(self) -> TempDir {
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        assert!(ended.is_ok(), "the worker does not end: {:?}", self.machine.diary.lines());
        assert_eq!(self.machine.count(), 0);
        self.dir
    }
}

fn waiting_of(status: &PodStatus) -> Option<(String, String)> {
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.next()?;
    Some((waiting.reason.clone()?, waiting.message.clone().unwrap_or_default()))
}

fn restarts(status: &PodStatus) -> i32 {
    status.container_statuses.as_ref().map_or(0, |statuses| statuses[0].restart_count)
}

const SLEEPER: &str = "containers: [{name: a, image: i, imagePullPolicy: IfNotPresent, command: [sleep]}]";

#[tokio::test]
async fn from_nothing_to_running_and_back() {
    let mut life = Life::begin(SLEEPER).await;
    life.phase("Running").await;
    assert_eq!(life.view.borrow().status.pod_ip.as_deref(), Some("10.42.0.2"));
    assert_eq!(life.machine.diary.lines(), ["sandbox u1-0", "attach u1-0", "start a sleep"]);
    life.delete(30);
    life.phase("Failed").await;
    let diary = life.machine.diary.clone();
    let pod_dir = life.dir.path().join("pods/u1");
    life.remove();
    let dir = life.gone().await;
    let expected = ["leaving 10.42.0.2", "signal SIGTERM", "remove u1-0", "detach u1-0"];
    assert_eq!(diary.lines()[3..], expected);
    assert!(!pod_dir.exists(), "the pod's files are gone");
    drop(dir);
}

#[tokio::test]
async fn a_process_that_does_not_listen_is_killed() {
    let mut life =
        Life::begin("containers: [{name: a, image: i, imagePullPolicy: Never, command: [ignore-term]}]")
            .await;
    life.phase("Running").await;
    let began = tokio::time::Instant::now();
    life.delete(1);
    life.phase("Failed").await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(life.machine.diary.count("kill"), 1);
}

#[tokio::test]
async fn a_shorter_grace_period_counts_at_once() {
    let mut life =
        Life::begin("containers: [{name: a, image: i, imagePullPolicy: Never, command: [ignore-term]}]")
            .await;
    life.phase("Running").await;
    life.delete(600);
    tokio::time::sleep(Duration::from_millis(100)).await;
    life.delete(0);
    life.phase("Failed").await;
}

#[tokio::test]
async fn what_is_forced_out_goes_at_once() {
    let mut life =
        Life::begin("containers: [{name: a, image: i, imagePullPolicy: Never, command: [ignore-term]}]")
            .await;
    life.phase("Running").await;
    life.remove();
    life.gone().await;
}

#[tokio::test]
async fn crashes_restart_and_back_off() {
    let mut life =
        Life::begin("containers: [{name: a, image: i, imagePullPolicy: Never, command: [exit, '3']}]").await;
    let message = life.waiting("CrashLoopBackOff").await;
    assert_eq!(message, "back-off 10s restarting failed container=a pod=web_default(u1)");
    let status = life.view.borrow().status.clone();
    assert_eq!((restarts(&status), status.phase.as_deref()), (1, Some("Running")));
    assert_eq!(life.machine.diary.count("start a"), 2);
    // The back-off outlives the agent.
    let mut life = life.restart().await;
    life.waiting("CrashLoopBackOff").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(life.machine.diary.count("start a"), 2);
}

#[tokio::test]
async fn a_program_that_is_not_there_counts_as_a_crash() {
    let mut life =
        Life::begin("containers: [{name: a, image: i, imagePullPolicy: Never, command: [no-such-program]}]")
            .await;
    life.waiting("CrashLoopBackOff").await;
    let last = |status: &PodStatus| {
        status.container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap().terminated.unwrap()
    };
    let ended = last(&life.view.borrow().status);
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
    assert_eq!(
        ended.message.as_deref(),
        Some("exec: \"no-such-program\": executable file not found in $PATH")
    );
    let mut life = life.restart().await;
    life.waiting("CrashLoopBackOff").await;
    assert_eq!(restarts(&life.view.borrow().status), 1);
}

#[tokio::test]
async fn jobs_come_to_their_end() {
    for (code, phase) in [("0", "Succeeded"), ("1", "Failed")] {
        let mut life = Life::begin(&format!(
            "{{restartPolicy: Never, containers: [{{name: a, image: i, imagePullPolicy: Never, command: [exit, '{code}']}}]}}"
        ))
        .await;
        life.phase(phase).await;
        tokio::time::timeout(Duration::from_secs(2), async {
            while life.machine.count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the sandbox goes");
        let mut life = life.restart().await;
        life.phase(phase).await;
        assert_eq!(life.machine.diary.count("start"), 1, "nothing runs twice");
    }
}

#[tokio::test]
async fn init_containers_come_first() {
    let mut life = Life::begin(
        "{initContainers: [{name: i, image: i, imagePullPolicy: Never, command: [exit, '0']}], \
          containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep]}]}",
    )
    .await;
    life.phase("Running").await;
    let starts: Vec<String> =
        life.machine.diary.lines().into_iter().filter(|line| line.starts_with("start")).collect();
    assert_eq!(starts, ["start i exit 0", "start a sleep"]);
}

#[tokio::test]
async fn a_new_agent_touches_nothing() {
    let mut life = Life::begin(SLEEPER).await;
    life.phase("Running").await;
    let before = life.view.borrow().status.clone();
    let mut life = life.restart().await;
    life.phase("Running").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(life.machine.diary.count("start"), 1);
    assert_eq!(life.machine.diary.count("sandbox"), 1);
    assert_eq!(*life.view.borrow().status, *before, "not even a time changes");
}

#[tokio::test]
async fn what_ends_while_no_agent_is_there_is_noticed() {
    let mut life = Life::begin(SLEEPER).await;
    life.phase("Running").await;
    life.stop.cancel();
    (&mut life.task).await.unwrap();
    let sandbox = life.machine.sandbox().unwrap();
    sandbox.end(&sandbox.running("a").unwrap(), 7);
    let pod = (*life.target.borrow().pod).clone();
    let mut life = Life::on(life.dir, life.machine, pod).await;
    life.until("a restart", |status| restarts(status) == 1).await;
    let status = life.view.borrow().status.clone();
    let last = status.container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 7);
}

#[tokio::test]
async fn a_dead_keeper_is_replaced() {
    let mut life = Life::begin(SLEEPER).await;
    life.phase("Running").await;
    life.machine.sandbox().unwrap().kill_keeper();
    life.until("a restart", |status| restarts(status) == 1).await;
    let running = |status: &PodStatus| {
        status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().running.is_some()
    };
    life.until("running again", running).await;
    let lines = life.machine.diary.lines();
    assert!(
        lines.contains(&"remove u1-0".to_owned()) && lines.contains(&"sandbox u1-1".to_owned()),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_restart_counts_even_if_the_dead_keeper_is_seen_before_it_is_heard_of() {
    let mut life = Life::begin(SLEEPER).await;
    life.phase("Running").await;
    let sandbox = life.machine.sandbox().unwrap();
    sandbox.keeper_dies();
    // Something else wakes the worker meanwhile.
    life.change(|_| {});
    let another = async {
        while life.machine.diary.count("sandbox ") < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let another = tokio::time::timeout(Duration::from_millis(200), another).await;
    assert!(
        another.is_err(),
        "nothing is known of how the containers ended: {:?}",
        life.machine.diary.lines()
    );
    sandbox.kill_keeper();
    let again = |status: &PodStatus| {
        restarts(status) == 1
            && status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().running.is_some()
    };
    life.until("a restart that counts", again).await;
    assert_eq!(life.machine.diary.count("start "), 2, "{:?}", life.machine.diary.lines());
}

#[tokio::test]
async fn images_that_cannot_be_had() {
    let image = |image: &str, policy: &str| {
        format!("containers: [{{name: a, image: '{image}', imagePullPolicy: {policy}, command: [sleep]}}]")
    };
    let mut life = Life::begin(&image("gone", "IfNotPresent")).await;
    assert_eq!(life.waiting("ErrImagePull").await, "gone: not found");
    assert_eq!(
        life.waiting("ImagePullBackOff").await,
        "Back-off pulling image \"gone\": ErrImagePull: gone: not found"
    );
    assert_eq!(life.view.borrow().status.phase.as_deref(), Some("Pending"));
    let mut life = Life::begin(&image("gone", "Never")).await;
    assert_eq!(
        life.waiting("ErrImageNeverPull").await,
        "Container image \"gone\" is not present with pull policy of Never"
    );
    let mut life = Life::begin(&image("not an image", "Always")).await;
    life.waiting("InvalidImageName").await;
}

#[tokio::test]
async fn images_are_pulled_by_policy() {
    for (policy, present, pulls) in
        [("Always", true, 1), ("Always", false, 1), ("IfNotPresent", true, 0), ("IfNotPresent", false, 1)]
    {
        let machine: Arc<FakeMachine> = Arc::default();
        machine.registry.lock().unwrap().extend(["i".to_owned(), "j".to_owned()]);
        let name = if present { "i" } else { "j" };
        let pod = fixture::pod(&format!(
            "containers: [{{name: a, image: {name}, imagePullPolicy: {policy}, command: [sleep]}}]"
        ));
        let mut life = Life::on(tempfile::tempdir().unwrap(), machine, pod).await;
        life.phase("Running").await;
        assert_eq!(life.machine.diary.count("pull"), pulls, "{policy} {present}");
    }
}

#[tokio::test]
async fn objects_that_are_missing_are_named() {
    let mut life = Life::begin(
        "containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep], envFrom: [{configMapRef: {name: c}}]}]",
    )
    .await;
    let message = life.waiting("CreateContainerConfigError").await;
    assert_eq!(message, "couldn't get configmap default/c: this node has no API server");
}

#[tokio::test]
async fn unhealthy_containers_are_restarted() {
    let machine: Arc<FakeMachine> = Arc::default();
    machine.commands.lock().unwrap().insert("check".into(), 1);
    let pod = fixture::pod(
        "containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep], livenessProbe: {exec: {command: [check]}, periodSeconds: 1, failureThreshold: 1}}]",
    );
    let mut life = Life::on(tempfile::tempdir().unwrap(), machine, pod).await;
    life.until("a restart", |status| restarts(status) == 1).await;
}

#[tokio::test]
async fn readiness_follows_its_probe() {
    let machine: Arc<FakeMachine> = Arc::default();
    machine.commands.lock().unwrap().insert("check".into(), 1);
    let pod = fixture::pod(
        "containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep], readinessProbe: {exec: {command: [check]}, periodSeconds: 1}}]",
    );
    let mut life = Life::on(tempfile::tempdir().unwrap(), machine, pod).await;
    life.phase("Running").await;
    let ready = |status: &PodStatus| status.container_statuses.as_ref().unwrap()[0].ready;
    assert!(!ready(&life.view.borrow().status));
    life.machine.commands.lock().unwrap().insert("check".into(), 0);
    life.until("readiness", ready).await;
    // A new agent does not make the pod unready.
    let life = life.restart().await;
    assert!(ready(&life.view.borrow().status));
}

#[tokio::test]
async fn hooks_run() {
    let mut life = Life::begin(
        "containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep], lifecycle: {postStart: {exec: {command: [hello]}}, preStop: {exec: {command: [bye]}}}}]",
    )
    .await;
    life.phase("Running").await;
    life.until("readiness", |status| status.container_statuses.as_ref().unwrap()[0].ready).await;
    life.delete(30);
    life.phase("Failed").await;
    let lines = life.machine.diary.lines();
    let place = |line: &str| {
        lines.iter().position(|found| found == line).unwrap_or_else(|| panic!("{line}: {lines:?}"))
    };
    assert!(place("start a sleep") < place("run hello"));
    assert!(place("run bye") < place("signal SIGTERM"));
}

#[tokio::test]
async fn a_failed_post_start_hook_ends_the_container() {
    let machine: Arc<FakeMachine> = Arc::default();
    machine.commands.lock().unwrap().insert("hello".into(), 1);
    let pod = fixture::pod(
        "containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep], lifecycle: {postStart: {exec: {command: [hello]}}}}]",
    );
    let mut life = Life::on(tempfile::tempdir().unwrap(), machine, pod).await;
    life.waiting("CrashLoopBackOff").await;
}

#[tokio::test]
async fn deadlines_end_pods() {
    let mut life = Life::begin(
        "{activeDeadlineSeconds: 3, containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep]}]}",
    )
    .await;
    life.phase("Running").await;
    life.until("the deadline", |status| status.reason.as_deref() == Some("DeadlineExceeded")).await;
    assert_eq!(life.view.borrow().status.phase.as_deref(), Some("Failed"));
}

#[tokio::test]
async fn who_is_said_to_be_over_is_over() {
    let mut life = Life::begin(
        "{terminationGracePeriodSeconds: 1, containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep]}]}",
    )
    .await;
    life.phase("Running").await;
    life.change(|target| {
        let mut pod = (*target.pod).clone();
        pod.status = Some(PodStatus {
            phase: Some("Failed".into()),
            reason: Some("Evicted".into()),
            ..PodStatus::default()
        });
        target.pod = Arc::new(pod);
    });
    life.until("its end", |status| status.reason.as_deref() == Some("Evicted")).await;
    assert_eq!(life.view.borrow().status.phase.as_deref(), Some("Failed"));
    let machine = life.machine.clone();
    for _ in 0..500 {
        if machine.count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("its sandbox stays: {:?}", machine.diary.lines());
}
