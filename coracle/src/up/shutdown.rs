//! Ending the pods of a node as a node that is switched off does: each pod is asked to end and has its time for it, pods
//! that keep the cluster alive after all others.
//!
//! It works on what the runtime knows, so it needs neither agent nor server. What is stored stays: the next start brings
//! the same pods back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::names::label;
use futures_util::future::join_all;
use runtime::{ContainerStatus, Sandbox, Signal};
use tokio::time::{Instant, timeout_at};

/// Pods of this priority and above keep the cluster alive.
const CRITICAL: i32 = 2_000_000_000;

/// What a container has after its preStop hook, however long that took.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// How long pods may take to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Periods {
    /// All together.
    pub(crate) all: Duration,
    /// Those that keep the cluster alive, out of that.
    pub(crate) critical: Duration,
}

impl Periods {
    /// How long a pod of this priority may take that asks for so much.
    fn limit(self, priority: i32, own: Duration) -> Duration {
        let critical = self.critical.min(self.all);
        own.min(if priority >= CRITICAL { critical } else { self.all - critical })
    }
}

/// Asks all pods to end, and returns when they have or when their time is over.
pub(crate) async fn end_pods(sandboxes: &[Arc<Sandbox>], periods: Periods) {
    if periods.all.is_zero() {
        return;
    }
    let (critical, others): (Vec<_>, Vec<_>) =
        sandboxes.iter().partition(|sandbox| priority(sandbox) >= CRITICAL);
    for group in [others, critical] {
        join_all(group.into_iter().map(|sandbox| async move {
            let limit = periods.limit(priority(sandbox), own_period(sandbox));
            end_pod(sandbox, Instant::now() + limit).await;
        }))
        .await;
    }
}

fn number<T: std::str::FromStr>(labels: &BTreeMap<String, String>, name: &str) -> Option<T> {
    labels.get(name)?.parse().ok()
}

fn priority(sandbox: &Sandbox) -> i32 {
    number(sandbox.labels(), label::PRIORITY).unwrap_or(0)
}

fn own_period(sandbox: &Sandbox) -> Duration {
    Duration::from_secs(number(sandbox.labels(), label::GRACE).unwrap_or(30))
}

/// Containers first, then sidecars, the last one first, as in a deletion.
async fn end_pod(sandbox: &Arc<Sandbox>, deadline: Instant) {
    let mut steps: BTreeMap<std::cmp::Reverse<u32>, Vec<Step>> = BTreeMap::new();
    for container in sandbox.containers().await.unwrap_or_default() {
        if matches!(container.status, ContainerStatus::Running { .. }) {
            let place = number(&container.labels, label::SIDECAR).unwrap_or(u32::MAX);
            let signal = number(&container.labels, label::STOP_SIGNAL).unwrap_or(Signal::TERM);
            let hook = container.labels.get(label::PRE_STOP).cloned();
            let step = Step { id: container.id, hook, signal };
            steps.entry(std::cmp::Reverse(place)).or_default().push(step);
        }
    }
    for containers in steps.into_values() {
        let ends = containers.into_iter().map(|step| end_container(sandbox, step, deadline));
        join_all(ends).await;
        if Instant::now() >= deadline {
            return;
        }
    }
}

/// How a container is asked to end.
struct Step {
    id: String,
    /// Its preStop hook, as it was kept.
    hook: Option<String>,
    signal: Signal,
}

/// The hook has the container's time; one that takes all of it leaves a little for the signal that follows.
async fn end_container(sandbox: &Arc<Sandbox>, step: Step, deadline: Instant) {
    let Step { id, hook, signal } = step;
    let ended = async {
        // One that has ended meanwhile is what was wanted.
        let _ = sandbox.wait(&id).await;
    };
    let mut ended = std::pin::pin!(ended);
    let mut until = deadline;
    if let Some(hook) = hook {
        tokio::select! {
            () = &mut ended => return,
            result = timeout_at(deadline, agent::hooks::run_kept(&hook, sandbox, &id)) => {
                if let Ok(Err(error)) = result {
                    tracing::warn!(container = id, error, "PreStopHook failed");
                }
            }
        }
        until = until.max(Instant::now() + MINIMUM_GRACE);
    }
    let _ = sandbox.signal(&id, signal).await;
    let _ = timeout_at(until, ended).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_how_long() {
        let seconds = Duration::from_secs;
        let periods = Periods { all: seconds(30), critical: seconds(10) };
        for (priority, own, expected) in
            [(0, 30, 20), (0, 5, 5), (CRITICAL, 30, 10), (CRITICAL + 1000, 3, 3), (-1, 3600, 20)]
        {
            assert_eq!(periods.limit(priority, seconds(own)), seconds(expected), "{priority} {own}");
        }
        let short = Periods { all: seconds(5), critical: seconds(10) };
        assert_eq!(short.limit(0, seconds(30)), Duration::ZERO);
        assert_eq!(short.limit(CRITICAL, seconds(30)), seconds(5));
    }
}
