//! A whole control plane in this process, over the memory store, with simulated nodes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{ApiServer, Body, Identity};
use bytes::Bytes;
use client::{
    Cache, Client, DeleteParams, Informers, Next, Object, ObjectKey, Patch, TaskGroup, Transport,
    TransportError, WorkQueue,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::{Request, Response};
use manifests::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use manifests::k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use manifests::k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::memory::MemoryStore;
use tokio_util::sync::CancellationToken;

/// How often a test looks, every 20 ms, before it gives up: only there to end a test that would hang.
const LOOKS: usize = 3000;

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

/// What happens to requests on their way. Seeded, so that a failing storm can be had again.
#[derive(Debug)]
pub(crate) struct Weather {
    random: Mutex<u64>,
    /// In a thousand: requests that do not arrive, answers that do not come back, chunks of a watch at which it breaks.
    stormy: AtomicU32,
}

impl Weather {
    pub(crate) fn new(seed: u64, stormy: u32) -> Arc<Self> {
        Arc::new(Self { random: Mutex::new(seed | 1), stormy: AtomicU32::new(stormy) })
    }

    pub(crate) fn calm_down(&self) {
        self.stormy.store(0, Ordering::Relaxed);
    }

    /// xorshift64*: enough for dice.
    fn strikes(&self) -> bool {
        let mut state = self.random.lock().unwrap();
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % 1000
            < u64::from(self.stormy.load(Ordering::Relaxed))
    }
}

/// A transport in bad weather.
#[derive(Debug)]
struct Stormy(Arc<dyn Transport>, Arc<Weather>);

impl Transport for Stormy {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<client::Body>, TransportError>> {
        let lost = TransportError::new(request.method(), request.uri().to_string(), "lost in the storm");
        let weather = self.1.clone();
        if weather.strikes() {
            return Box::pin(async move { Err(lost) });
        }
        let answer = self.0.send(request);
        Box::pin(async move {
            let answer = answer.await?;
            if weather.strikes() {
                return Err(lost);
            }
            let (method, path) = (lost.method, lost.path);
            Ok(answer.map(|body| {
                let chunks = body.map(move |chunk| match weather.strikes() {
                    true => Err(TransportError::new(&method, path.clone(), "broken by the storm")),
                    false => chunk,
                });
                chunks.boxed()
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
    weather: Arc<Weather>,
}

impl Boat {
    /// The API server alone.
    pub(crate) async fn bare() -> Self {
        let server = ApiServer::new(Arc::new(MemoryStore::new()), apiserver::Config::default());
        server.start().await.unwrap();
        let client = Client::new(Arc::new(InProcess(server.clone(), Identity::admin())));
        // Without controllers nobody else would make it.
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        client.namespaced("default").create(&account).await.unwrap();
        let weather = Weather::new(1, 0);
        Self { client, server, stop: CancellationToken::new(), nodes: Vec::new(), weather }
    }

    /// With scheduler and controllers, as the binary runs them.
    pub(crate) async fn launch() -> Self {
        Self::launch_in(Weather::new(1, 0)).await
    }

    /// The same, where every request of scheduler, controllers and nodes is exposed to the weather. The test's
    /// own client is not.
    pub(crate) async fn launch_in(weather: Arc<Weather>) -> Self {
        let mut boat = Self::bare().await;
        boat.weather = weather;
        let informers = Informers::new(boat.client_as("system:kube-controller-manager"), boat.stop.clone());
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
        self.exposed(Identity::user(user, groups))
    }

    fn exposed(&self, identity: Identity) -> Client {
        let calm = Arc::new(InProcess(self.server.clone(), identity));
        Client::new(Arc::new(Stormy(calm, self.weather.clone())))
    }

    /// Registers a node that runs what is assigned to it.
    pub(crate) async fn add_node(&mut self, node: Node) {
        let name = node.name().to_owned();
        let token = self.stop.child_token();
        let simulated = SimulatedNode::register(&self.client, self.exposed(Identity::admin()), node).await;
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
            for _ in 0..LOOKS {
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
            for _ in 0..LOOKS {
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
}

impl SimulatedNode {
    async fn register(calm: &Client, client: Client, node: Node) -> Self {
        let name = node.name().to_owned();
        let mut status = node;
        (status.metadata.uid, status.metadata.resource_version) = (None, None);
        calm.all::<Node>().create(&status).await.unwrap();
        // Whatever a controller has written meanwhile: no version, so this is the newest word.
        calm.all::<Node>().replace_status(&status).await.unwrap();
        let informer = client::Informer::new(client.all::<Pod>()).fields(format!("spec.nodeName={name}"));
        Self { client, name, pods: informer.cache(), informer }
    }

    async fn run(self, stop: CancellationToken) {
        let Self { client, name, pods, informer } = self;
        let queue = WorkQueue::<ObjectKey>::new();
        let to = queue.clone();
        pods.on_change(move |change| to.add(change.key.clone()));
        let beats = async {
            let mut beat = tokio::time::interval(Duration::from_secs(10));
            loop {
                beat.tick().await;
                let _ = renew(&client, &name).await;
            }
        };
        let addresses = AtomicU32::new(2);
        let work = queue.work(&name, 4, &stop, |key| tend(&client, &pods, key, &addresses));
        tokio::select! {
            () = stop.cancelled() => {}
            () = informer.run(stop.clone()) => {}
            () = beats => {}
            () = work => {}
        }
    }
}

/// A node that cannot reach the server tries again at its next beat.
async fn renew(client: &Client, node: &str) -> Result<(), client::Error> {
    let leases = client.namespaced::<Lease>("kube-node-lease");
    let spec = LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match leases.get_opt(node).await? {
        Some(mut lease) => {
            lease.spec = Some(spec);
            leases.replace(&lease).await.map(drop)
        }
        None => {
            let mut lease = Lease { spec: Some(spec), ..Lease::default() };
            lease.metadata.name = Some(node.to_owned());
            leases.create(&lease).await.map(drop)
        }
    }
}

async fn tend(
    client: &Client,
    pods: &Cache<Pod>,
    key: ObjectKey,
    addresses: &AtomicU32,
) -> Result<Next, client::Error> {
    let Some(pod) = pods.get(&key) else { return Ok(Next::Wait) };
    let api = client.namespaced::<Pod>(pod.namespace());
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if pod.metadata.deletion_timestamp.is_some() {
        match api.delete_opt(pod.name(), &DeleteParams::uid(pod.uid()).grace(0)).await {
            Err(error) if !error.is_conflict() => return Err(error),
            _ => return Ok(Next::Wait),
        }
    }
    if running {
        return Ok(Next::Wait);
    }
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let broken = containers.any(|container| container.image.as_deref() == Some("broken"));
    let ready = if broken { "False" } else { "True" };
    let now = Timestamp::now().to_string();
    let number = addresses.fetch_add(1, Ordering::Relaxed);
    let ip = format!("10.42.{}.{}", number / 250, number % 250 + 2);
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": now},
            {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
        ],
    }}));
    match api.patch_status(pod.name(), &patch).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Next::Wait),
    }
}
