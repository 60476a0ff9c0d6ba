//! The file system of the new process.
//!
//! Everything is mounted through descriptors: a mount is made detached, gets its attributes, and is then
//! attached to a place that was resolved within the root. No path is looked up twice, so nobody can change what
//! it means in between.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::path::{self, Make};
use super::{Fault, State, copy_up, uncover};
use crate::plan::RDONLY;
use crate::plan::step::{Attributes, NodeKind, Root, Source, Step};
use crate::plan::text::Text;
use crate::sys::mount::{Change, map_ids, set_attributes};

const PATH_MAX: usize = 4096;

/// fsconfig(2) takes strings up to this length, their NUL included.
const FSCONFIG_MAX: usize = 256;

impl State<'_> {
    pub(super) fn mounts(&mut self, step: &Step) -> Result<(), Fault> {
        match step {
            Step::OpenBind { source, recursive, attributes, mapped } => {
                let tree = open_source(source, *recursive)?;
                if *mapped {
                    map_ids(&tree, self.users()?, false)?;
                }
                dress(tree.as_fd(), attributes)?;
                self.opened.push(tree);
            }
            Step::PrivateMounts => {
                let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change(c"/", flags)?;
            }
            Step::SlaveMounts => {
                let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                rustix::mount::mount_change(c"/", flags)?;
            }
            Step::Root { root, place, mapped } => {
                let users = if *mapped { Some(self.users()?) } else { None };
                self.root = Some(mount_root(root, place.as_c_str(), users)?);
            }
            Step::Mount { file_system, source, options, attributes, destination, copy_up, inherit_mode } => {
                let root = self.root()?;
                let covered = inherit_mode.then(|| path::open(root, destination.as_c_str(), OFlags::PATH));
                let mode = match covered {
                    Some(Ok(covered)) => Some(rustix::fs::fstat(&covered)?.st_mode & 0o7777),
                    // What is made now has no permissions worth keeping.
                    _ => None,
                };
                let mount = new_mount(file_system, source, options, mode, attributes)?;
                let mut target = path::ensure(root, destination.as_c_str(), Make::Directory)?;
                if matches!(file_system.as_c_str().to_bytes(), b"proc" | b"sysfs") {
                    // Later steps hide parts of it by name. An image in which /proc is a link to another
                    // place would have those parts in plain sight there.
                    const WHY: &[u8] = b"must be mounted on ordinary directory";
                    target = path::open_directly(root, destination.as_c_str())
                        .map_err(|errno| Fault::with_detail(errno, WHY))?;
                }
                if *copy_up {
                    copy_up::copy(target.as_fd(), mount.as_fd(), attributes.set & RDONLY != 0)?;
                }
                attach(mount.as_fd(), target.as_fd())?;
                if attributes.propagation != 0 {
                    propagate(mount.as_fd(), attributes)?;
                }
            }
            Step::Bind { source, within, recursive, attributes, destination, mapped } => {
                let tree = match within {
                    true => {
                        let found = path::open(self.root()?, source.path.as_c_str(), OFlags::PATH)?;
                        clone_tree(found.as_fd(), *recursive)?
                    }
                    false => open_source(source, *recursive)?,
                };
                if *mapped {
                    self.send_with(super::MAP_MOUNT, 0, &[], Some(tree.as_fd()));
                    self.wait_for_parent()?;
                }
                dress(tree.as_fd(), attributes)?;
                let make = if path::is_directory(tree.as_fd())? { Make::Directory } else { Make::File };
                let target = path::ensure(self.root()?, destination.as_c_str(), make)?;
                attach(tree.as_fd(), target.as_fd())?;
            }
            Step::PlaceBind { opened, destination, fresh } => {
                let mount = self.opened.get(*opened).ok_or(Errno::BADF)?;
                let make = if path::is_directory(mount.as_fd())? { Make::Directory } else { Make::File };
                let target = path::ensure(self.root()?, destination.as_c_str(), make)?;
                attach(mount.as_fd(), target.as_fd())?;
                if *fresh {
                    renew(mount.as_fd(), target.as_fd())?;
                }
            }
            Step::PlaceShm { destination, attributes } => {
                let mount = self.shm.as_ref().ok_or(Errno::BADF)?;
                dress(mount.as_fd(), attributes)?;
                let target = path::ensure(self.root()?, destination.as_c_str(), Make::Directory)?;
                attach(mount.as_fd(), target.as_fd())?;
            }
            Step::Device { path, kind, major, minor, mode, uid, gid } => {
                self.device(path, *kind, (*major, *minor), *mode, (*uid, *gid))?;
            }
            Step::Symlink { target, path } => {
                let mut buffer = [0; PATH_MAX];
                let (parent, name) = path::ensure_parent(self.root()?, path.as_c_str(), &mut buffer)?;
                match rustix::fs::symlinkat(target.as_c_str(), &parent, name) {
                    // An image may bring its own.
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Step::Attributes { destination, attributes } => {
                let target = path::open(self.root()?, destination.as_c_str(), OFlags::PATH)?;
                set_attributes(&target, attributes.own(), false)?;
            }
            Step::Mask { path } => self.mask(path)?,
            Step::ReadOnly { path } => {
                let target = match path::open(self.root()?, path.as_c_str(), OFlags::PATH) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    result => result?,
                };
                let tree = clone_tree(target.as_fd(), true)?;
                set_attributes(&tree, Change { set: RDONLY, ..Change::default() }, true)?;
                attach(tree.as_fd(), target.as_fd())?;
            }
            Step::ReadOnlyRoot => {
                set_attributes(self.root()?, Change { set: RDONLY, ..Change::default() }, false)?;
            }
            Step::MakeDirectory { path } => {
                path::ensure(self.root()?, path.as_c_str(), Make::Directory)?;
            }
            Step::PivotRoot => self.pivot()?,
            Step::MoveRoot => self.move_root()?,
            Step::ChangeRoot => {
                rustix::process::fchdir(self.root()?)?;
                rustix::process::chroot(c".")?;
                self.let_go();
            }
            Step::EnterRoot { opened } => {
                rustix::process::fchdir(self.opened.get(*opened).ok_or(Errno::BADF)?)?;
                rustix::process::chroot(c".")?;
                self.let_go();
            }
            Step::RootPropagation { flags } => {
                let recursive = flags & libc::MS_REC != 0;
                let change = Change { propagation: flags & !libc::MS_REC, ..Change::default() };
                let root = rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                set_attributes(&root, change, recursive)?;
            }
            // `State::take` sends nothing else here.
            _ => return Err(Errno::INVAL.into()),
        }
        Ok(())
    }

    fn device(
        &self,
        device_path: &Text,
        kind: NodeKind,
        (major, minor): (u32, u32),
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<(), Errno> {
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = path::ensure_parent(self.root()?, device_path.as_c_str(), &mut buffer)?;
        let (file_type, device) = match kind {
            NodeKind::Character => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            NodeKind::Block => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            NodeKind::Fifo => (FileType::Fifo, 0),
        };
        match rustix::fs::mknodat(&parent, name, file_type, Mode::from_raw_mode(mode), device) {
            Ok(()) => path::set_owner_and_mode(parent.as_fd(), name, uid, gid, mode),
            // One that the image brought will do if it is the same.
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                let same = FileType::from_raw_mode(stat.st_mode) == file_type && stat.st_rdev == device;
                if same { Ok(()) } else { Err(Errno::EXIST) }
            }
            // In a user namespace nodes cannot be made. The host's own does as well.
            Err(Errno::PERM) if kind != NodeKind::Fifo => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                let node = rustix::mount::open_tree(CWD, device_path.as_c_str(), flags)?;
                let stat = rustix::fs::fstat(&node)?;
                if FileType::from_raw_mode(stat.st_mode) != file_type || stat.st_rdev != device {
                    return Err(Errno::PERM);
                }
                let place = path::ensure(self.root()?, device_path.as_c_str(), Make::File)?;
                attach(node.as_fd(), place.as_fd())
            }
            Err(errno) => Err(errno),
        }
    }

    fn users(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.users.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// Covers a path: a directory with an empty one, anything else with /dev/null.
    fn mask(&mut self, path: &Text) -> Result<(), Fault> {
        let target = match path::open(self.root()?, path.as_c_str(), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result?,
        };
        let cover = if path::is_directory(target.as_fd())? { &mut self.empty } else { &mut self.null };
        // The first cover is made, the others are copies of it: one file system for all of them.
        let mount = match cover {
            Some(first) => clone_tree(first.as_fd(), false)?,
            None if path::is_directory(target.as_fd())? => {
                let fs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
                rustix::mount::fsconfig_set_string(&fs, c"nr_inodes", c"1")?;
                rustix::mount::fsconfig_set_string(&fs, c"mode", c"555")?;
                create(&fs)?;
                let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?
            }
            None => {
                // Of the host, which is still the root: the container's could be anything that it likes.
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                let null = rustix::mount::open_tree(CWD, c"/dev/null", flags)?;
                if !path::is_device(null.as_fd(), 1, 3) {
                    return Err(Errno::NODEV.into());
                }
                null
            }
        };
        attach(mount.as_fd(), target.as_fd())?;
        cover.get_or_insert(mount);
        Ok(())
    }

    /// Makes the root the root. Old and new root change places on the same mount point, so no directory for
    /// the old one is needed in the image; then the old one, which lies on top, is let go.
    fn pivot(&mut self) -> Result<(), Errno> {
        rustix::process::fchdir(self.root()?)?;
        rustix::process::pivot_root(c".", c".")?;
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        self.let_go();
        Ok(())
    }

    /// The same for a host whose own root cannot be pivoted, because it is the kernel's first one. The old root
    /// stays mounted below ours, out of reach for whoever cannot change mounts.
    fn move_root(&mut self) -> Result<(), Errno> {
        uncover::hide_kernel_mounts(self.root()?)?;
        rustix::process::fchdir(self.root()?)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(self.root()?, c"", CWD, c"/", flags)?;
        rustix::process::chroot(c".")?;
        rustix::process::chdir(c"/")?;
        self.let_go();
        Ok(())
    }

    /// From here on no descriptor reaches outside.
    fn let_go(&mut self) {
        self.opened.clear();
        self.root = None;
        self.shm = None;
        (self.empty, self.null) = (None, None);
    }
}

