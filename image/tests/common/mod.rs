//! Root file systems, and looking at directories.

#![allow(dead_code, clippy::allow_attributes, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use image::oci_spec::image::{Config, ConfigBuilder};

/// A root file system with one of everything. Needs root.
pub(crate) fn rootfs(root: &Path) {
    let dir = |path: &str, mode: u32| {
        std::fs::create_dir_all(root.join(path)).unwrap();
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    dir("", 0o755);
    dir("bin", 0o755);
    dir("tmp", 0o1777);
    dir("secret", 0o700);
    dir("dev", 0o755);
    dir(
        "usr/share/a-directory-with-a-long-name-so-that-it-does-not-fit-into-the-header/another-one-of-those",
        0o755,
    );
    let file = |path: &str, content: &[u8], mode: u32| {
        std::fs::write(root.join(path), content).unwrap();
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    file("bin/su", b"not really", 0o4755);
    // Does not get smaller by compression.
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let random = (0..300_000).map(|_| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_le_bytes()[0]
    });
    file("bin/large", &random.collect::<Vec<u8>>(), 0o755);
    file("secret/key", b"s", 0o600);
    file("empty", b"", 0o644);
    let long = "usr/share/a-directory-with-a-long-name-so-that-it-does-not-fit-into-the-header/another-one-of-those/file";
    file(long, b"far away", 0o644);
    std::os::unix::fs::chown(root.join("secret/key"), Some(1000), Some(70_000)).unwrap();
    std::os::unix::fs::chown(root.join("secret"), Some(3_000_000), Some(1000)).unwrap();
    std::fs::hard_link(root.join("bin/large"), root.join("bin/linked")).unwrap();
    symlink("large", root.join("bin/link")).unwrap();
    symlink("/etc/passwd", root.join("bin/absolute")).unwrap();
    run("mknod", &[root.join("dev/null").to_str().unwrap(), "c", "1", "3"]);
    run("mknod", &[root.join("dev/loop").to_str().unwrap(), "b", "7", "0"]);
    run("mkfifo", &[root.join("dev/pipe").to_str().unwrap()]);
    // cap_dac_override and cap_fowner: the value holds a newline.
    let capability = b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    rustix::fs::setxattr(
        root.join("bin/large"),
        "security.capability",
        capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 0);
    for path in ["bin/su", "bin", ""] {
        std::fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
    }
}

/// Everything below a directory, as far as an image keeps it.
pub(crate) fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            let links = meta.nlink();
            format!("file {} links {links}", image::Digest::of(&std::fs::read(&path).unwrap()))
        } else {
            let kind = if kind.is_char_device() {
                "char"
            } else if kind.is_block_device() {
                "block"
            } else {
                "fifo"
            };
            format!("{kind} {}", meta.rdev())
        };
        let mut xattrs = Vec::new();
        if meta.is_file() || meta.is_dir() {
            let mut names = vec![0; 4096];
            let length = rustix::fs::llistxattr(&path, &mut names).unwrap();
            for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                let mut value = vec![0; 4096];
                let length = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
                xattrs.push((String::from_utf8(name.to_vec()).unwrap(), value[..length].to_vec()));
            }
        }
        let (mode, uid, gid, mtime) = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, format!("{what} {mode:o} {uid}:{gid} {mtime} {xattrs:?}"));
    }
    found
}

pub(crate) fn config() -> Config {
    ConfigBuilder::default()
        .cmd(vec!["/bin/su".to_owned()])
        .env(vec!["PATH=/bin".to_owned()])
        .working_dir("/tmp".to_owned())
        .build()
        .unwrap()
}

/// Run a program that must succeed; returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            panic!("no {program} in PATH: install the Debian package that has it (apt-get install {program})")
        }
        Err(error) => panic!("{program}: {error}"),
    };
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// All causes of an error, one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
