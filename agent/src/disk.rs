//! Small files that survive a crash: written beside, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Making the directory.
    #[error("creating directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing the new file.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Putting it in place.
    #[error("renaming to {path}")]
    Rename {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether a file has to survive the loss of power, or only that of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced.
    Power,
    /// Renamed into place, so never half there; may be an older one after a loss of power.
    Process,
}

/// Replaces the content of a file. Files are for the owner's eyes only: some hold secrets.
pub fn write(path: &Path, content: &[u8], durability: Durability) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|source| DiskError::Directory { path: parent.to_owned(), source })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = parent.join(name);
    let failed = |source| DiskError::Write { path: beside.clone(), source };
    let mut options = File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    if durability == Durability::Power {
        file.sync_data().map_err(failed)?;
    }
    fs::rename(&beside, path).map_err(|source| DiskError::Rename { path: path.to_owned(), source })?;
    if durability == Durability::Power {
        // The name is in the directory, and that is a file of its own.
        let directory = File::open(parent).and_then(|directory| directory.sync_all());
        directory.map_err(|source| DiskError::Write { path: parent.to_owned(), source })?;
    }
    Ok(())
}

/// Removes a file; one that is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; one that is not there is no error.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        write(&path, b"one", Durability::Power).unwrap();
        write(&path, b"two", Durability::Process).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove_tree(dir.path().join("a").as_path()).unwrap();
        remove_tree(dir.path().join("a").as_path()).unwrap();
    }
}
