//! Watchers: how long from the acknowledgement of a write until the last of them has seen it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::closed::percentile;
use super::connection::{Connection, Target};
use super::pod;

/// So many writes may be under way at a time.
const WRITERS: usize = 16;
/// How long after the last write a watcher may still be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a run came to. Durations are sorted.
#[derive(Debug)]
pub(crate) struct Fanout {
    pub(crate) writes_per_second: f64,
    pub(crate) send_to_acknowledged: Vec<Duration>,
    /// From the acknowledgement to the last watcher; zero if it was told before the writer.
    pub(crate) acknowledged_to_last: Vec<Duration>,
    /// Events that a watcher did not get.
    pub(crate) missing: usize,
    /// Watches that ended before they should.
    pub(crate) ended: usize,
}

impl Fanout {
    pub(crate) fn last(&self, percent: usize) -> f64 {
        percentile(&self.acknowledged_to_last, percent)
    }

    pub(crate) fn acknowledged(&self, percent: usize) -> f64 {
        percentile(&self.send_to_acknowledged, percent)
    }
}

/// Lets `watchers` watch a collection of `of` pods while `writes` statuses are patched at a rate.
pub(crate) async fn run(
    target: &Target,
    collection: &str,
    of: u64,
    watchers: usize,
    writes: u64,
    rate: f64,
) -> anyhow::Result<Fanout> {
    let list = format!("{collection}?limit=1");
    let (_, head) = target.connect().await?.count(&list).await?;
    let from = pod::version_in(&head).context("a list without a version")?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let connection = target.connect().await?;
        let path = format!(
            "{collection}?watch=1&allowWatchBookmarks=false&timeoutSeconds=600&resourceVersion={from}"
        );
        tasks.spawn(watch(connection, path, stop.clone()));
    }
    // All are connected when the first answers have come; watches that start later only see more at once.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let (orders, inbox) = mpsc::channel::<u64>(WRITERS * 4);
    let inbox = std::sync::Arc::new(tokio::sync::Mutex::new(inbox));
    let mut writing = JoinSet::new();
    for _ in 0..WRITERS {
        let (connection, inbox, collection) = (target.connect().await?, inbox.clone(), collection.to_owned());
        writing.spawn(write(connection, inbox, collection, of));
    }
    let begin = Instant::now();
    // No two writes say the same: one that changes nothing is no event.
    let first = u64::from(std::process::id()) + from * 1_000;
    for n in 0..writes {
        let due = begin + Duration::from_secs_f64(n as f64 / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        orders.send(first + n).await?;
    }
    drop(orders);
    let mut written = HashMap::new();
    let mut send_to_acknowledged = Vec::new();
    while let Some(done) = writing.join_next().await {
        for (revision, sent, acknowledged) in done?? {
            send_to_acknowledged.push(acknowledged - sent);
            written.insert(revision, (acknowledged, acknowledged, 0_usize));
        }
    }
    let writes_per_second = writes as f64 / begin.elapsed().as_secs_f64();
    let newest = written.keys().copied().max().unwrap_or(from);
    stop.cancel();
    let mut ended = 0;
    while let Some(seen) = tasks.join_next().await {
        let (seen, whole) = seen?;
        let complete = whole || seen.last().is_some_and(|(revision, _)| *revision >= newest);
        ended += usize::from(!complete);
        for (revision, at) in seen {
            let Some(entry) = written.get_mut(&revision) else { continue };
            entry.1 = entry.1.max(at);
            entry.2 += 1;
        }
    }
    let missing = written.values().map(|(_, _, count)| watchers.saturating_sub(*count)).sum();
    let mut acknowledged_to_last: Vec<_> = written.values().map(|(acked, last, _)| *last - *acked).collect();
    acknowledged_to_last.sort();
    send_to_acknowledged.sort();
    Ok(Fanout { writes_per_second, send_to_acknowledged, acknowledged_to_last, missing, ended })
}

type Written = Vec<(u64, Instant, Instant)>;

async fn write(
    mut connection: Connection,
    inbox: std::sync::Arc<tokio::sync::Mutex<mpsc::Receiver<u64>>>,
    collection: String,
    of: u64,
) -> anyhow::Result<Written> {
    let mut written = Vec::new();
    loop {
        let Some(n) = inbox.lock().await.recv().await else { return Ok(written) };
        let path = format!("{collection}/pod-{}/status", n % of);
        let sent = Instant::now();
        let (status, body) =
            connection.ask(Method::PATCH, &path, "application/merge-patch+json", pod::status(n)).await?;
        ensure!(status == StatusCode::OK, "{path}: {status}: {}", String::from_utf8_lossy(&body));
        written.push((pod::version_in(&body).context("an object without a version")?, sent, Instant::now()));
    }
}

/// What a watcher has seen and when, and whether it ended as it was told to.
async fn watch(
    mut connection: Connection,
    path: String,
    stop: CancellationToken,
) -> (Vec<(u64, Instant)>, bool) {
    let mut seen = Vec::new();
    let Ok(response) = connection.start(Method::GET, &path, "", Bytes::new()).await else {
        return (seen, false);
    };
    let mut body = response.into_body();
    // The start of a line that has not come to its end yet: enough to have the version in it.
    let mut line = Vec::new();
    // The rest comes at once, or not at all.
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(PATIENCE / 4).await;
    };
    tokio::pin!(patience);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = &mut patience => return (seen, true),
        };
        let Some(Ok(frame)) = frame else { return (seen, false) };
        let Some(data) = frame.data_ref() else { continue };
        let now = Instant::now();
        let mut rest = &data[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let version = if line.is_empty() {
                pod::version_in(&rest[..end])
            } else {
                line.extend_from_slice(&rest[..end]);
                pod::version_in(&line)
            };
            line.clear();
            rest = &rest[end + 1..];
            seen.extend(version.map(|version| (version, now)));
        }
        line.extend_from_slice(rest);
    }
}
