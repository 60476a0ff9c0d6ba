//! `kill -9` at random moments while pods come and go: of the agent, the server, keepers, containers and the proxy. Whatever
//! was healthy is not restarted, nothing is started twice, nothing is forgotten, and at the end nothing is left.
//!
//! The seed is printed; `CORACLE_SEED` repeats a run's choices.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and its output is its report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use client::{Api, Client, DeleteParams, ListParams, Patch};
use manifests::k8s_openapi::api::apps::v1::Deployment;
use manifests::k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::{BUSYBOX, Cluster, Machine, Options, coracle};

/// The desired state is reached again within this time after whatever was killed is back.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// A sequence of numbers that a seed decides (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let drawn = u64::from(now.subsec_nanos()) << 20 | u64::from(std::process::id());
        let seed = std::env::var("CORACLE_SEED").map_or(drawn, |seed| seed.parse().unwrap());
        println!("CORACLE_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Agent,
    Server,
    /// All of a pod goes with it.
    Keeper,
    /// The first process of a container.
    Container,
    Proxy,
}

/// Server and agent as two processes, so that they can die apart.
struct Parts {
    cluster: Cluster,
    agent: Option<Child>,
}

impl Parts {
    fn up() -> Self {
        let options = Options { subcommand: vec!["server".to_owned()], ..Options::default() };
        let cluster = Cluster::with(Machine::new(), options);
        tests::eventually("the server writes a kubeconfig", || {
            cluster.kubeconfig().exists().then_some(()).ok_or_else(|| cluster.log())
        });
        let mut parts = Self { cluster, agent: None };
        parts.start_agent();
        parts.cluster.wait_ready();
        parts
    }

    fn start_agent(&mut self) {
        let path = self.cluster.machine.path("agent.log");
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = self.cluster.machine.command(coracle());
        command.arg("agent").args(self.cluster.instance_args()).arg("--kubeconfig");
        command.arg(self.cluster.kubeconfig()).args([
            "--node-name",
            "alone",
            "--log",
            "info,agent=debug,runtime=debug",
        ]);
        self.agent = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.cluster.machine.path("agent.log")).unwrap_or_default();
            println!("---- log of the agent ----\n{log}");
        }
        if let Some(agent) = &mut self.agent {
            drop(agent.kill());
            drop(agent.wait());
        }
    }
}

/// A process of this instance.
#[derive(Debug)]
struct Process {
    pid: u32,
    args: Vec<String>,
}

