//! Making volumes on the node: directories, tmpfs, checks of host paths, and the safe opening of subPaths.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use runtime::Users;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::atomic::{self, AtomicWriteError};
use super::payload::Payload;
use super::plan::HostPathType;

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Making the volume's directory.
    #[error("creating directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Giving it to the pod's group.
    #[error("giving {path} to group {group}")]
    Group {
        /// The directory.
        path: PathBuf,
        /// The group.
        group: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mounting a tmpfs.
    #[error("mounting a tmpfs on {path}")]
    Tmpfs {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Mounting an image.
    #[error("mounting an image on {path}")]
    Image {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Showing a layer of an image with other owners.
    #[error("mapping the ids of {origin}")]
    Mapped {
        /// The layer.
        origin: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Showing a directory of the node.
    #[error("mounting {origin} on {path}")]
    Source {
        /// On the node.
        origin: PathBuf,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A host path is not what it should be.
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPathType {
        /// The host path.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A host path could not be made.
    #[error("creating host path {path}")]
    HostPath {
        /// The host path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Files of a configMap, secret, downwardAPI or projected volume.
    #[error(transparent)]
    Files(#[from] AtomicWriteError),
    /// A subPath cannot be opened within its volume.
    #[error("opening subPath {sub_path:?} of {volume}")]
    SubPath {
        /// The volume.
        volume: PathBuf,
        /// Within it.
        sub_path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// An opened subPath cannot be mounted.
    #[error("mounting subPath {sub_path:?} on {target}")]
    Bind {
        /// Within the volume.
        sub_path: String,
        /// Where.
        target: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The list of mounts cannot be read.
    #[error("reading the list of mounts")]
    Mounts(#[source] io::Error),
    /// A mount below a directory that is to be removed stays.
    #[error("unmounting {path}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A directory cannot be removed.
    #[error("removing {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Anybody may write to an emptyDir: which user a container runs as is the image's affair.
const EMPTY_DIR_MODE: u32 = 0o777;

fn directory(path: &Path) -> Result<(), MountError> {
    fs::create_dir_all(path).map_err(|source| MountError::Directory { path: path.to_owned(), source })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), MountError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| MountError::Directory { path: path.to_owned(), source })
}

/// Files made in it belong to the group too, which the set-group-id bit does.
fn give_to(path: &Path, group: Option<u32>, mode: u32) -> Result<(), MountError> {
    let Some(group) = group else { return set_mode(path, mode) };
    std::os::unix::fs::chown(path, None, Some(group)).map_err(|source| MountError::Group {
        path: path.to_owned(),
        group,
        source,
    })?;
    set_mode(path, mode | 0o2000)
}

/// A directory of the pod's own. One that is there keeps its content and its mode.
pub fn empty_dir(path: &Path, group: Option<u32>) -> Result<(), MountError> {
    if path.is_dir() {
        return Ok(());
    }
    directory(path)?;
    give_to(path, group, EMPTY_DIR_MODE)
}

/// A tmpfs of the pod's own. One that is mounted stays.
pub fn memory(path: &Path, size: Option<u64>, group: Option<u32>) -> Result<(), MountError> {
    directory(path)?;
    if is_mount_point(path) {
        return Ok(());
    }
    let options = match size {
        Some(size) => format!("mode=0777,size={size}"),
        None => "mode=0777".to_owned(),
    };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .map_err(|source| MountError::Tmpfs { path: path.to_owned(), source })?;
    give_to(path, group, EMPTY_DIR_MODE)
}

/// Whether something is mounted there.
pub fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    let parent = path.parent().unwrap_or(path);
    device(path).is_some() && device(path) != device(parent)
}

/// Shows a directory of the node at a place of the pod's, with all that is mounted below it. One that is shown stays.
pub fn bind(source: &Path, path: &Path, read_only: bool) -> Result<(), MountError> {
    directory(path)?;
    if is_bound(path) {
        return Ok(());
    }
    let failed =
        |error| MountError::Source { origin: source.to_owned(), path: path.to_owned(), source: error };
    // Before it is in its place, so that nobody ever sees it writable.
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, flags).map_err(failed)?;
    rustix::mount::move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed)?;
    if read_only {
        rustix::mount::mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, "").map_err(failed)?;
    }
    Ok(())
}

/// Whether the place is the root of a mount, of whatever file system.
pub(super) fn is_bound(path: &Path) -> bool {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, rustix::fs::StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// The files of an image, for reading only. `layers` are directories, topmost first. `users`: whose ids the owners of
/// files are shown by. One that is mounted stays.
pub fn image(path: &Path, layers: &[PathBuf], users: Option<Users>) -> Result<(), MountError> {
    directory(path)?;
    if is_mount_point(path) {
        return Ok(());
    }
    let failed = |source| MountError::Image { path: path.to_owned(), source };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match layers {
        [] => {
            // An image without files is an empty directory.
            let options = c"mode=0755,size=4096";
            rustix::mount::mount("tmpfs", path, "tmpfs", flags, options).map_err(failed)
        }
        layers => {
            // An overlay wants two directories below; an empty one changes nothing.
            let empty = path.with_extension("empty");
            directory(&empty)?;
            let mapped = match users {
                Some(users) => Some(MappedLayers::new(path, layers, users)?),
                None => None,
            };
            let layers = mapped.as_ref().map_or(layers, |mapped| &mapped.places);
            let mut options = Vec::from(b"lowerdir=");
            for layer in layers {
                options.extend(escaped(layer));
                options.push(b':');
            }
            options.extend(escaped(&empty));
            let options = std::ffi::CString::new(options).unwrap_or_default();
            rustix::mount::mount("overlay", path, "overlay", flags, options.as_c_str()).map_err(failed)
        }
    }
}

/// Layers with mapped ids, mounted beside a volume until its overlay has them: the ids of an overlay itself cannot be
/// mapped.
struct MappedLayers {
    places: Vec<PathBuf>,
}

impl MappedLayers {
    fn new(path: &Path, layers: &[PathBuf], users: Users) -> Result<Self, MountError> {
        let mut mapped = Self { places: Vec::with_capacity(layers.len()) };
        for (number, layer) in layers.iter().enumerate() {
            // In the pod's directory, so that what a crash leaves goes with the pod.
            let place = path.with_extension(format!("layer{number}"));
            directory(&place)?;
            let failed = |source: io::Error| MountError::Mapped { origin: layer.clone(), source };
            let tree = runtime::mapped_tree(layer, users).map_err(failed)?;
            rustix::mount::move_mount(&tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(|errno| failed(errno.into()))?;
            mapped.places.push(place);
        }
        Ok(mapped)
    }
}

impl Drop for MappedLayers {
    fn drop(&mut self) {
        for place in &self.places {
            if rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {
                let _ = fs::remove_dir(place);
            }
        }
    }
}

/// A path as the overlay's options have it: separators within it are escaped.
fn escaped(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

/// Checks that a host path is what it should be, and makes it where that is wanted.
pub fn host_path(path: &Path, expect: HostPathType) -> Result<(), MountError> {
    let kind = fs::metadata(path).ok().map(|meta| meta.file_type());
    let failed = |source| MountError::HostPath { path: path.to_owned(), source };
    let check = |fits: bool, expected| {
        if fits { Ok(()) } else { Err(MountError::HostPathType { path: path.to_owned(), expected }) }
    };
    match expect {
        // As for a missing type upstream with containerd: what is not there becomes a directory.
        HostPathType::Unset => match kind {
            Some(_) => Ok(()),
            None => fs::create_dir_all(path).map_err(failed),
        },
        HostPathType::DirectoryOrCreate => match kind {
            Some(kind) => check(kind.is_dir(), "a directory"),
            None => {
                fs::create_dir_all(path).map_err(failed)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
            }
        },
        HostPathType::Directory => check(kind.is_some_and(|kind| kind.is_dir()), "a directory"),
        HostPathType::FileOrCreate => match kind {
            Some(kind) => check(kind.is_file(), "a file"),
            None => {
                fs::File::create(path).map_err(failed)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed)
            }
        },
        HostPathType::File => check(kind.is_some_and(|kind| kind.is_file()), "a file"),
        HostPathType::Socket => check(kind.is_some_and(|kind| kind.is_socket()), "a socket file"),
        HostPathType::CharDevice => {
            check(kind.is_some_and(|kind| kind.is_char_device()), "a character device")
        }
        HostPathType::BlockDevice => check(kind.is_some_and(|kind| kind.is_block_device()), "a block device"),
    }
}

/// Files made of API objects.
pub fn files(path: &Path, payload: &Payload, group: Option<u32>) -> Result<(), MountError> {
    if !path.is_dir() {
        directory(path)?;
        set_mode(path, 0o755)?;
    }
    atomic::write(path, payload, group)?;
    Ok(())
}

/// Opens `sub_path` within `volume`, making directories that are missing, and mounts it on `target`, where no container
/// can reach it to exchange it for a link: whoever controls the volume must not choose what is mounted.
pub fn sub_path(volume: &Path, sub_path: &str, target: &Path) -> Result<(), MountError> {
    let opened = open_within(volume, sub_path).map_err(|source| MountError::SubPath {
        volume: volume.to_owned(),
        sub_path: sub_path.to_owned(),
        source,
    })?;
    let bind = |source| MountError::Bind { sub_path: sub_path.to_owned(), target: target.to_owned(), source };
    let is_dir = {
        let stat = rustix::fs::fstat(&opened).map_err(bind)?;
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    };
    // What an earlier start of the same container has mounted here is no longer in use.
    let _ = rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    if is_dir {
        directory(target)?;
    } else {
        if let Some(parent) = target.parent() {
            directory(parent)?;
        }
        fs::File::create(target)
            .map_err(|source| MountError::Directory { path: target.to_owned(), source })?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(&opened, "", flags).map_err(bind)?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(bind)
}

/// Opens a path below a directory without ever leaving it, whatever links there are and however they change meanwhile.
fn open_within(volume: &Path, sub_path: &str) -> Result<OwnedFd, Errno> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // A volume that is a single file has only itself.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |root: &OwnedFd, path: &str| {
        rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    match open(&root, sub_path) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mut current = root;
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let next = match open(&current, part) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&current, part, Mode::from_raw_mode(0o750)) {
                    Ok(()) => {
                        // The container's user may be anybody, as in an emptyDir; the process's umask must not matter.
                        let made = open(&current, part)?;
                        let inherited = rustix::fs::fstat(&current)?.st_mode & 0o7777;
                        rustix::fs::chmodat(
                            &current,
                            part,
                            Mode::from_raw_mode(inherited),
                            AtFlags::empty(),
                        )?;
                        Ok(made)
                    }
                    Err(Errno::EXIST) => open(&current, part),
                    Err(error) => Err(error),
                }
            }
            opened => opened,
        }?;
        current = next;
    }
    Ok(current)
}

/// Removes a directory and everything in it, unmounting what is mounted there first. Nothing outside is touched: if a
/// mount stays, so does the directory.
pub fn remove(path: &Path) -> Result<(), MountError> {
    for mounted in mounts_below(path)?.iter().rev() {
        rustix::mount::unmount(mounted.as_path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|source| MountError::Unmount { path: mounted.clone(), source })?;
    }
    if let Some(left) = mounts_below(path)?.into_iter().next() {
        return Err(MountError::Unmount { path: left, source: Errno::BUSY });
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MountError::Remove { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, MountError> {
    let table = fs::read("/proc/self/mountinfo").map_err(MountError::Mounts)?;
    let table = String::from_utf8_lossy(&table);
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.map(PathBuf::from).filter(|point| point.starts_with(path)).collect())
}

/// The kernel writes white space and backslashes in paths as octal numbers.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                bytes.push(value);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let check = |name: &str, expect, ok: bool| {
            assert_eq!(host_path(&at(name), expect).is_ok(), ok, "{name} {expect:?}");
        };
        check("file", HostPathType::File, true);
        check("file", HostPathType::Directory, false);
        check("file", HostPathType::Unset, true);
        check("none", HostPathType::File, false);
        check("none", HostPathType::Socket, false);
        check("new/dir", HostPathType::DirectoryOrCreate, true);
        check("new/file", HostPathType::FileOrCreate, true);
        check("new", HostPathType::FileOrCreate, false);
        assert!(at("new/dir").is_dir() && at("new/file").is_file());
    }

    #[test]
    fn sub_paths_do_not_leave_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("up")).unwrap();
        std::os::unix::fs::symlink("a", volume.join("inside")).unwrap();
        for (path, ok) in [
            ("a/b", true),
            ("inside/b", true),
            ("new/deep", true),
            ("absolute", false),
            ("absolute/passwd", false),
            ("up", false),
            ("up/new", false),
            ("../outside", false),
        ] {
            assert_eq!(open_within(&volume, path).is_ok(), ok, "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
        assert!(!dir.path().join("outside/new").exists());
    }

    #[test]
    fn paths_in_the_mount_table_are_escaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
    }

    #[test]
    fn removing_unmounts_first() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("data"), "x").unwrap();
        let pod = dir.path().join("pod");
        memory(&pod.join("volumes/m"), Some(1 << 20), Some(1234)).unwrap();
        memory(&pod.join("volumes/m"), Some(1 << 20), Some(1234)).unwrap();
        sub_path(dir.path(), "precious", &pod.join("subpaths/0")).unwrap();
        assert_eq!(fs::read_to_string(pod.join("subpaths/0/data")).unwrap(), "x");
        assert_eq!(mounts_below(&pod).unwrap().len(), 2);
        remove(&pod).unwrap();
        assert!(!pod.exists());
        assert_eq!(fs::read_to_string(precious.join("data")).unwrap(), "x");
    }
}
