//! A directory becomes an archive, with all that a root file system consists of: owners, modes with setuid bits, times,
//! devices, hard links, symbolic links and extended attributes. Sorted, so that the same directory gives the same bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}")]
pub struct PackError {
    /// What was tried.
    pub step: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError { step, path, source }
}

/// Write the archive of everything below a directory, and of the directory itself as `./`. Other file systems that are
/// mounted in it are left out, as `/proc` should be.
pub(crate) fn write_directory(root: &Path, target: &mut impl Write) -> Result<(), PackError> {
    let meta = std::fs::metadata(root).map_err(failed("reading", root))?;
    let mut pack = Pack { device: meta.dev(), links: HashMap::new() };
    pack.entry(root, b"./", &meta, target)?;
    // A stack of what is still to be written, the next on top.
    let mut waiting = children(root, Path::new(""))?;
    while let Some(relative) = waiting.pop() {
        let path = root.join(&relative);
        let meta = std::fs::symlink_metadata(&path).map_err(failed("reading", &path))?;
        if meta.file_type().is_socket() {
            continue;
        }
        let mut name = relative.as_os_str().as_bytes().to_owned();
        if meta.is_dir() {
            name.push(b'/');
        }
        pack.entry(&path, &name, &meta, target)?;
        if meta.is_dir() && meta.dev() == pack.device {
            waiting.extend(children(&path, &relative)?);
        }
    }
    target.write_all(&[0; 2 * BLOCK]).map_err(failed("writing the archive of", root))
}

/// Write the archive of what is at a path, under a name; a link at the path itself is followed. What is mounted below a
/// directory belongs to it.
pub(crate) fn write_tree(path: &Path, name: &[u8], target: &mut impl Write) -> Result<(), PackError> {
    let meta = std::fs::metadata(path).map_err(failed("reading", path))?;
    let mut pack = Pack { device: meta.dev(), links: HashMap::new() };
    let named = |relative: &Path, is_directory: bool| {
        let mut full = name.to_owned();
        if !relative.as_os_str().is_empty() {
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(relative.as_os_str().as_bytes());
        }
        if is_directory {
            full.extend_from_slice(if full.is_empty() { b"./" } else { b"/" });
        }
        full
    };
    pack.entry(path, &named(Path::new(""), meta.is_dir()), &meta, target)?;
    let mut waiting = if meta.is_dir() { children(path, Path::new(""))? } else { Vec::new() };
    while let Some(relative) = waiting.pop() {
        let inner = path.join(&relative);
        let meta = match std::fs::symlink_metadata(&inner) {
            // What is copied may live.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta.map_err(failed("reading", &inner))?,
        };
        if meta.file_type().is_socket() {
            continue;
        }
        pack.entry(&inner, &named(&relative, meta.is_dir()), &meta, target)?;
        if meta.is_dir() {
            waiting.extend(children(&inner, &relative)?);
        }
    }
    target.write_all(&[0; 2 * BLOCK]).map_err(failed("writing the archive of", path))
}

struct Pack {
    device: u64,
    /// The first name of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Names in a directory, the last first.
fn children(path: &Path, relative: &Path) -> Result<Vec<PathBuf>, PackError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed("reading", path))? {
        names.push(relative.join(entry.map_err(failed("reading", path))?.file_name()));
    }
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

