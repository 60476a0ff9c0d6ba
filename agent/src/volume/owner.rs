//! Gives a volume that outlives pods to a pod's group, as `fsGroup` asks.
//!
//! Files stay files of whoever made them; the group may read and write what its owner may. Nothing outside the volume is
//! touched, whatever links there are: each entry is changed by its directory, and links are changed themselves.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat};

/// The set-group-id bit: what is made in the directory belongs to the group too.
const SET_GROUP_ID: u32 = 0o2000;
/// Trees deeper than this are no volumes; each level holds a descriptor.
const DEPTH: usize = 200;

/// A volume could not be given to a group.
#[derive(Debug, thiserror::Error)]
#[error("applying the group {group} to the volume {path}")]
pub struct OwnerError {
    path: PathBuf,
    group: u32,
    #[source]
    source: io::Error,
}

/// Gives everything below `path` to `group`. With `root_only` nothing is done if the volume itself is right already
/// (`OnRootMismatch`).
pub fn give(path: &Path, group: u32, root_only: bool) -> Result<(), OwnerError> {
    let failed = |source: io::Error| OwnerError { path: path.to_owned(), group, source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| failed(error.into()))?;
    if root_only && stat.st_gid == group && stat.st_mode & 0o7777 == wanted(&stat) {
        return Ok(());
    }
    below(root.as_fd(), group, 0).map_err(failed)?;
    // The volume itself comes last: it says that all is done.
    rustix::fs::fchown(&root, None, Some(Gid::from_raw(group))).map_err(|error| failed(error.into()))?;
    rustix::fs::fchmod(&root, Mode::from_raw_mode(wanted(&stat))).map_err(|error| failed(error.into()))
}

/// The mode with what the group is given.
fn wanted(stat: &Stat) -> u32 {
    let mode = stat.st_mode & 0o7777;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => mode | 0o770 | SET_GROUP_ID,
        _ => mode | 0o660,
    }
}

fn below(directory: BorrowedFd<'_>, group: u32, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::other("too many levels of directories"));
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => continue,
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let inner = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            below(inner.as_fd(), group, depth + 1)?;
            rustix::fs::fchown(&inner, None, Some(Gid::from_raw(group)))?;
            rustix::fs::fchmod(&inner, Mode::from_raw_mode(wanted(&stat)))?;
            continue;
        }
        let gid = Some(Gid::from_raw(group));
        rustix::fs::chownat(directory, name, None, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        // A link has no mode, and a device or pipe keeps its own.
        if kind == FileType::RegularFile {
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            rustix::fs::chmodat(CWD, place, Mode::from_raw_mode(wanted(&stat)), AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn everything_below_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: giving files away needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/file"), "x").unwrap();
        fs::set_permissions(volume.join("a/b/file"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("link")).unwrap();
        give(&volume, 4321, true).unwrap();
        let of = |path: PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(of(volume.clone()), (4321, 0o2775));
        assert_eq!(of(volume.join("a/b")), (4321, 0o2775));
        assert_eq!(of(volume.join("a/b/file")), (4321, 0o660));
        assert_eq!(of(volume.join("link")).0, 4321);
        assert_eq!(of(dir.path().join("outside")).0, 0);
        // The volume is right: what is in it is not looked at, unless always wanted.
        fs::write(volume.join("later"), "x").unwrap();
        std::os::unix::fs::chown(volume.join("later"), None, Some(0)).unwrap();
        give(&volume, 4321, true).unwrap();
        assert_eq!(of(volume.join("later")).0, 0);
        give(&volume, 4321, false).unwrap();
        assert_eq!(of(volume.join("later")).0, 4321);
    }
}
