//! What the agent's own API needs of the pods: which there are, which of their containers run, and their logs.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::logs::read::{self, LogError, LogQuery};
use crate::machine::PodSandbox;
use crate::names::Layout;
use crate::pod::worker::View;
use crate::pods::Registry;
use crate::server::{ContainerPath, LogOptions, LogStream, NotThere, Pods, RunningContainer};
use crate::stats::{self, Earlier, Sample};

/// Parts of a log that may wait for a slow client; then the reader waits.
const WAITING: usize = 4;

/// The pods of this node, for the server.
#[derive(Debug)]
pub struct Access {
    node: String,
    registry: Registry,
    layout: Layout,
    /// What was answered to whoever asked for figures before.
    earlier: Mutex<Earlier>,
}

impl Access {
    /// Of these pods of a node, with their logs below this layout.
    pub fn new(node: impl Into<String>, registry: Registry, layout: Layout) -> Self {
        Self { node: node.into(), registry, layout, earlier: Mutex::default() }
    }

    async fn sample(&self) -> Sample {
        Sample::take(&self.node, self.layout.data_dir().to_owned(), self.registry.all()).await
    }

    fn rates(&self, sample: &mut Sample) -> bool {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner).rates(sample)
    }

    fn find(&self, path: &ContainerPath) -> Result<watch::Receiver<View>, NotThere> {
        let view = self.registry.find(&path.namespace, &path.pod).ok_or(NotThere::Pod)?;
        if status_of(&view.borrow(), &path.container).is_none() {
            let message = format!("container {:?} in pod {:?} is not available", path.container, path.pod);
            return Err(NotThere::Container(message));
        }
        Ok(view)
    }
}

fn status_of(view: &View, container: &str) -> Option<ContainerStatus> {
    let status = &view.status;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    let all = all.chain(&status.ephemeral_container_statuses).flatten();
    let found = all.into_iter().find(|status| status.name == container).cloned();
    // A pod that was just taken on has no statuses yet; its containers are there all the same.
    found.or_else(|| {
        let spec = view.pod.spec.as_ref()?;
        let mut all = names(spec);
        all.any(|defined| defined == container).then(ContainerStatus::default)
    })
}

/// Names of all containers that a pod may have.
fn names(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let passing = spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str());
    all.map(|container| container.name.as_str()).chain(passing)
}

#[async_trait]
impl Pods for Access {
    fn list(&self) -> Vec<Arc<Pod>> {
        let whole = |view: View| {
            let mut pod = (*view.pod).clone();
            pod.status = Some((*view.status).clone());
            Arc::new(pod)
        };
        self.registry.all().into_iter().map(whole).collect()
    }

    async fn running(&self, path: &ContainerPath) -> Result<RunningContainer, NotThere> {
        let view = self.registry.find(&path.namespace, &path.pod).ok_or(NotThere::Pod)?;
        let view = view.borrow();
        let running = view.containers.get(&path.container).filter(|container| container.running);
        let (Some(container), Some(sandbox)) = (running, view.sandbox.clone()) else {
            return Err(NotThere::Container(format!("container not found ({:?})", path.container)));
        };
        let spec = view.pod.spec.as_ref();
        let mut all = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let passing = || {
            let mut list = spec?.ephemeral_containers.iter().flatten();
            list.find(|defined| defined.name == path.container)?.tty
        };
        let defined = all.find(|defined| defined.name == path.container);
        let tty = defined.and_then(|defined| defined.tty).or_else(passing);
        Ok(RunningContainer { sandbox, id: container.id.clone(), tty: tty.unwrap_or(false) })
    }

    fn sandbox(&self, namespace: &str, pod: &str) -> Result<Arc<dyn PodSandbox>, NotThere> {
        let view = self.registry.find(namespace, pod).ok_or(NotThere::Pod)?;
        let sandbox = view.borrow().sandbox.clone();
        sandbox.filter(|sandbox| sandbox.is_ready()).ok_or_else(|| {
            NotThere::Container(format!("unable to forward port because pod is not running: {pod:?}"))
        })
    }

    fn address(&self, namespace: &str, pod: &str) -> Result<IpAddr, NotThere> {
        let view = self.registry.find(namespace, pod).ok_or(NotThere::Pod)?;
        let address = view.borrow().status.pod_ip.as_deref().and_then(|address| address.parse().ok());
        address.ok_or_else(|| NotThere::Container(format!("pod {pod:?} has no address")))
    }

