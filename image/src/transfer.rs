//! Files and directories that are copied from one machine's root to another's, as a tar stream in between.
//!
//! [`send`] writes what is at a path, [`receive`] puts it below a directory and never outside of it: every name is resolved
//! by the kernel, and a symbolic link that leads out is no way. Whoever runs them has the rights that count: in a
//! container, the container's.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

pub use crate::pack::PackError;
use crate::pack::write_tree;
use crate::tar::{Entry, Kind, TarError, TarReader};

/// Writes what is at `path`, a link followed, as an archive whose names begin with the path's own.
pub fn send(path: &Path, target: &mut impl Write) -> Result<(), PackError> {
    write_tree(path, &name_of(path), target)
}

/// The same under another name.
pub fn send_as(path: &Path, name: &[u8], target: &mut impl Write) -> Result<(), PackError> {
    write_tree(path, name, target)
}

/// Writes the content of the one file of an archive.
pub fn print_file(archive: impl Read, target: &mut impl Write) -> Result<(), ReceiveError> {
    let mut archive = TarReader::new(archive);
    while let Some(entry) = archive.next()? {
        if entry.kind != Kind::Regular {
            return Err(ReceiveError::NoFile(entry.shown()));
        }
        io::copy(&mut archive.data(), target)
            .and_then(|_| target.flush())
            .map_err(|source| ReceiveError::Io { step: "printing", path: entry.shown(), source })?;
    }
    io::copy(&mut archive.into_source(), &mut io::sink()).map_err(TarError::Read)?;
    Ok(())
}

/// The name that entries of a path begin with: the path without what makes it absolute.
pub fn name_of(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let parts: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    parts.join(&b'/')
}

/// Where entries go and what they keep.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What names begin with, and what stands there instead.
    pub strip: Vec<u8>,
    /// Below the directory.
    pub prefix: Vec<u8>,
    /// Users and groups are kept, as far as the system lets us.
    pub owners: bool,
    /// Symbolic links that lead out of what is copied are made; otherwise they are left out.
    pub foreign_links: bool,
}

/// Why nothing more is copied.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The directory cannot be opened.
    #[error("opening {0}")]
    Directory(String, #[source] io::Error),
    /// The stream is damaged.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that leads elsewhere.
    #[error("refused entry {0:?}")]
    Refused(String),
    /// A directory or something else, where a file is wanted.
    #[error("{0:?} is not a file")]
    NoFile(String),
    /// The system refuses.
    #[error("{step} {path:?}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Puts an archive's entries below a directory. What could not be kept is told to `warn`. Gives the number of entries.
pub fn receive(
    archive: impl Read,
    directory: &Path,
    options: &Options,
    warn: &mut dyn FnMut(String),
) -> Result<u64, ReceiveError> {
    let opened = fs::File::open(directory)
        .map_err(|source| ReceiveError::Directory(directory.display().to_string(), source))?;
    let mut receiving = Receiving { base: opened.into(), options, modes: Vec::new(), warn };
    let mut archive = TarReader::new(archive);
    let mut count = 0;
    while let Some(entry) = archive.next()? {
        receiving.entry(&entry, archive.data())?;
        count += 1;
    }
    receiving.finish()?;
    // What follows the end is padding, but whoever sends it must get rid of it.
    io::copy(&mut archive.into_source(), &mut io::sink()).map_err(TarError::Read)?;
    Ok(count)
}

struct Receiving<'a> {
    base: OwnedFd,
    options: &'a Options,
    /// Directories that may forbid to be written to once all is in them.
    modes: Vec<(Vec<u8>, u32)>,
    warn: &'a mut dyn FnMut(String),
}

/// The parts of a name; none if it could lead anywhere else.
fn parts(name: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.iter().all(|part| *part != b".." && !part.contains(&0)).then_some(parts)
}

/// Where an entry goes below the directory.
fn place(name: &[u8], options: &Options) -> Option<Vec<u8>> {
    let (name, strip, prefix) = (parts(name)?, parts(&options.strip)?, parts(&options.prefix)?);
    let rest = name.strip_prefix(strip.as_slice())?;
    Some(prefix.iter().chain(rest).copied().collect::<Vec<_>>().join(&b'/'))
}

