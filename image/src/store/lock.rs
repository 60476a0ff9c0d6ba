//! Locks between processes, and between threads of one: the kernel forgets them when their holder dies.
//!
//! | file | shared | exclusive |
//! |---|---|---|
//! | `lock` | adding content, until it is in the index | removing content |
//! | `index.lock` | - | changing the index |
//! | `work/<digest>.lock` | - | fetching or unpacking this one, so that two do not do it twice |

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::{ImageStore, StoreError};

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl ImageStore {
    /// While content is added that the index does not show yet.
    pub(crate) fn adding(&self) -> Result<Lock, StoreError> {
        let path = self.root.join("lock");
        let file = open(&path)?;
        file.lock_shared().map_err(StoreError::io("locking", &path))?;
        Ok(Lock { _file: file })
    }

    /// While content is removed; `None` if somebody is adding some.
    pub(super) fn try_removing(&self) -> Result<Option<Lock>, StoreError> {
        let path = self.root.join("lock");
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::io("locking", &path)(source)),
        }
    }

    pub(super) fn changing_index(&self) -> Result<Lock, StoreError> {
        exclusive(&self.root.join("index.lock"))
    }

    /// While one thing is fetched or unpacked. Waits for whoever is at it.
    pub(crate) fn working_on(&self, what: &str) -> Result<Lock, StoreError> {
        exclusive(&self.root.join(format!("work/{what}.lock")))
    }
}

fn exclusive(path: &Path) -> Result<Lock, StoreError> {
    let file = open(path)?;
    file.lock().map_err(StoreError::io("locking", path))?;
    Ok(Lock { _file: file })
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io("opening", path))
}
