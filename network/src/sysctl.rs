//! Kernel parameters of the calling thread's network namespace: /proc/sys/net shows the reader's own.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::Error;

/// Sets `net/…` unless it has the value already (an unprivileged container may be able to read only).
pub(crate) fn set(name: &str, value: &str) -> Result<(), (PathBuf, io::Error)> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.split_whitespace().eq(value.split_whitespace())) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| (path, source))
}

pub(crate) fn require(name: &str, value: &str) -> Result<(), Error> {
    set(name, value).map_err(|(path, source)| Error::Sysctl { path, source })
}
