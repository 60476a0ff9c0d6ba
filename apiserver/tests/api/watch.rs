//! Watches: live, resumed, filtered, marked.

use std::sync::Arc;

use serde_json::json;
use store::memory::{MemoryStore, Options};

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

/// A watcher that is busy while others write is not sent away: what it has missed is still there when it reads on.
#[tokio::test]
async fn a_burst_of_writes_does_not_lose_a_healthy_watcher() {
    let cluster = Cluster::start().await;
    let mut map = config_map("a", json!({}));
    map["data"]["text"] = "x".repeat(4000).into();
    let made = cluster.post(MAPS, map.clone()).await.expect(201);
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&made))).await;
    for n in 0..1000 {
        map["data"]["n"] = n.to_string().into();
        cluster.put(&format!("{MAPS}/a"), map.clone()).await.expect(200);
    }
    for n in 0..1000 {
        let (kind, object) = events.next().await.expect("an event");
        assert_eq!((kind.as_str(), &object["data"]["n"]), ("MODIFIED", &json!(n.to_string())), "{object:#}");
    }
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

/// Changes an object so that its events push older ones out of the ring.
async fn churn(cluster: &Cluster, name: &str, times: usize) {
    for n in 0..times {
        let patch = json!({"data": {"n": n.to_string(), "big": "x".repeat(900_000)}});
        cluster.patch(&format!("{MAPS}/{name}"), "merge", patch).await.expect(200);
    }
}

#[tokio::test]
async fn what_is_too_old_is_said_to_be() {
    let options = Options { history_revisions: 10, ..Options::default() };
    let cluster = Cluster::over(Arc::new(MemoryStore::with_options(options))).await;
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    cluster.post(MAPS, config_map("b", json!({}))).await.expect(201);
    let page = cluster.get(&format!("{MAPS}?limit=1")).await.expect(200);
    // More changes than the ring and the store's history hold.
    churn(&cluster, "b", 30).await;
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&page))).await;
    let (kind, status) = events.next().await.expect("an event");
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert!(status["message"].as_str().unwrap().starts_with("too old resource version: "));
    assert_eq!(events.next().await, None);

    let token = page["metadata"]["continue"].as_str().unwrap();
    let answer = cluster.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    let inconsistent = answer.body["metadata"]["continue"].as_str().expect("another token").to_owned();
    let message = answer.refused(410, "Expired");
    assert!(message.starts_with("The provided continue parameter is too old"), "{message}");
    let rest = cluster.get(&format!("{MAPS}?limit=1&continue={inconsistent}")).await.expect(200);
    assert_eq!(rest["items"][0]["metadata"]["name"], "b");
    let old = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", version(&page));
    cluster.get(&old).await.refused(410, "Expired");
}

