//! Logs and streams through the server to the agent.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent;
use crate::port::{Port, get, post, text};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod on a node whose agent listens.
async fn with_pod() -> Port {
    let port = Port::open().await;
    let agent = agent::start(&port).await;
    let admin = port.admin();
    let node = json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": agent.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent.port()}},
    }});
    assert_eq!(port.ask(Some(&admin), post("/api/v1/nodes", &node)).await.status(), 201);
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(port.ask(Some(&admin), post(accounts, &account)).await.status(), 201);
    let pod = json!({"metadata": {"name": "web"}, "spec": {
        "nodeName": "n1", "containers": [{"name": "c", "image": "busybox"}],
    }});
    assert_eq!(port.ask(Some(&admin), post(PODS, &pod)).await.status(), 201);
    port
}

#[tokio::test]
async fn logs() {
    let port = with_pod().await;
    let admin = port.admin();
    let answer = port.ask(Some(&admin), get(&format!("{PODS}/web/log?tailLines=5&timestamps=true"))).await;
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert_eq!(text(answer).await, "log of /containerLogs/default/web/c?tailLines=5&timestamps=true\n");
    let refused = port.ask(Some(&admin), get(&format!("{PODS}/web/log?previous=true"))).await;
    assert_eq!(refused.status(), 400);
    let status: serde_json::Value = serde_json::from_str(&text(refused).await).unwrap();
    assert_eq!(status["message"], "previous terminated container \"c\" in pod \"web\" not found");
    assert_eq!(port.ask(Some(&admin), get(&format!("{PODS}/none/log"))).await.status(), 404);
    assert_eq!(port.ask(None, get(&format!("{PODS}/web/log"))).await.status(), 403);
}

#[tokio::test]
async fn bytes_go_both_ways_after_an_upgrade() {
    let port = with_pod().await;
    let admin = port.admin();
    let mut request = get(&format!("{PODS}/web/exec?command=sh&stdin=true&stdout=true"));
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let answer = port.ask(Some(&admin), request).await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let greeting = "/exec/default/web/c?stdin=true&stdout=true&command=sh\n";
    let mut buffer = vec![0; greeting.len()];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(String::from_utf8(buffer).unwrap(), greeting);
    for n in 0..100_u32 {
        let message = n.to_be_bytes().repeat(100);
        stream.write_all(&message).await.unwrap();
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message);
    }
    // The server ends what goes through it.
    port.api.stop().await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "ends in time");
}

#[tokio::test]
async fn a_stream_needs_an_upgrade_and_an_agent() {
    let port = with_pod().await;
    let admin = port.admin();
    let plain = port.ask(Some(&admin), get(&format!("{PODS}/web/exec?command=sh&stdout=true"))).await;
    assert_eq!(plain.status(), 400);
    let pod = json!({"metadata": {"name": "lost"}, "spec": {
        "nodeName": "n2", "containers": [{"name": "c", "image": "busybox"}],
    }});
    assert_eq!(port.ask(Some(&admin), post(PODS, &pod)).await.status(), 201);
    let node = json!({"metadata": {"name": "n2"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}},
    }});
    assert_eq!(port.ask(Some(&admin), post("/api/v1/nodes", &node)).await.status(), 201);
    let answer = port.ask(Some(&admin), get(&format!("{PODS}/lost/log"))).await;
    assert_eq!(answer.status(), 500);
    assert!(text(answer).await.contains("error dialing backend: dialing 127.0.0.1:1"));
}
