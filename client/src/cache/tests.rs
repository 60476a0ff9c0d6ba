use std::sync::Mutex;

use manifests::k8s_openapi::api::core::v1::ConfigMap;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::*;

fn map(namespace: &str, name: &str, version: u32, color: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(format!("{namespace}-{name}")),
            resource_version: Some(version.to_string()),
            labels: Some([("color".to_owned(), color.to_owned())].into()),
            managed_fields: Some(vec![ManagedFieldsEntry::default()]),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn by_color(map: &ConfigMap) -> Vec<String> {
    map.metadata.labels.iter().filter_map(|labels| labels.get("color").cloned()).collect()
}

const COLOR: Index<ConfigMap> = Index { name: "color", values: by_color };

fn names(maps: &[Arc<ConfigMap>]) -> Vec<&str> {
    maps.iter().map(|map| map.name()).collect()
}

#[test]
fn reads_by_key_namespace_and_index() {
    let (mut writer, cache) = cache(trim_managed_fields);
    writer.restart(vec![map("a", "x", 1, "red"), map("b", "y", 2, "red"), map("a", "z", 3, "blue")]);
    cache.add_index(COLOR);
    assert_eq!(names(&cache.in_namespace("a")), ["x", "z"]);
    assert_eq!(names(&cache.indexed("color", "red")), ["x", "y"]);
    writer.apply(map("a", "x", 4, "blue"));
    assert_eq!(names(&cache.indexed("color", "red")), ["y"]);
    assert_eq!(names(&cache.indexed("color", "blue")), ["x", "z"]);
    writer.remove(&ObjectKey::new("b", "y"));
    assert_eq!(names(&cache.indexed("color", "red")), [""; 0]);
    assert_eq!(cache.len(), 2);
    assert!(cache.get(&ObjectKey::new("a", "x")).unwrap().metadata.managed_fields.is_none());
}

#[test]
fn handlers_hear_of_every_difference_once() {
    let (mut writer, cache) = cache(trim_managed_fields);
    let heard = Arc::new(Mutex::new(Vec::new()));
    writer.apply(map("a", "before", 1, "red"));
    let log = heard.clone();
    cache.on_change(move |change| {
        let what = match (change.old, change.new) {
            (None, Some(_)) => "new",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "gone",
            (None, None) => "nothing",
        };
        log.lock().unwrap().push(format!("{what} {}", change.key));
    });
    let check = |expected: &[&str]| assert_eq!(std::mem::take(&mut *heard.lock().unwrap()), expected);
    check(&["new a/before"]);
    writer.restart(vec![map("a", "before", 1, "red"), map("a", "later", 2, "red")]);
    check(&["new a/later"]);
    writer.apply(map("a", "later", 3, "red"));
    check(&["changed a/later"]);
    // Missed while disconnected: one deleted, one replaced by another object of the same name.
    let mut again = map("a", "later", 9, "red");
    again.metadata.uid = Some("other".into());
    writer.restart(vec![again]);
    check(&["gone a/before", "gone a/later", "new a/later"]);
    writer.remove(&ObjectKey::new("a", "never"));
    check(&[]);
}

#[tokio::test]
async fn subscriptions_carry_each_key_once() {
    let (mut writer, cache) = cache(trim_managed_fields);
    let mut changes = cache.changes();
    for version in 1..100 {
        writer.apply(map("a", "x", version, "red"));
        writer.apply(map("a", "y", 1, "red"));
    }
    assert_eq!(changes.next().await.to_string(), "a/x");
    assert_eq!(changes.next().await.to_string(), "a/y");
    assert_eq!(changes.try_next(), None);
    drop(changes);
    writer.apply(map("a", "x", 200, "red"));
    assert_eq!(cache.shared.handlers().len(), 0, "the handler went with its subscription");
}

#[tokio::test]
async fn synced_with_the_first_list() {
    let (mut writer, cache) = cache::<ConfigMap>(trim_managed_fields);
    assert!(!cache.is_synced());
    let waiting = cache.clone();
    let waiter = tokio::task::spawn(async move { waiting.wait_synced().await });
    tokio::task::yield_now().await;
    writer.restart(Vec::new());
    waiter.await.unwrap();
    assert!(cache.is_synced());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_condition() {
    let (mut writer, cache) = cache::<ConfigMap>(trim_managed_fields);
    let key = ObjectKey::new("a", "x");
    let waiter = tokio::task::spawn({
        let (cache, key) = (cache.clone(), key.clone());
        async move {
            cache
                .wait_until(&key, |object| {
                    object.is_some_and(|map: &ConfigMap| map.resource_version() == "3")
                })
                .await
        }
    });
    for version in 1..4 {
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        writer.apply(map("a", "x", version, "red"));
    }
    waiter.await.unwrap();
    cache.wait_until(&key, |object| object.is_some()).await;
}
