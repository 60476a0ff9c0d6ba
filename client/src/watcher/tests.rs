//! The watcher against a server that is a script: each request must be the next one of the script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response};
use manifests::k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::transport::{Body, Transport, TransportError};
use crate::{Client, ObjectKey};

/// What the server does with one request.
enum Reply {
    Answer(u16, String),
    /// A watch that sends these lines and then ends, breaks, or stays open.
    Watch(Vec<String>, End),
    Refuse,
}

enum End {
    Close,
    Break,
    Stay,
}

#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<(&'static str, Reply)>>,
    asked: Mutex<Vec<Instant>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

fn broken() -> TransportError {
    TransportError::new(&Method::GET, "/", "connection reset")
}

impl Transport for Script {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let uri = request.uri().to_string();
        self.asked.lock().unwrap().push(Instant::now());
        let Some((expected, reply)) = self.steps.lock().unwrap().pop_front() else {
            panic!("unexpected request {uri}");
        };
        assert!(uri.contains(expected), "expected a request with {expected}, got {uri}");
        let body = |chunks: BoxStream<'static, Result<Bytes, TransportError>>, status: u16| {
            Ok(Response::builder().status(status).body(chunks).unwrap())
        };
        let answer = match reply {
            Reply::Answer(status, text) => body(stream::iter([Ok(Bytes::from(text))]).boxed(), status),
            Reply::Watch(lines, end) => {
                let lines = stream::iter(lines.into_iter().map(|line| Ok(Bytes::from(line))));
                let rest = match end {
                    End::Close => stream::empty().boxed(),
                    End::Break => stream::iter([Err(broken())]).boxed(),
                    End::Stay => stream::pending().boxed(),
                };
                body(lines.chain(rest).boxed(), 200)
            }
            Reply::Refuse => Err(broken()),
        };
        async move { answer }.boxed()
    }
}

fn object(name: &str, version: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"a","uid":"{name}","resourceVersion":"{version}"}}}}"#
    )
}

fn line(kind: &str, name: &str, version: u32) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object(name, version))
}

fn bookmark(version: u32) -> String {
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"resourceVersion\":\"{version}\",\"creationTimestamp\":null}}}}}}\n"
    )
}

fn list(objects: &[(&str, u32)], version: u32, token: &str) -> Reply {
    let items: Vec<String> = objects.iter().map(|(name, version)| object(name, *version)).collect();
    Reply::Answer(
        200,
        format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{}]}}"#,
            items.join(",")
        ),
    )
}

fn failure(code: u16, reason: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","reason":"{reason}","message":"{reason}","code":{code}}}"#
    )
}

