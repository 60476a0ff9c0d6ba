//! Services: addresses and node ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::common::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn a_service_gets_an_address() {
    let cluster = Cluster::start().await;
    let created = cluster.post(SERVICES, service("web", json!({}))).await.expect(201);
    let spec = &created["spec"];
    let ip = spec["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.43."), "{ip}");
    assert_eq!(spec["clusterIPs"], json!([ip]));
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!((&spec["type"], &spec["sessionAffinity"]), (&json!("ClusterIP"), &json!("None")));
    assert_eq!(created["status"], json!({"loadBalancer": {}}));

    // An update that does not know the address keeps it.
    let updated = cluster
        .put(&format!("{SERVICES}/web"), service("web", json!({"ports": [{"port": 81}]})))
        .await
        .expect(200);
    assert_eq!(updated["spec"]["clusterIP"], *ip);

    let message =
        cluster.post(SERVICES, service("other", json!({"clusterIP": ip}))).await.refused(422, "Invalid");
    assert!(message.contains(&format!(
        "spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"
    )), "{message}");
    let message = cluster
        .post(SERVICES, service("other", json!({"clusterIP": "10.99.0.1"})))
        .await
        .refused(422, "Invalid");
    assert!(message.contains("The range of valid IPs is 10.43.0.0/16"), "{message}");

    // What is freed can be had again.
    let gone = cluster.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(gone["kind"], "Service");
    let again = cluster.post(SERVICES, service("other", json!({"clusterIP": ip}))).await.expect(201);
    assert_eq!(again["spec"]["clusterIP"], *ip);
}

#[tokio::test]
async fn services_without_an_address() {
    let cluster = Cluster::start().await;
    let headless =
        cluster.post(SERVICES, service("headless", json!({"clusterIP": "None"}))).await.expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external =
        json!({"type": "ExternalName", "externalName": "example.com", "selector": null, "ports": null});
    let external = cluster.post(SERVICES, service("external", external)).await.expect(201);
    assert!(external["spec"].get("clusterIP").is_none() && external["spec"].get("ipFamilies").is_none());

    let inside =
        cluster.put(&format!("{SERVICES}/external"), service("external", json!({}))).await.expect(200);
    let ip = inside["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let outside = json!({"type": "ExternalName", "externalName": "example.com"});
    let outside =
        cluster.put(&format!("{SERVICES}/external"), service("external", outside)).await.expect(200);
    assert!(outside["spec"].get("clusterIP").is_none(), "{outside:#}");
    cluster.post(SERVICES, service("taker", json!({"clusterIP": ip}))).await.expect(201);
}

#[tokio::test]
async fn node_ports() {
    let cluster = Cluster::start().await;
    let ports = json!([
        {"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53, "protocol": "TCP"},
        {"name": "c", "port": 80, "nodePort": 30080},
    ]);
    let created =
        cluster.post(SERVICES, service("web", json!({"type": "NodePort", "ports": ports}))).await.expect(201);
    let given = |index: usize| created["spec"]["ports"][index]["nodePort"].as_u64().unwrap();
    assert_eq!((given(0), given(2)), (given(1), 30080));
    assert!((30000..=32767).contains(&given(0)));

    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let message = cluster.post(SERVICES, service("other", taken.clone())).await.refused(422, "Invalid");
    assert!(
        message.contains("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"),
        "{message}"
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let message = cluster.post(SERVICES, service("other", outside)).await.refused(422, "Invalid");
    assert!(message.contains("The range of valid ports is 30000-32767"), "{message}");

    // An update keeps the ports; another type gives them back.
    let same = json!({"type": "NodePort", "ports": [{"name": "c", "port": 80}]});
    let kept = cluster.put(&format!("{SERVICES}/web"), service("web", same)).await.expect(200);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30080);
    let mut inside = kept.clone();
    inside["spec"]["type"] = "ClusterIP".into();
    let inside = cluster.put(&format!("{SERVICES}/web"), inside).await.expect(200);
    assert!(inside["spec"]["ports"][0].get("nodePort").is_none(), "{inside:#}");
    cluster.post(SERVICES, service("other", taken)).await.expect(201);
}

#[tokio::test]
async fn a_hundred_services_at_once_share_nothing() {
    let cluster = Arc::new(Cluster::start().await);
    let other = Arc::new(Cluster::over(cluster.store.clone()).await);
    let writers: Vec<_> = (0..100)
        .map(|n| {
            let cluster = if n % 2 == 0 { cluster.clone() } else { other.clone() };
            tokio::spawn(async move {
                let spec = json!({"type": "NodePort"});
                let created = cluster.post(SERVICES, service(&format!("s{n}"), spec)).await.expect(201);
                let spec = &created["spec"];
                (
                    spec["clusterIP"].as_str().unwrap().to_owned(),
                    spec["ports"][0]["nodePort"].as_u64().unwrap(),
                )
            })
        })
        .collect();
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for writer in writers {
        let (ip, port) = writer.await.unwrap();
        assert!(ips.insert(ip) && ports.insert(port));
    }
    // One address that everybody wants goes to one of them.
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let cluster = if n % 2 == 0 { cluster.clone() } else { other.clone() };
            tokio::spawn(async move {
                cluster
                    .post(SERVICES, service(&format!("w{n}"), json!({"clusterIP": "10.43.99.99"})))
                    .await
                    .code
            })
        })
        .collect();
    let mut codes = Vec::new();
    for writer in writers {
        codes.push(writer.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!((codes[0], codes[1], codes[19]), (201, 422, 422));
    cluster.delete(SERVICES).await.expect(200);
    let listing = store::Store::list(&*cluster.store, "/registry/ranges/", &store::ListOptions::default())
        .await
        .unwrap();
    assert_eq!(listing.items.len(), 0, "what nobody holds is free");
}