/// Attaches a mount to a place.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", place, c"", flags)
}

/// Puts a copy of a mount in its place, which is listed after all that was mounted before. (A copy cannot be made
/// before the mount is attached in our namespace.)
fn renew(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let copy = match clone_tree(mount, true) {
        // One that is not to be copied stays.
        Err(Errno::INVAL) => return Ok(()),
        copy => copy?,
    };
    let mut name = [0; 32];
    rustix::mount::unmount(descriptor_name(mount, &mut name)?, UnmountFlags::DETACH)?;
    attach(copy.as_fd(), place)
}

/// A detached copy of the mount at (or, for bind mounts, of the tree below) a descriptor.
fn clone_tree(from: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(from, c"", flags)
}

/// Opens what will be mounted, in a process that may still see everything. `user_namespace`: the one whose mapping
/// the mount gets, and whether the mounts below it get it as well.
pub(crate) fn open_bind(
    source: &Source,
    recursive: bool,
    attributes: &Attributes,
    user_namespace: Option<(BorrowedFd<'_>, bool)>,
) -> Result<OwnedFd, Errno> {
    let tree = open_source(source, recursive)?;
    if let Some((namespace, all)) = user_namespace {
        map_ids(&tree, namespace, all)?;
    }
    dress(tree.as_fd(), attributes)?;
    Ok(tree)
}

fn open_source(source: &Source, recursive: bool) -> Result<OwnedFd, Errno> {
    let path = source.path.as_c_str();
    let Some(beneath) = &source.beneath else {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        return rustix::mount::open_tree(CWD, path, flags);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, beneath.as_c_str(), flags, Mode::empty())?;
    let opened = path::open(directory.as_fd(), path, OFlags::PATH)?;
    clone_tree(opened.as_fd(), recursive)
}

/// Sets the attributes of a detached mount. What says nothing about propagation gets none: neither do the
/// host's later mounts appear in the container, nor the container's on the host.
fn dress(mount: BorrowedFd<'_>, attributes: &Attributes) -> Result<(), Errno> {
    if attributes.propagation == 0 || !attributes.recursive_propagation {
        let private = Change { propagation: libc::MS_PRIVATE, ..Change::default() };
        // Below a mount that is to be shared alone, nothing is.
        if attributes.propagation == 0 {
            set_attributes(mount, private, true)?;
        }
    }
    if attributes.propagation != 0 {
        propagate(mount, attributes)?;
    }
    if attributes.own() != Change::default() {
        set_attributes(mount, attributes.own(), false)?;
    }
    if attributes.recursive() != Change::default() {
        set_attributes(mount, attributes.recursive(), true)?;
    }
    Ok(())
}

fn propagate(mount: BorrowedFd<'_>, attributes: &Attributes) -> Result<(), Errno> {
    let change = Change { propagation: attributes.propagation, ..Change::default() };
    set_attributes(mount, change, attributes.recursive_propagation)
}

/// Makes a mount of a new file system.
fn new_mount(
    file_system: &Text,
    source: &Text,
    options: &[(Text, Option<Text>)],
    mode: Option<u32>,
    attributes: &Attributes,
) -> Result<OwnedFd, Fault> {
    let fs = rustix::mount::fsopen(file_system.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configured = (|| {
        rustix::mount::fsconfig_set_string(&fs, c"source", source.as_c_str())?;
        for (key, value) in options {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(&fs, key.as_c_str(), value.as_c_str())?,
                None => rustix::mount::fsconfig_set_flag(&fs, key.as_c_str())?,
            }
        }
        if let Some(mode) = mode {
            // Four octal digits and the end.
            let digits = [9, 6, 3, 0].map(|shift| b'0' + u8::try_from(mode >> shift & 7).unwrap_or(0));
            let text = [digits[0], digits[1], digits[2], digits[3], 0];
            let text = CStr::from_bytes_with_nul(&text).map_err(|_| Errno::INVAL)?;
            rustix::mount::fsconfig_set_string(&fs, c"mode", text)?;
        }
        rustix::mount::fsconfig_create(&fs)
    })();
    if let Err(errno) = configured {
        return Err(explained(&fs, errno));
    }
    // What is to be cleared is clear on a new mount.
    let flags = u32::try_from(attributes.set | attributes.recursive_set).map_err(|_| Errno::INVAL)?;
    let flags = MountAttrFlags::from_bits_retain(flags);
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

fn create(fs: &OwnedFd) -> Result<(), Fault> {
    rustix::mount::fsconfig_create(fs).map_err(|errno| explained(fs, errno))
}

/// The kernel keeps messages about a file system that it refuses, such as the name of an unknown option. They
/// say far more than the number.
fn explained(fs: &OwnedFd, errno: Errno) -> Fault {
    let mut text = [0_u8; 256];
    match rustix::io::read(fs, &mut text) {
        // Each message begins with its kind and a blank: `e `.
        Ok(length) if length > 2 => {
            let text = &text[..length];
            let text = text.strip_prefix(b"e ").unwrap_or(text);
            Fault::with_detail(errno, text.strip_suffix(b"\n").unwrap_or(text))
        }
        _ => errno.into(),
    }
}

/// Mounts the root file system on `place`, which the mount only needs to be somewhere. `users`: the user namespace that
/// its ids are mapped by.
fn mount_root(root: &Root, place: &CStr, users: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Fault> {
    if let (Root::Overlay { lower, .. }, Some(users)) = (root, users) {
        map_layers(lower, users)?;
    }
    let mount = match root {
        Root::Directory { path, slave } => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = rustix::mount::open_tree(CWD, path.as_c_str(), flags)?;
            if let Some(users) = users {
                map_ids(&tree, users, false)?;
            }
            if !slave {
                set_attributes(&tree, Change { propagation: libc::MS_PRIVATE, ..Change::default() }, true)?;
            }
            tree
        }
        Root::Overlay { lower, upper, work, separately: true } => overlay(lower, upper, work)?,
        Root::Overlay { lower, upper, work, separately: false } => {
            return old_overlay(lower, upper, work, place);
        }
    };
    let target = rustix::fs::openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(mount.as_fd(), target.as_fd())?;
    Ok(mount)
}

/// Covers each layer with itself, its ids mapped, in our mount namespace only: no kernel maps the ids of an overlay, but
/// all take layers whose ids are.
fn map_layers(lower: &[Text], users: BorrowedFd<'_>) -> Result<(), Errno> {
    for layer in lower {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, layer.as_c_str(), flags)?;
        map_ids(&tree, users, false)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, layer.as_c_str(), flags, Mode::empty())?;
        attach(tree.as_fd(), place.as_fd())?;
    }
    Ok(())
}

