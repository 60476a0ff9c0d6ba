//! Create, get, list, update, delete.

use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn the_life_of_an_object() {
    let cluster = Cluster::start().await;
    let created = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    assert_eq!(created["kind"], "ConfigMap");
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.expect(200), created);

    let message = cluster.post(MAPS, config_map("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(message, "configmaps \"a\" already exists");

    let mut changed = created.clone();
    changed["data"]["k"] = "w".into();
    let updated = cluster.put(&format!("{MAPS}/a"), changed.clone()).await.expect(200);
    assert_eq!(updated["data"]["k"], "w");
    assert!(version(&updated) > version(&created));
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);

    let message = cluster.put(&format!("{MAPS}/a"), changed).await.refused(409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let again = cluster.put(&format!("{MAPS}/a"), updated.clone()).await.expect(200);
    assert_eq!(version(&again), version(&updated), "nothing to do is not a write");

    cluster.delete(&format!("{MAPS}/a")).await.expect(200);
    let message = cluster.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
    assert_eq!(message, "configmaps \"a\" not found");
}

#[tokio::test]
async fn lists_come_in_chunks_of_one_state() {
    let cluster = Cluster::start().await;
    for n in 0..10 {
        cluster
            .post(MAPS, config_map(&format!("m{n}"), json!({"even": (n % 2 == 0).to_string()})))
            .await
            .expect(201);
    }
    let all = cluster.get(MAPS).await.expect(200);
    assert_eq!(all["kind"], "ConfigMapList");
    assert_eq!(all["items"].as_array().expect("items").len(), 10);
    assert!(all["items"][0].get("kind").is_none());

    let even = cluster.get(&format!("{MAPS}?labelSelector=even%3Dtrue")).await.expect(200);
    assert_eq!(even["items"].as_array().expect("items").len(), 5);

    let mut names = Vec::new();
    let mut token = String::new();
    let mut revision = None;
    loop {
        let page = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
        assert_eq!(*revision.get_or_insert(version(&page)), version(&page));
        names.extend(page["items"].as_array().expect("items").iter().map(|o| o["metadata"]["name"].clone()));
        let Some(next) = page["metadata"]["continue"].as_str() else { break };
        assert_eq!(page["metadata"]["remainingItemCount"], 10 - names.len());
        token = next.to_owned();
        // Writes in between do not show.
        let n = names.len();
        cluster.delete(&format!("{MAPS}/m{}", 9 - n / 3)).await.expect(200);
        cluster.post(MAPS, config_map(&format!("new{n}"), json!({}))).await.expect(201);
    }
    assert_eq!(names, (0..10).map(|n| json!(format!("m{n}"))).collect::<Vec<_>>());
}
