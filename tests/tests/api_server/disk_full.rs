//! A full disk: what was acknowledged stays, reads go on, and so do writes when there is room again.

use std::collections::BTreeMap;
use std::process::Command;

use manifests::k8s_openapi::api::core::v1::ConfigMap;

use crate::server::Server;

/// Runs a shell command where the server sees its data.
fn inside(server: &Server, command: &str) {
    let status = Command::new("nsenter")
        .args(["-t", &server.pid().to_string(), "-m", "sh", "-c", command])
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_full_disk() {
    // A small file system in a mount namespace that ends with the server. The ballast makes room later.
    let mut server = Server::start_by(|directory| {
        let data = directory.join("data").display().to_string();
        let script = format!(
            "mount -t tmpfs -o size=24m history {data} && dd if=/dev/zero of={data}/ballast bs=1M count=12 2>/dev/null; exec \"$@\""
        );
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec()
    });
    // The kubeconfig is on that file system, too.
    let root = format!("/proc/{}/root{}", server.pid(), server.path("data").display());
    let kubeconfig = format!("{root}/kubeconfig");
    let client = loop {
        if let Ok(client) = client::Client::from_kubeconfig(&kubeconfig) {
            break client;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    while client.bytes(http::Request::get("/readyz").body(bytes::Bytes::new()).unwrap()).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let api = client.namespaced::<ConfigMap>("default");
    let map = |name: String| {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name);
        map.data = Some([("v".to_owned(), "x".repeat(200_000))].into());
        map
    };
    let mut acknowledged = BTreeMap::new();
    let mut refused = 0;
    for n in 0..200 {
        match api.create(&map(format!("fill-{n}"))).await {
            Ok(created) => {
                acknowledged.insert(format!("fill-{n}"), created.metadata.resource_version);
            }
            Err(error) => {
                let code = error.status().and_then(|status| status.code);
                assert!(
                    code.is_some_and(|code| code >= 500),
                    "a Status that says it is the server: {error:?}"
                );
                refused += 1;
                // Reads go on, and show what was acknowledged.
                let last = acknowledged.last_key_value().unwrap();
                assert_eq!(&api.get(last.0).await.unwrap().metadata.resource_version, last.1);
            }
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5, "the disk never filled up");
    inside(&server, &format!("rm {}/ballast", server.path("data").display()));
    let mut written = api.create(&map("after".to_owned())).await;
    for _ in 0..50 {
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        written = api.create(&map("after".to_owned())).await;
        if written.as_ref().is_err_and(client::Error::is_already_exists) {
            break;
        }
    }
    written.map(drop).or_else(|error| if error.is_already_exists() { Ok(()) } else { Err(error) }).unwrap();
    for (name, version) in &acknowledged {
        assert_eq!(&api.get(name).await.unwrap().metadata.resource_version, version, "{name}");
    }
    println!("{} writes acknowledged, {refused} refused, all of the first there", acknowledged.len());
    server.kill();
}
