//! A layer becomes a directory that overlayfs takes as it is.
//!
//! Follows the OCI image specification, "Image Layer Filesystem Changeset": `.wh.x` becomes the 0/0 device `x`,
//! `.wh..wh..opq` the attribute `trusted.overlay.opaque`. Owners, modes with setuid bits, times, devices, hard links and
//! extended attributes are kept. A whiteout says nothing about entries of its own layer, in whatever order they come.
//!
//! The archive is a stranger's: see `root` for how nothing leaves the directory, and [`Limits`] for how much it may hold.

mod root;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Limits;
use crate::tar::{Entry, Kind, TarError, TarReader};
use root::{Parts, Root};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// Directory times are set at the end; so many bytes of names may wait for that.
const MOST_WAITING: usize = 64 << 20;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry tries to leave the root, or is something no layer has.
    #[error("refused entry {path:?}: {problem}")]
    Refused {
        /// Its name in the archive.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// There is more than there may be.
    #[error("the image has more than {limit} {what}")]
    TooMuch {
        /// Files, or bytes.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
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

/// How much an image may still unpack to.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Budget {
        Budget { limits: limits.clone(), entries: limits.entries, bytes: limits.unpacked_bytes }
    }

    fn entry(&mut self) -> Result<(), UnpackError> {
        let too_much = UnpackError::TooMuch { what: "files", limit: self.limits.entries };
        self.entries = self.entries.checked_sub(1).ok_or(too_much)?;
        Ok(())
    }

    fn bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let too_much = UnpackError::TooMuch { what: "bytes", limit: self.limits.unpacked_bytes };
        self.bytes = self.bytes.checked_sub(bytes).ok_or(too_much)?;
        Ok(())
    }
}

/// Unpack the plain archive into an existing empty directory. `lower` are the unpacked layers below, topmost first:
/// a directory that the archive does not mention looks as it does there. Returns the bytes of all files.
pub(crate) fn unpack(
    archive: impl Read,
    directory: &Path,
    lower: &[PathBuf],
    budget: &mut Budget,
) -> Result<u64, UnpackError> {
    let open = |path: &PathBuf| {
        Root::open(path).map_err(|source| UnpackError::Io {
            step: "opening",
            path: path.display().to_string(),
            source,
        })
    };
    let lower = lower.iter().map(open).collect::<Result<_, _>>()?;
    let mut unpacking = Unpacking {
        root: open(&directory.to_owned())?,
        lower,
        last_parent: None,
        times: Vec::new(),
        waiting: 0,
        bytes: 0,
        buffer: vec![0; 128 << 10],
    };
    unpacking.root_directory()?;
    let mut archive = TarReader::new(archive);
    while let Some(entry) = archive.next()? {
        budget.entry()?;
        budget.bytes(entry.size)?;
        unpacking.entry(&entry, archive.data())?;
    }
    // The rest is padding, but the digest is over all of it.
    let mut rest = archive.into_source().take(budget.bytes);
    io::copy(&mut rest, &mut io::sink()).map_err(TarError::Read)?;
    unpacking.finish()?;
    Ok(unpacking.bytes)
}

struct Unpacking {
    root: Root,
    lower: Vec<Root>,
    /// Entries come directory by directory, so the last one is mostly the next one too.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose times are set when nothing is added to them any more.
    times: Vec<(Vec<u8>, (i64, u32))>,
    waiting: usize,
    bytes: u64,
    buffer: Vec<u8>,
}

/// Where an entry goes: the open directory and the name in it.
struct Place<'a> {
    directory: BorrowedFd<'a>,
    name: &'a [u8],
    entry: &'a Entry,
}

impl Place<'_> {
    fn failed(&self, step: &'static str) -> impl FnOnce(Errno) -> UnpackError {
        failed(step, self.entry)
    }
}

