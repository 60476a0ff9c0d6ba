//! Clients and watchers that write down what they do and see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Api, DeleteParams, Error, ListParams, WatchEvent, WatchParams};
use manifests::k8s_openapi::api::core::v1::ConfigMap;
use tokio_util::sync::CancellationToken;

use super::check::{Change, Done, Operation, Segment, Told};

/// So many keys are fought over.
const KEYS: u64 = 4;
/// A short rest between two operations, so that the store's history holds the whole run.
const REST: Duration = Duration::from_millis(3);
/// Written last: a watcher that has seen it has seen everything.
pub(crate) const END: &str = "end";

/// Numbers that look random and are the same every time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

fn revision(map: &ConfigMap) -> u64 {
    map.metadata.resource_version.as_deref().unwrap().parse().unwrap()
}

fn value(map: &ConfigMap) -> String {
    map.data.as_ref().and_then(|data| data.get("v")).cloned().unwrap_or_default()
}

fn with_value(name: &str, version: Option<u64>, value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.metadata.resource_version = version.map(|version| version.to_string());
    map.data = Some([("v".to_owned(), value.to_owned())].into());
    map
}

/// Whether the server has certainly done nothing.
fn is_refusal(error: &Error) -> bool {
    matches!(error.status().and_then(|status| status.code), Some(404 | 409 | 422 | 429))
}

/// Reads, writes and deletes until told to stop.
pub(crate) async fn client(api: Api<ConfigMap>, number: u64, stop: CancellationToken) -> Vec<Operation> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let mut dice = Dice(number);
    let mut done = Vec::new();
    let mut known: BTreeMap<String, Option<u64>> = BTreeMap::new();
    while !stop.is_cancelled() {
        let key = format!("key-{}", dice.below(KEYS));
        let dice_says = dice.below(10);
        let begin = Instant::now();
        let mut unlucky = false;
        let outcome = match known.remove(&key) {
            Some(Some(revision)) if dice_says == 0 => {
                let params =
                    DeleteParams { resource_version: Some(revision.to_string()), ..DeleteParams::default() };
                let deleted = api.delete(&key, &params).await;
                unlucky = deleted.is_err();
                deleted.is_ok().then_some(Done::Deleted { revision })
            }
            Some(version) => {
                let value = format!("{number}-{}", UNIQUE.fetch_add(1, Ordering::Relaxed));
                let map = with_value(&key, version, &value);
                let written = match version {
                    Some(_) => api.replace(&map).await,
                    None => api.create(&map).await,
                };
                Some(match written {
                    Ok(map) => {
                        known.insert(key.clone(), Some(revision(&map)));
                        Done::Wrote { revision: revision(&map), value }
                    }
                    Err(error) if is_refusal(&error) => Done::Refused { value },
                    Err(_) => {
                        unlucky = true;
                        Done::Unknown { value }
                    }
                })
            }
            None => match api.get_opt(&key).await {
                Ok(found) => {
                    known.insert(key.clone(), found.as_ref().map(revision));
                    Some(Done::Read(found.map(|map| (revision(&map), value(&map)))))
                }
                Err(_) => {
                    unlucky = true;
                    None
                }
            },
        };
        let end = Instant::now();
        done.extend(outcome.map(|outcome| Operation { key, begin, end, done: outcome }));
        tokio::time::sleep(if unlucky { 10 * REST } else { REST }).await;
    }
    done
}

/// Writes the last value, however often it takes.
pub(crate) async fn write_end(api: &Api<ConfigMap>) {
    let begin = Instant::now();
    loop {
        match api.create(&with_value(END, None, "the end")).await {
            Ok(_) => return,
            Err(error) if error.is_already_exists() => return,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lists and watches, and goes on where it was when the connection breaks, until it has seen the end.
pub(crate) async fn watcher(api: Arc<Api<ConfigMap>>) -> Vec<Segment> {
    let mut segments = Vec::new();
    loop {
        let Ok(list) = api.list(&ListParams::default()).await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let from = list.metadata.resource_version.as_deref().unwrap().parse().unwrap();
        let ours = list.items.iter().filter(|map| is_ours(map));
        let listed = ours.map(|map| (name(map), (revision(map), value(map)))).collect();
        segments.push(Segment { from, listed, told: Vec::new() });
        let segment = segments.last_mut().unwrap();
        if segment.listed.contains_key(END) || follow(&api, segment).await {
            return segments;
        }
    }
}

fn name(map: &ConfigMap) -> String {
    map.metadata.name.clone().unwrap()
}

/// Not the certificate that the controllers would put into every namespace.
fn is_ours(map: &ConfigMap) -> bool {
    map.metadata.name.as_deref() != Some("kube-root-ca.crt")
}

/// Watches from a list on. Returns whether the end has been seen; otherwise everything has to be listed again.
async fn follow(api: &Api<ConfigMap>, segment: &mut Segment) -> bool {
    let mut at = segment.from;
    loop {
        let params = WatchParams {
            resource_version: Some(at.to_string()),
            bookmarks: true,
            // Resumed now and then without any failure.
            timeout_seconds: Some(2),
            ..WatchParams::default()
        };
        let mut stream = match api.watch(&params).await {
            Ok(stream) => stream,
            Err(error) if error.is_gone() => return false,
            Err(_) => {
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        while let Some(event) = stream.next().await {
            let told = match event {
                Ok(WatchEvent::Added(map)) => Told::Added(change(&map)),
                Ok(WatchEvent::Modified(map)) => Told::Modified(change(&map)),
                Ok(WatchEvent::Deleted(map)) => Told::Deleted(change(&map)),
                Ok(WatchEvent::Bookmark { resource_version, .. }) => {
                    Told::Bookmark(resource_version.parse().unwrap())
                }
                Err(error) if error.is_gone() => return false,
                Err(_) => break,
            };
            let end = matches!(&told, Told::Added(change) if change.key == END);
            at = match &told {
                Told::Added(change) | Told::Modified(change) | Told::Deleted(change) => change.revision,
                Told::Bookmark(revision) => *revision,
            };
            segment.told.push(told);
            if end {
                return true;
            }
        }
    }
}

fn change(map: &ConfigMap) -> Change {
    Change { revision: revision(map), key: name(map), value: Some(value(map)) }
}
