//! A machine that lives in memory. What a container does is said by its command line: `sleep`, `exit CODE`,
//! `ignore-term`, `no-such-program`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use network::HostPort;
use runtime::cgroup::CgroupError;
use runtime::oci::LinuxResources;
use runtime::{
    Attach, ContainerSpec, ContainerState, ContainerStatus, CreateSandboxError, Exec, ExecError, ExecSpec,
    Exit, RemoveError, RequestError, Rootfs, SandboxEvent, SandboxSpec, Signal, StartContainerError, Stats,
};
use tokio::sync::{broadcast, watch};

use super::{
    CommandOutput, Credentials, Departures, Image, ImageError, ImageSummary, Images, Machine, PodNetwork,
    PodSandbox, RunError, Sandboxes,
};
use crate::spec::{Account, ImageConfig};

/// Everything that the machine was asked to do, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn write(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeMachine {
    pub(crate) diary: Diary,
    sandboxes: Mutex<BTreeMap<String, Arc<FakeSandbox>>>,
    /// Names of images that a pull finds.
    pub(crate) registry: Mutex<BTreeSet<String>>,
    pulled: Mutex<BTreeSet<String>>,
    /// Exit code of commands run in containers, by first word.
    pub(crate) commands: Arc<Mutex<BTreeMap<String, i32>>>,
}

impl FakeMachine {
    pub(crate) fn machine(self: &Arc<Self>) -> Machine {
        Machine {
            sandboxes: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            network: Arc::new(self.clone()),
            departures: Arc::new(self.clone()),
        }
    }

    pub(crate) fn sandbox(&self) -> Option<Arc<FakeSandbox>> {
        self.sandboxes.lock().unwrap().values().next().cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.sandboxes.lock().unwrap().len()
    }
}

#[async_trait]
impl Sandboxes for Arc<FakeMachine> {
    async fn list(&self) -> Vec<Arc<dyn PodSandbox>> {
        let all = self.sandboxes.lock().unwrap();
        all.values().map(|sandbox| sandbox.clone() as Arc<dyn PodSandbox>).collect()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn PodSandbox>, CreateSandboxError> {
        self.diary.write(format!("sandbox {}", spec.id));
        let sandbox = Arc::new(FakeSandbox {
            machine: Arc::clone(self),
            containers: Mutex::default(),
            events: broadcast::channel(64).0,
            ready: watch::channel(true).0,
            spec,
        });
        self.sandboxes.lock().unwrap().insert(sandbox.spec.id.clone(), sandbox.clone());
        Ok(sandbox)
    }

    fn limit(&self, _: &str, _: &LinuxResources) -> Result<(), CgroupError> {
        Ok(())
    }
}

pub(crate) struct FakeSandbox {
    machine: Arc<FakeMachine>,
    spec: SandboxSpec,
    containers: Mutex<BTreeMap<String, FakeContainer>>,
    events: broadcast::Sender<SandboxEvent>,
    ready: watch::Sender<bool>,
}

impl std::fmt::Debug for FakeSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FakeSandbox").field(&self.spec.id).finish()
    }
}

struct FakeContainer {
    state: ContainerState,
    ignores_term: bool,
    changed: watch::Sender<()>,
}

impl FakeSandbox {
    pub(crate) fn end(&self, id: &str, code: i32) {
        let exit = {
            let mut containers = self.containers.lock().unwrap();
            let Some(container) = containers.get_mut(id).filter(|c| c.state.status.is_alive()) else {
                return;
            };
            let exit = Exit {
                code,
                signal: None,
                oom_killed: false,
                started_at: SystemTime::now(),
                finished_at: SystemTime::now(),
            };
            container.state.status = ContainerStatus::Exited(exit.clone());
            container.changed.send_replace(());
            exit
        };
        let _ = self.events.send(SandboxEvent::ContainerExited { id: id.to_owned(), exit });
    }

