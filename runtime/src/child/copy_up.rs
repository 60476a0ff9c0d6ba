//! What an image has at a place, copied into the tmpfs that will cover it (`tmpcopyup`).
//!
//! Both sides are descriptors, and no symbolic link is followed: links are copied as links.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::sys::mount::{Change, set_attributes};

/// Deeper than any honest directory.
const MAX_DEPTH: usize = 64;

/// Copies all that lies in a directory into a new file system. `read_only`: the file system is.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    let rdonly = crate::plan::RDONLY;
    if read_only {
        set_attributes(to, Change { clear: rdonly, ..Change::default() }, false)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, c".", flags, Mode::empty())?;
    let target = rustix::fs::openat(to, c".", flags, Mode::empty())?;
    directory(&source, &target, 0)?;
    if read_only {
        set_attributes(to, Change { set: rdonly, ..Change::default() }, false)?;
    }
    Ok(())
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let no_follow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | no_follow;
            let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
            return directory(&below, &made, depth + 1);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        FileType::RegularFile => {
            let source = rustix::fs::openat(from, name, OFlags::RDONLY | no_follow, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | no_follow;
            let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            content(source.as_fd(), target.as_fd())?;
        }
        kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *buffer))?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(to, rest))?;
            rest = &rest[written..];
        }
    }
}
