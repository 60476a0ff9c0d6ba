//! A sandbox, as its callers have it in hand.
//!
//! ```text
//!   create_sandbox ──▶ Ready ──── keeper dies ────▶ Dead ──▶ remove
//!                        ╰──────────────────────── remove ──────▲
//! ```
//!
//! All work is done by the keeper; what is here asks it, and does what a keeper is not for: computing plans,
//! making cgroups, writing descriptions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::process::Pid;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::cgroup;
use crate::error::{ExecError, RemoveError, RequestError, StartContainerError};
use crate::exec::{Attach, Exec};
use crate::link::{Answer, Outgoing};
use crate::prepare::{END_PATIENCE, Refused, plan_exec, prepare, remove_traces};
use crate::protocol::{Failure, FailureKind, Listed, ListedState, Reply, Request};
use crate::records::check_id;
use crate::runtime::{Runtime, blocking, is_alive};
use crate::spec::{ContainerSpec, ExecSpec, SandboxSpec, Signal};
use crate::state::{ContainerState, ContainerStatus, Exit, SandboxEvent, SandboxState, Stats};
use crate::watcher::Watcher;

/// A keeper answers at once what it can answer at once.
const PATIENCE: Duration = Duration::from_secs(15);

/// Mounting can wait for a server far away.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// The events that a slow receiver may be behind.
const EVENTS: usize = 256;

/// A connection to a living keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
}

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    runtime: Arc<Runtime>,
    spec: SandboxSpec,
    living: Option<Living>,
    events: broadcast::Sender<SandboxEvent>,
    /// Labels of containers, so that listing them reads no files.
    labels: Mutex<HashMap<String, BTreeMap<String, String>>>,
    /// Containers that are being created: two callers must not use one id at the same time.
    creating: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct Living {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    calls: mpsc::Sender<Outgoing>,
    dead: watch::Receiver<bool>,
    /// Its end is wanted: not an event.
    removing: Arc<AtomicBool>,
}

