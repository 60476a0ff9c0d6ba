//! Which ids of the node the users of pods have that asked for a user namespace (`hostUsers: false`).
//!
//! A pod has 65536 ids of its own, from a multiple of that on; the first such range belongs to the node itself. Which one
//! it is, is in a file in the pod's directory: it stays when the agent is restarted or the sandbox made anew, and is free
//! again when the directory is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use manifests::k8s_openapi::api::core::v1::Pod;
use runtime::Users;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Durability};
use crate::names::{self, Layout};

/// All ids that a program may expect to have.
const COUNT: u32 = 1 << 16;
/// Numbers of ranges; the last one would have the id that means none.
const MAX: u32 = u32::MAX / COUNT - 1;
const FILE: &str = "userns";

/// There is no range for a pod.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// What other pods have cannot be read.
    #[error("reading {path}")]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what we write.
    #[error("{path} does not say which ids the pod has")]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// All are taken.
    #[error("no range of ids is left for a user namespace")]
    Exhausted,
    /// It cannot be written down.
    #[error(transparent)]
    Write(#[from] disk::DiskError),
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    first: u32,
    count: u32,
}

/// Gives ranges of ids to pods.
#[derive(Debug, Default)]
pub struct Ranges {
    /// Two pods must not find the same range free.
    choosing: Mutex<()>,
}

/// Whether the pod asked for users of its own.
pub fn wanted(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

impl Ranges {
    /// The pod's range: the one that it has, or else one that is free. Blocks on file operations.
    pub fn assign(&self, layout: &Layout, pod: &Pod) -> Result<Option<Users>, UsersError> {
        if !wanted(pod) {
            return Ok(None);
        }
        let _guard = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = layout.pod(names::uid(pod));
        if let Some(number) = read(&dir)? {
            return Ok(Some(range(number)));
        }
        let number = free(&taken(&layout.pods())?).ok_or(UsersError::Exhausted)?;
        let Users { first, count } = range(number);
        let text = serde_json::to_vec(&Record { first, count }).unwrap_or_default();
        disk::write(&dir.join(FILE), &text, Durability::Power)?;
        Ok(Some(range(number)))
    }
}

fn range(number: u32) -> Users {
    Users { first: number * COUNT, count: COUNT }
}

/// The lowest number that nobody has.
fn free(taken: &BTreeSet<u32>) -> Option<u32> {
    (1..=MAX).find(|number| !taken.contains(number))
}

fn taken(pods: &Path) -> Result<BTreeSet<u32>, UsersError> {
    let failed = |source| UsersError::Read { path: pods.to_owned(), source };
    let mut taken = BTreeSet::new();
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(taken),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        taken.extend(read(&entry.map_err(failed)?.path())?);
    }
    Ok(taken)
}

/// The number of the range that a pod's directory names.
fn read(dir: &Path) -> Result<Option<u32>, UsersError> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        // A directory that goes meanwhile has nothing any more.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        bytes => bytes.map_err(|source| UsersError::Read { path: path.clone(), source })?,
    };
    let record = serde_json::from_slice::<Record>(&bytes).ok();
    let fits = |record: &Record| {
        record.count == COUNT
            && record.first.is_multiple_of(COUNT)
            && (1..=MAX).contains(&(record.first / COUNT))
    };
    match record.filter(fits) {
        Some(record) => Ok(Some(record.first / COUNT)),
        None => Err(UsersError::Broken { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn pod(uid: &str) -> Pod {
        let mut pod = fixture::pod("{hostUsers: false, containers: [{name: a, image: i}]}");
        pod.metadata.uid = Some(uid.to_owned());
        pod
    }

    #[test]
    fn ranges_are_unique_kept_and_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let ranges = Ranges::default();
        let first = |uid: &str| Ranges::default().assign(&layout, &pod(uid)).unwrap().unwrap().first;
        assert_eq!(first("a"), 65536);
        assert_eq!(first("b"), 2 * 65536);
        // Another agent, the same range.
        assert_eq!(first("a"), 65536);
        fs::remove_dir_all(layout.pod("a")).unwrap();
        assert_eq!(first("c"), 65536);
        let ordinary = fixture::pod("containers: [{name: a, image: i}]");
        assert_eq!(ranges.assign(&layout, &ordinary).unwrap(), None);
    }

    #[test]
    fn a_range_that_cannot_be_read_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for text in ["", "{}", r#"{"first":0,"count":65536}"#, r#"{"first":65537,"count":65536}"#] {
            disk::write(&layout.pod("x").join(FILE), text.as_bytes(), Durability::Process).unwrap();
            let assigned = Ranges::default().assign(&layout, &pod("y"));
            assert!(matches!(assigned, Err(UsersError::Broken { .. })), "{text}: {assigned:?}");
        }
    }

    #[test]
    fn all_can_be_taken() {
        assert_eq!(free(&(1..MAX).collect()), Some(MAX));
        assert_eq!(free(&(1..=MAX).collect()), None);
        assert!(range(MAX).first.checked_add(COUNT).is_some());
    }
}
