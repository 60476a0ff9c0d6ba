//! A directory that nothing done through it can leave.
//!
//! Names come from strangers' archives. Every path is resolved by the kernel with `RESOLVE_IN_ROOT`: symbolic links that
//! an earlier entry made, absolute ones and `..` in them included, end inside. The last part of a path is never followed:
//! it is created, replaced or described through the descriptor of its directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Directories within directories, from the real root on.
const DEEPEST: usize = 512;

/// The mark of a directory that hides what lower layers have below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// An open directory that is the root of all paths.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

/// The parts of a path: no empty ones, no `.` and no `..`.
pub(super) type Parts<'a> = &'a [&'a [u8]];

/// Split a name as it is in an archive. `None` if it has `..` or a zero byte.
pub(super) fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let good = parts.iter().all(|part| *part != b".." && !part.contains(&0));
    good.then_some(parts)
}

/// Mode, owner and times that a directory has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Root {
    pub(super) fn open(path: &std::path::Path) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(rustix::fs::open(path, flags, Mode::empty())?))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The directory with this path; its symbolic links are followed inside of the root.
    pub(super) fn directory(&self, path: Parts<'_>) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, ResolveFlags::IN_ROOT)
    }

    /// What the directory with this path looks like, if it is one and no symbolic link leads to it.
    pub(super) fn looks(&self, path: Parts<'_>) -> rustix::io::Result<Looks> {
        let directory = self.resolve(path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        let stat = rustix::fs::fstat(directory)?;
        Ok(Looks { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid })
    }

    fn resolve(&self, path: Parts<'_>, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let joined = if path.is_empty() { b".".to_vec() } else { path.join(&b'/') };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = how | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(&self.0, joined.as_slice(), flags, Mode::empty(), how) {
                // Something else on the machine was renamed meanwhile; the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}

/// What is there, without following it; `None` if nothing is.
pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The device that stands for "deleted here" in overlayfs.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Make a directory that only we can use yet, and open it. Too deep is `ENAMETOOLONG`: whoever removes the tree again holds
/// a descriptor per level, and through links a short name can lead very deep.
pub(super) fn make_directory(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new())?;
    if path.as_bytes().iter().filter(|byte| **byte == b'/').count() >= DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
    open_directory(directory, name)
}

/// Open a directory that is no symbolic link.
pub(super) fn open_directory(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Make a regular file that was not there.
pub(super) fn make_file(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Hide what lower layers have under this name.
pub(super) fn make_whiteout(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Hide what lower layers have in this directory.
pub(super) fn make_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", rustix::fs::XattrFlags::empty())
}

/// Remove whatever is there, and all below it. Descends through descriptors, so it stays below.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
    if !is_directory(stat) {
        return rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
    // One level at a time, with one descriptor per level of an explicit stack: the depth is the stranger's choice.
    let mut open = vec![(open_directory(directory, name)?, name.to_owned())];
    while let Some((current, _)) = open.last() {
        let current = current.as_fd();
        let mut below = None;
        for entry in rustix::fs::Dir::read_from(current)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if child == b"." || child == b".." {
                continue;
            }
            match rustix::fs::unlinkat(current, child, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => {
                    below = Some((open_directory(current, child)?, child.to_owned()));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        match below {
            Some(below) => open.push(below),
            None => {
                let Some((_, done)) = open.pop() else { break };
                let parent = open.last().map_or(directory, |(parent, _)| parent.as_fd());
                rustix::fs::unlinkat(parent, done.as_slice(), AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_entries() {
        let shown = |path: &str| parts(path.as_bytes()).map(|parts| parts.join(&b'/'));
        assert_eq!(shown("a/b"), Some(b"a/b".to_vec()));
        assert_eq!(shown("/a//./b/"), Some(b"a/b".to_vec()));
        assert_eq!(shown("./"), Some(vec![]));
        assert_eq!(shown("..a/b.."), Some(b"..a/b..".to_vec()));
        for hostile in ["..", "../a", "a/../b", "a/..", "/../a", "a\0b"] {
            assert_eq!(shown(hostile), None, "{hostile}");
        }
    }
}
