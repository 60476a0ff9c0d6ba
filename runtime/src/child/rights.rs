//! Users and capabilities.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::plan::step::CapabilityBits;

/// Takes everything but `keep` out of the bounding set, so that not even a program with file capabilities gets
/// it back.
pub(super) fn bound(keep: u64) -> Result<(), Errno> {
    for number in 0..63 {
        let bit = 1 << number;
        if keep & bit != 0 {
            continue;
        }
        let capability = CapabilitySet::from_bits_retain(bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Becomes the user, and keeps the permitted capabilities for the moment.
pub(super) fn identity(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    const MOST: usize = 1024;
    let mut list = [Gid::ROOT; MOST];
    let list = list.get_mut(..groups.len()).ok_or(Errno::INVAL)?;
    for (place, group) in list.iter_mut().zip(groups) {
        *place = Gid::from_raw(*group);
    }
    rustix::thread::set_keep_capabilities(true)?;
    match rustix::thread::set_thread_groups(list) {
        // Forbidden where an unprivileged user has made our user namespace; there are none to set then.
        Err(Errno::PERM) if groups.is_empty() => {}
        result => result?,
    }
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    // Leaving root has taken the effective ones away; what comes next (a filter) needs one.
    let held = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })
}

/// Makes files as another user, with all rights that we have.
pub(super) fn act_as(uid: u32, gid: u32) -> Result<(), Errno> {
    // They give the old id and never fail; that the new one is in force shows when they are asked again.
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    let _ = nix::unistd::setfsgid(gid);
    let _ = nix::unistd::setfsuid(uid);
    if nix::unistd::setfsgid(gid) != gid || nix::unistd::setfsuid(uid) != uid {
        return Err(Errno::PERM);
    }
    // Leaving root has taken away those that are about files.
    let held = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })
}

/// Becomes root in a user namespace whose ids have been mapped. What we made before belongs to nobody there.
pub(super) fn become_root() -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    match rustix::thread::set_thread_groups(&[]) {
        // Forbidden where an unprivileged user has made the namespace.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Sets the four sets. Says whether all that was asked for was there to be had: a container on a host that
/// itself lacks a capability runs without it.
pub(super) fn capabilities(bits: &CapabilityBits) -> Result<bool, Errno> {
    let held = rustix::thread::capabilities(None)?.permitted.bits();
    let wanted = bits.permitted | bits.effective | bits.inheritable;
    let permitted = bits.permitted & held;
    let inheritable = bits.inheritable & held;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            permitted: CapabilitySet::from_bits_retain(permitted),
            effective: CapabilitySet::from_bits_retain(bits.effective & permitted),
            inheritable: CapabilitySet::from_bits_retain(inheritable),
        },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    // Only what is both permitted and inheritable can be ambient.
    let ambient = bits.ambient & permitted & inheritable;
    for number in (0..63).filter(|number| ambient >> number & 1 != 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(wanted & !held == 0)
}
