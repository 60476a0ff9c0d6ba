//! Latency of pods, seen from outside: by a watch over TLS, and by the process itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use client::{Api, DeleteParams, ListParams, WatchEvent, WatchParams};
use manifests::k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::cluster::{Cluster, IMAGE};
use super::figures::Series;

#[derive(Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) running: Series,
    pub(crate) object_gone: Series,
    pub(crate) process_gone: Series,
}

/// A pod whose process can be told from every other by its arguments.
fn pod(name: &str, seconds: u32) -> anyhow::Result<Pod> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "a", "image": IMAGE, "command": ["sleep", seconds.to_string()],
                                 "resources": {"limits": {"memory": "16Mi", "cpu": "1"}, "requests": {"cpu": "1m"}}}]},
    });
    Ok(serde_json::from_value(pod)?)
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn process_exists(seconds: u32) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line == wanted))
}

async fn watch(api: &Api<Pod>) -> anyhow::Result<client::WatchStream<Pod>> {
    let list = api.list(&ListParams::default()).await?;
    let params =
        WatchParams { resource_version: list.metadata.resource_version.clone(), ..WatchParams::default() };
    Ok(api.watch(&params).await?)
}

pub(crate) async fn one_by_one(cluster: &Cluster, count: u32) -> anyhow::Result<Latencies> {
    let api = cluster.client()?.namespaced::<Pod>("default");
    let mut events = watch(&api).await?;
    let mut latencies = Latencies::default();
    for index in 0..count {
        let seconds = 1_000_000 + index;
        let name = format!("bench-{index}");
        let begin = Instant::now();
        api.create(&pod(&name, seconds)?).await?;
        wait(
            &mut events,
            |event| matches!(event, WatchEvent::Added(pod) | WatchEvent::Modified(pod) if is_running(pod)),
        )
        .await?;
        latencies.running.add(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;

        let begin = Instant::now();
        api.delete(&name, &DeleteParams::default().grace(0)).await?;
        wait(&mut events, |event| matches!(event, WatchEvent::Deleted(_))).await?;
        latencies.object_gone.add(begin.elapsed());
        while process_exists(seconds) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        latencies.process_gone.add(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Ok(latencies)
}

async fn wait(
    events: &mut client::WatchStream<Pod>,
    wanted: impl Fn(&WatchEvent<Pod>) -> bool,
) -> anyhow::Result<()> {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), events.next())
            .await
            .context("nothing happens any more")?;
        if wanted(&next.context("the watch ended")??) {
            return Ok(());
        }
    }
}

/// Creates pods side by side; answers the time until the last one is Running. They stay.
pub(crate) async fn at_once(cluster: &Cluster, count: u32) -> anyhow::Result<Duration> {
    let api = cluster.client()?.namespaced::<Pod>("default");
    let mut events = watch(&api).await?;
    let pods: Vec<Pod> = (0..count)
        .map(|index| pod(&format!("burst-{index}"), 2_000_000 + index))
        .collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let creations = futures_util::future::try_join_all(pods.iter().map(|pod| api.create(pod)));
    let all_running = async {
        let mut running = BTreeSet::new();
        while running.len() < count as usize {
            let next = tokio::time::timeout(Duration::from_secs(60), events.next())
                .await
                .context("nothing happens any more")?;
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = next.context("the watch ended")??
                && is_running(&pod)
            {
                running.insert(pod.metadata.name);
            }
        }
        anyhow::Ok(())
    };
    let (created, running) = futures_util::future::join(creations, all_running).await;
    created?;
    running?;
    Ok(begin.elapsed())
}

/// Deletes all pods without grace; answers the time until the last process is gone.
pub(crate) async fn delete_all(cluster: &Cluster) -> anyhow::Result<Duration> {
    let api = cluster.client()?.namespaced::<Pod>("default");
    let list = api.list(&ListParams::default()).await?;
    let begin = Instant::now();
    let names: Vec<String> = list.items.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    let params = DeleteParams::default().grace(0);
    futures_util::future::try_join_all(names.iter().map(|name| api.delete(name, &params))).await?;
    while (0..names.len())
        .any(|index| u32::try_from(index).is_ok_and(|index| process_exists(2_000_000 + index)))
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(begin.elapsed())
}

/// Starts an agent on a directory with so many pods; answers the time from its start until the last pod executes.
pub(crate) async fn of_directory(count: u32) -> anyhow::Result<(Cluster, Duration)> {
    const FIRST: u32 = 3_000_000;
    let manifests: Vec<String> = (0..count)
        .map(|index| anyhow::Ok(serde_json::to_string(&pod(&format!("file-{index}"), FIRST + index)?)?))
        .collect::<Result<_, _>>()?;
    let (mut cluster, begin) = Cluster::start_directory(&manifests)?;
    let ours = |line: &str| {
        let argument = line.strip_prefix("sleep\0").and_then(|rest| rest.trim_end_matches('\0').parse().ok());
        argument.is_some_and(|seconds: u32| (FIRST..FIRST + count).contains(&seconds))
    };
    loop {
        cluster.alive()?;
        let processes = std::fs::read_dir("/proc")?.flatten();
        let executing = processes
            .filter(|entry| {
                std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| ours(&line))
            })
            .count();
        if executing >= count as usize {
            return Ok((cluster, begin.elapsed()));
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(120), "{executing} of {count} pods execute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
