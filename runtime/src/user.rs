//! Users and groups by name, as a container's own `/etc/passwd` and `/etc/group` have them.
//!
//! The files are the image's, so they are read with care: within the root only, whatever symbolic links there
//! are, and not more than a mebibyte of them.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

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

/// More than any honest file of users has.
const MAX_FILE: u64 = 1 << 20;

/// Reads `user`, `uid`, `user:group` or `uid:gid`, as image configurations write them (empty means root).
/// Files are read within the root file system only, whatever symbolic links it has. Blocks on file
/// operations.
pub fn lookup(rootfs: &Rootfs, user: &str) -> Result<Account, UserError> {
    let root = open_root(rootfs).map_err(|source| UserError::Read { file: "/", source })?;
    let passwd = read(&root, "/etc/passwd")?;
    let group = read(&root, "/etc/group")?;
    resolve(user, &passwd, &group)
}

/// The home directory of a user id; `/` if it has no entry. Blocks on file operations.
pub fn home(rootfs: &Rootfs, uid: u32) -> Result<String, UserError> {
    let root = open_root(rootfs).map_err(|source| UserError::Read { file: "/", source })?;
    let passwd = read(&root, "/etc/passwd")?;
    let home = entries(&passwd).find(|entry| number(entry, 2) == Some(uid)).map(|entry| home_of(&entry));
    Ok(home.unwrap_or_else(|| "/".to_owned()))
}

/// The name of one of this machine's users.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    entries(&passwd).find(|entry| number(entry, 2) == Some(uid)).map(|entry| entry[0].to_owned())
}

/// Decides who is meant.
fn resolve(user: &str, passwd: &str, group: &str) -> Result<Account, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name wins over a number of the same digits.
    let entry = entries(passwd).find(|entry| entry[0] == user).or_else(|| {
        entries(passwd).find(|entry| number(entry, 2).is_some_and(|uid| user.parse() == Ok(uid)))
    });
    let mut account = match (&entry, user.parse::<u32>()) {
        (Some(entry), parsed) => Account {
            uid: number(entry, 2).or(parsed.ok()).ok_or_else(|| UserError::NoUser(user.to_owned()))?,
            gid: number(entry, 3).unwrap_or(0),
            additional_gids: Vec::new(),
            home: home_of(entry),
        },
        (None, Ok(uid)) => Account { uid, gid: 0, additional_gids: Vec::new(), home: "/".to_owned() },
        (None, Err(_)) => return Err(UserError::NoUser(user.to_owned())),
    };
    match wanted_group {
        Some(wanted) => {
            let known = entries(group).find(|entry| entry[0] == wanted).and_then(|entry| number(&entry, 2));
            account.gid = match known.or_else(|| wanted.parse().ok()) {
                Some(gid) => gid,
                None => return Err(UserError::NoGroup(wanted.to_owned())),
            };
        }
        None => {
            // Who names no group gets all that the user is a member of.
            if let Some(name) = entry.as_ref().map(|entry| entry[0]) {
                account.additional_gids = entries(group)
                    .filter(|entry| {
                        entry.get(3).is_some_and(|members| members.split(',').any(|one| one == name))
                    })
                    .filter_map(|entry| number(&entry, 2))
                    .filter(|gid| *gid != account.gid)
                    .collect();
                account.additional_gids.sort_unstable();
                account.additional_gids.dedup();
            }
        }
    }
    Ok(account)
}

fn entries(file: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(':').collect())
}

fn number(entry: &[&str], field: usize) -> Option<u32> {
    entry.get(field)?.parse().ok()
}

fn home_of(entry: &[&str]) -> String {
    let home = entry.get(5).copied().filter(|home| !home.is_empty()).unwrap_or("/");
    home.to_owned()
}

/// The root of a container to be read from.
enum Root {
    /// As the container will see it.
    Whole(OwnedFd),
    /// Its layers, topmost first, where they cannot be put together.
    Layers(Vec<OwnedFd>),
}

/// A file of the container; nothing if it has none.
fn read(root: &Root, file: &'static str) -> Result<String, UserError> {
    let layers = match root {
        Root::Whole(root) => std::slice::from_ref(root),
        Root::Layers(layers) => layers.as_slice(),
    };
    for layer in layers {
        if let Some(text) = read_from(layer, file).map_err(|source| UserError::Read { file, source })? {
            return Ok(text);
        }
    }
    Ok(String::new())
}