fn failed(step: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> UnpackError {
    let path = entry.shown();
    move |error| UnpackError::Io { step, path, source: error.into() }
}

impl Unpacking {
    /// The root of the layer looks like the one below, until the archive says otherwise.
    fn root_directory(&self) -> Result<(), UnpackError> {
        let looks = self.looks_below(&[]).unwrap_or(root::Looks { mode: 0o755, uid: 0, gid: 0 });
        dress(self.root.fd(), looks).map_err(|error| UnpackError::Io {
            step: "setting the mode of",
            path: "/".to_owned(),
            source: error.into(),
        })
    }

    fn entry(&mut self, entry: &Entry, data: impl Read) -> Result<(), UnpackError> {
        let refused = |problem| UnpackError::Refused { path: entry.shown(), problem };
        let parts = root::parts(&entry.path).ok_or_else(|| refused("its name has '..' or a zero byte"))?;
        let Some((name, parents)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(refused("the root of a layer is a directory"));
            }
            let root = self.root.fd().try_clone_to_owned().map_err(|source| UnpackError::Io {
                step: "opening",
                path: "/".to_owned(),
                source,
            })?;
            return self.dress_directory(root, &parts, entry);
        };
        let directory = self.parent(parents, entry)?;
        let place = Place { directory: directory.as_fd(), name, entry };
        if name.starts_with(WHITEOUT) {
            self.whiteout(&place)?;
        } else {
            self.create(&place, &parts, data)?;
        }
        self.last_parent = Some((parents.join(&b'/'), directory));
        Ok(())
    }

    /// Open the directory that holds an entry; make what is missing on the way.
    fn parent(&mut self, path: Parts<'_>, entry: &Entry) -> Result<OwnedFd, UnpackError> {
        if let Some((last, directory)) = self.last_parent.take()
            && last == path.join(&b'/')
        {
            return Ok(directory);
        }
        match self.root.directory(path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(failed("opening the directory of", entry)(error)),
        }
        let mut directory = self.root.directory(&[]).map_err(failed("opening the root for", entry))?;
        for depth in 1..=path.len() {
            directory = match self.root.directory(&path[..depth]) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_parent(directory.as_fd(), &path[..depth], entry)?
                }
                Err(error) => return Err(failed("opening the directory of", entry)(error)),
            };
        }
        Ok(directory)
    }

    /// A directory that the archive uses without having mentioned it.
    fn make_parent(
        &self,
        directory: BorrowedFd<'_>,
        path: Parts<'_>,
        entry: &Entry,
    ) -> Result<OwnedFd, UnpackError> {
        let Some((name, _)) = path.split_last() else {
            return Err(failed("opening the directory of", entry)(Errno::NOENT));
        };
        let failed = |step| failed(step, entry);
        let there = root::look(directory, name).map_err(failed("looking at the directory of"))?;
        let was_hidden = there.as_ref().is_some_and(root::is_whiteout);
        if let Some(there) = there {
            if !was_hidden {
                return Err(UnpackError::Refused {
                    path: entry.shown(),
                    problem: "a part of its path is not a directory",
                });
            }
            root::remove(directory, name, &there).map_err(failed("replacing the directory of"))?;
        }
        let made = root::make_directory(directory, name).map_err(failed("making the directory of"))?;
        let below = if was_hidden { None } else { self.looks_below(path) };
        dress(made.as_fd(), below.unwrap_or(root::Looks { mode: 0o755, uid: 0, gid: 0 }))
            .map_err(failed("setting the mode of the directory of"))?;
        if was_hidden {
            root::make_opaque(made.as_fd()).map_err(failed("hiding what is below the directory of"))?;
        }
        Ok(made)
    }

    /// What a directory looks like in the layers below.
    fn looks_below(&self, path: Parts<'_>) -> Option<root::Looks> {
        for layer in &self.lower {
            match layer.looks(path) {
                Ok(looks) => return Some(looks),
                Err(Errno::NOENT) => {}
                // A file or a whiteout ends the search: what is further below does not show.
                Err(_) => return None,
            }
        }
        None
    }

    fn whiteout(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        if place.name == OPAQUE_MARK {
            return root::make_opaque(place.directory)
                .map_err(place.failed("hiding what is below the directory of"));
        }
        if place.name.starts_with(WHITEOUT_META) {
            // Notes of aufs, which mean nothing to anybody else.
            return Ok(());
        }
        let name = &place.name[WHITEOUT.len()..];
        if name.is_empty() || name == b"." || name == b".." {
            return Err(UnpackError::Refused { path: place.entry.shown(), problem: "a whiteout of nothing" });
        }
        match root::look(place.directory, name).map_err(place.failed("looking at"))? {
            None => root::make_whiteout(place.directory, name).map_err(place.failed("making the whiteout")),
            // This layer has already made its own.
            Some(there) if root::is_directory(&there) => {
                let own = root::open_directory(place.directory, name).map_err(place.failed("opening"))?;
                root::make_opaque(own.as_fd()).map_err(place.failed("hiding what is below"))
            }
            Some(_) => Ok(()),
        }
    }

    fn create(&mut self, place: &Place<'_>, path: Parts<'_>, data: impl Read) -> Result<(), UnpackError> {
        let entry = place.entry;
        let there = root::look(place.directory, place.name).map_err(place.failed("looking at"))?;
        if entry.kind == Kind::Directory && there.as_ref().is_some_and(root::is_directory) {
            let directory =
                root::open_directory(place.directory, place.name).map_err(place.failed("opening"))?;
            return self.dress_directory(directory, path, entry);
        }
        if entry.kind == Kind::Hardlink {
            // Before anything is removed: a link to itself would lose the file.
            return self.hardlink(place, there.as_ref());
        }
        let was_hidden = there.as_ref().is_some_and(root::is_whiteout);
        if let Some(there) = &there {
            root::remove(place.directory, place.name, there).map_err(place.failed("replacing"))?;
        }
        match entry.kind {
            Kind::Directory => {
                let made = root::make_directory(place.directory, place.name)
                    .map_err(place.failed("making directory"))?;
                if was_hidden {
                    root::make_opaque(made.as_fd()).map_err(place.failed("hiding what is below"))?;
                }
                self.dress_directory(made, path, entry)
            }
            Kind::Regular => self.regular(place, data),
            Kind::Symlink => symlink(place),
            Kind::Character => node(place, FileType::CharacterDevice),
            Kind::Block => node(place, FileType::BlockDevice),
            Kind::Fifo => node(place, FileType::Fifo),
            Kind::Hardlink => Ok(()),
        }
    }

    fn regular(&mut self, place: &Place<'_>, mut data: impl Read) -> Result<(), UnpackError> {
        let entry = place.entry;
        let file = root::make_file(place.directory, place.name).map_err(place.failed("creating"))?;
        let mut file = std::fs::File::from(file);
        loop {
            let n = match data.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TarError::Read(error).into()),
            };
            io::Write::write_all(&mut file, &self.buffer[..n]).map_err(|source| UnpackError::Io {
                step: "writing",
                path: entry.shown(),
                source,
            })?;
        }
        self.bytes += entry.size;
        let file = OwnedFd::from(file);
        dress_file(file.as_fd(), entry)?;
        let times = Timestamps { last_access: time(entry.mtime), last_modification: time(entry.mtime) };
        rustix::fs::futimens(&file, &times).map_err(place.failed("setting the time of"))
    }

    fn hardlink(&mut self, place: &Place<'_>, there: Option<&rustix::fs::Stat>) -> Result<(), UnpackError> {
        let entry = place.entry;
        let refused = |problem| UnpackError::Refused { path: entry.shown(), problem };
        let target = root::parts(&entry.link).ok_or_else(|| refused("its target has '..' or a zero byte"))?;
        let Some((target, parents)) = target.split_last() else {
            return Err(refused("a hard link to a directory"));
        };
        let missing = || refused("the target of a hard link is not in this layer");
        let directory = match self.root.directory(parents) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(error) => return Err(place.failed("opening the directory of the target of")(error)),
        };
        let found =
            root::look(directory.as_fd(), target).map_err(place.failed("looking at the target of"))?;
        let found = found.filter(|stat| !root::is_whiteout(stat)).ok_or_else(missing)?;
        if root::is_directory(&found) {
            return Err(refused("a hard link to a directory"));
        }
        if let Some(there) = there {
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) {
                return Ok(());
            }
            root::remove(place.directory, place.name, there).map_err(place.failed("replacing"))?;
        }
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is one to the link itself.
        rustix::fs::linkat(&directory, *target, place.directory, place.name, AtFlags::empty())
            .map_err(place.failed("linking"))
    }

    fn dress_directory(
        &mut self,
        directory: OwnedFd,
        path: Parts<'_>,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        dress_file(directory.as_fd(), entry)?;
        let path = path.join(&b'/');
        self.waiting += path.len() + 64;
        if self.waiting > MOST_WAITING {
            return Err(UnpackError::TooMuch {
                what: "bytes of names of directories",
                limit: MOST_WAITING as u64,
            });
        }
        self.times.push((path, entry.mtime));
        Ok(())
    }

    /// Nothing is added any more: set the times of the directories.
    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let parts = root::parts(&path).unwrap_or_default();
            // A later entry may have replaced it.
            let Ok(directory) = self.root.directory(&parts) else { continue };
            let times = Timestamps { last_access: time(mtime), last_modification: time(mtime) };
            rustix::fs::futimens(&directory, &times).map_err(|error| UnpackError::Io {
                step: "setting the time of",
                path: String::from_utf8_lossy(&path).into_owned(),
                source: error.into(),
            })?;
        }
        Ok(())
    }
}

