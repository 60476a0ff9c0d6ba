//! All pods of the node: starts a worker for each that is wanted, tells it what changed, and clears away what nobody wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::ErrorChain;
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerStatus, Signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::eviction::Evict;
use crate::machine::PodSandbox;
use crate::names::{full_name, is_static, label, name, namespace, uid};
use crate::pod::worker::{Target, View, Worker};
use crate::resources::{CgroupLimits, burstable_shares, milli_cpu_to_shares};
use crate::sources::merge::{Change, Desire, Desired, diff};
use crate::volume::mount;

/// How long an orphan has to end by itself.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long to wait before something is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of all pods, for those who ask.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    pods: Arc<Mutex<BTreeMap<String, watch::Receiver<View>>>>,
    freed: watch::Sender<()>,
}

impl Registry {
    /// Every pod.
    pub fn all(&self) -> Vec<View> {
        self.lock().values().map(|view| view.borrow().clone()).collect()
    }

    /// Changes when a pod needs nothing any more.
    pub fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// A pod needs nothing any more.
    pub(crate) fn free(&self) {
        self.freed.send_replace(());
    }

    /// A pod by name; of two with the same name, the one that is not going.
    pub fn find(&self, wanted_namespace: &str, wanted_name: &str) -> Option<watch::Receiver<View>> {
        let pods = self.lock();
        let named = pods.values().filter(|view| {
            let view = view.borrow();
            namespace(&view.pod) == wanted_namespace && name(&view.pod) == wanted_name
        });
        let by_age = |view: &&watch::Receiver<View>| view.borrow().pod.metadata.deletion_timestamp.is_some();
        named.min_by_key(by_age).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, watch::Receiver<View>>> {
        // A panic elsewhere does not make a map of receivers wrong.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker at work.
#[derive(Debug)]
struct Working {
    target: watch::Sender<Target>,
    full_name: String,
}

/// The pods of a node.
#[derive(Debug)]
pub struct Pods {
    context: Arc<Context>,
    registry: Registry,
    working: BTreeMap<String, Working>,
    workers: JoinSet<String>,
    /// Which pod a worker's task is about, for the case that it panics.
    tasks: BTreeMap<tokio::task::Id, String>,
    /// What the runtime had when we started, by pod.
    found: BTreeMap<String, Vec<Arc<dyn PodSandbox>>>,
    /// Static pods that wait for one of the same name to go.
    deferred: BTreeMap<String, Desire>,
    desired: Desired,
    swept: bool,
    /// Pods that have to go although they are wanted.
    evictions: mpsc::Receiver<Evict>,
    /// What the class of pods that asked for something has.
    burstable_shares: Option<u64>,
    stop: CancellationToken,
    /// Clearing away; ends by itself.
    chores: JoinSet<()>,
}

impl Pods {
    /// Takes stock of what the runtime has.
    pub async fn new(
        context: Arc<Context>,
        registry: Registry,
        evictions: mpsc::Receiver<Evict>,
        stop: CancellationToken,
    ) -> Self {
        let mut found: BTreeMap<String, Vec<Arc<dyn PodSandbox>>> = BTreeMap::new();
        for sandbox in context.machine.sandboxes.list().await {
            let uid = sandbox.labels().get(label::POD_UID).cloned().unwrap_or_default();
            found.entry(uid).or_default().push(sandbox);
        }
        Self {
            context,
            registry,
            working: BTreeMap::new(),
            workers: JoinSet::new(),
            tasks: BTreeMap::new(),
            found,
            deferred: BTreeMap::new(),
            desired: Desired::default(),
            swept: false,
            evictions,
            burstable_shares: None,
            stop,
            chores: JoinSet::new(),
        }
    }

    /// Follows what is wanted until told to stop; then all workers end, and all pods go on.
    pub async fn run(mut self, mut desired: watch::Receiver<Desired>) {
        loop {
            let next = desired.borrow_and_update().clone();
            self.follow(next);
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = desired.changed() => if changed.is_err() { break },
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended).await,
                Some(Evict { uid, failure }) = self.evictions.recv() => {
                    if let Some(working) = self.working.get(&uid) {
                        working.target.send_modify(|target| target.evicted = Some(failure));
                    }
                }
                Some(_) = self.chores.join_next() => {}
            }
        }
        while self.workers.join_next().await.is_some() {}
    }

    fn follow(&mut self, next: Desired) {
        let changes = diff(&self.desired, &next);
        self.desired = next;
        for change in changes {
            match change {
                Change::Added(desire) => self.add(desire),
                Change::Updated(desire) => self.update(&desire),
                Change::Removed(desire) => self.remove(&desire),
                Change::Mirror(full_name, mirror) => self.mirror(&full_name, mirror),
            }
        }
        self.share_out();
        if self.desired.ready {
            if !self.swept {
                self.swept = true;
                self.sweep();
            }
            self.remove_orphaned_mirrors();
        }
    }

    fn add(&mut self, desire: Desire) {
        let full_name = full_name(&desire.pod);
        let taken = |working: &Working| working.full_name == full_name;
        // The old one may hold what the new one needs: ports, directories, the name in the API.
        if is_static(&desire.pod) && self.working.values().any(taken) {
            self.deferred.insert(full_name, desire);
            return;
        }
        let sandboxes = self.found.remove(uid(&desire.pod)).unwrap_or_default();
        self.start(desire, sandboxes);
    }

    fn start(&mut self, desire: Desire, sandboxes: Vec<Arc<dyn PodSandbox>>) {
        let (uid, full_name) = (uid(&desire.pod).to_owned(), full_name(&desire.pod));
        let mirror = self.desired.mirrors.get(&full_name).filter(|_| is_static(&desire.pod)).cloned();
        let (target, receiver) = watch::channel(Target {
            source: desire.source,
            pod: desire.pod,
            mirror,
            removed: None,
            evicted: None,
        });
        let (worker, view) = Worker::new(self.context.clone(), receiver, sandboxes);
        self.registry.lock().insert(uid.clone(), view);
        let stop = self.stop.clone();
        let name = uid.clone();
        let task = self.workers.spawn(async move {
            worker.run(stop).await;
            name
        });
        self.tasks.insert(task.id(), uid.clone());
        self.working.insert(uid, Working { target, full_name });
    }

    fn update(&mut self, desire: &Desire) {
        if let Some(working) = self.working.get(uid(&desire.pod)) {
            working.target.send_modify(|target| {
                target.pod = desire.pod.clone();
                target.removed = None;
            });
        } else if let Some(deferred) = self.deferred.get_mut(&full_name(&desire.pod)) {
            *deferred = desire.clone();
        }
    }

    fn remove(&mut self, desire: &Desire) {
        let full_name = full_name(&desire.pod);
        if self.deferred.get(&full_name).is_some_and(|deferred| uid(&deferred.pod) == uid(&desire.pod)) {
            self.deferred.remove(&full_name);
        }
        if let Some(working) = self.working.get(uid(&desire.pod)) {
            working.target.send_modify(|target| target.removed = Some(Timestamp::now()));
        }
    }

    fn mirror(&mut self, full_name: &str, mirror: Option<Arc<Pod>>) {
        for working in self.working.values().filter(|working| working.full_name == full_name) {
            working.target.send_if_modified(|target| {
                let ours = is_static(&target.pod);
                if ours {
                    target.mirror.clone_from(&mirror);
                }
                ours
            });
        }
    }

    async fn ended(&mut self, ended: Result<(tokio::task::Id, String), JoinError>) {
        let (task, panicked) = match &ended {
            Ok((task, _)) => (*task, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(uid) = self.tasks.remove(&task) else { return };
        let Some(working) = self.working.remove(&uid) else { return };
        self.registry.lock().remove(&uid);
        self.registry.free();
        if panicked {
            // One pod's trouble stays its own: its containers run on, and a new worker adopts them.
            tracing::error!(uid, "the worker of a pod panicked; starting another one");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let sandboxes = self.sandboxes_of(&uid).await;
            let target = working.target.borrow().clone();
            let removed = target.removed;
            self.start(Desire { source: target.source, pod: target.pod }, sandboxes);
            if let Some(working) = self.working.get(&uid) {
                working.target.send_modify(|target| target.removed = removed);
            }
        } else if let Some(desire) = self.deferred.remove(&working.full_name) {
            self.add(desire);
        } else if let Some(desire) = self.desired.pods.get(&uid).cloned() {
            // It was removed and wanted again while it went.
            self.add(desire);
        }
    }

    async fn sandboxes_of(&self, uid: &str) -> Vec<Arc<dyn PodSandbox>> {
        let all = self.context.machine.sandboxes.list().await;
        all.into_iter()
            .filter(|sandbox| sandbox.labels().get(label::POD_UID).is_some_and(|of| of == uid))
            .collect()
    }

    /// Gives the classes their shares: pods that asked for nothing get what is left, and those that asked for something
    /// get together what they asked for.
    fn share_out(&mut self) {
        let pods = self.desired.pods.values().map(|desire| &*desire.pod);
        let shares = burstable_shares(pods);
        if self.burstable_shares == Some(shares) {
            return;
        }
        self.burstable_shares = Some(shares);
        for (class, shares) in [("besteffort", milli_cpu_to_shares(0)), ("burstable", shares)] {
            let limits = CgroupLimits { cpu_shares: Some(shares), ..CgroupLimits::default() };
            if let Err(error) = self.context.machine.sandboxes.limit(class, &limits.to_oci()) {
                tracing::warn!(class, error = %ErrorChain(&error), "setting the shares of a class of pods");
            }
        }
    }

    /// Clears away what is left of pods that no source wants; once, when all sources have been read.
    fn sweep(&mut self) {
        for sandbox in std::mem::take(&mut self.found).into_values().flatten() {
            tracing::info!(sandbox = sandbox.id(), "removing the sandbox of a pod that nobody wants");
            let context = self.context.clone();
            self.chores.spawn(async move { remove_orphan(&context, &sandbox).await });
        }
        let known: BTreeSet<String> = self.desired.pods.keys().cloned().collect();
        let logs: BTreeSet<String> = self
            .desired
            .pods
            .values()
            .map(|desire| format!("{}_{}_{}", namespace(&desire.pod), name(&desire.pod), uid(&desire.pod)))
            .collect();
        let layout = self.context.layout.clone();
        self.chores.spawn(async move {
            let swept = tokio::task::spawn_blocking(move || {
                for (dir, keep) in [(layout.pods(), known), (layout.logs(), logs)] {
                    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                        if !entry.file_name().to_str().is_some_and(|name| keep.contains(name))
                            && let Err(error) = mount::remove(&entry.path())
                        {
                            tracing::warn!(error = %ErrorChain(&error), "removing what is left of a pod");
                        }
                    }
                }
            });
            // Only fails when the process is stopping.
            let _ = swept.await;
        });
    }

    /// Deletes mirrors of pods that are not here any more: nobody else would.
    fn remove_orphaned_mirrors(&mut self) {
        let Some(client) = &self.context.client else { return };
        for (full_name, mirror) in &self.desired.mirrors {
            let ours = |pod: &Pod| is_static(pod) && crate::names::full_name(pod) == *full_name;
            let wanted = self.desired.pods.values().any(|desire| ours(&desire.pod));
            let going = self.working.values().any(|working| working.full_name == *full_name);
            if wanted || going {
                continue;
            }
            let (client, mirror) = (client.clone(), mirror.clone());
            self.chores.spawn(async move {
                let api = client.namespaced::<Pod>(namespace(&mirror));
                let params = client::DeleteParams::uid(uid(&mirror)).grace(0);
                while let Err(error) = api.delete(name(&mirror), &params).await {
                    if error.is_not_found() || error.is_conflict() {
                        return;
                    }
                    tracing::warn!(pod = name(&mirror), error = %ErrorChain(&error), "deleting an orphaned mirror pod");
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
    }
}

/// Ends and removes a sandbox whose pod is not known any more.
async fn remove_orphan(context: &Context, sandbox: &Arc<dyn PodSandbox>) {
    if sandbox.is_ready() {
        let containers = sandbox.containers().await.unwrap_or_default();
        let running: Vec<String> = containers
            .into_iter()
            .filter(|state| matches!(state.status, ContainerStatus::Running { .. }))
            .map(|state| state.id)
            .collect();
        for id in &running {
            // It is killed below, whatever comes of this.
            let _ = sandbox.signal(id, Signal::TERM).await;
        }
        let all = async {
            for id in &running {
                let _ = sandbox.wait(id).await;
            }
        };
        let _ = tokio::time::timeout(ORPHAN_GRACE, all).await;
    }
    while let Err(error) = sandbox.remove().await {
        tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "removing an orphaned sandbox");
        tokio::time::sleep(RETRY).await;
    }
    if let Err(error) = context.machine.network.detach(sandbox.id()).await {
        tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "detaching an orphaned sandbox");
    }
}

#[cfg(test)]
mod tests;
