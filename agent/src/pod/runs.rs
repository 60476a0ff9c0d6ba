//! From what the runtime says about a container to a run of it: labels, exit reasons, termination messages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::Container;
use runtime::ContainerStatus;

use super::observe::{ContainerSeen, Exit, ProbesSeen, RunState};
use crate::logs::line;
use crate::names::label;

/// How much of a termination message is shown.
const MAX_MESSAGE: u64 = 4096;
/// How much of a log stands in for one.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// Where a container's last words are.
pub(super) trait Messages {
    /// What the container with these labels had to say when it ended with `code`.
    fn message(&self, labels: &BTreeMap<String, String>, code: i32) -> Option<String>;
}

/// Reads a container's labels and status.
pub(super) fn from_runtime(
    id: &str,
    labels: &BTreeMap<String, String>,
    status: &ContainerStatus,
    in_sandbox: bool,
    messages: &impl Messages,
) -> ContainerSeen {
    let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let created_at = text(label::CREATED).parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let state = match status {
        ContainerStatus::Created => RunState::Created,
        ContainerStatus::Running { started_at } => RunState::Running { started_at: timestamp(*started_at) },
        ContainerStatus::Exited(exit) => RunState::Exited(exit_of(exit, messages.message(labels, exit.code))),
        ContainerStatus::Unknown => RunState::Exited(unseen(created_at)),
    };
    ContainerSeen {
        id: id.to_owned(),
        attempt: text(label::RESTART_COUNT).parse().unwrap_or(0),
        in_sandbox,
        hash: text(label::HASH),
        image: text(label::IMAGE),
        image_id: text(label::IMAGE_ID),
        created_at,
        delay: text(label::BACKOFF).parse().ok().map(SignedDuration::from_secs),
        state,
        probes: ProbesSeen::default(),
        hook_failed: false,
        stop_signal: text(label::STOP_SIGNAL),
        resources: None,
        user: serde_json::from_str(&text(label::USER)).ok(),
    }
}

/// How a container is said to have ended whose end nobody saw.
pub(super) fn unseen(created_at: Timestamp) -> Exit {
    Exit {
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started_at: Some(created_at),
        finished_at: Some(Timestamp::now()),
    }
}

/// How a container ended, in the words of the API.
pub(super) fn exit_of(exit: &runtime::Exit, message: Option<String>) -> Exit {
    let reason = if exit.oom_killed {
        "OOMKilled"
    } else if exit.code == 0 {
        "Completed"
    } else {
        "Error"
    };
    Exit {
        code: exit.code,
        reason: reason.to_owned(),
        message,
        started_at: Some(timestamp(exit.started_at)),
        finished_at: Some(timestamp(exit.finished_at)),
    }
}

/// The kernel's clock may be far off, but not outside what can be written down.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A container's last words: what it wrote to its termination log, or the end of its log if it failed and the policy
/// says so.
pub(super) fn termination_message(
    container: &Container,
    labels: &BTreeMap<String, String>,
    code: i32,
    log: &Path,
) -> Option<String> {
    let written = labels.get(label::TERMINATION_LOG).and_then(|path| beginning(Path::new(path)));
    if let Some(text) = written.filter(|text| !text.is_empty()) {
        return Some(text);
    }
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if fall_back && code != 0 { tail(log) } else { None }
}

/// The container can put anything there; a symbolic link leads nowhere, as the file is a mount point in the container.
fn beginning(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_MESSAGE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, without times and stream names.
fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    // Times and stream names take room too, and are dropped below.
    let window = 4 * MAX_LOG_BYTES as u64 + 64 * MAX_LOG_LINES as u64;
    file.seek(SeekFrom::Start(length.saturating_sub(window))).ok()?;
    let mut bytes = Vec::new();
    file.take(window).read_to_end(&mut bytes).ok()?;
    let mut text = Vec::new();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for raw in lines.iter().rev().take(MAX_LOG_LINES).rev() {
        if let Some(parsed) = line::parse(raw) {
            text.extend_from_slice(parsed.content);
            if !parsed.partial {
                text.push(b'\n');
            }
        }
    }
    let from = text.len().saturating_sub(MAX_LOG_BYTES);
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoMessages;

    impl Messages for NoMessages {
        fn message(&self, _: &BTreeMap<String, String>, _: i32) -> Option<String> {
            None
        }
    }

    #[test]
    fn labels_are_read_back() {
        let labels = BTreeMap::from([
            (label::RESTART_COUNT.to_owned(), "3".to_owned()),
            (label::HASH.to_owned(), "abc".to_owned()),
            (label::BACKOFF.to_owned(), "40".to_owned()),
            (label::CREATED.to_owned(), "2026-11-22T10:00:00.5Z".to_owned()),
        ]);
        let run = from_runtime("id", &labels, &ContainerStatus::Created, true, &NoMessages);
        assert_eq!(
            (run.attempt, run.hash.as_str(), run.delay),
            (3, "abc", Some(SignedDuration::from_secs(40)))
        );
        assert_eq!(run.created_at.to_string(), "2026-11-22T10:00:00.5Z");
        let run = from_runtime("id", &labels, &ContainerStatus::Unknown, false, &NoMessages);
        assert_eq!(run.exit().map(|exit| exit.code), Some(137));
    }

    #[test]
    fn reasons() {
        let exit = |code, oom_killed| runtime::Exit {
            code,
            signal: None,
            oom_killed,
            started_at: SystemTime::UNIX_EPOCH,
            finished_at: SystemTime::UNIX_EPOCH,
        };
        for (code, oom, reason) in [(0, false, "Completed"), (1, false, "Error"), (137, true, "OOMKilled")] {
            assert_eq!(exit_of(&exit(code, oom), None).reason, reason);
        }
    }

    #[test]
    fn last_words() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("message"), dir.path().join("0.log"));
        std::fs::write(&log, "2026-11-22T10:00:00Z stdout F one\n2026-11-22T10:00:01Z stderr P tw\n2026-11-22T10:00:01Z stderr F o\n").unwrap();
        let labels = BTreeMap::from([(label::TERMINATION_LOG.to_owned(), file.display().to_string())]);
        let message = |policy: &str, code: i32| {
            let container =
                Container { termination_message_policy: Some(policy.into()), ..Container::default() };
            termination_message(&container, &labels, code, &log)
        };
        assert_eq!(message("File", 1), None);
        assert_eq!(message("FallbackToLogsOnError", 1).as_deref(), Some("one\ntwo\n"));
        assert_eq!(message("FallbackToLogsOnError", 0), None);
        std::fs::write(&file, "because").unwrap();
        assert_eq!(message("File", 0).as_deref(), Some("because"));
        assert_eq!(message("FallbackToLogsOnError", 1).as_deref(), Some("because"));
        std::fs::write(&file, "x".repeat(10_000)).unwrap();
        assert_eq!(message("File", 1).map(|text| text.len()), Some(4096));
    }
}
