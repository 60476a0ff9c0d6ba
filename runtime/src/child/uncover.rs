//! Hiding the host's own `/proc` and `/sys` where the old root stays below the new one.
//!
//! The attack: the kernel lets whoever makes a user and a mount namespace mount a fresh `proc` or `sysfs` only if
//! one is fully visible to them already. The container's has its masks; the host's, which is still mounted out of
//! sight, has none, and counts as well. So it goes before the root is moved.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Unmounts every `proc` and `sysfs` that is not part of the container's root, or covers it where something
/// holds it.
pub(super) fn hide_kernel_mounts(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let own = own_place(root)?;
    let table = std::fs::read("/proc/self/mountinfo").map_err(|error| errno(&error))?;
    for place in kernel_mounts(&table, own.to_bytes()) {
        let place = CString::new(place).map_err(|_| Errno::INVAL)?;
        hide(&place)?;
    }
    Ok(())
}

fn own_place(root: BorrowedFd<'_>) -> Result<CString, Errno> {
    use std::os::fd::AsRawFd;
    rustix::fs::readlink(format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())
}

/// Where `proc` and `sysfs` are mounted outside of `own`, the last mount first.
fn kernel_mounts(table: &[u8], own: &[u8]) -> Vec<Vec<u8>> {
    let inside = |place: &[u8]| place == own || place.strip_prefix(own).is_some_and(|rest| rest[0] == b'/');
    let places = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = unescaped(fields.nth(4)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (matches!(kind, b"proc" | b"sysfs") && !inside(&place)).then_some(place)
    });
    let mut places: Vec<_> = places.collect();
    places.reverse();
    places
}

/// The kernel writes blanks and the like as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code = if byte == b'\\' { after.get(..3) } else { None };
        let value = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        match value {
            Some(value) => {
                plain.push(value);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

fn hide(place: &CStr) -> Result<(), Errno> {
    match rustix::mount::mount_change(place, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC) {
        // Covered by another mount, or gone with one that it was below.
        Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    }
    match rustix::mount::unmount(place, UnmountFlags::DETACH) {
        // Locked: it came with a namespace of more rights. Then it is covered, which hides it as well.
        Err(Errno::INVAL | Errno::PERM) => {
            rustix::mount::mount(c"tmpfs", place, c"tmpfs", MountFlags::empty(), c"")
        }
        result => result,
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_outside_is_found() {
        let table = b"\
22 1 0:21 / /sys rw - sysfs sysfs rw
23 1 0:22 / /proc rw,nosuid shared:5 - proc proc rw
24 1 0:23 / /run rw - tmpfs tmpfs rw
25 1 0:24 / /a\\040b/proc rw - proc proc rw
26 1 0:25 / /box/proc rw - proc proc rw
27 1 0:26 / /boxes/proc rw - proc proc rw
";
        let found = kernel_mounts(table, b"/box");
        let found: Vec<_> = found.iter().map(|place| String::from_utf8_lossy(place)).collect();
        assert_eq!(found, ["/boxes/proc", "/a b/proc", "/proc", "/sys"]);
    }
}
