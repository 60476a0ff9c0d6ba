//! Users and groups by name, as a container's own `/etc/passwd` and `/etc/group` have them.

use std::io;

use crate::spec::Rootfs;

/// Looking a user up.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// `/etc/passwd` does not have it.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// `/etc/group` does not have it.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// The file system of the container could not be read.
    #[error("reading {file} of the container")]
    Read {
        /// The file.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A user as looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The other groups that the user is a member of.
    pub additional_gids: Vec<u32>,
    /// Home directory; `/` if the user has no entry.
    pub home: String,
}

/// Reads `user`, `uid`, `user:group` or `uid:gid`, as image configurations write them (empty means root).
/// Files are read within the root file system only, whatever symbolic links it has. Blocks on file
/// operations.
#[expect(clippy::todo, reason = "follows at once")]
pub fn lookup(_rootfs: &Rootfs, _user: &str) -> Result<Account, UserError> {
    todo!()
}
