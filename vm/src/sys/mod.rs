//! System calls that no library wraps.

#![expect(unsafe_code, reason = "ioctl numbers and structures are this module's business")]

pub(crate) mod stage;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

const TUN: &str = "/dev/net/tun";

nix::ioctl_write_int!(set_interface, b'T', 202);
nix::ioctl_write_int!(set_persistent, b'T', 203);

/// Makes a tap interface that stays until it is deleted. One that is there already is fine.
pub(crate) fn create_tap(name: &str) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is too long for the name of an interface"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    let tun = OpenOptions::new().read(true).write(true).open(TUN)?;
    let address = std::ptr::from_mut(&mut request) as libc::c_ulong;
    // SAFETY: TUNSETIFF reads and writes one ifreq at this address, which lives until after the call.
    unsafe { set_interface(tun.as_raw_fd(), address) }?;
    // SAFETY: TUNSETPERSIST takes a number.
    unsafe { set_persistent(tun.as_raw_fd(), 1) }?;
    Ok(())
}