/// Volatile: an overlay otherwise syncs the whole file system that its upper layer lies on, with everybody's
/// data, when it is unmounted, and a container's end waits for that.
fn overlay(lower: &[Text], upper: &Text, work: &Text) -> Result<OwnedFd, Fault> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        set_directory(&fs, c"lowerdir+", layer.as_c_str()).map_err(|errno| explained(&fs, errno))?;
    }
    let configured = set_directory(&fs, c"upperdir", upper.as_c_str())
        .and_then(|()| set_directory(&fs, c"workdir", work.as_c_str()))
        .and_then(|()| rustix::mount::fsconfig_set_flag(&fs, c"volatile"))
        .and_then(|()| rustix::mount::fsconfig_create(&fs));
    if let Err(errno) = configured {
        return Err(explained(&fs, errno));
    }
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Gives a directory to fsconfig; one with a long name by way of a descriptor, whose name is short.
fn set_directory(fs: &OwnedFd, key: &CStr, path: &CStr) -> Result<(), Errno> {
    if path.to_bytes_with_nul().len() <= FSCONFIG_MAX {
        return rustix::mount::fsconfig_set_string(fs, key, path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let mut name = [0; 32];
    rustix::mount::fsconfig_set_string(fs, key, descriptor_name(directory.as_fd(), &mut name)?)
}

/// `/proc/self/fd/N`.
fn descriptor_name<'a>(fd: BorrowedFd<'_>, buffer: &'a mut [u8; 32]) -> Result<&'a CStr, Errno> {
    use std::os::fd::AsRawFd;
    const HEAD: &[u8] = b"/proc/self/fd/";
    let mut digits = [0; 12];
    let digits = super::decimal(fd.as_raw_fd(), &mut digits);
    let length = HEAD.len() + digits.len();
    buffer[..HEAD.len()].copy_from_slice(HEAD);
    buffer[HEAD.len()..length].copy_from_slice(digits);
    buffer[length] = 0;
    CStr::from_bytes_with_nul(&buffer[..=length]).map_err(|_| Errno::INVAL)
}

/// Kernels before 6.5 take all layers in one string. Mounts with mount(2), whose options are one page of text: names of descriptors make that enough for more
/// layers than overlayfs takes, whatever their own names are.
fn old_overlay(lower: &[Text], upper: &Text, work: &Text, place: &CStr) -> Result<OwnedFd, Fault> {
    const MOST: usize = 200;
    if lower.len() > MOST {
        return Err(Errno::TOOBIG.into());
    }
    let mut data = Data { bytes: [0; PATH_MAX], length: 0 };
    // Open until the mount is made; they stay below the limit of 1024 that every process has.
    let mut held: [Option<OwnedFd>; MOST + 2] = [const { None }; MOST + 2];
    let mut count = 0;
    for (head, layers) in [
        (&b"lowerdir="[..], lower),
        (b",upperdir=", std::slice::from_ref(upper)),
        (b",workdir=", std::slice::from_ref(work)),
    ] {
        data.push(head)?;
        for (index, layer) in layers.iter().enumerate() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(CWD, layer.as_c_str(), flags, Mode::empty())?;
            if index > 0 {
                data.push(b":")?;
            }
            let mut name = [0; 32];
            data.push(descriptor_name(directory.as_fd(), &mut name)?.to_bytes())?;
            held[count] = Some(directory);
            count += 1;
        }
    }
    data.push(b",volatile")?;
    let text = CStr::from_bytes_with_nul(&data.bytes[..=data.length]).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(c"overlay", place, c"overlay", rustix::mount::MountFlags::empty(), text)?;
    Ok(rustix::fs::openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

struct Data {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Data {
    fn push(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.length + part.len();
        if end >= PATH_MAX {
            return Err(Errno::TOOBIG);
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.length = end;
        Ok(())
    }
}
