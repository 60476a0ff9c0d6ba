//! Paths of the container, resolved within its root.
//!
//! The attack: an image (or a volume that another container writes to at this very moment) has a symbolic
//! link where we are about to mount something, and the link leads out to the host. The kernel resolves for us
//! with `RESOLVE_IN_ROOT`: absolute links and `..` stay within the root, magic links of /proc are not
//! followed, and what we get is a descriptor, which no later renaming can turn into something else.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longest path that the kernel takes, its NUL included.
const PATH_MAX: usize = 4096;

/// Symbolic links to things that do not exist yet that are followed for one path.
const MAX_DANGLING: usize = 16;

/// What is made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Directory,
    File,
}

/// Opens what is there.
pub(super) fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens what is there, unless a symbolic link leads to it.
pub(super) fn open_directly(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut attempts = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed while the kernel looked: it cannot vouch for what it found.
            Err(Errno::AGAIN | Errno::INTR) if attempts < 128 => attempts += 1,
            result => return result,
        }
    }
}

/// Opens a path (with `O_PATH`) and makes what is missing of it.
pub(super) fn ensure(root: BorrowedFd<'_>, path: &CStr, make: Make) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut way = Way::new(path.to_bytes())?;
    let mut dangling = 0;
    'again: loop {
        let mut parent_end = 0;
        while let Some((start, end)) = way.component(parent_end) {
            match open(root, way.prefix(end)?, OFlags::PATH) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let parent = open(root, way.prefix(parent_end)?, OFlags::PATH | OFlags::DIRECTORY)?;
                    let last = way.component(end).is_none();
                    let name = way.name(start, end)?;
                    let made = if last && make == Make::File {
                        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
                    } else {
                        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    };
                    match made {
                        Ok(()) => {}
                        // Not there and there: a link to nowhere. What it names is made instead.
                        Err(Errno::EXIST) => {
                            dangling += 1;
                            if dangling > MAX_DANGLING {
                                return Err(Errno::LOOP);
                            }
                            let mut target = [0_u8; PATH_MAX];
                            let length = rustix::fs::readlinkat_raw(&parent, name, target.as_mut_slice())?;
                            way.follow(start, end, &target[..length])?;
                            continue 'again;
                        }
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            }
            parent_end = end;
        }
        return open(root, way.prefix(way.length)?, OFlags::PATH);
    }
}

/// Makes a place to mount upon, if it is not there.
pub(crate) fn ensure_place(root: BorrowedFd<'_>, path: &CStr, file: bool) -> Result<(), Errno> {
    ensure(root, path, if file { Make::File } else { Make::Directory }).map(drop)
}

/// A path in a buffer, whose prefixes can be handed to the kernel.
struct Way {
    bytes: [u8; PATH_MAX],
    length: usize,
    scratch: [u8; PATH_MAX],
}

impl Way {
    fn new(path: &[u8]) -> Result<Self, Errno> {
        let mut way = Self { bytes: [0; PATH_MAX], length: 0, scratch: [0; PATH_MAX] };
        way.append(path)?;
        Ok(way)
    }

    fn append(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.length + part.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.length = end;
        Ok(())
    }

    /// Start and end of the component that begins at or after `from`.
    fn component(&self, from: usize) -> Option<(usize, usize)> {
        let rest = &self.bytes[from..self.length];
        let start = from + rest.iter().position(|byte| *byte != b'/')?;
        let rest = &self.bytes[start..self.length];
        Some((start, start + rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())))
    }

    /// The path up to `end`; the root if that is nothing.
    fn prefix(&mut self, end: usize) -> Result<&CStr, Errno> {
        if end == 0 {
            return Ok(c"/");
        }
        self.name(0, end)
    }

    fn name(&mut self, start: usize, end: usize) -> Result<&CStr, Errno> {
        let length = end - start;
        self.scratch[..length].copy_from_slice(&self.bytes[start..end]);
        self.scratch[length] = 0;
        CStr::from_bytes_with_nul(&self.scratch[..=length]).map_err(|_| Errno::INVAL)
    }

    /// Replaces the component by what it links to.
    fn follow(&mut self, start: usize, end: usize, target: &[u8]) -> Result<(), Errno> {
        let before = self.bytes;
        let (length, keep) = (self.length, if target.first() == Some(&b'/') { 0 } else { start });
        self.length = keep;
        self.append(target)?;
        self.append(&before[end..length])
    }
}

/// Whether a descriptor is a directory.
pub(super) fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Whether a descriptor is the character device of these numbers.
pub(super) fn is_device(fd: BorrowedFd<'_>, major: u32, minor: u32) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(major, minor)
    })
}