impl Sandbox {
    /// Takes a sandbox in hand. `None`: its keeper is dead and cleaned up after.
    pub(crate) fn new(runtime: &Arc<Runtime>, spec: SandboxSpec, keeper: Option<Keeper>) -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS);
        let living = keeper.map(|keeper| {
            let (calls, receiver) = mpsc::channel(64);
            let (dead_sender, dead) = watch::channel(false);
            let removing = Arc::new(AtomicBool::new(false));
            let pidfd = Arc::new(keeper.pidfd);
            let watcher = Watcher {
                runtime: Arc::clone(runtime),
                spec: spec.clone(),
                pidfd: Arc::clone(&pidfd),
                calls: receiver,
                events: events.clone(),
                dead: dead_sender,
                removing: Arc::clone(&removing),
            };
            // Ends when the sandbox is dropped, because then nobody can call any more, or when the keeper ends.
            tokio::spawn(watcher.run(keeper.socket));
            Living { pid: keeper.pid, pidfd, calls, dead, removing }
        });
        Arc::new(Self {
            runtime: Arc::clone(runtime),
            spec,
            living,
            events,
            labels: Mutex::new(HashMap::new()),
            creating: Mutex::new(HashSet::new()),
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// What the caller wanted remembered.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    /// The whole description that it was created from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Whether its keeper lives.
    pub fn state(&self) -> SandboxState {
        match &self.living {
            Some(living) if !*living.dead.borrow() && is_alive(&living.pidfd) => SandboxState::Ready,
            _ => SandboxState::Dead,
        }
    }

    /// The keeper's process, while it lives.
    pub fn keeper_pid(&self) -> Option<u32> {
        let living = self.living.as_ref().filter(|_| self.state() == SandboxState::Ready)?;
        u32::try_from(living.pid.as_raw_pid()).ok()
    }

    /// A handle on its network namespace.
    pub fn netns(&self) -> io::Result<OwnedFd> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("sandbox {} is gone", self.id()));
        let living = self.living.as_ref().ok_or_else(gone)?;
        let path = format!("/proc/{}/ns/net", living.pid.as_raw_pid());
        let netns = std::fs::File::open(path)?;
        // If the keeper still lives now, the number was its own when the file was opened.
        if is_alive(&living.pidfd) { Ok(netns.into()) } else { Err(gone()) }
    }

    /// Its containers, ended ones included until they are removed.
    pub async fn containers(&self) -> Result<Vec<ContainerState>, RequestError> {
        if self.state() == SandboxState::Dead {
            return Ok(self.containers_of_the_dead().await);
        }
        let listed = match self.call(Request::List, PATIENCE).await {
            Ok(Ok(Answer { reply: Reply::Containers(listed), .. })) => listed,
            Ok(other) => return Err(self.unexpected(other)),
            // It died on us.
            Err(RequestError::KeeperGone(_)) => return Ok(self.containers_of_the_dead().await),
            Err(error) => return Err(error),
        };
        self.read_labels(&listed).await;
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(listed
            .into_iter()
            .map(|one| {
                let labels = labels.get(&one.id).cloned().unwrap_or_default();
                state_of(one, labels)
            })
            .collect())
    }

    /// Creates a container and starts its program.
    pub async fn start(&self, container: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        self.create_with(container, false).await
    }

    /// Creates a container and stops short of starting its program.
    pub async fn create(&self, container: ContainerSpec) -> Result<ContainerState, StartContainerError> {
        self.create_with(container, true).await
    }

    /// Starts the program of a created container.
    pub async fn start_created(&self, container: &str) -> Result<ContainerState, StartContainerError> {
        let request = Request::Start { container: container.to_owned() };
        let answer = self.call(request, START_PATIENCE).await?;
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned();
        self.started(answer, labels.unwrap_or_default())
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, container: &str, signal: Signal) -> Result<(), RequestError> {
        let request = Request::Signal { container: container.to_owned(), signal: signal.number() };
        self.simple(request, PATIENCE).await
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill(&self, container: &str) -> Result<(), RequestError> {
        self.simple(Request::Kill { container: container.to_owned() }, PATIENCE).await
    }

    /// Waits until the container has ended. Cancel safe.
    pub async fn wait(&self, container: &str) -> Result<Exit, RequestError> {
        // First the events, then the state: what happens in between is in one of them.
        let mut events = self.events();
        loop {
            let state = self.containers().await?.into_iter().find(|one| one.id == container);
            match state.map(|state| state.status) {
                Some(ContainerStatus::Exited(exit)) => return Ok(exit),
                Some(ContainerStatus::Unknown) => return Err(self.gone()),
                None => return Err(RequestError::NotFound(container.to_owned())),
                Some(ContainerStatus::Created | ContainerStatus::Running { .. }) => {}
            }
            loop {
                match events.recv().await {
                    Ok(SandboxEvent::ContainerExited { id, exit }) if id == container => return Ok(exit),
                    Ok(SandboxEvent::ContainerExited { .. }) => {}
                    Ok(SandboxEvent::KeeperDied) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(self.gone()),
                }
            }
        }
    }

    /// Kills what is left of the container and forgets it, its exit record included. Not an error if it is
    /// not there.
    pub async fn remove_container(&self, container: &str) -> Result<(), RemoveError> {
        if check_id(container).is_err() {
            return Ok(());
        }
        let request = Request::Forget { container: container.to_owned() };
        match self.call(request, END_PATIENCE).await {
            Ok(Ok(_)) | Err(RequestError::KeeperGone(_)) => {}
            Ok(Err(failure)) if failure.kind == FailureKind::NotFound => {}
            Ok(Err(failure)) => return Err(request_error(failure).into()),
            Err(RequestError::Timeout(_)) => {
                let processes = self.runtime.tree.processes(&self.spec.cgroup, Some(container)).len();
                return Err(RemoveError::Alive { id: container.to_owned(), processes });
            }
            Err(error) => return Err(error.into()),
        }
        let (runtime, spec, id) = (Arc::clone(&self.runtime), self.spec.clone(), container.to_owned());
        blocking(move || remove_traces(&runtime, &spec, &id)).await?;
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
        Ok(())
    }

    /// Runs a process in a running container.
    pub async fn exec(&self, container: &str, spec: ExecSpec) -> Result<Exec, ExecError> {
        let gone = || ExecError::NotFound(container.to_owned());
        check_id(container).map_err(|_| gone())?;
        let (runtime, sandbox, id) = (Arc::clone(&self.runtime), self.spec.clone(), container.to_owned());
        let request = blocking(move || plan_exec(&runtime, &sandbox, &id, &spec)).await;
        let request = match request {
            Ok(request) => request,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(error) => match error.downcast::<Refused>() {
                Ok(Refused(refusal)) => {
                    return Err(ExecError::Invalid { field: refusal.field, reason: refusal.reason });
                }
                Err(source) => {
                    let what = format!("reading the description of {container}");
                    return Err(RequestError::Io { what, source }.into());
                }
            },
        };
        match self.call(Request::Exec(Box::new(request)), START_PATIENCE).await? {
            Ok(Answer { reply: Reply::Exec { exec, pid, streams, warnings }, fds, end: Some(end) }) => {
                self.warn(container, &warnings);
                let calls = self.living.as_ref().map(|living| living.calls.clone());
                Exec::new(self.id().to_owned(), exec, pid, calls, end, streams.into_iter().zip(fds))
                    .map_err(|source| RequestError::Io { what: "using a stream".to_owned(), source }.into())
            }
            Err(failure) => Err(match failure.kind {
                FailureKind::NotFound => gone(),
                FailureKind::NotRunning => ExecError::NotRunning(container.to_owned()),
                FailureKind::Program => {
                    let error = failure.source();
                    ExecError::Program { program: failure.step, error }
                }
                FailureKind::Step | FailureKind::Exists | FailureKind::Bad => {
                    let source = failure.source();
                    ExecError::Step { step: failure.step, source }
                }
            }),
            other => Err(self.unexpected(other).into()),
        }
    }

    /// Connects to a running container's streams. Output that the container writes from now on is copied to
    /// the returned streams as well as to the log; a reader that falls a mebibyte behind is cut off, so that it
    /// cannot hold the container up.
    pub async fn attach(&self, container: &str) -> Result<Attach, RequestError> {
        match self.call(Request::Attach { container: container.to_owned() }, PATIENCE).await? {
            Ok(Answer { reply: Reply::Attached { streams }, fds, .. }) => {
                Attach::new(streams.into_iter().zip(fds))
                    .map_err(|source| RequestError::Io { what: "using a stream".to_owned(), source })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Changes a running container's limits. What `resources` does not mention stays as it is.
    pub async fn update(&self, container: &str, resources: LinuxResources) -> Result<(), RequestError> {
        let (runtime, cgroup, id) = self.names(container)?;
        blocking(move || runtime.tree.update_container(&cgroup, &id, &resources))
            .await
            .map_err(|error| cgroup_error("changing limits", error))
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, container: &str) -> Result<(), RequestError> {
        let (runtime, cgroup, id) = self.names(container)?;
        blocking(move || runtime.tree.freeze(&cgroup, &id, true))
            .await
            .map_err(|error| cgroup_error("pausing", error))
    }

    /// Thaws a paused container.
    pub async fn resume(&self, container: &str) -> Result<(), RequestError> {
        let (runtime, cgroup, id) = self.names(container)?;
        blocking(move || runtime.tree.freeze(&cgroup, &id, false))
            .await
            .map_err(|error| cgroup_error("resuming", error))
    }

    /// Freezes every process of every container, those that are started later included. The keeper goes on: logs
    /// are written and requests answered.
    pub async fn pause_sandbox(&self) -> Result<(), RequestError> {
        let (runtime, cgroup) = (Arc::clone(&self.runtime), self.spec.cgroup.clone());
        blocking(move || runtime.tree.freeze(&cgroup, "", true))
            .await
            .map_err(|error| cgroup_error("pausing", error))
    }

    /// Thaws a paused sandbox. A container that was paused by itself stays so.
    pub async fn resume_sandbox(&self) -> Result<(), RequestError> {
        let (runtime, cgroup) = (Arc::clone(&self.runtime), self.spec.cgroup.clone());
        blocking(move || runtime.tree.freeze(&cgroup, "", false))
            .await
            .map_err(|error| cgroup_error("resuming", error))
    }

    /// What the container uses.
    pub async fn stats(&self, container: &str) -> Result<Stats, RequestError> {
        let (runtime, cgroup, id) = self.names(container)?;
        Ok(blocking(move || cgroup::stats(&runtime.tree, &cgroup, Some(&id))).await)
    }

    /// What all containers of the sandbox use together.
    pub async fn sandbox_stats(&self) -> Result<Stats, RequestError> {
        let (runtime, cgroup) = (Arc::clone(&self.runtime), self.spec.cgroup.clone());
        Ok(blocking(move || cgroup::stats(&runtime.tree, &cgroup, None)).await)
    }

    /// What happens from now on. A receiver that falls 256 events behind is told that it did
    /// (`RecvError::Lagged`) and should look at [`Sandbox::containers`].
    pub fn events(&self) -> broadcast::Receiver<SandboxEvent> {
        self.events.subscribe()
    }

    /// Kills whatever runs, removes cgroups, namespaces and records, and ends the keeper. Safe to repeat, and
    /// also works on a dead sandbox.
    pub async fn remove(&self) -> Result<(), RemoveError> {
        if let Some(living) = &self.living {
            living.removing.store(true, Ordering::SeqCst);
            match self.call(Request::Shutdown, END_PATIENCE).await {
                Ok(_) | Err(RequestError::KeeperGone(_)) => {}
                Err(_) => {
                    // It does not do what it is for.
                    let _ = rustix::process::pidfd_send_signal(&living.pidfd, rustix::process::Signal::KILL);
                }
            }
            let mut dead = living.dead.clone();
            if timeout(END_PATIENCE, dead.wait_for(|dead| *dead)).await.is_err() {
                return Err(RemoveError::Alive { id: self.id().to_owned(), processes: 1 });
            }
        }
        let (runtime, spec) = (Arc::clone(&self.runtime), self.spec.clone());
        blocking(move || {
            let left = runtime.tree.kill_all(&spec.cgroup, None, END_PATIENCE);
            if left > 0 {
                return Err(RemoveError::Alive { id: spec.id, processes: left });
            }
            runtime
                .tree
                .remove(&spec.cgroup, None)
                .map_err(|source| RemoveError::Cgroup { id: spec.id.clone(), source })?;
            runtime.unmount_shm(&spec.id);
            runtime
                .records
                .remove_sandbox(&spec.id)
                .map_err(|(path, source)| RemoveError::Files { path, source })?;
            runtime.forget(&spec.id);
            Ok(())
        })
        .await
    }

    async fn create_with(
        &self,
        container: ContainerSpec,
        gate: bool,
    ) -> Result<ContainerState, StartContainerError> {
        check_id(&container.id)?;
        let id = container.id.clone();
        let Some(_creating) = Creating::new(&self.creating, &id) else {
            return Err(StartContainerError::Exists(id));
        };
        // A description without a container is what a caller that was killed has left.
        if self.runtime.records.exit_file(self.id(), &id).parent().is_some_and(std::path::Path::is_dir) {
            if self.containers().await?.iter().any(|one| one.id == id) {
                return Err(StartContainerError::Exists(id));
            }
            let (runtime, spec, id) = (Arc::clone(&self.runtime), self.spec.clone(), id.clone());
            let _ = blocking(move || remove_traces(&runtime, &spec, &id)).await;
        }
        let labels = container.labels.clone();
        let (runtime, spec) = (Arc::clone(&self.runtime), self.spec.clone());
        let prepared = blocking(move || prepare(&runtime, &spec, &container, gate)).await;
        let result = match prepared {
            Ok(create) => match self.call(Request::Create(Box::new(create)), START_PATIENCE).await {
                Ok(answer) => self.started(answer, labels.clone()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => {
                self.labels.lock().unwrap_or_else(PoisonError::into_inner).insert(id, labels);
            }
            // Whose it is then, is not for us to remove.
            Err(StartContainerError::Exists(_)) => {}
            Err(_) => {
                let (runtime, spec) = (Arc::clone(&self.runtime), self.spec.clone());
                let _ = blocking(move || remove_traces(&runtime, &spec, &id)).await;
            }
        }
        result
    }

    /// What a keeper says to a creation or a start.
    fn started(
        &self,
        answer: Result<Answer, Failure>,
        labels: BTreeMap<String, String>,
    ) -> Result<ContainerState, StartContainerError> {
        match answer {
            Ok(Answer { reply: Reply::Container { state, warnings }, .. }) => {
                self.warn(&state.id, &warnings);
                Ok(state_of(state, labels))
            }
            Err(failure) => Err(match failure.kind {
                FailureKind::Exists => StartContainerError::Exists(failure.step),
                FailureKind::Program => {
                    let error = failure.source();
                    StartContainerError::Exec { program: failure.step, error }
                }
                FailureKind::NotFound | FailureKind::NotRunning => request_error(failure).into(),
                FailureKind::Step | FailureKind::Bad => {
                    let source = failure.source();
                    StartContainerError::Step { step: failure.step, source }
                }
            }),
            other => Err(self.unexpected(other).into()),
        }
    }

    fn warn(&self, container: &str, warnings: &[String]) {
        for warning in warnings {
            tracing::debug!(sandbox = %self.id(), container, warning);
        }
    }

    /// Containers of a dead sandbox: what is on disk about them.
    async fn containers_of_the_dead(&self) -> Vec<ContainerState> {
        let (runtime, sandbox) = (Arc::clone(&self.runtime), self.spec.id.clone());
        blocking(move || {
            let ids = runtime.records.containers(&sandbox);
            ids.into_iter()
                .filter_map(|id| {
                    let spec = runtime.records.container(&sandbox, &id).ok()?;
                    let status = match runtime.records.exit(&sandbox, &id) {
                        Ok(Some(record)) => ContainerStatus::Exited(record.exit),
                        Ok(None) | Err(_) => ContainerStatus::Unknown,
                    };
                    Some(ContainerState { id, labels: spec.labels, pid: None, status })
                })
                .collect()
        })
        .await
    }

    /// Reads the labels of containers that another life of ours has created.
    async fn read_labels(&self, listed: &[Listed]) {
        let missing: Vec<String> = {
            let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            listed.iter().map(|one| &one.id).filter(|id| !labels.contains_key(*id)).cloned().collect()
        };
        if missing.is_empty() {
            return;
        }
        let (runtime, sandbox) = (Arc::clone(&self.runtime), self.spec.id.clone());
        let read = blocking(move || {
            let specs = missing.into_iter().map(|id| (runtime.records.container(&sandbox, &id), id));
            specs.filter_map(|(spec, id)| Some((id, spec.ok()?.labels))).collect::<Vec<_>>()
        });
        let read = read.await;
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
    }

    async fn simple(&self, request: Request, patience: Duration) -> Result<(), RequestError> {
        match self.call(request, patience).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(request_error(failure)),
        }
    }

    async fn call(
        &self,
        request: Request,
        patience: Duration,
    ) -> Result<Result<Answer, Failure>, RequestError> {
        let living = self.living.as_ref().ok_or_else(|| self.gone())?;
        call(&living.calls, request, patience, self.id()).await
    }

    fn gone(&self) -> RequestError {
        RequestError::KeeperGone(self.id().to_owned())
    }

    fn unexpected(&self, answer: Result<Answer, Failure>) -> RequestError {
        match answer {
            Err(failure) => request_error(failure),
            Ok(answer) => RequestError::Protocol {
                sandbox: self.id().to_owned(),
                reason: format!("an unexpected reply: {:?}", answer.reply),
            },
        }
    }

    fn names(&self, container: &str) -> Result<(Arc<Runtime>, String, String), RequestError> {
        check_id(container).map_err(|_| RequestError::NotFound(container.to_owned()))?;
        Ok((Arc::clone(&self.runtime), self.spec.cgroup.clone(), container.to_owned()))
    }
}

/// Asks a keeper over its link.
pub(crate) async fn call(
    calls: &mpsc::Sender<Outgoing>,
    request: Request,
    patience: Duration,
    sandbox: &str,
) -> Result<Result<Answer, Failure>, RequestError> {
    let gone = || RequestError::KeeperGone(sandbox.to_owned());
    let (answer, answered) = oneshot::channel();
    let asked = async {
        calls.send(Outgoing { request, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    };
    timeout(patience, asked).await.unwrap_or_else(|_| Err(RequestError::Timeout(sandbox.to_owned())))
}

pub(crate) fn request_error(failure: Failure) -> RequestError {
    match failure.kind {
        FailureKind::NotFound => RequestError::NotFound(failure.step),
        FailureKind::NotRunning => RequestError::NotRunning(failure.step),
        FailureKind::Exists | FailureKind::Step | FailureKind::Program | FailureKind::Bad => {
            let source = failure.source();
            RequestError::Failed { step: failure.step, source }
        }
    }
}

fn cgroup_error(what: &str, error: cgroup::CgroupError) -> RequestError {
    RequestError::Io { what: what.to_owned(), source: io::Error::other(error) }
}

fn state_of(listed: Listed, labels: BTreeMap<String, String>) -> ContainerState {
    let status = match listed.state {
        ListedState::Created => ContainerStatus::Created,
        ListedState::Running { started_at } => ContainerStatus::Running { started_at },
        ListedState::Exited(exit) => ContainerStatus::Exited(exit),
    };
    let pid = listed.pid.and_then(|pid| u32::try_from(pid).ok());
    ContainerState { id: listed.id, labels, pid, status }
}

/// Holds an id while its container is being created.
struct Creating<'a> {
    ids: &'a Mutex<HashSet<String>>,
    id: String,
}

impl<'a> Creating<'a> {
    fn new(ids: &'a Mutex<HashSet<String>>, id: &str) -> Option<Self> {
        let new = ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        new.then(|| Self { ids, id: id.to_owned() })
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
