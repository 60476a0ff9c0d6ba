//! The files of an archive, waiting in `work/`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use super::{Files, ImportError};
use crate::store::blobs::Unfinished;
use crate::store::documents::{Blob, read_bounded};
use crate::store::{ImageStore, StoreError};
use crate::tar::{Kind, TarError, TarReader, decompress};

/// Files in one archive, and bytes of all their names.
const MOST_FILES: usize = 20_000;
const MOST_NAMES: usize = 8 << 20;
/// Links from link to link.
const MOST_LINKS: usize = 8;

pub(super) struct Archive {
    files: HashMap<String, Staged>,
}

enum Staged {
    File(Unfinished),
    /// Older versions of `docker save` write a layer once and link to it.
    Link(String),
}

impl Archive {
    pub(super) fn stage(store: &ImageStore, source: impl Read) -> Result<Archive, ImportError> {
        let invalid = |problem: String| ImportError::Invalid { what: "the archive".to_owned(), problem };
        let (_, plain) = decompress(source).map_err(TarError::Read)?;
        let mut reader = TarReader::new(plain);
        let mut files = HashMap::new();
        let (mut names, mut bytes) = (0, 0_u64);
        while let Some(entry) = reader.next()? {
            let Some(name) = normalize("", &entry.shown()) else {
                return Err(invalid(format!("the name {:?} leads out of it", entry.shown())));
            };
            names += name.len();
            bytes = bytes.saturating_add(entry.size);
            if files.len() >= MOST_FILES || names > MOST_NAMES {
                return Err(invalid(format!("more than {MOST_FILES} files")));
            }
            if bytes > store.limits.unpacked_bytes {
                return Err(invalid(format!("more than {} bytes", store.limits.unpacked_bytes)));
            }
            match entry.kind {
                Kind::Regular => {
                    let mut staged = store.new_blob()?;
                    let path = staged.path().to_owned();
                    std::io::copy(&mut reader.data(), &mut staged).map_err(|source| StoreError::Io {
                        step: "writing",
                        path,
                        source,
                    })?;
                    files.insert(name, Staged::File(staged));
                }
                Kind::Symlink => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    let link = String::from_utf8_lossy(&entry.link);
                    if let Some(target) = normalize(directory, &link) {
                        files.insert(name, Staged::Link(target));
                    }
                }
                Kind::Hardlink => {
                    if let Some(target) = normalize("", &String::from_utf8_lossy(&entry.link)) {
                        files.insert(name, Staged::Link(target));
                    }
                }
                _ => {}
            }
        }
        Ok(Archive { files })
    }

    fn find(&self, name: &str) -> Option<&Unfinished> {
        let mut name = name;
        for _ in 0..MOST_LINKS {
            match self.files.get(name)? {
                Staged::File(file) => return Some(file),
                Staged::Link(target) => name = target,
            }
        }
        None
    }

    fn open(&self, name: &str) -> Result<Option<File>, ImportError> {
        let Some(file) = self.find(name) else { return Ok(None) };
        Ok(Some(File::open(file.path()).map_err(StoreError::io("opening", file.path()))?))
    }

    fn need(&self, name: &str) -> Result<File, ImportError> {
        self.open(name)?.ok_or_else(|| ImportError::Missing { name: name.to_owned() })
    }
}

impl Files for Archive {
    fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        match self.open(name)? {
            Some(file) => Ok(Some(read_bounded(file, limit, name)?)),
            None => Ok(None),
        }
    }

    fn blob(&self, store: &ImageStore, name: &str, expected: &Blob) -> Result<(), ImportError> {
        store.add_blob(self.need(name)?, Some(expected))?;
        Ok(())
    }

    fn layer(&self, store: &ImageStore, name: &str) -> Result<Blob, ImportError> {
        Ok(store.add_layer(self.need(name)?)?)
    }
}

/// A name without `.`, `..` and doubled slashes, as seen from a directory. `None` if it leads out of the archive.
fn normalize(directory: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let relative = if name.starts_with('/') { "" } else { directory };
    for part in relative.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn names_within_the_archive() {
        for (directory, name, expected) in [
            ("", "./index.json", Some("index.json")),
            ("", "blobs//sha256/x", Some("blobs/sha256/x")),
            ("abc", "../def/layer.tar", Some("def/layer.tar")),
            ("abc", "/x", Some("x")),
            ("", "../x", None),
            ("a", "../../x", None),
        ] {
            assert_eq!(normalize(directory, name).as_deref(), expected, "{directory} {name}");
        }
    }
}
