//! Files that change all at once.
//!
//! ```text
//!   <volume>/..2026_11_22_10_00_00.1/app/config    the files of one version
//!   <volume>/..data -> ..2026_11_22_10_00_00.1     renamed over: the one step that readers see
//!   <volume>/app -> ..data/app                     a link per top-level name
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::payload::Payload;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum AtomicWriteError {
    /// Reading what is there.
    #[error("reading volume directory {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing the new version.
    #[error("writing {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Putting it in place.
    #[error("switching {path} to the new version")]
    Switch {
        /// The link.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Removing what is gone.
    #[error("removing {path}")]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes `dir` hold exactly `payload`; says whether anything changed. With `group`, files belong to it and it may
/// read them.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<bool, AtomicWriteError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| AtomicWriteError::Read { path, source }
    };
    let current = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(dir.join(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(AtomicWriteError::Read { path: dir.join(DATA), source }),
    };
    if let Some(current) = &current
        && holds(current, payload, group)
    {
        return Ok(false);
    }

    let version = new_version(dir)?;
    for (path, file) in payload {
        write_file(&version.join(path), &version, &file.content, group_mode(file.mode, group), group)?;
    }
    if let Some(group) = group {
        chown(&version, group)?;
    }

    let switch = |source| AtomicWriteError::Switch { path: dir.join(DATA), source };
    let name = version.file_name().unwrap_or_default();
    // A crash may have left the temporary link behind.
    match fs::remove_file(dir.join(NEW_DATA)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(switch(error)),
        _ => {}
    }
    symlink(name, dir.join(NEW_DATA)).map_err(switch)?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA)).map_err(switch)?;

    let tops: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)
                .map_err(|source| AtomicWriteError::Write { path: link, source })?;
        }
    }
    for entry in fs::read_dir(dir).map_err(read(dir))? {
        let entry = entry.map_err(read(dir))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let path = entry.path();
        let remove = |source| AtomicWriteError::Remove { path: path.clone(), source };
        if text == DATA || path == version {
        } else if text.starts_with("..") {
            fs::remove_dir_all(&path).map_err(remove)?;
        } else if !tops.contains(text.as_ref()) {
            fs::remove_file(&path).map_err(remove)?;
        }
    }
    Ok(true)
}

/// Whether the directory of a version holds these files and no others.
fn holds(version: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let same = |(path, file): (&String, &super::payload::File)| {
        let path = version.join(path);
        let Ok(meta) = fs::symlink_metadata(&path) else { return false };
        meta.permissions().mode() & 0o7777 == group_mode(file.mode, group)
            && group.is_none_or(|group| meta.gid() == group)
            && fs::read(&path).is_ok_and(|content| content == file.content)
    };
    count_files(version).is_ok_and(|count| count == payload.len()) && payload.iter().all(same)
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn new_version(dir: &Path) -> Result<PathBuf, AtomicWriteError> {
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    let mut number = 0_u32;
    loop {
        let path = dir.join(format!("..{stamp}.{number}"));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(|source| AtomicWriteError::Write { path: path.clone(), source })?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(AtomicWriteError::Write { path, source }),
        }
    }
}

/// The group that a volume is given to may read its files, whatever their mode says.
fn group_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn write_file(
    path: &Path,
    top: &Path,
    content: &[u8],
    mode: u32,
    group: Option<u32>,
) -> Result<(), AtomicWriteError> {
    let failed = |source| AtomicWriteError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| *parent != top) {
        fs::create_dir_all(parent).map_err(failed)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        if let Some(group) = group {
            chown(parent, group)?;
        }
    }
    fs::write(path, content).map_err(failed)?;
    // After the write: the process's umask must not decide what a container may read.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    group.map_or(Ok(()), |group| chown(path, group))
}

fn chown(path: &Path, group: u32) -> Result<(), AtomicWriteError> {
    std::os::unix::fs::chown(path, None, Some(group))
        .map_err(|source| AtomicWriteError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { content: text.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let entries =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| !name.starts_with("..")).collect();
        names.sort();
        names
    }

    #[test]
    fn versions_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(visible(dir), ["a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);

        assert!(!write(dir, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap(), "nothing changed");
        let before = fs::read_link(dir.join(DATA)).unwrap();

        assert!(write(dir, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(visible(dir), ["a", "c"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join(before).exists(), "the old version is gone");

        assert!(write(dir, &payload(&[]), None).unwrap());
        assert!(visible(dir).is_empty());
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join(NEW_DATA)).unwrap();
        fs::create_dir(dir.path().join("..2001_01_01_00_00_00.0")).unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "a, ..data and one version");
    }
}
