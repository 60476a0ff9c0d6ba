//! Copies of a store, and servers that share one.

use std::collections::BTreeMap;
use std::process::Command;

use client::{Client, ListParams};
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use store::suite::RealEtcd;

use crate::server::Server;

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("v".to_owned(), name.repeat(20))].into());
    map
}

/// Names with uids and versions.
async fn maps(client: &Client) -> BTreeMap<String, (String, String)> {
    let list = client.namespaced::<ConfigMap>("default").list(&ListParams::default()).await.unwrap();
    let meta = list.items.into_iter().map(|map| map.metadata);
    meta.map(|meta| (meta.name.unwrap(), (meta.uid.unwrap(), meta.resource_version.unwrap()))).collect()
}

/// Runs `coracle store` and returns what it says.
fn coracle_store(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(tests::coracle()).arg("store").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_made_while_the_server_runs_and_restored_elsewhere() {
    let mut server = Server::start(&[]);
    let client = server.ready().await;
    for n in 0..300 {
        client.namespaced::<ConfigMap>("default").create(&map(&format!("m-{n}"))).await.unwrap();
    }
    let before = maps(&client).await;
    let data = server.path("data").display().to_string();
    let copy = server.path("copy").display().to_string();
    // Others write while the copy is made.
    let writing = tokio::spawn({
        let maps = client.namespaced::<ConfigMap>("default");
        async move {
            for n in 0..200 {
                maps.create(&map(&format!("later-{n}"))).await.unwrap();
            }
        }
    });
    let said = tokio::task::spawn_blocking({
        let (data, copy) = (data.clone(), copy.clone());
        move || coracle_store(&["backup", &copy, "--data-dir", &data])
    });
    println!("{}", said.await.unwrap().unwrap().trim());
    writing.await.unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&copy).unwrap());
    assert_eq!(mode & 0o777, 0o600);

    // Into a fresh embedded store: the same objects with the same versions, and writes go on after them.
    server.kill();
    let refused = coracle_store(&["restore", &copy, "--data-dir", &data]).unwrap_err();
    assert!(refused.contains("move it away first"), "{refused}");
    std::fs::rename(server.path("data/store"), server.path("data/store.old")).unwrap();
    println!("{}", coracle_store(&["restore", &copy, "--data-dir", &data]).unwrap().trim());
    server.launch();
    let client = server.ready().await;
    let after = maps(&client).await;
    assert!(before.iter().all(|(name, object)| after.get(name) == Some(object)), "objects differ");
    client.namespaced::<ConfigMap>("default").create(&map("new")).await.unwrap();
    server.kill();

    // To etcd, and back again.
    let etcd = RealEtcd::start();
    let store = server.path("data/store").display().to_string();
    println!("{}", coracle_store(&["copy", "--from", &store, "--to", &etcd.endpoint]).unwrap().trim());
    let mut other = Server::start(std::slice::from_ref(&etcd.endpoint));
    let client = other.ready().await;
    let in_etcd = maps(&client).await;
    assert!(after.iter().all(|(name, (uid, _))| in_etcd[name].0 == *uid) && in_etcd.contains_key("new"));
    let copy = other.path("copy").display().to_string();
    coracle_store(&["backup", &copy, "--etcd-servers", &etcd.endpoint]).unwrap();
    let back = other.path("back").display().to_string();
    println!("{}", coracle_store(&["copy", "--from", &etcd.endpoint, "--to", &back]).unwrap().trim());
    let full = coracle_store(&["copy", "--from", &back, "--to", &etcd.endpoint]).unwrap_err();
    assert!(full.contains("the store is not empty"), "{full}");

    // A copy that broke off is not taken.
    let whole = std::fs::read(&copy).unwrap();
    std::fs::write(&copy, &whole[..whole.len() - 10]).unwrap();
    let place = other.path("empty").display().to_string();
    let cut = coracle_store(&["restore", &copy, "--data-dir", &place]).unwrap_err();
    assert!(cut.contains("cut off"), "{cut}");
}

/// Addresses and ports of the service `kubernetes`.
async fn endpoints(client: &Client) -> Vec<i32> {
    let endpoints = client.namespaced::<Endpoints>("default").get_opt("kubernetes").await.unwrap();
    let subsets = endpoints.and_then(|endpoints| endpoints.subsets).unwrap_or_default();
    let mut ports: Vec<i32> = subsets
        .iter()
        .flat_map(|subset| {
            let count = subset.addresses.as_ref().map_or(0, Vec::len);
            subset.ports.iter().flatten().flat_map(move |port| std::iter::repeat_n(port.port, count))
        })
        .collect();
    ports.sort_unstable();
    ports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_one_etcd_are_all_endpoints() {
    let etcd = RealEtcd::start();
    let start = |port: u16| {
        let listen = vec!["--listen".to_owned(), format!("0.0.0.0:{port}")];
        Server::start_with(std::slice::from_ref(&etcd.endpoint), listen)
    };
    let free = || std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let (first_port, second_port) = (free(), free());
    let mut expected = vec![i32::from(first_port), i32::from(second_port)];
    expected.sort_unstable();
    let mut first = start(first_port);
    let client = first.ready().await;
    let mut second = start(second_port);
    second.ready().await;
    // The slice is written after the endpoints.
    let in_slices = async || {
        let slices =
            client.namespaced::<EndpointSlice>("default").list(&ListParams::default()).await.unwrap();
        slices.items.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).sum::<usize>()
    };
    let see = async |expected: &[i32]| {
        let begin = std::time::Instant::now();
        loop {
            let seen = endpoints(&client).await;
            if seen == expected && in_slices().await == expected.len() {
                return;
            }
            assert!(begin.elapsed().as_secs() < 60, "{seen:?}, expected {expected:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    see(&expected).await;
    // One that dies is noticed; one that ends in order says so itself.
    second.kill();
    see(&[i32::from(first_port)]).await;
    second.launch();
    see(&expected).await;
    second.stop();
    see(&[i32::from(first_port)]).await;
}
