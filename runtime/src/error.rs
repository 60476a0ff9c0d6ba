//! What can go wrong, by operation, and what a reconciler should make of it.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;

/// What a caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may work later.
    Retry,
    /// It will fail again until the request is changed.
    Invalid,
    /// What was asked about is not there (any more).
    Gone,
    /// It should not have happened.
    Bug,
}

/// An id that cannot name a sandbox or container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 1 to 128 letters, digits, '-', '_' and '.', beginning with a letter or digit")]
pub struct InvalidId(pub String);

/// Opening a runtime.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory could not be created.
    #[error("creating directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's cgroups cannot be used.
    #[error("looking at the machine's cgroups")]
    Cgroups(#[source] CgroupError),
    /// `Config::keeper_argv` is empty.
    #[error("no program is configured for keepers")]
    NoKeeper,
    /// The program for keepers could not be protected from containers.
    #[error("making a copy of {program} that containers cannot write")]
    Seal {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Creating a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum CreateSandboxError {
    /// The id cannot be used.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The id is in use.
    #[error("sandbox {0} exists already")]
    Exists(String),
    /// A part of the description makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// The part.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The description could not be written down.
    #[error("writing {path}")]
    Record {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cgroup could not be made.
    #[error("making the sandbox's cgroup")]
    Cgroup(#[source] CgroupError),
    /// The keeper could not be started.
    #[error("starting a keeper")]
    Spawn(#[source] io::Error),
    /// The keeper could not set the sandbox up.
    #[error("{step}")]
    Keeper {
        /// The step that failed.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper went away while the sandbox was being set up.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Creating or starting a container.
#[derive(Debug, thiserror::Error)]
pub enum StartContainerError {
    /// The id cannot be used.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The id is in use in this sandbox.
    #[error("container {0} exists already")]
    Exists(String),
    /// The specification asks for something that makes no sense or that is not supported.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field in the specification.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The description could not be written down.
    #[error("writing {path}")]
    Record {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cgroup could not be made, or a limit not set.
    #[error("making the container's cgroup")]
    Cgroup(#[source] CgroupError),
    /// A step in the new process failed.
    #[error("{step}")]
    Step {
        /// What was being done to what, for example `mounting proc on /proc`.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program was not found in the container, or could not be executed there.
    #[error("exec: {program:?}: {}", exec_failure(error))]
    Exec {
        /// The program as asked for.
        program: String,
        /// Why; `ENOENT` for a program that is not there. Told by the message, and so not its source.
        error: io::Error,
    },
    /// The keeper could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Words for a failed execve that people know from other runtimes, and that some clients look for.
/// Why the kernel did not execute a file that exists: what is missing is its interpreter.
pub(crate) fn execve_failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        _ => exec_failure(error),
    }
}

pub(crate) fn exec_failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "executable file not found in $PATH".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    }
}

/// Running a process in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such container.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// The container is not running.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The request asks for something that makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A step in the new process failed.
    #[error("{step}")]
    Step {
        /// What was being done to what.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program was not found in the container, or could not be executed there.
    #[error("exec: {program:?}: {}", exec_failure(error))]
    Program {
        /// The program as asked for.
        program: String,
        /// Why. Told by the message, and so not its source.
        error: io::Error,
    },
    /// The keeper could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Asking a keeper for something.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The keeper, and so the sandbox, is gone.
    #[error("sandbox {0} is gone")]
    KeeperGone(String),
    /// There is no such container in the sandbox.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// The container's process has ended, or not been started.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The keeper tried and failed.
    #[error("{step}")]
    Failed {
        /// What failed.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper does not answer in time.
    #[error("the keeper of sandbox {0} does not answer")]
    Timeout(String),
    /// The keeper said something that we do not understand.
    #[error("talking to the keeper of sandbox {sandbox}: {reason}")]
    Protocol {
        /// The sandbox.
        sandbox: String,
        /// What was not understood.
        reason: String,
    },
    /// The socket, a file or a cgroup failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Removing a sandbox or a container.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Processes of it cannot be killed (they hang in the kernel); try again.
    #[error("{processes} processes of {id} do not die")]
    Alive {
        /// The sandbox or container.
        id: String,
        /// How many are left.
        processes: usize,
    },
    /// The cgroup could not be removed.
    #[error("removing the cgroup of {id}")]
    Cgroup {
        /// The sandbox or container.
        id: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// A file or directory could not be removed.
    #[error("removing {path}")]
    Files {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl CreateSandboxError {
    /// What a caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Id(_) | Self::Invalid { .. } => ErrorClass::Invalid,
            Self::Exists(_) => ErrorClass::Bug,
            Self::Record { .. } | Self::Cgroup(_) | Self::Spawn(_) | Self::Keeper { .. } => ErrorClass::Retry,
            Self::Request(error) => error.class(),
        }
    }
}

impl StartContainerError {
    /// What a caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Id(_) | Self::Invalid { .. } | Self::Exec { .. } => ErrorClass::Invalid,
            Self::Exists(_) => ErrorClass::Bug,
            Self::Record { .. } | Self::Cgroup(_) | Self::Step { .. } => ErrorClass::Retry,
            Self::Request(error) => error.class(),
        }
    }
}

impl ExecError {
    /// What a caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) | Self::NotRunning(_) => ErrorClass::Gone,
            Self::Invalid { .. } | Self::Program { .. } => ErrorClass::Invalid,
            Self::Step { .. } => ErrorClass::Retry,
            Self::Request(error) => error.class(),
        }
    }
}

impl RequestError {
    /// What a caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::KeeperGone(_) | Self::NotFound(_) | Self::NotRunning(_) => ErrorClass::Gone,
            Self::Failed { .. } | Self::Timeout(_) | Self::Io { .. } => ErrorClass::Retry,
            Self::Protocol { .. } => ErrorClass::Bug,
        }
    }
}

impl RemoveError {
    /// What a caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Alive { .. } | Self::Cgroup { .. } | Self::Files { .. } => ErrorClass::Retry,
            Self::Request(error) => error.class(),
        }
    }
}