fn read_from(root: &OwnedFd, file: &str) -> io::Result<Option<String>> {
    let name = CString::new(file)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Not blocking, as it could be a pipe that nobody writes to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match rustix::fs::openat2(root, &name, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        result => result?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a file"));
    }
    let mut bytes = Vec::new();
    File::from(opened).take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The container's root, without anybody seeing a mount: an overlay of its layers in no mount namespace.
fn open_root(rootfs: &Rootfs) -> io::Result<Root> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
    let lower = match rootfs {
        Rootfs::Directory(path) => return Ok(Root::Whole(open(path)?)),
        Rootfs::Overlay { lower, .. } => lower,
    };
    let layers = lower.iter().map(|layer| open(layer)).collect::<Result<Vec<_>, _>>()?;
    if layers.len() < 2 {
        return Ok(Root::Layers(layers));
    }
    let names: Vec<String> =
        layers.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if crate::kernel::has_separate_layers() {
        for name in &names {
            rustix::mount::fsconfig_set_string(&fs, "lowerdir+", name.as_str())?;
        }
    } else {
        // One string, of 255 bytes at most.
        let list = names.join(":");
        if list.len() > 255 {
            return Ok(Root::Layers(layers));
        }
        rustix::mount::fsconfig_set_string(&fs, "lowerdir", list)?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(Root::Whole(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment
www:x:33:33::/var/www:/bin/false
1000:x:2000:2000::/odd:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nlog:x:40:www,app\ndisk:x:6:app\napp:x:1000:app\n";

    #[test]
    fn users_are_found_as_images_name_them() {
        let check = |user: &str, expected: Option<(u32, u32, &[u32], &str)>| {
            let account = resolve(user, PASSWD, GROUP).ok();
            let seen = account
                .as_ref()
                .map(|one| (one.uid, one.gid, one.additional_gids.as_slice(), one.home.as_str()));
            assert_eq!(seen, expected, "{user:?}");
        };
        check("", Some((0, 0, &[], "/root")));
        check("root", Some((0, 0, &[], "/root")));
        check("app", Some((1000, 1000, &[6, 40], "/home/app")));
        check("app:33", Some((1000, 33, &[], "/home/app")));
        check("www:log", Some((33, 40, &[], "/var/www")));
        check("33", Some((33, 33, &[40], "/var/www")));
        // A user whose name is a number.
        check("1000", Some((2000, 2000, &[], "/odd")));
        check("4711", Some((4711, 0, &[], "/")));
        check("4711:4712", Some((4711, 4712, &[], "/")));
        check("nobody-here", None);
        check("app:no-such-group", None);
        check("4294967296", None);
    }

    #[test]
    fn links_out_of_the_root_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("passwd"), PASSWD).unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        symlink("../../passwd", root.join("etc/passwd")).unwrap();
        let rootfs = Rootfs::Directory(root.clone());
        assert!(matches!(lookup(&rootfs, "app"), Err(UserError::NoUser(_))));
        // Within the root, a link is a link.
        fs::write(root.join("passwd"), PASSWD).unwrap();
        assert_eq!(lookup(&rootfs, "app").unwrap().uid, 1000);
        assert_eq!(home(&rootfs, 33).unwrap(), "/var/www");
        assert_eq!(home(&rootfs, 99).unwrap(), "/");
    }

    #[test]
    fn a_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        let pipe = directory.path().join("etc/passwd");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let rootfs = Rootfs::Directory(directory.path().to_owned());
        assert!(matches!(lookup(&rootfs, "root"), Err(UserError::Read { .. })));
    }

    #[test]
    fn layers_are_seen_together() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: making mounts takes root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (top, bottom) = (directory.path().join("top"), directory.path().join("bottom"));
        fs::create_dir_all(top.join("usr/lib")).unwrap();
        fs::create_dir_all(bottom.join("etc")).unwrap();
        fs::write(top.join("usr/lib/passwd"), PASSWD).unwrap();
        symlink("/usr/lib/passwd", bottom.join("etc/passwd")).unwrap();
        let rootfs =
            Rootfs::Overlay { lower: vec![top, bottom], upper: "/none".into(), work: "/none".into() };
        assert_eq!(lookup(&rootfs, "www").unwrap().uid, 33);
    }
}
