//! The client over HTTPS against the API server's secure port.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::pki::{Pki, Subject};
use client::{
    Client, DeleteParams, ErrorChain, Informer, Kubeconfig, ListParams, Object, ObjectKey, Patch, WatchEvent,
    WatchParams,
};
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use store::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A server on a port of its own, and the certificates that it knows.
struct Harbour {
    directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
    address: SocketAddr,
    server: Arc<ApiServer>,
    serving: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

fn admin() -> Subject {
    Subject {
        common_name: "admin".to_owned(),
        organization: Some("system:masters".to_owned()),
        ..Subject::default()
    }
}

impl Harbour {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, serving, stop) = Self::serve(directory.path(), &store, listener).await;
        Self { directory, store, address, server, serving, stop }
    }

    async fn serve(
        directory: &Path,
        store: &Arc<MemoryStore>,
        listener: TcpListener,
    ) -> (Arc<ApiServer>, tokio::task::JoinHandle<()>, CancellationToken) {
        let pki = Pki::open(directory).unwrap();
        let subject = Subject {
            common_name: "server".to_owned(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            ..Subject::default()
        };
        let tls = pki.pair("server", &subject).unwrap().server_config(pki.ca(), false).unwrap();
        let server = ApiServer::new(store.clone(), apiserver::Config::default());
        server.start().await.unwrap();
        let stop = CancellationToken::new();
        let serving =
            tokio::task::spawn(apiserver::serve(server.clone(), listener, Arc::new(tls), stop.clone()));
        (server, serving, stop)
    }

    async fn close(&mut self) {
        self.server.stop().await;
        self.stop.cancel();
        (&mut self.serving).await.unwrap();
    }

    /// The same address and store, another process as far as clients can tell.
    async fn open_again(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        (self.server, self.serving, self.stop) =
            Self::serve(self.directory.path(), &self.store, listener).await;
    }

    /// A kubeconfig for the server, with the CA and the user of whichever certificates.
    fn kubeconfig(&self, pki: &Pki, subject: &Subject) -> String {
        let pair = pki.issue("client", subject).unwrap();
        apiserver::pki::kubeconfig(&format!("https://{}", self.address), pki.ca(), "user", &pair)
    }

    fn client(&self) -> Client {
        client(&self.kubeconfig(&Pki::open(self.directory.path()).unwrap(), &admin()))
    }
}

fn client(kubeconfig: &str) -> Client {
    Kubeconfig::from_text(kubeconfig, Path::new("/test/kubeconfig")).unwrap().client(None).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_over_one_http2_connection() {
    let harbour = Harbour::open().await;
    let client = harbour.client();
    let maps = client.namespaced::<ConfigMap>("default");
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version;
    let mut watch =
        maps.watch(&WatchParams { resource_version: version, ..WatchParams::default() }).await.unwrap();

    let created = maps.create(&config_map("a")).await.unwrap();
    assert!(maps.create(&config_map("a")).await.unwrap_err().is_already_exists());
    maps.patch("a", &Patch::Merge(json!({"data": {"k": "v"}}))).await.unwrap();
    assert!(maps.replace(&created).await.unwrap_err().is_conflict());
    assert_eq!(maps.get("a").await.unwrap().data.unwrap()["k"], "v");
    maps.delete("a", &DeleteParams::uid(created.uid())).await.unwrap();
    assert!(maps.get("a").await.unwrap_err().is_not_found());
    assert!(maps.get_opt("a").await.unwrap().is_none());

    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        kinds.push(match watch.next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => format!("added {}", map.name()),
            WatchEvent::Modified(map) => format!("modified {}", map.name()),
            WatchEvent::Deleted(map) => format!("deleted {}", map.name()),
            WatchEvent::Bookmark { .. } => continue,
        });
    }
    assert_eq!(kinds, ["added a", "modified a", "deleted a"]);

    let request = http::Request::get("/version").body(bytes::Bytes::new()).unwrap();
    assert_eq!(client.stream(request).await.unwrap().version(), http::Version::HTTP_2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_apart() {
    let harbour = Harbour::open().await;
    let ours = Pki::open(harbour.directory.path()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = Pki::open(elsewhere.path()).unwrap();

    // We do not know the server.
    let error =
        client(&harbour.kubeconfig(&theirs, &admin())).all::<Namespace>().get("default").await.unwrap_err();
    assert!(error.is_transport());
    let text = ErrorChain(&error).to_string();
    assert!(text.contains("GET /api/v1/namespaces/default") && text.contains("certificate"), "{text}");

    // We do not care who the server is, and it does not know us.
    let insecure = format!(
        "clusters: [{{name: c, cluster: {{server: 'https://{}', insecure-skip-tls-verify: true}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c}}}}]\ncurrent-context: c\n",
        harbour.address
    );
    let error = client(&insecure).all::<Namespace>().get("default").await.unwrap_err();
    assert!(matches!(error.status().and_then(|status| status.code), Some(401 | 403)), "{error}");

    // It knows us, and does not let us.
    let nobody = Subject { common_name: "nobody".to_owned(), ..Subject::default() };
    let error =
        client(&harbour.kubeconfig(&ours, &nobody)).all::<Namespace>().get("default").await.unwrap_err();
    assert!(error.is_forbidden(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_outlives_the_server() {
    let mut harbour = Harbour::open().await;
    let client = harbour.client();
    let maps = client.namespaced::<ConfigMap>("default");
    maps.create(&config_map("goes")).await.unwrap();
    maps.create(&config_map("stays")).await.unwrap();
    let informer = Informer::new(maps.clone());
    let cache = informer.cache();
    let stop = CancellationToken::new();
    let running = tokio::task::spawn(informer.run(stop.clone()));
    cache.wait_synced().await;
    let key = |name: &str| ObjectKey::new("default", name);
    assert!(cache.get(&key("goes")).is_some());

    harbour.close().await;
    let error = maps.get("stays").await.unwrap_err();
    assert!(error.is_transport(), "{error}");
    harbour.open_again().await;
    maps.delete("goes", &DeleteParams::default()).await.unwrap();
    maps.create(&config_map("comes")).await.unwrap();
    let seen = async {
        cache.wait_until(&key("goes"), |map| map.is_none()).await;
        cache.wait_until(&key("comes"), |map| map.is_some()).await;
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
    assert!(cache.get(&key("stays")).is_some());
    stop.cancel();
    running.await.unwrap();
    harbour.close().await;
}