    /// The keeper is dead, and the event of it on its way.
    pub(crate) fn keeper_dies(&self) {
        self.ready.send_replace(false);
    }

    pub(crate) fn kill_keeper(&self) {
        self.keeper_dies();
        for container in self.containers.lock().unwrap().values_mut() {
            if container.state.status.is_alive() {
                container.state.status = ContainerStatus::Unknown;
                container.changed.send_replace(());
            }
        }
        let _ = self.events.send(SandboxEvent::KeeperDied);
    }

    /// The id of the running container of this name.
    pub(crate) fn running(&self, name: &str) -> Option<String> {
        let containers = self.containers.lock().unwrap();
        let named = |state: &ContainerState| {
            state.labels.get(crate::names::label::CONTAINER_NAME).is_some_and(|label| label == name)
        };
        let found = containers.values().find(|c| c.state.status.is_alive() && named(&c.state));
        found.map(|container| container.state.id.clone())
    }
}

#[async_trait]
impl PodSandbox for FakeSandbox {
    fn id(&self) -> &str {
        &self.spec.id
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    fn netns(&self) -> io::Result<OwnedFd> {
        Ok(std::fs::File::open("/dev/null")?.into())
    }

    fn events(&self) -> broadcast::Receiver<SandboxEvent> {
        self.events.subscribe()
    }

    async fn containers(&self) -> Result<Vec<ContainerState>, RequestError> {
        Ok(self.containers.lock().unwrap().values().map(|container| container.state.clone()).collect())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        let args =
            spec.spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let name = spec.labels[crate::names::label::CONTAINER_NAME].clone();
        self.machine.diary.write(format!("start {name} {}", args.join(" ")));
        if args[0] == "no-such-program" {
            return Err(StartContainerError::Exec {
                program: args[0].clone(),
                error: io::Error::from_raw_os_error(2),
            });
        }
        let state = ContainerState {
            id: spec.id.clone(),
            labels: spec.labels.clone(),
            pid: Some(1),
            status: ContainerStatus::Running { started_at: SystemTime::now() },
        };
        let container = FakeContainer {
            state: state.clone(),
            ignores_term: args[0] == "ignore-term",
            changed: watch::channel(()).0,
        };
        self.containers.lock().unwrap().insert(spec.id.clone(), container);
        if args[0] == "exit" {
            self.end(&spec.id, args[1].parse().unwrap());
        }
        Ok(state)
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<(), RequestError> {
        self.machine.diary.write(format!("signal {signal}"));
        let ignores = self.containers.lock().unwrap().get(container).is_none_or(|c| c.ignores_term);
        if !ignores {
            self.end(container, 143);
        }
        Ok(())
    }

    async fn kill(&self, container: &str) -> Result<(), RequestError> {
        self.machine.diary.write("kill".to_owned());
        self.end(container, 137);
        Ok(())
    }

    async fn wait(&self, container: &str) -> Result<Exit, RequestError> {
        loop {
            let mut changed = {
                let containers = self.containers.lock().unwrap();
                let found =
                    containers.get(container).ok_or_else(|| RequestError::NotFound(container.to_owned()))?;
                match &found.state.status {
                    ContainerStatus::Exited(exit) => return Ok(exit.clone()),
                    ContainerStatus::Unknown => {
                        return Err(RequestError::KeeperGone(self.spec.id.clone()));
                    }
                    _ => found.changed.subscribe(),
                }
            };
            let _ = changed.changed().await;
        }
    }

    async fn remove_container(&self, container: &str) -> Result<(), RemoveError> {
        self.containers.lock().unwrap().remove(container);
        Ok(())
    }

    async fn exec(&self, container: &str, _: ExecSpec) -> Result<Exec, ExecError> {
        Err(ExecError::NotFound(container.to_owned()))
    }

    async fn run(&self, container: &str, argv: Vec<String>, _: Duration) -> Result<CommandOutput, RunError> {
        self.machine.diary.write(format!("run {}", argv.join(" ")));
        if self.running_id(container) {
            let code = self.machine.commands.lock().unwrap().get(&argv[0]).copied().unwrap_or(0);
            return Ok(CommandOutput { code, output: b"said so".to_vec() });
        }
        Err(ExecError::NotRunning(container.to_owned()).into())
    }

    async fn attach(&self, container: &str) -> Result<Attach, RequestError> {
        Err(RequestError::NotFound(container.to_owned()))
    }

    async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), RequestError> {
        let shares = resources.cpu().as_ref().and_then(|cpu| cpu.shares());
        self.machine.diary.write(format!("update {container} shares {}", shares.unwrap_or_default()));
        Ok(())
    }

    async fn stats(&self, _: &str) -> Result<Stats, RequestError> {
        Ok(Stats::default())
    }

    async fn sandbox_stats(&self) -> Result<Stats, RequestError> {
        Ok(Stats::default())
    }

    async fn remove(&self) -> Result<(), RemoveError> {
        self.machine.diary.write(format!("remove {}", self.spec.id));
        let ids: Vec<String> = self.containers.lock().unwrap().keys().cloned().collect();
        for id in ids {
            self.end(&id, 137);
        }
        self.machine.sandboxes.lock().unwrap().remove(&self.spec.id);
        Ok(())
    }
}

impl FakeSandbox {
    fn running_id(&self, id: &str) -> bool {
        self.containers.lock().unwrap().get(id).is_some_and(|container| container.state.status.is_alive())
    }
}

#[async_trait]
impl Images for Arc<FakeMachine> {
    async fn find(&self, name: &str) -> Result<Option<Image>, ImageError> {
        if name.contains(' ') {
            return Err(ImageError::Name {
                name: name.to_owned(),
                reason: "invalid reference format".to_owned(),
            });
        }
        let present = name == "i" || self.pulled.lock().unwrap().contains(name);
        Ok(present.then(|| image(name)))
    }

