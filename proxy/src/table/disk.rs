//! The last table on disk: a proxy that starts while no server answers serves what it served last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Table;

/// Why the table could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading the file.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content.
    #[error("understanding {path}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Writing the file.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Encoding it.
    #[error("encoding the service table")]
    Encode(#[source] serde_json::Error),
}

/// The table in the file, if there is one.
pub fn load(path: &Path) -> Result<Option<Table>, DiskError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DiskError::Read { path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(table) => Ok(Some(table)),
        Err(source) => Err(DiskError::Decode { path: path.to_owned(), source }),
    }
}

/// Writes the table beside, syncs it, and puts it in place: at any instant the file holds one table or the other.
pub fn save(path: &Path, table: &Table) -> Result<(), DiskError> {
    let bytes = serde_json::to_vec(table).map_err(DiskError::Encode)?;
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| DiskError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests_support::example;

    #[test]
    fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/table.json");
        assert!(load(&path).unwrap().is_none());
        for table in [Table::default(), example()] {
            save(&path, &table).unwrap();
            assert_eq!(load(&path).unwrap(), Some(table));
        }
        fs::write(&path, "{").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("understanding"));
    }
}
