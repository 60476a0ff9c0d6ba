//! mount_setattr(2), which rustix does not have.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `MOUNT_ATTR_*` and propagation, as one call sets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; 0 leaves it.
    pub(crate) propagation: u64,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const EMPTY: &CStr = c"";

/// Changes the mount that `mount` refers to, and all mounts below it if `recursive`.
pub(crate) fn set_attributes(mount: impl AsFd, change: Change, recursive: bool) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    apply(mount.as_fd(), &attr, recursive)
}

/// Maps the ids of a detached mount as a user namespace does.
pub(crate) fn map_ids(
    mount: impl AsFd,
    user_namespace: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
    apply(
        mount.as_fd(),
        &MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd },
        recursive,
    )
}

fn apply(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated constant, and the pointer
    // and size describe a live structure of the layout that the kernel defines as its first version.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

pub(super) fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