    async fn pull(&self, name: &str, _: &[Credentials]) -> Result<Image, ImageError> {
        self.diary.write(format!("pull {name}"));
        if !self.registry.lock().unwrap().contains(name) {
            return Err(ImageError::Pull(format!("{name}: not found")));
        }
        self.pulled.lock().unwrap().insert(name.to_owned());
        Ok(image(name))
    }

    fn registry(&self, _: &str) -> Option<String> {
        None
    }

    async fn list(&self) -> Vec<ImageSummary> {
        Vec::new()
    }

    async fn remove(&self, _: &[String], _: &BTreeSet<String>) -> Result<(), ImageError> {
        Ok(())
    }

    async fn account(&self, _: Rootfs, _: String) -> Result<Account, runtime::user::UserError> {
        Ok(Account { uid: 0, gid: 0, image_groups: Vec::new(), home: "/root".to_owned() })
    }
}

fn image(name: &str) -> Image {
    let config = ImageConfig { cmd: vec!["sleep".to_owned()], ..ImageConfig::default() };
    Image { id: format!("sha256:{name}"), config, layers: Vec::new(), size: 1 }
}

#[async_trait]
impl PodNetwork for Arc<FakeMachine> {
    async fn attach(&self, _: OwnedFd, id: &str, _: &[HostPort]) -> Result<Vec<String>, network::Error> {
        self.diary.write(format!("attach {id}"));
        Ok(vec!["10.42.0.2".to_owned()])
    }

    async fn detach(&self, id: &str) -> Result<(), network::Error> {
        self.diary.write(format!("detach {id}"));
        Ok(())
    }

    async fn reconcile(&self, _: &BTreeSet<String>) -> Result<Vec<String>, network::Error> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Departures for Arc<FakeMachine> {
    async fn leaving(&self, _: &str, addresses: &[String]) {
        self.diary.write(format!("leaving {}", addresses.join(" ")));
    }
}
