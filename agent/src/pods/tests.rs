//! Many pods on a machine that lives in memory.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::fixture;
use crate::machine::fake::FakeMachine;
use crate::names::annotation;
use crate::sources::Source;
use crate::sources::merge::Desire;

struct Node {
    machine: Arc<FakeMachine>,
    dir: TempDir,
    desired: watch::Sender<Desired>,
    registry: Registry,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn pod(name: &str, uid: &str, is_static: bool) -> Desire {
    let mut pod = fixture::pod(
        "{terminationGracePeriodSeconds: 1, containers: [{name: a, image: i, imagePullPolicy: Never, command: [sleep]}]}",
    );
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(uid.into());
    if is_static {
        pod.metadata.annotations = Some(BTreeMap::from([(annotation::SOURCE.into(), "file".into())]));
    }
    Desire { source: if is_static { Source::File } else { Source::Api }, pod: Arc::new(pod) }
}

fn desired(pods: &[&Desire], ready: bool) -> Desired {
    let pods = pods.iter().map(|desire| (uid(&desire.pod).to_owned(), (*desire).clone())).collect();
    Desired { pods, mirrors: BTreeMap::new(), ready }
}

impl Node {
    async fn begin(first: Desired) -> Self {
        Self::on(Arc::default(), tempfile::tempdir().unwrap(), first).await
    }

    async fn on(machine: Arc<FakeMachine>, dir: TempDir, first: Desired) -> Self {
        let registry = Registry::default();
        let stop = CancellationToken::new();
        let context = crate::fixture::context(&dir, &machine);
        let pods = Pods::new(context, registry.clone(), tokio::sync::mpsc::channel(1).1, stop.clone()).await;
        let (desired, receiver) = watch::channel(first);
        let task = tokio::spawn(pods.run(receiver));
        Self { machine, dir, desired, registry, stop, task }
    }

    async fn restart(self, first: Desired) -> Self {
        self.stop.cancel();
        self.task.await.unwrap();
        Self::on(self.machine, self.dir, first).await
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come: {:#?}", self.machine.diary.lines());
    }

    fn running(&self) -> Vec<String> {
        let all = self.registry.all();
        let running = all.iter().filter(|view| view.status.phase.as_deref() == Some("Running"));
        running.map(|view| uid(&view.pod).to_owned()).collect()
    }
}

#[tokio::test]
async fn pods_come_and_go() {
    let (a, b) = (pod("a", "1", false), pod("b", "2", false));
    let node = Node::begin(desired(&[&a], true)).await;
    node.until("a", |node| node.running() == ["1"]).await;
    node.desired.send_replace(desired(&[&a, &b], true));
    node.until("a and b", |node| node.running() == ["1", "2"]).await;
    node.desired.send_replace(desired(&[&b], true));
    node.until("b alone", |node| node.running() == ["2"] && node.machine.count() == 1).await;
    node.until("a's end", |node| node.registry.find("default", "a").is_none()).await;
    assert!(node.registry.find("default", "b").is_some());
}

#[tokio::test]
async fn static_pods_of_one_name_do_not_overlap() {
    let (old, new) = (pod("a", "1", true), pod("a", "2", true));
    let node = Node::begin(desired(&[&old], true)).await;
    node.until("the old one", |node| node.running() == ["1"]).await;
    node.desired.send_replace(desired(&[&new], true));
    node.until("the new one", |node| node.running() == ["2"]).await;
    let lines = node.machine.diary.lines();
    let place = |line: &str| lines.iter().position(|found| found == line).unwrap();
    assert!(place("remove 1-0") < place("sandbox 2-0"), "{lines:?}");
}

#[tokio::test]
async fn orphans_go_when_all_sources_were_read() {
    let (a, b) = (pod("a", "1", false), pod("b", "2", false));
    let node = Node::begin(desired(&[&a, &b], true)).await;
    node.until("both", |node| node.running() == ["1", "2"]).await;
    std::fs::create_dir_all(node.dir.path().join("pods/9")).unwrap();
    let node = node.restart(desired(&[&a], false)).await;
    node.until("a", |node| node.running() == ["1"]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.machine.count(), 2, "not everything is known yet");
    node.desired.send_replace(desired(&[&a], true));
    node.until("b's end", |node| node.machine.count() == 1).await;
    node.until("b's files", |node| !node.dir.path().join("pods/2").exists()).await;
    assert!(!node.dir.path().join("pods/9").exists());
    assert!(node.dir.path().join("pods/1").exists());
    assert_eq!(node.machine.diary.count("start"), 2, "nothing was started again");
}

#[tokio::test]
async fn thirty_at_once() {
    let pods: Vec<Desire> = (0..30).map(|n| pod(&format!("p{n}"), &format!("{n:02}"), false)).collect();
    let node = Node::begin(desired(&pods.iter().collect::<Vec<_>>(), true)).await;
    node.until("all", |node| node.running().len() == 30).await;
}
