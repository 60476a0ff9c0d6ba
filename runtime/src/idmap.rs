//! Mapping the ids of mounts by user namespaces that nobody is in.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::spec::Users;
use crate::sys::mount::map_ids;
use crate::sys::process::{self, Cloned};

/// A detached copy of what a directory shows, without what is mounted below it, in which the owners of files are those
/// of a sandbox with these users. Blocks for a moment.
pub fn mapped_tree(path: &Path, users: Users) -> io::Result<OwnedFd> {
    let line = users.line();
    let namespace = user_namespace(&line, &line)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    map_ids(&tree, namespace.as_fd(), false)?;
    Ok(tree)
}

/// A user namespace with this mapping, which nobody is in.
pub(crate) fn user_namespace(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let flags = u64::try_from(libc::CLONE_NEWUSER).unwrap_or(0);
    let Cloned::Parent(pid, pidfd) = process::clone_into(flags, None)? else {
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
    made
}
