//! Who may ask what; health, version, discovery.

use apiserver::{Body, Identity};
use http::{Method, Request};

use crate::common::*;

async fn ask(cluster: &Cluster, identity: Identity, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    answer(cluster.server.handle(request, identity).await).await
}

#[tokio::test]
async fn nobody_sees_health_and_version_only() {
    let cluster = Cluster::start().await;
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/readyz?verbose", 200),
        ("/readyz/etcd", 200),
        ("/version", 200),
        ("/readyz/nothing", 404),
        ("/metrics", 403),
        ("/api", 403),
        ("/", 403),
        ("/api/v1/pods", 403),
        ("/nothing", 403),
    ] {
        let answer = ask(&cluster, Identity::anonymous(), Method::GET, path).await;
        assert_eq!(answer.code, code, "{path}: {:?}", answer.body);
    }
    let message =
        ask(&cluster, Identity::anonymous(), Method::GET, "/api/v1/namespaces/default/pods/web").await;
    assert_eq!(
        message.refused(403, "Forbidden"),
        "pods \"web\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let verbose = ask(&cluster, Identity::anonymous(), Method::GET, "/readyz?verbose=true").await;
    assert_eq!(
        verbose.body,
        "[+]ping ok\n[+]etcd ok\n[+]poststarthook/bootstrap ok\n[+]shutdown ok\nreadyz check passed\n"
    );
}

#[tokio::test]
async fn nodes_write_what_is_theirs() {
    let cluster = Cluster::start().await;
    let node = || Identity::user("system:node:a", ["system:nodes"]);
    let answer = ask(&cluster, node(), Method::DELETE, "/api/v1/nodes/b").await;
    answer.refused(403, "Forbidden");
    ask(&cluster, node(), Method::DELETE, "/api/v1/nodes/a").await.refused(403, "Forbidden");
    ask(&cluster, node(), Method::GET, "/api/v1/pods").await.expect(200);
    ask(&cluster, node(), Method::GET, "/api").await.expect(200);
}

#[tokio::test]
async fn discovery_and_the_rest() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get("/version").await.expect(200)["minor"], "37");
    assert_eq!(cluster.get("/api/v1").await.expect(200)["kind"], "APIResourceList");
    assert_eq!(cluster.get("/apis").await.expect(200)["kind"], "APIGroupList");
    let metrics = cluster.get("/metrics").await;
    let text = metrics.body.as_str().unwrap();
    assert!(text.contains("apiserver_request_total{verb=\"create\""), "{text}");
    assert!(text.contains("apiserver_storage_objects{resource=\"namespaces\"} 4"), "{text}");
    cluster.get("/nothing").await.refused(404, "NotFound");
    cluster.get("/api/v1/nothings").await.refused(404, "NotFound");
    cluster.get("/api/v1/namespaces/default/pods/a/nothing").await.refused(404, "NotFound");
    cluster.ask(Method::PUT, MAPS, "", "").await.refused(405, "MethodNotAllowed");
    cluster.ask(Method::POST, "/version", "", "").await.refused(405, "MethodNotAllowed");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_not_started_shows_no_empty_cluster() {
    let store = std::sync::Arc::new(store::memory::MemoryStore::new());
    let server = apiserver::ApiServer::new(store.clone(), apiserver::Config::default());
    let cluster = Cluster { server, store };
    cluster.get("/api/v1/pods?resourceVersion=0").await.refused(503, "ServiceUnavailable");
    assert_eq!(cluster.get("/readyz").await.code, 500);
    assert_eq!(cluster.get("/livez").await.code, 200);
    // Who asks a little too early is answered a little later.
    let (answer, started) =
        tokio::join!(cluster.get("/api/v1/namespaces?resourceVersion=0"), cluster.server.start());
    started.expect("starts");
    answer.expect(200);
}