impl Pack {
    fn entry(
        &mut self,
        path: &Path,
        name: &[u8],
        meta: &Metadata,
        target: &mut impl Write,
    ) -> Result<(), PackError> {
        let kind = meta.file_type();
        let mut header = Header::new_ustar();
        header.set_mode(meta.mode() & 0o7777);
        let mut extended = Vec::new();
        for (key, value, set) in [
            ("uid", meta.uid(), Header::set_uid as fn(&mut Header, u64)),
            ("gid", meta.gid(), Header::set_gid as fn(&mut Header, u64)),
        ] {
            // Seven octal digits are what a header holds.
            let fits = value < 1 << 21;
            set(&mut header, if fits { value.into() } else { 0 });
            if !fits {
                record(&mut extended, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
        header.set_mtime(seconds.min(0o77_777_777_777));
        if meta.mtime() < 0 || seconds > 0o77_777_777_777 {
            record(&mut extended, b"mtime", meta.mtime().to_string().as_bytes());
        }
        let mut link: Option<Vec<u8>> = None;
        let mut size = 0;
        let entry_type = if kind.is_dir() {
            EntryType::Directory
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(failed("reading the link", path))?;
            link = Some(target.into_os_string().as_bytes().to_owned());
            EntryType::Symlink
        } else if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
            link = Some(first.clone());
            EntryType::Link
        } else if kind.is_file() {
            size = meta.size();
            EntryType::Regular
        } else if kind.is_char_device() || kind.is_block_device() {
            let wrong = |error: io::Error| failed("writing the device", path)(error);
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            header.set_device_major(major).map_err(wrong)?;
            header.set_device_minor(minor).map_err(wrong)?;
            if kind.is_char_device() { EntryType::Char } else { EntryType::Block }
        } else {
            EntryType::Fifo
        };
        if meta.nlink() > 1 && !kind.is_dir() {
            self.links.entry((meta.dev(), meta.ino())).or_insert_with(|| name.to_owned());
        }
        header.set_entry_type(entry_type);
        if size < 1 << 33 {
            header.set_size(size);
        } else {
            header.set_size(0);
            record(&mut extended, b"size", size.to_string().as_bytes());
        }
        if !set_name(&mut header, name) {
            record(&mut extended, b"path", name);
        }
        if let Some(link) = &link
            && header.set_link_name_literal(link).is_err()
        {
            record(&mut extended, b"linkpath", link);
        }
        if kind.is_file() || kind.is_dir() {
            for (key, value) in xattrs(path).map_err(failed("reading the attributes of", path))? {
                let key = [b"SCHILY.xattr.", key.as_bytes()].concat();
                record(&mut extended, &key, &value);
            }
        }
        let mut write = || -> io::Result<()> {
            if !extended.is_empty() {
                let mut announcement = Header::new_ustar();
                announcement.set_entry_type(EntryType::XHeader);
                announcement.set_size(extended.len() as u64);
                announcement.set_mode(0o644);
                announcement.set_mtime(0);
                announcement.set_uid(0);
                announcement.set_gid(0);
                set_name(&mut announcement, b"PaxHeaders/next");
                announcement.set_cksum();
                target.write_all(announcement.as_bytes())?;
                target.write_all(&extended)?;
                pad(target, extended.len() as u64)?;
            }
            header.set_cksum();
            target.write_all(header.as_bytes())
        };
        write().map_err(failed("writing the archive at", path))?;
        if size > 0 {
            copy_file(path, size, target)?;
        }
        Ok(())
    }
}

/// Exactly as many bytes as the header says, whatever happens to the file meanwhile.
fn copy_file(path: &Path, size: u64, target: &mut impl Write) -> Result<(), PackError> {
    let file = File::open(path).map_err(failed("opening", path))?;
    let copied = io::copy(&mut file.take(size), target).map_err(failed("archiving", path))?;
    if copied != size {
        return Err(failed("archiving", path)(io::Error::other("it became shorter meanwhile")));
    }
    pad(target, size).map_err(failed("archiving", path))
}

fn pad(target: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
    target.write_all(&[0; BLOCK][..rest])
}

/// Write a name into the header; `false` if it does not fit.
fn set_name(header: &mut Header, name: &[u8]) -> bool {
    match header.as_ustar_mut() {
        Some(ustar) if name.len() <= ustar.name.len() => {
            ustar.name[..name.len()].copy_from_slice(name);
            true
        }
        _ => false,
    }
}

/// One record of an extended header: its length, counted with itself, key and value.
fn record(extended: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    extended.extend_from_slice(length.to_string().as_bytes());
    extended.push(b' ');
    extended.extend_from_slice(key);
    extended.push(b'=');
    extended.extend_from_slice(value);
    extended.push(b'\n');
}

/// Attributes that belong to an image: capabilities and those of users.
fn xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let wanted = name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_");
        let Some(name) = std::str::from_utf8(name).ok().filter(|_| wanted) else { continue };
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::new(name), &mut value)?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}
