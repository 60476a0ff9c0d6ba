//! What can go wrong with a container on its own.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::plan::Refusal;

/// An operation on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// An id that cannot name a container.
    #[error("invalid container id {0:?}: letters, digits, '_', '+', '-' and '.', at most 255")]
    Id(String),
    /// The id is in use.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// There is no such container.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// The container's state does not allow the operation.
    #[error("{0}")]
    State(String),
    /// A part of the configuration makes no sense, or asks for what cannot be done.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not what it should be.
    #[error("reading {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file, directory, socket or process failed us.
    #[error("{what}")]
    Io {
        /// What was being done to what.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(CgroupError),
    /// A step in the new process failed.
    #[error("{step}")]
    Step {
        /// What was being done to what.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step in the new process failed, and said why in words.
    #[error("{0}")]
    Told(String),
    /// CRIU did not do what it was asked to.
    #[error("criu: {reason} (its log: {log})")]
    Criu {
        /// Its words.
        reason: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// A hook failed.
    #[error("error running {kind} hook #{number}: {path}: {reason}")]
    Hook {
        /// Which kind of hook.
        kind: &'static str,
        /// Which of them, from 0.
        number: usize,
        /// The program.
        path: PathBuf,
        /// How it ended.
        reason: String,
    },
    /// The kernel did not execute a program that is there.
    #[error("exec {program}: {}", crate::error::execve_failure(error))]
    Execve {
        /// The program as asked for.
        program: String,
        /// Why. Told by the message, and so not its source.
        error: io::Error,
    },
    /// The program was not found in the container, or could not be executed there.
    #[error("exec: {program:?}: {}", crate::error::exec_failure(error))]
    Program {
        /// The program as asked for.
        program: String,
        /// Why. Told by the message, and so not its source.
        error: io::Error,
    },
}

impl From<Refusal> for OciError {
    fn from(refusal: Refusal) -> Self {
        Self::Invalid { field: refusal.field, reason: refusal.reason }
    }
}

impl OciError {
    /// Wraps an error of the system with what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