    async fn summary(&self) -> serde_json::Value {
        let mut sample = self.sample().await;
        // Nobody looks when nobody asks: the first one who does waits for the second look that a rate needs.
        if !self.rates(&mut sample) {
            tokio::time::sleep(Earlier::APART.unsigned_abs()).await;
            sample = self.sample().await;
            self.rates(&mut sample);
        }
        stats::summary(&sample)
    }

    async fn resource_metrics(&self) -> String {
        stats::resource(&self.sample().await)
    }

    async fn container_metrics(&self) -> String {
        stats::cadvisor(&self.sample().await)
    }

    fn metrics(&self) -> String {
        stats::metrics(&self.registry.all())
    }

    async fn logs(&self, path: &ContainerPath, options: &LogOptions) -> Result<LogStream, NotThere> {
        let mut view = self.find(path)?;
        let (number, id, directory) = {
            let view = view.borrow_and_update();
            let number = which_run(&view, path, options.previous)?;
            let current = view.containers.get(&path.container);
            let id = current.filter(|current| current.running && current.attempt == number);
            let directory = self.layout.container_logs(&view.pod, &path.container);
            (number, id.map(|current| current.id.clone()), directory)
        };
        let query = query(options)?;
        let ended = CancellationToken::new();
        match id {
            Some(id) if query.follow => {
                let (ended, container) = (ended.clone(), path.container.clone());
                // Detached: ends with the container, or with the reader, who drops the guard.
                tokio::spawn(async move {
                    let is_over = |view: &View| {
                        view.containers.get(&container).is_none_or(|now| now.id != id || !now.running)
                    };
                    tokio::select! {
                        // An error means that the pod is gone, and its containers with it.
                        _ = view.wait_for(is_over) => ended.cancel(),
                        () = ended.cancelled() => {}
                    }
                });
            }
            _ => ended.cancel(),
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let log = directory.join(format!("{number}.log"));
        // Detached: ends with the log, or when the other end of the channel is dropped.
        let reading = tokio::spawn(read::read(log, query, sender, ended.clone()));
        Ok(stream(receiver, reading, ended))
    }
}

/// The reader's output as a stream that ends with its error, if it has one.
fn stream(
    receiver: mpsc::Receiver<Bytes>,
    reading: tokio::task::JoinHandle<Result<(), LogError>>,
    ended: CancellationToken,
) -> LogStream {
    let state = (receiver, Some(reading), ended.drop_guard());
    let stream = futures_util::stream::unfold(state, |(mut receiver, mut reading, guard)| async move {
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(chunk), (receiver, reading, guard)));
        }
        let error = match reading.take()?.await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => client::ErrorChain(&error).to_string(),
            Err(error) => error.to_string(),
        };
        Some((Err(std::io::Error::other(error)), (receiver, None, guard)))
    });
    stream.boxed()
}

/// The run whose log is meant, in the kubelet's words if there is none.
fn which_run(view: &View, path: &ContainerPath, previous: bool) -> Result<u32, NotThere> {
    let ContainerPath { pod, container, .. } = path;
    let newest = view.containers.get(container);
    if previous {
        let before = newest.and_then(|newest| newest.attempt.checked_sub(1));
        return before.ok_or_else(|| {
            NotThere::Container(format!(
                "previous terminated container {container:?} in pod {pod:?} not found"
            ))
        });
    }
    if let Some(newest) = newest {
        return Ok(newest.attempt);
    }
    let status = status_of(view, container).unwrap_or_default();
    // A run that the runtime has forgotten has left its log.
    let ended = |state: &Option<manifests::k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    if ended(&status.state) || ended(&status.last_state) {
        return Ok(u32::try_from(status.restart_count).unwrap_or(0));
    }
    let waiting = status.state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
    let message = match waiting.as_deref() {
        Some("ErrImagePull") => "image can't be pulled".to_owned(),
        Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
        Some(reason) => reason.to_owned(),
        None => "ContainerCreating".to_owned(),
    };
    Err(NotThere::Container(format!("container {container:?} in pod {pod:?} is waiting to start: {message}")))
}

fn query(options: &LogOptions) -> Result<LogQuery, NotThere> {
    let since_time = options.since_time.as_deref().map(|text| {
        let wrong = |error: jiff::Error| NotThere::Container(format!("sinceTime {text:?}: {error}"));
        text.parse::<Timestamp>().map_err(wrong)
    });
    let since_seconds = options.since_seconds.map(|seconds| {
        let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        Timestamp::now().saturating_sub(ago).unwrap_or(Timestamp::MIN)
    });
    Ok(LogQuery {
        follow: options.follow,
        tail: options.tail_lines,
        since: since_time.transpose()?.or(since_seconds),
        timestamps: options.timestamps,
        limit_bytes: options.limit_bytes,
        stderr: None,
    })
}
