//! Watches: live, resumed, filtered, marked.

use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn a_watch_shows_every_change() {
    let cluster = Cluster::start().await;
    let a = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&a))).await;
    cluster.post(MAPS, config_map("b", json!({}))).await.expect(201);
    let mut changed = a.clone();
    changed["data"]["k"] = "w".into();
    let changed = cluster.put(&format!("{MAPS}/a"), changed).await.expect(200);
    cluster.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(events.named().await, ("ADDED".into(), "b".into()));
    assert_eq!(events.next().await, Some(("MODIFIED".into(), changed.clone())));
    let (kind, last) = events.next().await.expect("an event");
    assert_eq!((kind.as_str(), &last["data"]), ("DELETED", &changed["data"]));
    assert!(version(&last) > version(&changed));

    // The same again, from the past.
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&changed))).await;
    assert_eq!(events.next().await, Some(("DELETED".into(), last)));
    events.quiet().await;
}

#[tokio::test]
async fn selectors_make_objects_come_and_go() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, config_map("a", json!({"on": "no"}))).await.expect(201);
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes")).await;
    for on in ["yes", "yes", "no"] {
        let mut object = config_map("a", json!({"on": on}));
        object["data"]["n"] =
            version(&cluster.get(&format!("{MAPS}/a")).await.expect(200)).to_string().into();
        cluster.put(&format!("{MAPS}/a"), object).await.expect(200);
    }
    assert_eq!(events.named().await.0, "ADDED");
    assert_eq!(events.named().await.0, "MODIFIED");
    let (kind, object) = events.next().await.expect("an event");
    assert_eq!((kind.as_str(), &object["metadata"]["labels"]["on"]), ("DELETED", &json!("yes")));
    events.quiet().await;
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.post(MAPS, config_map(name, json!({}))).await.expect(201);
    }
    let mut events = cluster
        .watch(&format!(
            "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ))
        .await;
    assert_eq!(events.named().await, ("ADDED".into(), "a".into()));
    assert_eq!(events.named().await, ("ADDED".into(), "b".into()));
    let (kind, mark) = events.next().await.expect("an event");
    assert_eq!((kind.as_str(), &mark["kind"]), ("BOOKMARK", &json!("ConfigMap")));
    assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.post(MAPS, config_map("c", json!({}))).await.expect(201);
    assert_eq!(events.named().await, ("ADDED".into(), "c".into()));
}