fn symlink(place: &Place<'_>) -> Result<(), UnpackError> {
    let entry = place.entry;
    if entry.link.is_empty() || entry.link.contains(&0) {
        return Err(UnpackError::Refused { path: entry.shown(), problem: "a symbolic link to nothing" });
    }
    rustix::fs::symlinkat(entry.link.as_slice(), place.directory, place.name)
        .map_err(place.failed("linking"))?;
    own(place)?;
    let times = Timestamps { last_access: time(entry.mtime), last_modification: time(entry.mtime) };
    rustix::fs::utimensat(place.directory, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(place.failed("setting the time of"))
}

fn node(place: &Place<'_>, kind: FileType) -> Result<(), UnpackError> {
    let entry = place.entry;
    let (major, minor) = entry.device;
    let device = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
    rustix::fs::mknodat(place.directory, place.name, kind, Mode::RUSR | Mode::WUSR, device)
        .map_err(place.failed("making the device"))?;
    own(place)?;
    // Follows links, but this is the device that was made above.
    rustix::fs::chmodat(place.directory, place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
        .map_err(place.failed("setting the mode of"))?;
    let times = Timestamps { last_access: time(entry.mtime), last_modification: time(entry.mtime) };
    rustix::fs::utimensat(place.directory, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(place.failed("setting the time of"))
}

/// Set the owner of something that has no descriptor.
fn own(place: &Place<'_>) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(place.entry.uid), Gid::from_raw(place.entry.gid));
    rustix::fs::chownat(place.directory, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(place.failed("setting the owner of"))
}

/// Owner, attributes and mode, in this order: a new owner clears setuid bits and capabilities.
fn dress_file(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed("setting the owner of", entry))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_allowed(name)) {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // Not every file system has them all, and no program can rely on those of users.
            Err(Errno::OPNOTSUPP | Errno::PERM) if !name.starts_with(b"security.") => {}
            Err(error) => return Err(failed("setting an extended attribute of", entry)(error)),
        }
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(failed("setting the mode of", entry))
}

/// Attributes that an image may bring. Those of overlayfs would let it redirect directories to other places.
fn is_allowed(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    user || name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

fn dress(directory: BorrowedFd<'_>, looks: root::Looks) -> rustix::io::Result<()> {
    rustix::fs::fchown(directory, Some(Uid::from_raw(looks.uid)), Some(Gid::from_raw(looks.gid)))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(looks.mode))
}

fn time((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
}

#[cfg(test)]
mod tests;
