//! The directory of a container: what a later call must know.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::{Engine, OciError, document};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
const SOCKET: &str = "start.sock";

/// What was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// The container's first process, and when it started (in the kernel's ticks): a number alone may be
    /// somebody else's by now.
    pub(super) pid: i32,
    pub(super) start_time: u64,
    /// RFC 3339.
    pub(super) created: String,
    /// User id of the caller.
    pub(super) owner: u32,
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
    /// The cgroup below the hierarchies.
    pub(super) cgroup: PathBuf,
    /// Number and words of the steps that come after the start.
    pub(super) late_from: usize,
    pub(super) late: Vec<String>,
    pub(super) program: String,
    pub(super) no_pivot: bool,
    /// Its mounts are in the mount namespace of whoever created it, below its root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) shares_mounts: bool,
}

impl Record {
    /// Takes down what was mounted for a container that has no mount namespace of its own.
    pub(super) fn unmount(&self) {
        if self.shares_mounts {
            use rustix::mount::UnmountFlags;
            // All other mounts are below that one.
            let _ = rustix::mount::unmount(&self.rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// A container's directory, locked.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    file: OwnedFd,
}

/// Whether an id can be the name of a directory and of a cgroup.
pub(super) fn check_id(id: &str) -> Result<(), OciError> {
    let valid = (1..=255).contains(&id.len())
        && !matches!(id, "." | "..")
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.'));
    if valid { Ok(()) } else { Err(OciError::Id(id.to_owned())) }
}

impl Directory {
    /// Makes the directory of a new container.
    pub(super) fn create(engine: &Engine, id: &str) -> Result<Self, OciError> {
        check_id(id)?;
        let root = &engine.root;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(OciError::io(format!("making {}", root.display())))?;
        let path = root.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OciError::Exists(id.to_owned()));
            }
            result => result.map_err(OciError::io(format!("making {}", path.display())))?,
        }
        Self::lock(path, id)
    }

    /// Opens the directory of a container and waits until nobody else changes it.
    pub(super) fn open(engine: &Engine, id: &str) -> Result<Self, OciError> {
        check_id(id)?;
        Self::lock(engine.root.join(id), id)
    }

    fn lock(path: PathBuf, id: &str) -> Result<Self, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                return Err(OciError::NotFound(id.to_owned()));
            }
            result => {
                result.map_err(|errno| OciError::io(format!("opening {}", path.display()))(errno.into()))?
            }
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| OciError::io(format!("locking {}", path.display()))(errno.into()))?;
        Ok(Self { path, file })
    }

    /// Writes the state beside, then renames it, so that no reader ever sees half of one.
    pub(super) fn write(&self, record: &Record) -> Result<(), OciError> {
        let path = self.path.join(STATE);
        let write = || -> io::Result<()> {
            let beside = self.path.join(".state.json");
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&beside, &path)
        };
        write().map_err(OciError::io(format!("writing {}", path.display())))
    }

    /// Keeps the configuration as it is now.
    pub(super) fn write_config(&self, config: &[u8]) -> Result<(), OciError> {
        let path = self.path.join(CONFIG);
        fs::write(&path, config).map_err(OciError::io(format!("writing {}", path.display())))
    }

    /// The socket that the created process listens on. Named by way of the directory's descriptor, because names
    /// of sockets are bounded to 107 bytes and names of directories are not.
    pub(super) fn listen(&self) -> Result<OwnedFd, OciError> {
        let make = || -> io::Result<OwnedFd> {
            let socket = socket()?;
            rustix::net::bind(&socket, &self.address()?)?;
            rustix::net::listen(&socket, 4)?;
            Ok(socket)
        };
        make().map_err(OciError::io(format!("listening on {}", self.path.join(SOCKET).display())))
    }

    /// Connects to the created process; `None` if it has been started.
    pub(super) fn connect(&self) -> Result<Option<OwnedFd>, OciError> {
        let what = format!("connecting to {}", self.path.join(SOCKET).display());
        let connect = || -> io::Result<OwnedFd> {
            let socket = socket()?;
            rustix::net::connect(&socket, &self.address()?)?;
            Ok(socket)
        };
        match connect() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).map_err(OciError::io(what)),
        }
    }

    /// Remembers that the container has been started.
    pub(super) fn started(&self) {
        let _ = fs::remove_file(self.path.join(SOCKET));
    }

    pub(super) fn remove(&self) -> Result<(), OciError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(OciError::io(format!("removing {}", self.path.display()))),
        }
    }

    fn address(&self) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", self.file.as_raw_fd()))?)
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Reads what is known about a container, without waiting for whoever may be changing it.
pub(super) fn read(engine: &Engine, id: &str) -> Result<Record, OciError> {
    check_id(id)?;
    let path = engine.root.join(id).join(STATE);
    let text = match fs::read(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(OciError::NotFound(id.to_owned()));
        }
        result => result.map_err(OciError::io(format!("reading {}", path.display())))?,
    };
    serde_json::from_slice(&text).map_err(|source| OciError::Json { path, source })
}

/// Whether the container waits to be started.
pub(super) fn waits(engine: &Engine, id: &str) -> bool {
    engine.root.join(id).join(SOCKET).exists()
}

/// The configuration as it was when the container was created.
pub(super) fn config(engine: &Engine, id: &str) -> Result<Spec, OciError> {
    parse_config(&engine.root.join(id).join(CONFIG)).map(|parsed| parsed.spec)
}

/// A configuration as it was read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) spec: Spec,
    /// Its bytes.
    pub(super) config: Vec<u8>,
    /// What was passed over.
    pub(super) warnings: Vec<String>,
}

/// Reads a configuration.
pub(super) fn parse_config(path: &Path) -> Result<Parsed, OciError> {
    let config = fs::read(path).map_err(OciError::io(format!("reading {}", path.display())))?;
    let (spec, warnings) = document::spec(&config, path)?;
    Ok(Parsed { spec, config, warnings })
}

/// What a fuzzer calls: see `crate::fuzz`.
#[cfg(fuzzing)]
pub(crate) fn fuzz_record(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Record>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_names() {
        for good in ["a", "a.b_c-d+e", "-x", "0123"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