#[tokio::test]
async fn chunks_go_on_from_the_history_of_the_store() {
    let options = Options { history_bytes: 64 << 20, ..Options::default() };
    let cluster = Cluster::over(Arc::new(MemoryStore::with_options(options))).await;
    for name in ["a", "b", "c", "d"] {
        cluster.post(MAPS, config_map(name, json!({"l": name}))).await.expect(201);
    }
    let first = cluster.get(&format!("{MAPS}?limit=1")).await.expect(200);
    // More than the ring holds, less than the store does.
    churn(&cluster, "b", 15).await;
    cluster.delete(&format!("{MAPS}/c")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    let names: Vec<_> =
        second["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!((version(&second), &second["items"][0]["data"]), (version(&first), &json!({"k": "v"})));
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let exact =
        format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact&labelSelector=l%3Dc", version(&first));
    assert_eq!(cluster.get(&exact).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn versions_of_lists() {
    let cluster = Cluster::start().await;
    let a = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let b = cluster.post(MAPS, config_map("b", json!({}))).await.expect(201);
    cluster.delete(&format!("{MAPS}/a")).await.expect(200);
    for (query, expected) in [
        (String::new(), "b"),
        ("resourceVersion=0".to_owned(), "b"),
        (format!("resourceVersion={}", version(&a)), "b"),
        (format!("resourceVersion={}&resourceVersionMatch=NotOlderThan", version(&a)), "b"),
        (format!("resourceVersion={}&resourceVersionMatch=Exact", version(&a)), "a"),
        (format!("resourceVersion={}&resourceVersionMatch=Exact", version(&b)), "ab"),
        (format!("resourceVersion={}&limit=5", version(&b)), "ab"),
    ] {
        let list = cluster.get(&format!("{MAPS}?{query}")).await.expect(200);
        let names: String = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{query}");
    }
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=5&resourceVersionMatch=Roughly",
        "sendInitialEvents=true",
        "watch=1&sendInitialEvents=true",
        "resourceVersion=x",
    ] {
        cluster.get(&format!("{MAPS}?{query}")).await.refused(422, "Invalid");
    }
    cluster.get(&format!("{MAPS}?limit=x")).await.refused(400, "BadRequest");
    cluster.get(&format!("{MAPS}?labelSelector=a%20b%20c")).await.refused(400, "BadRequest");
    cluster.get(&format!("{MAPS}?continue=nonsense")).await.refused(400, "BadRequest");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_move_a_quiet_watch_forward() {
    let cluster = Cluster::start().await;
    let start = version(&cluster.get(MAPS).await.expect(200));
    let path = format!("{MAPS}?watch=1&resourceVersion={start}&allowWatchBookmarks=true&timeoutSeconds=130");
    let mut events = cluster.watch(&path).await;
    cluster.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.expect(201);
    let (kind, mark) = events.next_within(70).await.expect("a bookmark");
    assert_eq!((kind.as_str(), &mark["kind"]), ("BOOKMARK", &json!("ConfigMap")));
    assert!(version(&mark) > start);
    // Nothing new, so no other one; then the time is over.
    assert_eq!(events.next_within(90).await, None);
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    let cluster = Cluster::start().await;
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    cluster.server.stop().await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_sent_away() {
    let cluster = Cluster::start().await;
    let mut slow = cluster.watch(&format!("{MAPS}?watch=1")).await;
    let mut quick = cluster.watch(&format!("{MAPS}?watch=1")).await;
    let mut object = config_map("a", json!({}));
    cluster.post(MAPS, object.clone()).await.expect(201);
    assert_eq!(quick.named().await.0, "ADDED");
    let text = "x".repeat(900_000);
    for n in 0..30 {
        object["data"]["k"] = format!("{n}{text}").into();
        cluster.put(&format!("{MAPS}/a"), object.clone()).await.expect(200);
        assert_eq!(quick.named().await.0, "MODIFIED");
    }
    let (kind, status) = slow.next().await.expect("an event");
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(slow.next().await, None);
}

#[tokio::test]
async fn a_watch_of_one_object() {
    let cluster = Cluster::start().await;
    let mut events = cluster.watch(&format!("{MAPS}/a?watch=1")).await;
    let mut same =
        cluster.watch("/api/v1/watch/namespaces/default/configmaps?fieldSelector=metadata.name%3Da").await;
    for name in ["b", "a"] {
        cluster.post(MAPS, config_map(name, json!({}))).await.expect(201);
    }
    assert_eq!(events.named().await, ("ADDED".into(), "a".into()));
    assert_eq!(same.named().await, ("ADDED".into(), "a".into()));
}

#[tokio::test]
async fn a_crowd_of_watchers_is_told_everything_in_order() {
    let cluster = Cluster::start().await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(cluster.watch(&format!("{MAPS}?watch=1&labelSelector=a")).await);
    }
    let mut object = cluster.post(MAPS, config_map("a", json!({"a": "b"}))).await.expect(201);
    let mut versions = vec![version(&object)];
    for n in 0..30 {
        object["data"]["k"] = n.to_string().into();
        // Some events are larger than a piece of several.
        object["data"]["l"] = "x".repeat(if n % 10 == 3 { 20_000 } else { 10 }).into();
        object = cluster.put(&format!("{MAPS}/a"), object).await.expect(200);
        versions.push(version(&object));
    }
    for events in &mut crowd {
        for expected in &versions {
            let (_, object) = events.next().await.expect("one more event");
            assert_eq!(version(&object), *expected);
        }
    }
}