/// The processes of this instance: those in its control group, and those that name its directory.
fn processes(cluster: &Cluster, marker: &str) -> Vec<Process> {
    let directory = cluster.machine.path("").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let line = read("cmdline");
        if line.contains(&directory) || read("cgroup").contains(marker) {
            let args = line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            found.push(Process { pid, args });
        }
    }
    found
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// A container whose first process is recognised by the pod's name, and that leaves a line for each start.
fn template(grace: u32) -> serde_json::Value {
    json!({
        "terminationGracePeriodSeconds": grace,
        "containers": [{
            "name": "a",
            "image": BUSYBOX,
            "command": ["sh", "-c", "echo $POD_UID >> /starts/log; exec sh -c 'trap \"exit 0\" TERM; while :; do sleep 1000 & wait; done' $(hostname)"],
            "env": [{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
            "volumeMounts": [{"name": "starts", "mountPath": "/starts"}],
        }],
        "volumes": [{"name": "starts", "hostPath": {"path": "STARTS"}}],
    })
}

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    name: String,
    restarts: i32,
    id: String,
    ready: bool,
    going: bool,
}

fn see(pod: &Pod) -> (String, Seen) {
    let status = pod.status.as_ref();
    let container = status.and_then(|status| status.container_statuses.as_ref()?.first());
    let is_ready = container.is_some_and(|container| {
        container.ready && container.state.as_ref().is_some_and(|state| state.running.is_some())
    });
    let seen = Seen {
        name: pod.metadata.name.clone().unwrap_or_default(),
        restarts: container.map_or(0, |container| container.restart_count),
        id: container.and_then(|container| container.container_id.clone()).unwrap_or_default(),
        ready: is_ready && status.and_then(|status| status.phase.as_deref()) == Some("Running"),
        going: pod.metadata.deletion_timestamp.is_some(),
    };
    (pod.metadata.uid.clone().unwrap_or_default(), seen)
}

/// The desired state, and what writes it.
struct Churn {
    client: Client,
    starts: String,
    /// Bare pods that are wanted.
    wanted: BTreeSet<String>,
    replicas: i32,
    next: u32,
}

impl Churn {
    fn pods(&self) -> Api<Pod> {
        self.client.namespaced("default")
    }

    fn template(&self, grace: u32) -> serde_json::Value {
        serde_json::from_str(&template(grace).to_string().replace("STARTS", &self.starts)).unwrap()
    }

    /// Again and again until the server has taken it: it may be dead at the moment.
    async fn insist<T, F: Future<Output = Result<T, client::Error>>>(
        what: &str,
        mut try_it: impl FnMut() -> F,
    ) {
        let begin = Instant::now();
        loop {
            match try_it().await {
                Ok(_) => return,
                Err(error) if error.is_already_exists() || error.is_not_found() => return,
                Err(error) => {
                    assert!(
                        begin.elapsed() < Duration::from_secs(60),
                        "{what}: {}",
                        client::ErrorChain(&error)
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn begin(&mut self) {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "steady"},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"app": "steady"}},
                "template": {"metadata": {"labels": {"app": "steady"}}, "spec": self.template(1)},
            },
        }))
        .unwrap();
        let api: Api<Deployment> = self.client.namespaced("default");
        Self::insist("creating the deployment", || api.create(&deployment)).await;
    }

    async fn create(&mut self) {
        let name = format!("bare-{}", self.next);
        self.next += 1;
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": self.template(1)})).unwrap();
        let api = self.pods();
        self.wanted.insert(name);
        Self::insist("creating a pod", || api.create(&pod)).await;
    }

    async fn delete(&mut self, dice: &mut Dice) {
        let index = usize::try_from(dice.below(self.wanted.len() as u64)).unwrap();
        let Some(name) = self.wanted.iter().nth(index).cloned() else { return };
        self.wanted.remove(&name);
        let (api, params) = (self.pods(), DeleteParams::default());
        Self::insist("deleting a pod", || api.delete(&name, &params)).await;
    }

    async fn scale(&mut self, replicas: i32) {
        self.replicas = replicas;
        let api: Api<Deployment> = self.client.namespaced("default");
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        Self::insist("scaling", || api.patch("steady", &patch)).await;
    }

    /// Some of everything, with pauses so that a kill falls anywhere.
    async fn churn(&mut self, dice: &mut Dice) {
        for _ in 0..3 {
            match dice.below(4) {
                0 | 1 => self.create().await,
                2 if self.wanted.len() > 3 => self.delete(dice).await,
                _ => self.scale(3 + i32::try_from(dice.below(3)).unwrap()).await,
            }
            tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
        }
        while self.wanted.len() > 5 {
            self.delete(dice).await;
        }
    }

    /// Waits until what is there is what is wanted, and answers it by uid.
    async fn settled(&self) -> BTreeMap<String, Seen> {
        let begin = Instant::now();
        loop {
            let why = match self.pods().list_all(&ListParams::default()).await {
                Ok(list) => {
                    let seen: BTreeMap<String, Seen> = list.items.iter().map(see).collect();
                    let bare: BTreeSet<String> = seen
                        .values()
                        .map(|pod| pod.name.clone())
                        .filter(|name| name.starts_with("bare-"))
                        .collect();
                    let steady = seen.len() - bare.len();
                    let all_fine = seen.values().all(|pod| pod.ready && !pod.going);
                    if all_fine && bare == self.wanted && i32::try_from(steady).unwrap() == self.replicas {
                        return seen;
                    }
                    format!("wanted {:?} and {} others: {seen:#?}", self.wanted, self.replicas)
                }
                Err(error) => client::ErrorChain(&error).to_string(),
            };
            assert!(begin.elapsed() < SETTLED_WITHIN, "not settled: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One kill; answers the pod that may have been restarted by it, and its process.
fn strike(
    parts: &mut Parts,
    marker: &str,
    victim: Victim,
    dice: &mut Dice,
    spared: &BTreeSet<String>,
) -> Option<(String, u32)> {
    let all = processes(&parts.cluster, marker);
    match victim {
        Victim::Agent => parts.kill_agent(),
        Victim::Server => parts.cluster.kill(),
        Victim::Proxy => all
            .iter()
            .filter(|process| process.args.get(1).is_some_and(|arg| arg == "proxy"))
            .for_each(|process| kill(process.pid)),
        Victim::Keeper | Victim::Container => {
            // What was hurt before would be in its back-off.
            let name_of =
                |process: &Process| process.args.last().cloned().filter(|_| process.args.len() == 4);
            let inits: Vec<(u32, String)> = all
                .iter()
                .filter(|process| process.args.first().is_some_and(|arg| arg == "sh"))
                .filter_map(|process| Some((process.pid, name_of(process)?)))
                .filter(|(_, name)| !spared.contains(name))
                .collect();
            if inits.is_empty() {
                return None;
            }
            let (pid, name) = inits[usize::try_from(dice.below(inits.len() as u64)).unwrap()].clone();
            match victim {
                Victim::Container => kill(pid),
                _ => kill(parent(pid)?),
            }
            return Some((name, pid));
        }
    }
    None
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Each pod has one first process, and has been started as often as its restarts say.
fn check_starts(
    parts: &Parts,
    marker: &str,
    starts: &std::path::Path,
    pods: &BTreeMap<String, Seen>,
) -> Result<(), String> {
    let log = std::fs::read_to_string(starts.join("log")).unwrap_or_default();
    let all = processes(&parts.cluster, marker);
    let is_first = |process: &&Process| process.args.len() == 4 && process.args[0] == "sh";
    for (uid, pod) in pods {
        let own = all.iter().filter(is_first).filter(|process| process.args[3] == pod.name);
        let running: Vec<u32> = own.map(|process| process.pid).collect();
        let started = log.lines().filter(|line| line == uid).count();
        // One that was killed before its first line is not seen, but was counted.
        let counted = usize::try_from(pod.restarts).unwrap() + 1;
        if running.len() != 1 || !(1..=counted).contains(&started) {
            return Err(format!("{pod:?} was started {started} times and runs as {running:?}"));
        }
    }
    let is_stranger = |process: &&Process| !pods.values().any(|pod| pod.name == process.args[3]);
    let strangers: Vec<&Process> = all.iter().filter(is_first).filter(is_stranger).collect();
    if strangers.is_empty() { Ok(()) } else { Err(format!("processes of pods that are gone: {strangers:?}")) }
}

/// What pods leave on a node when the last is gone: nothing.
fn traces_of_pods(parts: &Parts, marker: &str) -> Vec<String> {
    let cluster = &parts.cluster;
    let mut traces = Vec::new();
    for process in processes(cluster, marker) {
        let keeper = process.args.iter().any(|arg| arg == "keeper")
            && !process.args.iter().any(|arg| arg == "template");
        if keeper || process.args.first().is_some_and(|arg| arg == "sh") {
            traces.push(format!("process {process:?}"));
        }
    }
    let entries = |path: std::path::PathBuf| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    traces.extend(entries(cluster.machine.path("data/pods")));
    traces.extend(entries(cluster.machine.path("run/sandboxes")));
    for hierarchy in entries("/sys/fs/cgroup".into()) {
        for class in ["", "burstable", "besteffort"] {
            let below = entries(std::path::Path::new(&hierarchy).join(marker).join(class));
            traces.extend(below.into_iter().filter(|path| path.contains("/pod")));
        }
    }
    let directory = cluster.machine.path("data/pods").display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(&directory)).map(str::to_owned));
    let links = cluster.machine.run("ip", ["-o", "link", "show", "type", "veth"]).stdout;
    // One pair leads to the service namespace.
    traces.extend(links.lines().skip(1).map(|line| format!("link {line}")));
    traces
}

fn rounds(count: u32) {
    let mut dice = Dice::new();
    let mut parts = Parts::up();
    let marker = parts.cluster.cgroup_marker();
    let starts = parts.cluster.machine.path("starts");
    std::fs::create_dir(&starts).unwrap();
    parts.cluster.machine.enter();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut churn = Churn {
        client: Client::from_kubeconfig(parts.cluster.kubeconfig())
            .unwrap()
            .with_deadline(Duration::from_secs(5)),
        starts: starts.display().to_string(),
        wanted: BTreeSet::new(),
        replicas: 4,
        next: 0,
    };
    runtime.block_on(churn.begin());
    let mut before = runtime.block_on(churn.settled());
    let mut slowest = Duration::ZERO;
    let kinds = [Victim::Agent, Victim::Server, Victim::Keeper, Victim::Container, Victim::Proxy];
    for round in 0..count {
        // Each kind in turn, so that few rounds see them all; beside it, half the time, another.
        let mut victims = vec![kinds[round as usize % kinds.len()]];
        let second = kinds[usize::try_from(dice.below(kinds.len() as u64)).unwrap()];
        if dice.below(2) == 0 && second != victims[0] {
            victims.push(second);
        }
        let mut own = Dice(dice.below(u64::MAX >> 34) << 1 | 1);
        let (mut hurt, mut ending) = (BTreeSet::new(), Vec::new());
        let hurt_before: BTreeSet<String> =
            before.values().filter(|pod| pod.restarts > 0).map(|pod| pod.name.clone()).collect();
        let churning = runtime.spawn(async move {
            churn.churn(&mut own).await;
            churn
        });
        for victim in &victims {
            // The moment is what is random here; nothing waits for anything.
            std::thread::sleep(Duration::from_millis(dice.below(200)));
            let spared: BTreeSet<String> = hurt.union(&hurt_before).cloned().collect();
            if let Some((name, pid)) = strike(&mut parts, &marker, *victim, &mut dice, &spared) {
                hurt.insert(name);
                ending.push(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(dice.below(150)));
        if victims.contains(&Victim::Server) {
            parts.cluster.start();
        }
        if victims.contains(&Victim::Agent) {
            parts.start_agent();
        }
        churn = runtime.block_on(churning).unwrap();
        let begin = Instant::now();
        // What was hurt while the agent was away looks healthy to the server until the agent has looked, so a settled
        // state is the end only when it is also what the processes show. A container that runs may still be on its
        // way to its last program; a twin, or a start that nobody counted, would stay.
        let what = format!("round {round} {victims:?}: each pod runs once, and each start is counted");
        let after = tests::eventually(&what, || {
            let after = runtime.block_on(churn.settled());
            // A container outlives its keeper until an agent looks, and until then even the processes look as before.
            if let Some(pid) =
                ending.iter().find(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
            {
                return Err(format!("{pid} was to end and has not"));
            }
            check_starts(&parts, &marker, &starts, &after).map(|()| after)
        });
        slowest = slowest.max(begin.elapsed());
        for (uid, now) in &after {
            let Some(old) = before.get(uid) else {
                let restarts = i32::from(hurt.contains(&now.name));
                assert!(
                    now.restarts <= restarts,
                    "round {round} {victims:?}: a new pod was restarted: {now:?}"
                );
                continue;
            };
            if !hurt.contains(&now.name) {
                assert_eq!(now, old, "round {round} {victims:?}: a healthy pod was touched");
            } else if now.id != old.id {
                assert_eq!(now.restarts, old.restarts + 1, "round {round} {victims:?}: {now:?}");
            }
        }
        println!("round {round}: {victims:?}, {hurt:?} hurt, settled in {:?}", begin.elapsed());
        before = after;
    }
    println!("{count} rounds; settled again within {slowest:?} at most");
    runtime.block_on(async {
        let api: Api<Deployment> = churn.client.namespaced("default");
        Churn::insist("deleting", || async { api.delete("steady", &DeleteParams::default()).await }).await;
        let pods = churn.pods();
        for name in &churn.wanted {
            Churn::insist("deleting", || async { pods.delete(name, &DeleteParams::default()).await }).await;
        }
        churn.wanted.clear();
        churn.replicas = 0;
        churn.settled().await;
    });
    tests::eventually("nothing of the pods is left", || {
        let traces = traces_of_pods(&parts, &marker);
        if traces.is_empty() { Ok(()) } else { Err(format!("{traces:#?}")) }
    });
    parts.kill_agent();
    parts.cluster.down().ok();
    let left = parts.cluster.machine.leftovers(&marker);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn ten_rounds_of_kill_nine_lose_nothing_and_start_nothing_twice() {
    rounds(10);
}

#[test]
#[ignore = "takes ten minutes: make soak"]
fn two_hundred_rounds_of_kill_nine_lose_nothing_and_start_nothing_twice() {
    rounds(200);
}