/// Opens the directory that a path's last component is in, making it if it is missing, and gives the
/// component.
pub(super) fn ensure_parent<'a>(
    root: BorrowedFd<'_>,
    path: &'a CStr,
    buffer: &mut [u8; PATH_MAX],
) -> Result<(OwnedFd, &'a CStr), Errno> {
    let bytes = path.to_bytes();
    let slash = bytes.iter().rposition(|byte| *byte == b'/');
    let start = slash.map_or(0, |slash| slash + 1);
    let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[start..]).map_err(|_| Errno::INVAL)?;
    if name.is_empty() || matches!(name.to_bytes(), b"." | b"..") {
        return Err(Errno::INVAL);
    }
    let directory: &CStr = match slash {
        None | Some(0) => c"/",
        Some(slash) if slash < PATH_MAX => {
            buffer[..slash].copy_from_slice(&bytes[..slash]);
            buffer[slash] = 0;
            CStr::from_bytes_with_nul(&buffer[..=slash]).map_err(|_| Errno::INVAL)?
        }
        Some(_) => return Err(Errno::NAMETOOLONG),
    };
    Ok((ensure(root, directory, Make::Directory)?, name))
}

/// Does something to what is in `parent` under `name`, without following a link.
pub(super) fn set_owner_and_mode(
    parent: BorrowedFd<'_>,
    name: &CStr,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<(), Errno> {
    let owner = Some(rustix::fs::Uid::from_raw(uid));
    let group = Some(rustix::fs::Gid::from_raw(gid));
    if (uid, gid) != (0, 0) {
        rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        // Changing the owner takes some bits away, so the mode comes again.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes paths in a root that has the given links, and checks where things end up.
    fn check(links: &[(&str, &str)], path: &str, make: Make, expected: Result<&str, Errno>) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        for (link, target) in links {
            let link = root.join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        let fd = fs::File::open(&root).unwrap();
        let result = ensure(fd.as_fd(), &CString::new(path).unwrap(), make);
        match expected {
            Ok(place) => {
                let made = fs::metadata(root.join(place)).unwrap();
                assert_eq!(made.is_dir(), make == Make::Directory, "{path}");
                assert_eq!(is_directory(result.unwrap().as_fd()), Ok(made.is_dir()));
            }
            Err(errno) => assert_eq!(result.unwrap_err(), errno, "{path}"),
        }
        let names: Vec<_> =
            fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["root"], "{path} left the root");
    }

    #[test]
    fn missing_parts_are_made() {
        check(&[], "/a/b/c", Make::Directory, Ok("a/b/c"));
        check(&[], "a//b/./c/", Make::Directory, Ok("a/b/c"));
        check(&[], "/etc/resolv.conf", Make::File, Ok("etc/resolv.conf"));
    }

    #[test]
    fn links_stay_within_the_root() {
        check(&[("l", "/x")], "/l/m", Make::Directory, Ok("x/m"));
        check(&[("l", "../../../x")], "/l/m", Make::Directory, Ok("x/m"));
        check(&[("d/l", "../y")], "/d/l/m", Make::File, Ok("y/m"));
        check(&[("var/run", "/run")], "/var/run/secrets/token", Make::File, Ok("run/secrets/token"));
        check(&[("l", "x")], "/l", Make::File, Ok("x"));
        check(&[("a", "/b"), ("b", "/c")], "/a", Make::Directory, Ok("c"));
    }

    #[test]
    fn loops_end() {
        check(&[("a", "b"), ("b", "a")], "/a/x", Make::Directory, Err(Errno::LOOP));
        check(&[("a", "a/b")], "/a", Make::Directory, Err(Errno::LOOP));
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), "").unwrap();
        let fd = fs::File::open(root.path()).unwrap();
        assert_eq!(ensure(fd.as_fd(), c"/f/x", Make::Directory).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn parents_are_split_off() {
        let root = tempfile::tempdir().unwrap();
        let fd = fs::File::open(root.path()).unwrap();
        let (_, name) = ensure_parent(fd.as_fd(), c"/dev/null", &mut [0; PATH_MAX]).unwrap();
        assert_eq!(name, c"null");
        assert!(root.path().join("dev").is_dir());
        assert!(ensure_parent(fd.as_fd(), c"/dev/..", &mut [0; PATH_MAX]).is_err());
        assert!(ensure_parent(fd.as_fd(), c"/", &mut [0; PATH_MAX]).is_err());
    }
}
