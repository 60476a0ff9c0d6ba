//! Sources of bind mounts, and the user namespaces that their ids are mapped by.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::OciError;
use crate::child::open_bind;
use crate::plan::step::Step;
use crate::plan::{self, IdMap};
use crate::sys::process::{self, Cloned};

/// Opens the sources of bind mounts while everything is in reach.
pub(super) fn opened(
    open: &[Step],
    idmaps: &[Option<IdMap>],
    own: Option<&(String, String)>,
) -> Result<Vec<OwnedFd>, OciError> {
    let failed = |step: &Step| {
        let step = step.to_string();
        move |errno: rustix::io::Errno| OciError::Step { step, source: errno.into() }
    };
    let mut opened = Vec::with_capacity(open.len());
    for (step, idmap) in open.iter().zip(idmaps) {
        let Step::OpenBind { source, recursive, attributes } = step else { continue };
        let namespace = match idmap {
            None => None,
            Some(map) => Some((mapping(map, own)?, map.recursive)),
        };
        let user = namespace.as_ref().map(|(file, recursive)| (file.as_fd(), *recursive));
        opened.push(open_bind(source, *recursive, attributes, user).map_err(failed(step))?);
    }
    Ok(opened)
}

/// A user namespace that maps as a mount asks for, or as the container's own (`own`) does.
pub(super) fn mapping(map: &IdMap, own: Option<&(String, String)>) -> Result<OwnedFd, OciError> {
    if !map.uids.is_empty() {
        return user_namespace(&map.uids, &map.gids);
    }
    let Some((uids, gids)) = own else {
        let reason = "idmap without mappings needs a user namespace".to_owned();
        return Err(OciError::Invalid { field: "mounts".to_owned(), reason });
    };
    user_namespace(uids, gids)
}

/// A user namespace with this mapping, which nobody is in.
fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd, OciError> {
    let what = "making a user namespace for an idmapped mount";
    let flags = u64::from(plan::flag(LinuxNamespaceType::User));
    let cloned = process::clone_into(flags, None).map_err(|errno| OciError::io(what)(errno.into()))?;
    let Cloned::Parent(pid, pidfd) = cloned else {
        // Until it is killed, which also happens should its parent die.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        process::reap_for_ever()
    };
    let pid = pid.as_raw_pid();
    let make = || -> io::Result<OwnedFd> {
        fs::write(format!("/proc/{pid}/uid_map"), uids)?;
        fs::write(format!("/proc/{pid}/gid_map"), gids)?;
        Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
    };
    let made = make();
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    made.map_err(OciError::io(what))
}
