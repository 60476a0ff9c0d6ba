//! Loading a program that guards devices, and attaching it to a cgroup.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::mount::{check, last_errno};

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of the cgroups above are asked as well.
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Makes a program of these instructions answer for the devices of a cgroup, as long as that exists.
pub(crate) fn guard_devices(cgroup: &File, instructions: &[[u8; 8]]) -> Result<(), Errno> {
    let load = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure has the kernel's layout up to its length, with zero for all that comes after; the
    // instructions and the name of the licence live during the call, and the kernel only reads them.
    let program = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if program < 0 {
        return Err(last_errno());
    }
    let program = i32::try_from(program).map_err(|_| Errno::RANGE)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let number = |fd: i32| u32::try_from(fd).map_err(|_| Errno::BADF);
    let attach = Attach {
        target_fd: number(cgroup.as_raw_fd())?,
        attach_bpf_fd: number(program.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors are open during the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) })
}
