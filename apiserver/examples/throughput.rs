//! What the API server does per second, called in process over the memory store: no network, no TLS, one machine.
//!
//! `cargo run --profile quick -p apiserver --example throughput`
#![expect(clippy::print_stdout, reason = "it prints a report")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Body, Config, Identity};
use futures_util::StreamExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::memory::MemoryStore;

const PODS: &str = "/api/v1/namespaces/default/pods";
const OBJECTS: usize = 5000;
const WRITERS: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::new(Arc::new(MemoryStore::new()), Config::default());
    server.start().await?;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    ask(&server, Method::POST, "/api/v1/namespaces/default/serviceaccounts", &account).await;
    println!("idle: {}", memory());

    let watchers: Vec<_> = (0..100).map(|_| tokio::spawn(count_events(server.clone(), OBJECTS))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let server = server.clone();
            tokio::spawn(async move {
                for n in (writer..OBJECTS).step_by(WRITERS) {
                    ask(&server, Method::POST, PODS, &pod(n)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await?;
    }
    report("create a pod", OBJECTS, began.elapsed());
    let mut seen = 0;
    for watcher in watchers {
        seen += watcher.await?;
    }
    report("events to 100 watches", seen, began.elapsed());

    let began = Instant::now();
    for n in 0..OBJECTS {
        ask(&server, Method::GET, &format!("{PODS}/pod-{n}"), "").await;
    }
    report("get a pod", OBJECTS, began.elapsed());
    let began = Instant::now();
    for n in 0..OBJECTS {
        let patch =
            json!({"status": {"phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}]}});
        ask(&server, Method::PATCH, &format!("{PODS}/pod-{n}/status"), &patch.to_string()).await;
    }
    report("patch a status", OBJECTS, began.elapsed());
    let began = Instant::now();
    let mut bytes = 0;
    for _ in 0..20 {
        bytes += ask(&server, Method::GET, PODS, "").await;
    }
    report("list 5000 pods", 20, began.elapsed());
    println!("  {:.0} MB/s", bytes as f64 / began.elapsed().as_secs_f64() / 1e6);
    let began = Instant::now();
    for _ in 0..20 {
        ask(&server, Method::GET, &format!("{PODS}?labelSelector=app%3D7"), "").await;
    }
    report("select 50 of 5000 pods", 20, began.elapsed());
    println!("with {OBJECTS} pods: {}", memory());
    server.stop().await;
    Ok(())
}

fn pod(n: usize) -> String {
    let pod: Value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{n}"), "labels": {"app": (n % 100).to_string()}},
        "spec": {"containers": [{
            "name": "c", "image": "busybox:1.36", "command": ["sleep", "1000"], "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "b"}], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        }]},
    });
    pod.to_string()
}

async fn ask(server: &ApiServer, method: Method, path: &str, body: &str) -> usize {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(Body::from(body.to_owned())).expect("a valid request");
    let response = server.handle(request, Identity::admin()).await;
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.into_body().collect().await.expect("a whole body").to_bytes().len()
}

async fn count_events(server: Arc<ApiServer>, wanted: usize) -> usize {
    let request =
        Request::builder().uri(format!("{PODS}?watch=1")).body(Body::empty()).expect("a valid request");
    let mut stream = server.handle(request, Identity::admin()).await.into_body().into_stream();
    let mut seen = 0;
    while seen < wanted {
        match stream.next().await {
            Some(Ok(_)) => seen += 1,
            _ => break,
        }
    }
    seen
}

fn report(what: &str, count: usize, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    println!("{what}: {rate:.0}/s, {:.1} µs each", took.as_secs_f64() * 1e6 / count as f64);
}

/// Resident memory of this process.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    format!("{} resident, {} at most", line("VmRSS:"), line("VmHWM:"))
}
