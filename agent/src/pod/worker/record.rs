//! What is kept on disk about a pod besides what the runtime keeps: its last status, and runs that never were.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{ContainerState, PodStatus};
use serde::{Deserialize, Serialize};

use super::super::observe::{ContainerSeen, Exit, ProbesSeen, RunState};
use super::super::status::ID_PREFIX;
use super::facts::Facts;

pub(super) const FILE: &str = "status.json";

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) status: PodStatus,
    /// Starts that failed and count as runs; the runtime knows nothing of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) failed_starts: Vec<FailedStart>,
}

/// A start that failed; how is in the status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedStart {
    pub(super) container: String,
    pub(super) attempt: u32,
    pub(super) created_at: Timestamp,
    pub(super) delay_seconds: Option<i64>,
    pub(super) message: Option<String>,
}

impl Record {
    /// What has to be remembered now.
    pub(super) fn of(facts: &Facts) -> Self {
        let newest = facts.runs.iter().filter_map(|(name, runs)| Some((name, runs.first()?)));
        let failed_starts = newest
            .filter(|(_, run)| Facts::is_ghost(run))
            .map(|(name, run)| FailedStart {
                container: name.clone(),
                attempt: run.attempt,
                created_at: run.created_at,
                delay_seconds: run.delay.map(|delay| delay.as_secs()),
                message: run.exit().and_then(|exit| exit.message.clone()),
            })
            .collect();
        Self { status: facts.last_status.clone(), failed_starts }
    }

    /// Reads the record of a pod. One that cannot be read is as good as none: the kernel and the API know the rest.
    pub(super) fn read(pod_dir: &Path) -> Option<Self> {
        let path = pod_dir.join(FILE);
        let bytes = std::fs::read(&path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "cannot read the record of a pod"),
            )
            .ok()
    }

    /// Runs that the runtime does not know (any more): what the last status says of them.
    pub(super) fn runs(&self) -> Vec<(String, ContainerSeen)> {
        let status = &self.status;
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        let all = all.chain(&status.ephemeral_container_statuses).flatten();
        let mut runs: Vec<(String, ContainerSeen)> = all
            .filter_map(|status| {
                let attempt = u32::try_from(status.restart_count).ok()?;
                let states = [&status.state, &status.last_state];
                let ended = states.into_iter().flatten().find_map(ended)?;
                let mut run = run(&ended.0, attempt, ended.1);
                run.image.clone_from(&status.image);
                run.image_id.clone_from(&status.image_id);
                Some((status.name.clone(), run))
            })
            .collect();
        for failed in &self.failed_starts {
            if let Some((_, run)) = runs.iter_mut().find(|(name, _)| *name == failed.container) {
                run.attempt = failed.attempt;
                run.created_at = failed.created_at;
                run.delay = failed.delay_seconds.map(SignedDuration::from_secs);
            }
        }
        runs
    }
}

fn ended(state: &ContainerState) -> Option<(String, Exit)> {
    let ended = state.terminated.as_ref()?;
    let id = ended.container_id.as_deref()?.strip_prefix(ID_PREFIX)?.to_owned();
    let exit = Exit {
        code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone(),
        started_at: ended.started_at.as_ref().map(|time| time.0),
        finished_at: ended.finished_at.as_ref().map(|time| time.0),
    };
    Some((id, exit))
}

fn run(id: &str, attempt: u32, exit: Exit) -> ContainerSeen {
    ContainerSeen {
        id: id.to_owned(),
        attempt,
        in_sandbox: false,
        hash: String::new(),
        image: String::new(),
        image_id: String::new(),
        created_at: exit.started_at.unwrap_or(Timestamp::UNIX_EPOCH),
        delay: None,
        state: RunState::Exited(exit),
        probes: ProbesSeen::default(),
        hook_failed: false,
        stop_signal: String::new(),
        resources: None,
        user: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_back_from_the_status() {
        let status: PodStatus = serde_yaml::from_str(
            r"
containerStatuses:
- name: a
  restartCount: 4
  image: i
  imageID: sha256:1
  ready: false
  state: {waiting: {reason: CrashLoopBackOff}}
  lastState: {terminated: {exitCode: 128, reason: StartError, containerID: 'coracle://x', finishedAt: '2026-11-22T10:00:00Z'}}
- {name: b, restartCount: 0, image: i, imageID: '', ready: true, state: {running: {}}}
",
        )
        .unwrap();
        let failed = FailedStart {
            container: "a".into(),
            attempt: 4,
            created_at: Timestamp::UNIX_EPOCH,
            delay_seconds: Some(40),
            message: None,
        };
        let record = Record { status, failed_starts: vec![failed] };
        let text = serde_json::to_vec(&record).unwrap();
        let record: Record = serde_json::from_slice(&text).unwrap();
        let runs = record.runs();
        assert_eq!(runs.len(), 1);
        let (name, run) = &runs[0];
        assert_eq!((name.as_str(), run.id.as_str(), run.attempt), ("a", "x", 4));
        assert_eq!(run.delay, Some(SignedDuration::from_secs(40)));
        assert_eq!(run.exit().unwrap().code, 128);
    }
}
