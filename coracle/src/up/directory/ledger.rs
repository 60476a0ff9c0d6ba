//! The names of all objects that may have been written for a manifest. A name is on disk before its object is in the store.

use std::collections::BTreeSet;
use std::path::PathBuf;

use agent::disk::{self, DiskError, Durability};
use agent::sources::manifest::ObjectId;

#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    names: BTreeSet<ObjectId>,
}

impl Ledger {
    /// Reads what is there; a file that cannot be read forgets its names, which costs a removal by hand and no object.
    pub(super) fn open(path: PathBuf) -> Self {
        let names = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "cannot read which objects are from manifests");
                BTreeSet::new()
            }),
            Err(_) => BTreeSet::new(),
        };
        Self { path, names }
    }

    pub(super) fn names(&self) -> &BTreeSet<ObjectId> {
        &self.names
    }

    pub(super) async fn add(&mut self, names: impl Iterator<Item = ObjectId>) -> Result<(), DiskError> {
        let mut next = self.names.clone();
        next.extend(names);
        self.replace(next).await
    }

    pub(super) async fn remove(&mut self, names: &[ObjectId]) -> Result<(), DiskError> {
        let mut next = self.names.clone();
        next.retain(|name| !names.contains(name));
        self.replace(next).await
    }

    async fn replace(&mut self, next: BTreeSet<ObjectId>) -> Result<(), DiskError> {
        if next == self.names {
            return Ok(());
        }
        // Strings only: this cannot fail.
        let bytes = serde_json::to_vec(&next).unwrap_or_default();
        let path = self.path.clone();
        // Only fails when the process is stopping.
        if let Ok(written) =
            tokio::task::spawn_blocking(move || disk::write(&path, &bytes, Durability::Power)).await
        {
            written?;
            self.names = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent/manifests.json");
        let id = |name: &str| ObjectId {
            api_version: "v1".into(),
            kind: "Service".into(),
            namespace: "default".into(),
            name: name.into(),
        };
        let mut ledger = Ledger::open(path.clone());
        ledger.add([id("a"), id("b")].into_iter()).await.unwrap();
        ledger.remove(&[id("a")]).await.unwrap();
        assert_eq!(Ledger::open(path.clone()).names(), &BTreeSet::from([id("b")]));
        std::fs::write(&path, "[").unwrap();
        assert!(Ledger::open(path).names().is_empty());
    }
}
