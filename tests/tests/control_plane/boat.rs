//! A whole control plane in this process, over the memory store, with simulated nodes.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Body, Identity};
use bytes::Bytes;
use client::{
    Cache, Client, DeleteParams, Informers, Object, ObjectKey, Patch, TaskGroup, Transport, TransportError,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::{Request, Response};
use manifests::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use manifests::k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::memory::MemoryStore;
use tokio_util::sync::CancellationToken;

/// Requests to the server as one identity.
#[derive(Debug)]
struct InProcess(Arc<ApiServer>, Identity);

impl Transport for InProcess {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<client::Body>, TransportError>> {
        let (server, identity) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().to_string());
            let response = server.handle(request.map(|bytes| Body::chunks([bytes])), identity).await;
            Ok(response.map(|body| {
                let chunks = body.into_stream();
                chunks.map_err(move |error| TransportError::new(&method, path.clone(), error)).boxed()
            }))
        })
    }
}

/// A running control plane.
pub(crate) struct Boat {
    pub(crate) client: Client,
    server: Arc<ApiServer>,
    pub(crate) stop: CancellationToken,
    nodes: Vec<(String, CancellationToken)>,
}

impl Boat {
    /// The API server alone.
    pub(crate) async fn bare() -> Self {
        let server = ApiServer::new(Arc::new(MemoryStore::new()), apiserver::Config::default());
        server.start().await.unwrap();
        let client = Client::new(Arc::new(InProcess(server.clone(), Identity::admin())));
        Self { client, server, stop: CancellationToken::new(), nodes: Vec::new() }
    }

    /// With scheduler and controllers, as the binary runs them.
    pub(crate) async fn launch() -> Self {
        let boat = Self::bare().await;
        let informers = Informers::new(boat.client.clone(), boat.stop.clone());
        let mut group = TaskGroup::new(boat.stop.clone());
        let running = informers.clone();
        group.spawn_infallible("informers", async move { running.run().await });
        let options = scheduler::Options { informers: Some(informers.clone()), ..Default::default() };
        group.spawn(
            "scheduler",
            scheduler::run(boat.client_as("system:kube-scheduler"), options, boat.stop.clone()),
        );
        let options = controllers::Options { informers: Some(informers), ..Default::default() };
        let client = boat.client_as("system:kube-controller-manager");
        group.spawn("controllers", controllers::run(client, options, boat.stop.clone()));
        // Detached: the token ends it, and a failure shows in the log of the test that waits in vain.
        tokio::task::spawn(async move {
            if let Err(error) = group.join(Duration::from_secs(5)).await {
                println!("the control plane failed: {error:?}");
            }
        });
        boat
    }

    /// A client of the same server as another user.
    pub(crate) fn client_as(&self, user: &str) -> Client {
        let groups: [&str; 0] = [];
        Client::new(Arc::new(InProcess(self.server.clone(), Identity::user(user, groups))))
    }

    /// Registers a node that runs what is assigned to it.
    pub(crate) async fn add_node(&mut self, node: Node) {
        let name = node.name().to_owned();
        let token = self.stop.child_token();
        let simulated = SimulatedNode::register(self.client.clone(), node).await;
        tokio::task::spawn(simulated.run(token.clone()));
        self.nodes.push((name, token));
    }

    /// The node says and does nothing any more.
    pub(crate) fn silence(&self, node: &str) {
        let (_, token) = self.nodes.iter().find(|(name, _)| name == node).unwrap();
        token.cancel();
    }

    /// Creates any object.
    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        self.client.request(http::Method::POST, path, Some(&object)).await.unwrap()
    }

    /// Waits until what is read at `path` satisfies `holds`.
    #[track_caller]
    pub(crate) fn eventually<'a, T: DeserializeOwned + std::fmt::Debug>(
        &'a self,
        path: &'a str,
        holds: impl Fn(&T) -> bool + 'a,
    ) -> impl Future<Output = T> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut last = String::new();
            for _ in 0..600 {
                match self.client.request::<(), T>(http::Method::GET, path, None).await {
                    Ok(found) if holds(&found) => return found,
                    Ok(found) => last = format!("{found:#?}"),
                    Err(error) => last = error.to_string(),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("{caller}: {path} never was as expected; last: {last}");
        }
    }

    /// Waits until nothing is found at `path`.
    #[track_caller]
    pub(crate) fn gone<'a>(&'a self, path: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..600 {
                match self.client.request::<(), Value>(http::Method::GET, path, None).await {
                    Err(error) if error.is_not_found() => return,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            panic!("{caller}: {path} is still there");
        }
    }
}

impl Drop for Boat {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The API side of a node agent: registers, renews its Lease, and says that its pods run, or that they are
/// gone.
struct SimulatedNode {
    client: Client,
    name: String,
    pods: Cache<Pod>,
    informer: client::Informer<Pod>,
    addresses: u8,
}

impl SimulatedNode {
    async fn register(client: Client, node: Node) -> Self {
        let name = node.name().to_owned();
        let mut status = node;
        (status.metadata.uid, status.metadata.resource_version) = (None, None);
        client.all::<Node>().create(&status).await.unwrap();
        // Whatever a controller has written meanwhile: no version, so this is the newest word.
        client.all::<Node>().replace_status(&status).await.unwrap();
        let informer = client::Informer::new(client.all::<Pod>()).fields(format!("spec.nodeName={name}"));
        Self { client, name, pods: informer.cache(), informer, addresses: 1 }
    }

    async fn run(self, stop: CancellationToken) {
        let Self { client, name, pods, informer, mut addresses } = self;
        let mut changes = pods.changes();
        let work = async {
            renew(&client, &name).await;
            let mut beat = tokio::time::interval(Duration::from_secs(10));
            loop {
                tokio::select! {
                    _ = beat.tick() => renew(&client, &name).await,
                    key = changes.next() => tend(&client, &pods, &key, &mut addresses).await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = informer.run(stop.clone()) => {}
            () = work => {}
        }
    }
}

async fn renew(client: &Client, node: &str) {
    let leases = client.namespaced::<Lease>("kube-node-lease");
    let spec = LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match leases.get_opt(node).await.unwrap() {
        Some(mut lease) => {
            lease.spec = Some(spec);
            leases.replace(&lease).await.unwrap();
        }
        None => {
            let mut lease = Lease { spec: Some(spec), ..Lease::default() };
            lease.metadata.name = Some(node.to_owned());
            leases.create(&lease).await.unwrap();
        }
    }
}

async fn tend(client: &Client, pods: &Cache<Pod>, key: &ObjectKey, addresses: &mut u8) {
    let Some(pod) = pods.get(key) else { return };
    let api = client.namespaced::<Pod>(pod.namespace());
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api.delete_opt(pod.name(), &DeleteParams::uid(pod.uid()).grace(0)).await;
    } else if !running {
        *addresses = addresses.wrapping_add(1);
        let broken = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .any(|container| container.image.as_deref() == Some("broken"));
        let ready = if broken { "False" } else { "True" };
        let now = Timestamp::now().to_string();
        let ip = format!("10.42.0.{addresses}");
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": now},
                {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
            ],
        }}));
        let _ = api.patch_status(pod.name(), &patch).await;
    }
}
