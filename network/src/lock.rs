//! One writer at a time: agent and proxy both attach, and addresses are chosen by looking at what is there.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;

#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    within: Mutex<()>,
}

/// Both locks; dropping closes the file, which unlocks it.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    _file: File,
    _within: MutexGuard<'a, ()>,
}

impl Lock {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, within: Mutex::new(()) }
    }

    pub(crate) fn take(&self) -> Result<Guard<'_>, Error> {
        // The mutex guards no data, so a panic of an earlier holder left nothing half-done in memory.
        let within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.open().map_err(|source| Error::State { path: self.path.clone(), source })?;
        Ok(Guard { _file: file, _within: within })
    }

    fn open(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&self.path)?;
            file.lock()?;
            // `remove` may have unlinked the file while we waited: a lock on it would exclude nobody.
            if same_file(&file, &self.path)? {
                return Ok(file);
            }
        }
    }

    /// Unlinks the lock file and its directory, if that is empty. Only while holding the lock.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn same_file(file: &File, path: &std::path::Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(theirs) => Ok(ours.ino() == theirs.ino() && ours.dev() == theirs.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
