//! Files: what a runtime must find again after a restart of itself or of the machine.
//!
//! ```text
//!   <run>/<sandbox>/             locked by its keeper for as long as that lives
//!   <run>/<sandbox>/keeper.sock  <run>/<sandbox>/keeper.log
//!   <state>/<sandbox>/sandbox.json
//!   <state>/<sandbox>/containers/<container>/config.json    what was asked for
//!   <state>/<sandbox>/containers/<container>/exit.json      how it ended (written by the keeper)
//! ```
//!
//! The run directory is worthless after a reboot. A description whose sandbox has no living keeper tells of
//! something that has been.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::InvalidId;
use crate::keeper::record::{self, Record};
use crate::keeper::setup::SOCKET;
use crate::spec::{ContainerSpec, SandboxSpec};

/// The directories of a runtime.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    run: PathBuf,
    state: PathBuf,
}

/// Most bytes of an id.
pub(crate) const MAX_ID: usize = 128;

/// An id becomes the name of directories and cgroups.
pub(crate) fn check_id(id: &str) -> Result<(), InvalidId> {
    let valid = (1..=MAX_ID).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if valid { Ok(()) } else { Err(InvalidId(id.to_owned())) }
}

/// Makes a directory that only its owner can enter.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Records {
    pub(crate) fn new(run: PathBuf, state: PathBuf) -> Self {
        Self { run, state }
    }

    pub(crate) fn run_directory(&self, sandbox: &str) -> PathBuf {
        self.run.join(sandbox)
    }

    pub(crate) fn state_directory(&self, sandbox: &str) -> PathBuf {
        self.state.join(sandbox)
    }

    pub(crate) fn container_directory(&self, sandbox: &str, container: &str) -> PathBuf {
        self.state_directory(sandbox).join("containers").join(container)
    }

    /// Where a keeper writes how a container has ended.
    pub(crate) fn exit_file(&self, sandbox: &str, container: &str) -> PathBuf {
        self.container_directory(sandbox, container).join("exit.json")
    }

    /// A kernel that cannot keep shared memory detached has it mounted here.
    pub(crate) fn shm_directory(&self, sandbox: &str) -> PathBuf {
        self.run_directory(sandbox).join("shm")
    }

    /// All sandboxes that are described.
    pub(crate) fn sandboxes(&self) -> Vec<SandboxSpec> {
        let mut specs: Vec<SandboxSpec> = Vec::new();
        for name in names(&self.state) {
            let path = self.state_directory(&name).join("sandbox.json");
            match read::<SandboxSpec>(&path) {
                Ok(spec) if spec.id == name => specs.push(spec),
                // Creation writes it first: whoever was killed before that has started nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let _ = fs::remove_dir_all(self.state_directory(&name));
                }
                // A power failure took it, and the sandbox too; who is to have one of this name could not otherwise make it.
                Err(_) if is_torn(&path) && matches!(self.lock(&name), Ok(Some(_))) => {
                    tracing::warn!(path = %path.display(), "a power failure has taken the description; removed");
                    if let Err((path, error)) = self.remove_sandbox(&name) {
                        tracing::warn!(path = %path.display(), %error, "cannot be removed");
                    }
                }
                Ok(_) => tracing::warn!(path = %path.display(), "describes another sandbox"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be read"),
            }
        }
        specs
    }

    /// Writes a sandbox's description; `AlreadyExists` if there is one.
    pub(crate) fn create_sandbox(&self, spec: &SandboxSpec) -> io::Result<()> {
        let directory = self.state_directory(&spec.id);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        write(&directory.join("sandbox.json"), spec)
    }

    pub(crate) fn write_container(&self, sandbox: &str, spec: &ContainerSpec) -> io::Result<()> {
        let directory = self.container_directory(sandbox, &spec.id);
        make_directory(&directory)?;
        write(&directory.join("config.json"), spec)
    }

    pub(crate) fn container(&self, sandbox: &str, container: &str) -> io::Result<ContainerSpec> {
        read(&self.container_directory(sandbox, container).join("config.json"))
    }

    /// The ids of all containers that are described.
    pub(crate) fn containers(&self, sandbox: &str) -> Vec<String> {
        names(&self.state_directory(sandbox).join("containers"))
    }

    pub(crate) fn exit(&self, sandbox: &str, container: &str) -> io::Result<Option<Record>> {
        record::read(&self.exit_file(sandbox, container))
    }

    pub(crate) fn remove_container(&self, sandbox: &str, container: &str) -> io::Result<()> {
        remove(&self.container_directory(sandbox, container))
    }

    /// Removes everything about a sandbox; its description last, so that a removal that was interrupted can be
    /// repeated.
    pub(crate) fn remove_sandbox(&self, sandbox: &str) -> Result<(), (PathBuf, io::Error)> {
        let state = self.state_directory(sandbox);
        for directory in [self.run_directory(sandbox), state.join("containers"), state] {
            remove(&directory).map_err(|error| (directory, error))?;
        }
        Ok(())
    }

    /// Opens and locks a sandbox's run directory: whoever holds the lock is, or is about to start, its keeper.
    /// `None` if somebody does.
    pub(crate) fn lock(&self, sandbox: &str) -> io::Result<Option<OwnedFd>> {
        let path = self.run_directory(sandbox);
        make_directory(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(directory)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A file for what a keeper has to say when something goes wrong.
    pub(crate) fn keeper_log(&self, sandbox: &str) -> io::Result<File> {
        File::options().create(true).append(true).open(self.run_directory(sandbox).join("keeper.log"))
    }

    /// Connects to a keeper's socket, whose name may be longer than names of sockets can be.
    pub(crate) fn connect(&self, sandbox: &str) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, self.run_directory(sandbox), flags, Mode::empty())?;
        let name = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let address = rustix::net::SocketAddrUnix::new(name)?;
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| check_id(name).is_ok())
        .collect();
    names.sort_unstable();
    names
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Whether a file is there without its end: what is written and not synced may be missing after a power failure.
fn is_torn(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.last() != Some(&b'}'))
}