fn watcher(steps: Vec<(&'static str, Reply)>) -> (Watcher<ConfigMap>, Arc<Script>) {
    let script = Arc::new(Script { steps: Mutex::new(steps.into()), ..Script::default() });
    let client = Client::new(script.clone());
    (Watcher::new(client.all::<ConfigMap>(), Params::default()), script)
}

async fn next(watcher: &mut Watcher<ConfigMap>) -> String {
    let named = |object: &ConfigMap| format!("{}@{}", object.name(), object.resource_version());
    match watcher.next().await {
        Event::Restarted(objects) => {
            let names: Vec<String> = objects.iter().map(named).collect();
            format!("restarted {}", names.join(" "))
        }
        Event::Applied(object) => format!("applied {}", named(&object)),
        Event::Deleted(object) => format!("deleted {}", named(&object)),
    }
}

async fn check(steps: Vec<(&'static str, Reply)>, expected: &[&str]) -> Arc<Script> {
    let (mut watcher, script) = watcher(steps);
    for event in expected {
        assert_eq!(next(&mut watcher).await, *event);
    }
    assert!(script.steps.lock().unwrap().is_empty(), "the script was not played to its end");
    script
}

#[tokio::test(start_paused = true)]
async fn lists_pages_then_watches_from_their_version() {
    check(
        vec![
            ("limit=500", list(&[("x", 1)], 7, "more")),
            ("continue=more", list(&[("y", 2)], 7, "")),
            ("watch=true&resourceVersion=7&allowWatchBookmarks=true&timeoutSeconds=", {
                Reply::Watch(vec![line("ADDED", "z", 8), line("DELETED", "x", 9)], End::Stay)
            }),
        ],
        &["restarted x@1 y@2", "applied z@8", "deleted x@9"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn resumes_after_the_last_event_or_bookmark() {
    check(
        vec![
            ("limit", list(&[], 7, "")),
            ("resourceVersion=7&", Reply::Watch(vec![line("ADDED", "x", 8)], End::Close)),
            ("resourceVersion=8&", Reply::Watch(vec![bookmark(20)], End::Break)),
            ("resourceVersion=20&", Reply::Refuse),
            ("resourceVersion=20&", Reply::Refuse),
            ("resourceVersion=20&", Reply::Watch(vec![line("MODIFIED", "x", 21)], End::Stay)),
        ],
        &["restarted ", "applied x@8", "applied x@21"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn lists_again_when_the_version_is_gone() {
    let expired = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure(410, "Expired"));
    check(
        vec![
            ("limit", list(&[("x", 1), ("y", 2)], 7, "")),
            ("resourceVersion=7&", Reply::Answer(410, failure(410, "Expired"))),
            ("limit", list(&[("y", 2)], 9, "")),
            ("resourceVersion=9&", Reply::Watch(vec![expired], End::Close)),
            ("limit", list(&[("z", 10)], 10, "stale")),
            ("continue=stale", Reply::Answer(410, failure(410, "Expired"))),
            ("limit", list(&[("z", 11)], 11, "")),
            ("resourceVersion=11&", Reply::Watch(vec![line("MODIFIED", "z", 12)], End::Stay)),
        ],
        &["restarted x@1 y@2", "restarted y@2", "restarted z@11", "applied z@12"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn gives_a_refused_version_up_after_a_while() {
    let refused = || Reply::Answer(504, failure(504, "Timeout"));
    check(
        vec![
            ("limit", list(&[], 900, "")),
            ("resourceVersion=900&", refused()),
            ("resourceVersion=900&", refused()),
            ("resourceVersion=900&", refused()),
            ("limit", list(&[("x", 1)], 1, "")),
        ],
        &["restarted ", "restarted x@1"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_spread_out_and_a_success_starts_over() {
    let mut steps: Vec<(&str, Reply)> = (0..12).map(|_| ("limit", Reply::Refuse)).collect();
    steps.push(("limit", list(&[], 1, "")));
    let script = check(steps, &["restarted "]).await;
    let asked = script.asked.lock().unwrap();
    let pauses: Vec<Duration> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= Duration::from_millis(102), "{pauses:?}");
    assert!(pauses[11] >= Duration::from_secs(5) && pauses[11] <= Duration::from_secs(11), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_is_not_asked_in_a_tight_loop() {
    let mut steps = vec![("limit", list(&[], 7, ""))];
    steps.extend((0..10).map(|_| ("resourceVersion=7&", Reply::Watch(Vec::new(), End::Close))));
    steps.push(("resourceVersion=7&", Reply::Watch(vec![line("ADDED", "x", 8)], End::Stay)));
    let start = Instant::now();
    check(steps, &["restarted ", "applied x@8"]).await;
    assert!(start.elapsed() > Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_server_forgets_to_end_is_ended() {
    let start = Instant::now();
    check(
        vec![
            ("limit", list(&[], 7, "")),
            ("resourceVersion=7&", Reply::Watch(Vec::new(), End::Stay)),
            ("resourceVersion=7&", Reply::Watch(vec![line("ADDED", "x", 8)], End::Stay)),
        ],
        &["restarted ", "applied x@8"],
    )
    .await;
    assert!(start.elapsed() >= WATCH_TIME && start.elapsed() <= WATCH_TIME * 2 + WATCH_GRACE * 2);
}

#[tokio::test(start_paused = true)]
async fn an_informer_turns_a_relist_into_deletions() {
    let script = Script::default();
    script.steps.lock().unwrap().extend([
        ("limit", list(&[("x", 1), ("y", 2)], 7, "")),
        ("resourceVersion=7&", Reply::Answer(410, failure(410, "Expired"))),
        ("limit", list(&[("y", 3), ("z", 4)], 9, "")),
        ("resourceVersion=9&", Reply::Watch(vec![line("DELETED", "z", 10)], End::Stay)),
    ]);
    let client = Client::new(Arc::new(script));
    let informer = crate::Informer::new(client.all::<ConfigMap>());
    let cache = informer.cache();
    let mut changes = cache.changes();
    let log = Arc::new(Mutex::new(Vec::new()));
    let heard = log.clone();
    cache
        .on_change(move |change| heard.lock().unwrap().push((change.key.name.clone(), change.new.is_some())));
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::task::spawn(informer.run(stop.clone()));
    cache.wait_synced().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cache.keys(), [ObjectKey::new("a", "y")]);
    let heard: Vec<(String, bool)> = std::mem::take(&mut *log.lock().unwrap());
    let expected = [("x", true), ("y", true), ("x", false), ("y", true), ("z", true), ("z", false)];
    assert_eq!(heard, expected.map(|(name, exists)| (name.to_owned(), exists)));
    assert_eq!(changes.next().await.name, "x");
    stop.cancel();
    running.await.unwrap();
}
