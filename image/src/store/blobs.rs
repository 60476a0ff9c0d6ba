//! Content by digest: written beside, checked, synced, renamed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::documents::{Blob, read_bounded};
use super::{ImageStore, StoreError};
use crate::Digest;
use crate::digest::Hashing;

/// A name for an unfinished file that nobody else on this machine uses.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
    // The process ID may repeat in another PID namespace; the time will not repeat with it.
    format!("{}-{}-{time:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A file in `work/` that is removed unless it is finished.
pub(crate) struct Unfinished {
    path: PathBuf,
    file: Option<Hashing<File>>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed now is removed when the store is opened again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Unfinished {
    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.file.as_ref().map_or(0, Hashing::count)
    }

    /// Where it is for now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begin again.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let (mut file, ..) = file.finish();
        let emptied = file.set_len(0).and_then(|()| io::Seek::rewind(&mut file));
        self.file = Some(Hashing::new(file));
        emptied
    }
}

impl ImageStore {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn has_blob(&self, blob: &Blob) -> bool {
        std::fs::metadata(self.blob_path(&blob.digest)).is_ok_and(|meta| meta.len() == blob.size)
    }

    /// A blob that is known to be small. Its digest is checked: the disk may have changed it.
    pub(crate) fn small_blob(&self, what: &'static str, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { what, digest: *digest });
            }
            other => other.map_err(StoreError::io("opening", &path))?,
        };
        let bytes = read_bounded(file, self.limits.manifest_bytes, &path.display().to_string())?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(mismatch(what, digest, &found));
        }
        Ok(bytes)
    }

    /// Begin a file that will be a blob.
    pub(crate) fn new_blob(&self) -> Result<Unfinished, StoreError> {
        let path = self.root.join("work").join(unique());
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("creating", &path))?;
        Ok(Unfinished { path, file: Some(Hashing::new(file)) })
    }

    /// Make the file a blob. `expected` is what a document said of it.
    pub(crate) fn finish_blob(
        &self,
        mut blob: Unfinished,
        expected: Option<&Blob>,
    ) -> Result<Blob, StoreError> {
        let Some(file) = blob.file.take() else {
            return Err(StoreError::io("finishing", &blob.path)(io::ErrorKind::BrokenPipe.into()));
        };
        let (file, digest, size) = file.finish();
        let finish = || {
            if let Some(expected) = expected {
                if expected.digest != digest {
                    return Err(mismatch("blob", &expected.digest, &digest));
                }
                if expected.size != size {
                    return Err(StoreError::Mismatch {
                        what: format!("blob {digest}"),
                        expected: format!("{} bytes", expected.size),
                        found: format!("{size} bytes"),
                    });
                }
            }
            let path = self.blob_path(&digest);
            file.sync_all().map_err(StoreError::io("syncing", &blob.path))?;
            std::fs::rename(&blob.path, &path).map_err(StoreError::io("naming", &path))?;
            let directory = self.root.join("blobs/sha256");
            let synced = File::open(&directory).and_then(|directory| directory.sync_all());
            synced.map_err(StoreError::io("syncing", &directory))?;
            Ok(Blob { digest, size })
        };
        let outcome = finish();
        if outcome.is_err() {
            let _ = std::fs::remove_file(&blob.path);
        }
        outcome
    }

    /// Copy a stream into a blob.
    pub(crate) fn add_blob(
        &self,
        mut source: impl Read,
        expected: Option<&Blob>,
    ) -> Result<Blob, StoreError> {
        let mut blob = self.new_blob()?;
        let limit = expected.map_or(self.limits.blob_bytes, |expected| expected.size);
        let path = blob.path().to_owned();
        let copied = io::copy(&mut (&mut source).take(limit + 1), &mut blob);
        copied.map_err(StoreError::io("writing", &path))?;
        if blob.len() > limit {
            let what = expected.map_or("a layer".to_owned(), |expected| format!("blob {}", expected.digest));
            return Err(StoreError::Invalid { what, problem: format!("larger than {limit} bytes") });
        }
        self.finish_blob(blob, expected)
    }
}

pub(crate) fn mismatch(what: &str, expected: &Digest, found: &Digest) -> StoreError {
    StoreError::Mismatch {
        what: format!("{what} {expected}"),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