/// Writes beside and renames, so that nobody reads half of it. It is not synced: a description that a power
/// failure takes belongs to a container that the power failure took as well.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&beside, path)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_names() {
        for id in ["a", "pod-1_2.x", "0", &"x".repeat(128)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "ä", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn descriptions_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (run, state) = (directory.path().join("run"), directory.path().join("state"));
        fs::create_dir_all(&state).unwrap();
        let records = Records::new(run, state.clone());
        let mut spec = SandboxSpec::new("one", "pods/one");
        spec.labels.insert("name".into(), "web".into());
        records.create_sandbox(&spec).unwrap();
        assert_eq!(records.create_sandbox(&spec).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // What an interrupted creation leaves.
        fs::create_dir(state.join("half")).unwrap();
        assert_eq!(records.sandboxes(), [spec.clone()]);
        assert!(!state.join("half").exists());
        // What a power failure leaves; one that somebody keeps is left alone.
        for (name, torn) in [("empty", ""), ("part", "{\"id\":"), ("kept", "")] {
            fs::create_dir_all(state.join(name).join("containers")).unwrap();
            fs::write(state.join(name).join("sandbox.json"), torn).unwrap();
        }
        let kept = records.lock("kept").unwrap();
        assert_eq!(records.sandboxes(), [SandboxSpec::clone(&spec)]);
        assert_eq!(names(&state), ["kept", "one"]);
        drop(kept);
        assert_eq!(records.sandboxes(), [SandboxSpec::clone(&spec)]);
        assert_eq!(names(&state), ["one"]);

        let lock = records.lock("one").unwrap();
        assert!(lock.is_some());
        assert!(records.lock("one").unwrap().is_none());
        drop(lock);
        assert!(records.lock("one").unwrap().is_some());
        records.remove_sandbox("one").unwrap();
        records.remove_sandbox("one").unwrap();
        assert!(records.sandboxes().is_empty());
    }
}
