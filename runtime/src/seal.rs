//! A copy of a program that containers cannot write.
//!
//! The attack (CVE-2019-5736): a process that comes from outside into a container, or that is cloned there, is
//! for a moment our own program in the attacker's reach. Through `/proc/<pid>/exe` he holds on to the file, and
//! when it is no longer executed he opens it for writing and puts his own code into the host's binary.
//!
//! The file that keepers are started from therefore lies on a mount of its own: an overlay with the binary's
//! directory as its lowest layer and no upper layer. It cannot be written because its file system has nowhere
//! to write to, whatever flags a privileged process may change on the mount; the mount is in no mount
//! namespace; and the code itself is the page cache of the original, so that it costs no memory. Where that
//! does not work (an overlay on an overlay on an overlay, a binary that was replaced on disk while it runs) the
//! program is copied to a memory file that is sealed against every change.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// A program that can be executed and not be written.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: OwnedFd,
    /// How it was done.
    pub(crate) kind: Kind,
}

/// The ways to protect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Overlay,
    Memory,
}

impl Sealed {
    /// Protects a program. On older kernels an empty directory is made in `place`.
    pub(crate) fn new(program: &Path, place: &Path) -> io::Result<Self> {
        // What is opened here is what will be run, however the path changes.
        let original = File::open(program)?;
        match overlay(program, &original, place) {
            Ok(file) => Ok(Self { file, kind: Kind::Overlay }),
            Err(_) => Ok(Self { file: memory(original)?, kind: Kind::Memory }),
        }
    }

    /// A path that names it in this process and in a child that has not executed anything yet.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

fn overlay(program: &Path, original: &File, place: &Path) -> io::Result<OwnedFd> {
    // `/proc/self/exe` and its like lie in no directory that a layer could be.
    let real = fs::canonicalize(program)?;
    let (there, opened) = (fs::metadata(&real)?, original.metadata()?);
    if (there.dev(), there.ino()) != (opened.dev(), opened.ino()) {
        return Err(io::Error::other("the path names another file by now"));
    }
    let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Without an upper layer there must be two lower ones. The second is empty: a file system of its own, or
    // for kernels that cannot take one that is mounted nowhere, a directory.
    let mount = empty_file_system().and_then(|empty| join(directory, &empty)).or_else(|_| {
        let empty = place.join(".empty");
        crate::records::make_directory(&empty)?;
        join(directory, &open_directory(&empty)?)
    })?;
    open_within(&mount, name)
}

fn empty_file_system() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "nr_inodes", "1")?;
    rustix::mount::fsconfig_create(&fs)?;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn join(directory: &Path, empty: &OwnedFd) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let layers = format!("/proc/self/fd/{}:/proc/self/fd/{}", directory.as_raw_fd(), empty.as_raw_fd());
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "lowerdir", layers)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn open_within(mount: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(mount, name, flags, Mode::empty())?)
}

fn memory(mut original: File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from 6.3 on want to be told that it will be executed, older ones do not know the word.
    let file = rustix::fs::memfd_create("coracle", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("coracle", flags))?;
    let mut copy = File::from(file);
    io::copy(&mut original, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // A descriptor that is open for writing would make execve fail with ETXTBSY.
    let path = format!("/proc/self/fd/{}", copy.as_fd().as_raw_fd());
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn check(sealed: &Sealed) {
        // busybox does what it is called.
        let output = Command::new(sealed.path()).arg0("echo").arg("runs").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "runs\n", "{output:?}");
        // A sealed memory file can be opened, but takes nothing.
        if let Ok(mut file) = OpenOptions::new().write(true).open(sealed.path()) {
            assert!(
                file.write(b"x").is_err() && file.set_len(0).is_err(),
                "{:?} can be written",
                sealed.kind
            );
        }
    }

    #[test]
    fn a_sealed_program_runs_and_cannot_be_written() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: making mounts takes root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("busybox");
        fs::copy("/bin/busybox", &program).unwrap();
        let sealed = Sealed::new(&program, directory.path()).unwrap();
        assert_eq!(sealed.kind, Kind::Overlay);
        check(&sealed);
        check(&Sealed { file: memory(File::open(&program).unwrap()).unwrap(), kind: Kind::Memory });
    }

    #[test]
    fn a_replaced_program_is_copied() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: making mounts takes root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("busybox");
        fs::copy("/bin/busybox", &program).unwrap();
        let original = File::open(&program).unwrap();
        fs::remove_file(&program).unwrap();
        fs::write(&program, "something else").unwrap();
        assert!(overlay(&program, &original, directory.path()).is_err());
    }
}
