//! Exit records: what remains of a container when everything else is gone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::state::Exit;

/// The content of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) container: String,
    pub(crate) exit: Exit,
}

/// Writes a record so that after a crash there is either all of it or nothing.
pub(crate) fn write(path: &Path, record: &Record) -> io::Result<()> {
    replace(path, &serde_json::to_vec(record)?)
}

/// Reads a record; `None` if there is none, or only a part of one.
pub(crate) fn read(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file: written beside, renamed, and both synced.
///
/// The file is synced after it has been renamed, because that takes along the renaming: one commit of the file
/// system's journal instead of two, and the directory's own is then nothing new. After a power failure in the
/// few microseconds between, a reader may find half of it under its name; as nobody has been told of it by
/// then, that is as good as nothing, and is read as such.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)?;
    file.sync_all()?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn records_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exit.json");
        assert!(read(&path).unwrap().is_none());
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let exit = Exit { code: 137, signal: Some(9), oom_killed: true, started_at: time, finished_at: time };
        write(&path, &Record { container: "c".into(), exit: exit.clone() }).unwrap();
        let record = read(&path).unwrap().unwrap();
        assert_eq!((record.container.as_str(), record.exit), ("c", exit));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // What a power failure leaves is no record.
        for torn in ["", "{", "{\"container\":\"c\"", "\0\0\0"] {
            fs::write(&path, torn).unwrap();
            assert!(read(&path).unwrap().is_none(), "{torn:?}");
        }
    }
}