/// Whether a symbolic link at this place leads to somewhere below the directory that is copied.
fn stays(place: &[u8], link: &[u8], root: usize) -> bool {
    if link.first() == Some(&b'/') {
        return false;
    }
    let mut depth = place.split(|byte| *byte == b'/').count() - 1;
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth <= root => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

impl Receiving<'_> {
    fn entry(&mut self, entry: &Entry, mut data: impl Read) -> Result<(), ReceiveError> {
        let refused = || ReceiveError::Refused(entry.shown());
        let path = place(&entry.path, self.options).ok_or_else(refused)?;
        let failed = |step: &'static str| {
            let path = String::from_utf8_lossy(&path).into_owned();
            move |errno: Errno| match errno {
                // A link leads out.
                Errno::XDEV => ReceiveError::Refused(path),
                errno => ReceiveError::Io { step, path, source: errno.into() },
            }
        };
        let Some(name) = path.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty()) else {
            // The directory itself, which is there.
            return if entry.kind == Kind::Directory { Ok(()) } else { Err(refused()) };
        };
        let above = &path[..path.len() - name.len()];
        let parent = self.directory(above).map_err(failed("opening the directory of"))?;
        let parent = parent.as_fd();
        match entry.kind {
            Kind::Directory => {
                let made = rustix::fs::mkdirat(parent, name, Mode::RWXU);
                match made {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        self.directory(&path).map_err(failed("using the directory"))?;
                    }
                    Err(errno) => return Err(failed("making the directory")(errno)),
                }
                if made.is_ok() {
                    self.own(parent, name, entry).map_err(failed("giving away"))?;
                }
                self.modes.push((path.clone(), entry.mode));
            }
            Kind::Regular => {
                let file = open_file(parent, name).map_err(failed("opening"))?;
                let mut file = fs::File::from(file);
                io::copy(&mut data, &mut file).map_err(|source| ReceiveError::Io {
                    step: "writing",
                    path: String::from_utf8_lossy(&path).into_owned(),
                    source,
                })?;
                let mut mode = entry.mode & 0o7777;
                if !self.give(file.as_fd(), entry).map_err(failed("giving away"))? {
                    // Whoever owns it now has not been given these rights.
                    mode &= 0o777;
                }
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                    .map_err(failed("setting the mode of"))?;
            }
            Kind::Symlink => {
                let root = parts(&self.options.prefix).map_or(0, |parts| parts.len());
                if !self.options.foreign_links && !stays(&path, &entry.link, root) {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    (self.warn)(format!("skipping symlink: {:?} -> {target:?}", entry.shown()));
                    return Ok(());
                }
                clear(parent, name).map_err(failed("replacing"))?;
                rustix::fs::symlinkat(entry.link.as_slice(), parent, name).map_err(failed("linking"))?;
                self.own(parent, name, entry).map_err(failed("giving away"))?;
            }
            Kind::Hardlink => {
                let first = place(&entry.link, self.options).ok_or_else(refused)?;
                let other = first.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let from = self.directory(&first[..first.len() - other.len()]).map_err(failed("linking"))?;
                clear(parent, name).map_err(failed("replacing"))?;
                rustix::fs::linkat(&from, other, parent, name, AtFlags::empty())
                    .map_err(failed("linking"))?;
            }
            Kind::Fifo => {
                clear(parent, name).map_err(failed("replacing"))?;
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0).map_err(failed("making"))?;
                self.own(parent, name, entry).map_err(failed("giving away"))?;
            }
            Kind::Character | Kind::Block => {
                (self.warn)(format!("skipping device: {:?}", entry.shown()));
            }
        }
        Ok(())
    }

    /// A directory below the base.
    fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.base, path, flags, Mode::empty(), how) {
                // Something else on the machine was renamed meanwhile; the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Gives a file its owners; says whether it has them.
    fn give(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<bool, Errno> {
        if !self.options.owners {
            return Ok(false);
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        allowed(rustix::fs::fchown(file, Some(uid), Some(gid)))
    }

    fn own(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<bool, Errno> {
        if !self.options.owners {
            return Ok(false);
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        allowed(rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The innermost directories first.
    fn finish(&mut self) -> Result<(), ReceiveError> {
        for (path, mode) in std::mem::take(&mut self.modes).into_iter().rev() {
            let set = self.directory(&path).and_then(|directory| {
                rustix::fs::chmodat(&directory, c".", Mode::from_raw_mode(mode & 0o1777), AtFlags::empty())
            });
            match set {
                // One that was there before and belongs to somebody else.
                Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
                Err(errno) => {
                    return Err(ReceiveError::Io {
                        step: "setting the mode of",
                        path: String::from_utf8_lossy(&path).into_owned(),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Not everybody may give files away, and not every file system or user namespace has every owner.
fn allowed(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL | Errno::OVERFLOW) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A file to be written from its beginning on. One that is there stays the same file, as it may be mounted somewhere;
/// anything else makes room for it.
fn open_file(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    // Not waiting for whoever reads a pipe.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let create = flags | OFlags::CREATE | OFlags::EXCL;
    match rustix::fs::openat(parent, name, create, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        match rustix::fs::openat(parent, name, flags | OFlags::TRUNC, Mode::empty()) {
            // A program that runs goes on with the old file.
            Err(Errno::TXTBSY | Errno::ACCESS) => {}
            other => return other,
        }
    }
    clear(parent, name)?;
    rustix::fs::openat(parent, name, create, Mode::RUSR | Mode::WUSR)
}

/// Removes what is there, unless that is a directory.
fn clear(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn copied(from: &Path, to: &Path, options: &Options) -> Result<Vec<String>, ReceiveError> {
        let mut archive = Vec::new();
        send(from, &mut archive).unwrap();
        let mut warnings = Vec::new();
        receive(&*archive, to, options, &mut |warning| warnings.push(warning))?;
        Ok(warnings)
    }

    fn renamed(from: &Path, prefix: &str) -> Options {
        Options { strip: name_of(from), prefix: prefix.into(), ..Options::default() }
    }

    #[test]
    fn names_lead_below_the_directory_or_nowhere() {
        let options = |strip: &str, prefix: &str| Options {
            strip: strip.into(),
            prefix: prefix.into(),
            ..Options::default()
        };
        let check = |name: &str, strip: &str, prefix: &str, expected: Option<&str>| {
            let found = place(name.as_bytes(), &options(strip, prefix));
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{name} {strip} {prefix}");
        };
        check("var/log/a", "var/log", "copy", Some("copy/a"));
        check("./var/log/", "var/log", "copy", Some("copy"));
        check("var/log", "var/log", "", Some(""));
        check("a/b", "", "", Some("a/b"));
        check("var/logs", "var/log", "copy", None);
        check("var/log/../../etc", "var/log", "copy", None);
        check("etc/passwd", "var/log", "copy", None);
    }

    #[test]
    fn links_that_stay() {
        for (place, link, root, expected) in [
            ("d/a", "b", 1, true),
            ("d/x/a", "../b", 1, true),
            ("d/x/a", "../../b", 1, false),
            ("d/a", "../b", 1, false),
            ("d/a", "/etc", 1, false),
            ("a", "x/../../b", 0, false),
            ("a", "x/../b", 0, true),
        ] {
            assert_eq!(stays(place.as_bytes(), link.as_bytes(), root), expected, "{place} {link}");
        }
    }

    #[test]
    fn a_tree_arrives_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::write(from.join("sub/run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("sub/run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::hard_link(from.join("sub/run.sh"), from.join("twice")).unwrap();
        fs::write(from.join("sub/deep").join("x".repeat(200)), "long").unwrap();
        symlink("sub/run.sh", from.join("inside")).unwrap();
        symlink("/etc/passwd", from.join("outside")).unwrap();
        fs::set_permissions(from.join("sub/deep"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(from.join("empty"), "").unwrap();

        let warnings = copied(&from, dir.path(), &renamed(&from, "to")).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let to = dir.path().join("to");
        assert_eq!(fs::read_to_string(to.join("inside")).unwrap(), "#!/bin/sh\n");
        assert_eq!(fs::metadata(to.join("sub/run.sh")).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(
            fs::metadata(to.join("twice")).unwrap().ino(),
            fs::metadata(to.join("sub/run.sh")).unwrap().ino()
        );
        assert_eq!(fs::metadata(to.join("sub/deep")).unwrap().mode() & 0o7777, 0o555);
        assert_eq!(fs::read_to_string(to.join("sub/deep").join("x".repeat(200))).unwrap(), "long");
        assert!(!to.join("outside").exists() && to.join("empty").exists());
        // Again, over what is there.
        copied(&from, dir.path(), &renamed(&from, "to")).unwrap();
        let all = Options { foreign_links: true, ..renamed(&from, "to") };
        assert!(copied(&from, dir.path(), &all).unwrap().is_empty());
        assert_eq!(fs::read_link(to.join("outside")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn a_single_file_gets_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("a");
        fs::write(&from, "new").unwrap();
        fs::write(dir.path().join("b"), "older and longer").unwrap();
        let before = fs::metadata(dir.path().join("b")).unwrap().ino();
        copied(&from, dir.path(), &renamed(&from, "b")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "new");
        assert_eq!(fs::metadata(dir.path().join("b")).unwrap().ino(), before);
        // A link is followed where it is named, and replaced where it is in the way.
        symlink(&from, dir.path().join("link")).unwrap();
        let link = dir.path().join("link");
        copied(&link, dir.path(), &renamed(&link, "c")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("c")).unwrap(), "new");
        fs::write(&from, "newest").unwrap();
        copied(&dir.path().join("c"), dir.path(), &renamed(&dir.path().join("c"), "link")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(fs::read_to_string(&from).unwrap(), "newest");
    }

    #[test]
    fn links_in_the_way_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, base, outside) =
            (dir.path().join("from"), dir.path().join("base"), dir.path().join("outside"));
        fs::create_dir_all(from.join("x")).unwrap();
        fs::write(from.join("x/f"), "f").unwrap();
        fs::create_dir_all(base.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, base.join("x")).unwrap();
        let error = copied(&from, &base, &renamed(&from, "")).unwrap_err();
        assert!(matches!(error, ReceiveError::Refused(_)), "{error:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // One that stays within is followed.
        fs::remove_file(base.join("x")).unwrap();
        symlink("real", base.join("x")).unwrap();
        copied(&from, &base, &renamed(&from, "")).unwrap();
        assert_eq!(fs::read_to_string(base.join("real/f")).unwrap(), "f");
    }
}
