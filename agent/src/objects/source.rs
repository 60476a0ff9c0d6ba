//! The objects that pods refer to, followed by one watch each and kept on disk for times without a server.
//!
//! A watch lives as long as a pod is interested in its object. A pod waits for the first answer, but not for
//! long: without a server the copy on disk has to do.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use client::watcher::{Event, Params, Watcher};
use client::{Client, ErrorChain, Object};
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::{Metadata, NamespaceResourceScope, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::claim::{self, BoundClaim};
use super::token::{self, TokenKey};
use super::{References, Seen, Snapshot};
use crate::disk::{self, Durability};
use crate::names;

/// How long a server that does not answer is waited for, when there is nothing else.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited for when there is a copy on disk.
const PATIENCE_WITH_COPY: Duration = Duration::from_millis(500);

/// All objects that any pod refers to.
#[derive(Debug)]
pub struct ObjectSource {
    client: Option<Client>,
    dir: PathBuf,
    config_maps: Followed<ConfigMap>,
    secrets: Followed<Secret>,
    /// Says that the machine's clock was set.
    clock_set: watch::Sender<()>,
}

/// A kind of object that lives in a namespace.
trait NamespacedObject: Object + Resource<Scope = NamespaceResourceScope> + Metadata<Ty = ObjectMeta> {}

impl NamespacedObject for ConfigMap {}
impl NamespacedObject for Secret {}

type Followed<K> = Mutex<HashMap<(String, String), Weak<Follower<K>>>>;

/// One object and the watch on it.
#[derive(Debug)]
struct Follower<K> {
    seen: watch::Receiver<Option<Seen<K>>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Follower<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pod's interest in its objects.
#[derive(Debug, Default)]
pub struct Subscription {
    config_maps: BTreeMap<String, Interest<ConfigMap>>,
    secrets: BTreeMap<String, Interest<Secret>>,
    tokens: BTreeMap<TokenKey, Interest<String>>,
    claims: BTreeMap<String, Interest<BoundClaim>>,
}

#[derive(Debug)]
struct Interest<K> {
    follower: Arc<Follower<K>>,
    seen: watch::Receiver<Option<Seen<K>>>,
}

impl ObjectSource {
    /// Objects of a server, if there is one; copies are kept in `dir`.
    pub fn new(client: Option<Client>, dir: PathBuf) -> Self {
        Self {
            client,
            dir,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            clock_set: watch::Sender::default(),
        }
    }

    /// For whoever notices that the machine's clock was set.
    pub fn clock_set(&self) -> watch::Sender<()> {
        self.clock_set.clone()
    }

    /// Follows what `pod` refers to; copies of its tokens are in `pod_dir`. Must be called within a tokio runtime.
    pub fn subscribe(&self, pod: &Arc<Pod>, references: &References, pod_dir: &Path) -> Subscription {
        let mut subscription = Subscription::default();
        let namespace = names::namespace(pod);
        for key in &references.tokens {
            // A token is the pod's own: nobody else follows it.
            let (sender, seen) = watch::channel(None);
            let file = pod_dir.join(token::file_name(key));
            let asked =
                token::Asked { client: self.client.clone(), pod: pod.clone(), key: key.clone(), file };
            let task = tokio::spawn(token::follow(asked, sender, self.clock_set.subscribe()));
            let follower = Arc::new(Follower { seen: seen.clone(), task });
            subscription.tokens.insert(key.clone(), Interest { follower, seen });
        }
        for name in &references.claims {
            // What a claim is bound to does not change: it is asked for once, for this pod.
            let (sender, seen) = watch::channel(None);
            let file = pod_dir.join(claim::file_name(name));
            let asked =
                claim::Asked { client: self.client.clone(), pod: pod.clone(), name: name.clone(), file };
            let task = tokio::spawn(claim::follow(asked, sender));
            let follower = Arc::new(Follower { seen: seen.clone(), task });
            subscription.claims.insert(name.clone(), Interest { follower, seen });
        }
        for name in &references.config_maps {
            let interest = self.follow(&self.config_maps, "configmap", namespace, name);
            subscription.config_maps.insert(name.clone(), interest);
        }
        for name in &references.secrets {
            let interest = self.follow(&self.secrets, "secret", namespace, name);
            subscription.secrets.insert(name.clone(), interest);
        }
        subscription
    }

    fn follow<K>(&self, all: &Followed<K>, kind: &'static str, namespace: &str, name: &str) -> Interest<K>
    where
        K: NamespacedObject,
    {
        let mut all = lock(all);
        all.retain(|_, follower| follower.strong_count() > 0);
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(follower) = all.get(&key).and_then(Weak::upgrade) {
            return Interest { seen: follower.seen.clone(), follower };
        }
        let (sender, seen) = watch::channel(None);
        let file = self.dir.join(format!("{kind}.{namespace}.{name}.json"));
        let task = tokio::spawn(follow(self.client.clone(), key.clone(), kind, file, sender));
        let follower = Arc::new(Follower { seen: seen.clone(), task });
        all.insert(key, Arc::downgrade(&follower));
        Interest { follower, seen }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere does not make a map of watches wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscription {
    /// Waits until something is known of every object, and says what.
    pub async fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, interest) in &mut self.config_maps {
            snapshot.config_maps.insert(name.clone(), interest.wait().await);
        }
        for (name, interest) in &mut self.secrets {
            snapshot.secrets.insert(name.clone(), interest.wait().await);
        }
        for (key, interest) in &mut self.tokens {
            snapshot.tokens.insert(key.clone(), interest.wait().await);
        }
        for (name, interest) in &mut self.claims {
            snapshot.claims.insert(name.clone(), interest.wait().await);
        }
        snapshot
    }

    /// Waits until an object changes. Never returns without objects. Cancel safe.
    pub async fn changed(&mut self) {
        let config_maps = self.config_maps.values_mut().map(|interest| {
            Box::pin(async move {
                if interest.seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>
        });
        let secrets = self.secrets.values_mut().map(|interest| {
            Box::pin(async move {
                if interest.seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>
        });
        let tokens = self.tokens.values_mut().map(|interest| {
            Box::pin(async move {
                if interest.seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>
        });
        let claims = self.claims.values_mut().map(|interest| {
            Box::pin(async move {
                if interest.seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>
        });
        let all: Vec<_> = config_maps.chain(secrets).chain(tokens).chain(claims).collect();
        if all.is_empty() {
            std::future::pending::<()>().await;
        }
        futures_util::future::select_all(all).await;
    }

    /// The same interest once more, for an operation that runs beside the one who waits for changes.
    pub fn fork(&self) -> Self {
        Self {
            config_maps: self.config_maps.iter().map(|(name, i)| (name.clone(), i.fork())).collect(),
            secrets: self.secrets.iter().map(|(name, i)| (name.clone(), i.fork())).collect(),
            tokens: self.tokens.iter().map(|(key, i)| (key.clone(), i.fork())).collect(),
            claims: self.claims.iter().map(|(name, i)| (name.clone(), i.fork())).collect(),
        }
    }
}

impl<K: Clone> Interest<K> {
    fn fork(&self) -> Self {
        Self { follower: self.follower.clone(), seen: self.follower.seen.clone() }
    }

    async fn wait(&mut self) -> Seen<K> {
        let known = self.seen.wait_for(Option::is_some).await;
        match known.ok().and_then(|seen| seen.clone()) {
            Some(seen) => seen,
            None => Seen::Unknown("the agent is stopping".to_owned()),
        }
    }
}

async fn follow<K>(
    client: Option<Client>,
    (namespace, name): (String, String),
    kind: &'static str,
    file: PathBuf,
    seen: watch::Sender<Option<Seen<K>>>,
) where
    K: NamespacedObject,
{
    let copy: Option<Arc<K>> = read(&file).map(Arc::new);
    let Some(client) = client else {
        let unknown = format!("couldn't get {kind} {namespace}/{name}: this node has no API server");
        seen.send_replace(Some(copy.map_or(Seen::Unknown(unknown), Seen::Present)));
        return std::future::pending().await;
    };
    let params = Params::default().fields(format!("metadata.name={name}"));
    let mut watcher = Watcher::new(client.namespaced::<K>(&namespace), params);
    let patience = if copy.is_some() { PATIENCE_WITH_COPY } else { PATIENCE };
    let mut event = match tokio::time::timeout(patience, watcher.next()).await {
        Ok(event) => event,
        Err(_) => {
            let unknown = format!("couldn't get {kind} {namespace}/{name}: the API server does not answer");
            seen.send_replace(Some(copy.map_or(Seen::Unknown(unknown), Seen::Present)));
            watcher.next().await
        }
    };
    loop {
        let next = match event {
            Event::Restarted(mut list) => list.pop(),
            Event::Applied(object) => Some(object),
            Event::Deleted(_) => None,
        };
        let next = next.map(|mut object| {
            object.metadata_mut().managed_fields = None;
            Arc::new(object)
        });
        let state = next.clone().map_or(Seen::Missing, Seen::Present);
        // Listing again after a disconnect is no change.
        seen.send_if_modified(|old| {
            let same = match (&*old, &state) {
                (Some(Seen::Present(a)), Seen::Present(b)) => a.resource_version() == b.resource_version(),
                (Some(Seen::Missing), Seen::Missing) => true,
                _ => false,
            };
            if !same {
                *old = Some(state);
            }
            !same
        });
        keep(&file, next).await;
        event = watcher.next().await;
    }
}

fn read<K: DeserializeOwned>(file: &Path) -> Option<K> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Keeps the copy on disk; an object that was deleted has none.
async fn keep<K: Object>(file: &Path, object: Option<Arc<K>>) {
    let file = file.to_owned();
    let written = tokio::task::spawn_blocking(move || match object {
        Some(object) => {
            if let Ok(bytes) = serde_json::to_vec(&*object)
                && let Err(error) = disk::write(&file, &bytes, Durability::Process)
            {
                tracing::warn!(error = %ErrorChain(&error), "cannot keep a copy of an object");
            }
        }
        None => {
            if let Err(error) = disk::remove(&file) {
                tracing::warn!(file = %file.display(), %error, "cannot remove the copy of an object");
            }
        }
    });
    // Only fails when the process is stopping.
    let _ = written.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_server_the_copy_has_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let config_map = ConfigMap {
            data: Some(BTreeMap::from([("a".to_owned(), "1".to_owned())])),
            ..ConfigMap::default()
        };
        std::fs::write(dir.path().join("configmap.ns.here.json"), serde_json::to_vec(&config_map).unwrap())
            .unwrap();
        let source = ObjectSource::new(None, dir.path().to_owned());
        let references = References {
            config_maps: ["here".to_owned(), "gone".to_owned()].into(),
            ..References::default()
        };
        let mut pod = crate::fixture::pod("containers: [{name: a, image: i}]");
        pod.metadata.namespace = Some("ns".to_owned());
        let pod = Arc::new(pod);
        let mut subscription = source.subscribe(&pod, &references, dir.path());
        let snapshot = subscription.snapshot().await;
        assert!(matches!(snapshot.config_maps["here"], Seen::Present(_)));
        assert!(matches!(snapshot.config_maps["gone"], Seen::Unknown(_)));
        let again = source.subscribe(&pod, &references, dir.path());
        assert!(Arc::ptr_eq(&again.config_maps["here"].follower, &subscription.config_maps["here"].follower));
    }
}
