//! Reading the file: each function is one read transaction, so it sees one revision.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata,
    StorageError,
};

use super::tables::{self, CURRENT, LOG, META, Meta, OLD, Tables};
use super::{RestoreError, Size, unavailable};
use crate::hub::Commit;
use crate::{Event, KeyValue, ListOptions, Listing, Revision, StoreError};

/// One reading of the log is at most this much.
const PAST_COMMITS: usize = 256;
const PAST_BYTES: usize = 1 << 20;

/// One read transaction with the tables that answer most questions.
struct Snapshot {
    read: ReadTransaction,
    current: ReadOnlyTable<&'static str, &'static [u8]>,
    meta: Meta,
}

impl Snapshot {
    fn of(database: &Database) -> Result<Snapshot, StoreError> {
        let read = database.begin_read().map_err(unavailable)?;
        let meta = read.open_table(META).map_err(unavailable)?;
        let meta = Meta::read(&meta).map_err(unavailable)?;
        let current = read.open_table(CURRENT).map_err(unavailable)?;
        Ok(Snapshot { read, current, meta })
    }

    fn check(&self, requested: Revision) -> Result<(), StoreError> {
        let Meta { revision: current, compacted, .. } = self.meta;
        if requested > current {
            return Err(StoreError::Future { requested, current });
        }
        if requested < compacted {
            return Err(StoreError::Compacted { requested, compacted });
        }
        Ok(())
    }
}

pub(super) fn check_revision(database: &Database, requested: Revision) -> Result<(), StoreError> {
    Snapshot::of(database)?.check(requested)
}

pub(super) fn get(database: &Database, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
    let snapshot = Snapshot::of(database)?;
    let Some(row) = snapshot.current.get(key).map_err(unavailable)? else {
        return Ok((None, snapshot.meta.revision));
    };
    let (create_revision, mod_revision, value) = tables::decode(row.value()).map_err(unavailable)?;
    let value = Bytes::copy_from_slice(value);
    let kv = KeyValue { key: key.to_owned(), value, create_revision, mod_revision };
    Ok((Some(kv), snapshot.meta.revision))
}

/// A row that is visible at the revision; its value is copied only if it is wanted.
struct Row {
    key: String,
    create: Revision,
    modified: Revision,
    value: AccessGuard<'static, &'static [u8]>,
}

impl Row {
    fn into_kv(self) -> Result<KeyValue, StorageError> {
        let (_, _, value) = tables::decode(self.value.value())?;
        let value = Bytes::copy_from_slice(value);
        Ok(KeyValue { key: self.key, value, create_revision: self.create, mod_revision: self.modified })
    }
}

pub(super) fn list(database: &Database, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError> {
    let snapshot = Snapshot::of(database)?;
    let at = options.revision.unwrap_or(snapshot.meta.revision);
    snapshot.check(at)?;
    list_at(&snapshot, prefix, options, at).map_err(unavailable)
}

fn list_at(
    snapshot: &Snapshot,
    prefix: &str,
    options: &ListOptions,
    at: Revision,
) -> Result<Listing, redb::Error> {
    let after = options.after.as_deref().filter(|after| *after >= prefix);
    let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
    let current = snapshot.current.range::<&str>((start, Bound::Unbounded))?.map(|row| {
        let (key, value) = row?;
        let (create, modified, _) = tables::decode(value.value())?;
        Ok::<_, StorageError>((modified <= at, Row { key: key.value().to_owned(), create, modified, value }))
    });
    let old = if at < snapshot.meta.revision {
        let start = after.map_or(Bound::Included((prefix, 0)), |after| Bound::Excluded((after, u64::MAX)));
        let table = snapshot.read.open_table(OLD)?;
        Some(table.range::<(&str, u64)>((start, Bound::Unbounded))?.map(move |row| {
            let (key, value) = row?;
            let (create, until, _) = tables::decode(value.value())?;
            let (key, modified) = key.value();
            let (key, modified) = (key.to_owned(), Revision(modified));
            Ok::<_, StorageError>((modified <= at && at < until, Row { key, create, modified, value }))
        }))
    } else {
        None
    };
    let under = |row: &Result<(bool, Row), StorageError>| match row {
        Ok((_, row)) => row.key.starts_with(prefix),
        Err(_) => true,
    };
    let visible = |row: Result<(bool, Row), StorageError>| match row {
        Ok((visible, row)) => visible.then_some(Ok(row)),
        Err(error) => Some(Err(error)),
    };
    // A key has one value at a revision, so it is in one of the two sequences only.
    let mut current = current.take_while(under).filter_map(visible).peekable();
    let mut old = old.into_iter().flatten().take_while(under).filter_map(visible).peekable();
    let mut listing = Listing { items: Vec::new(), revision: at, remaining: 0 };
    loop {
        let old_is_next = match (current.peek(), old.peek()) {
            (Some(Ok(current)), Some(Ok(old))) => old.key < current.key,
            (Some(Err(_)), _) => false,
            (_, Some(Err(_))) => true,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (None, None) => return Ok(listing),
        };
        let next = if old_is_next { old.next() } else { current.next() };
        let Some(row) = next.transpose()? else { return Ok(listing) };
        if options.limit == 0 || listing.items.len() < options.limit {
            listing.items.push(row.into_kv()?);
        } else {
            listing.remaining += 1;
        }
    }
}

/// Commits after a revision, for watches that are behind the ring and after a reopening.
pub(super) fn commits_after(database: &Database, after: Revision) -> Result<Vec<Arc<Commit>>, StoreError> {
    let snapshot = Snapshot::of(database)?;
    snapshot.check(after)?;
    read_log(&snapshot, after).map_err(unavailable)
}

fn read_log(snapshot: &Snapshot, after: Revision) -> Result<Vec<Arc<Commit>>, redb::Error> {
    let old = snapshot.read.open_table(OLD)?;
    let log = snapshot.read.open_table(LOG)?;
    let (mut commits, mut bytes) = (Vec::new(), 0);
    for row in log.range(after.0 + 1..)? {
        let (revision, row) = row?;
        let revision = Revision(revision.value());
        let mut events = Vec::new();
        for change in tables::changes(row.value())? {
            let before = old.get((change.key, change.before.0))?;
            let before = before.map(|row| old_value(change.key, change.before, row.value())).transpose()?;
            bytes += before.as_ref().map_or(0, |kv| kv.value.len());
            events.push(if change.put {
                let now = value_at(snapshot, &old, change.key, revision)?;
                bytes += now.value.len();
                Event::Put { now, before }
            } else {
                Event::Delete { key: change.key.to_owned(), revision, before }
            });
        }
        commits.push(Arc::new(Commit { revision, events }));
        if commits.len() >= PAST_COMMITS || bytes >= PAST_BYTES {
            break;
        }
    }
    Ok(commits)
}

fn old_value(key: &str, modified: Revision, row: &[u8]) -> Result<KeyValue, StorageError> {
    let (create_revision, _, value) = tables::decode(row)?;
    let value = Bytes::copy_from_slice(value);
    Ok(KeyValue { key: key.to_owned(), value, create_revision, mod_revision: modified })
}

/// The value that was written at a revision of the log: still current, or replaced since.
fn value_at(
    snapshot: &Snapshot,
    old: &ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    key: &str,
    revision: Revision,
) -> Result<KeyValue, StorageError> {
    if let Some(row) = snapshot.current.get(key)? {
        let (create_revision, mod_revision, value) = tables::decode(row.value())?;
        if mod_revision == revision {
            let value = Bytes::copy_from_slice(value);
            return Ok(KeyValue { key: key.to_owned(), value, create_revision, mod_revision });
        }
    }
    match old.get((key, revision.0))? {
        Some(row) => old_value(key, revision, row.value()),
        None => Err(StorageError::Corrupted(format!("the value of {key} at revision {revision} is missing"))),
    }
}

/// What is in the file.
pub(super) fn size(database: &Database, file: u64) -> Result<Size, StoreError> {
    let snapshot = Snapshot::of(database)?;
    let stats = snapshot.current.stats().map_err(unavailable)?;
    let keys = snapshot.current.len().map_err(unavailable)?;
    Ok(Size { file, current: stats.stored_bytes(), history: snapshot.meta.history_bytes, keys })
}

/// Copy the tables of one revision into a new file.
pub(super) fn backup(database: &Database, directory: &Path) -> Result<Revision, StoreError> {
    let failed = |error: std::io::Error| StoreError::Unavailable(error.into());
    let snapshot = Snapshot::of(database)?;
    std::fs::create_dir_all(directory).map_err(failed)?;
    let beside = directory.join("store.redb.new");
    super::create_file(&beside).map_err(failed)?;
    copy(&snapshot, &beside).map_err(unavailable)?;
    super::publish_file(&beside, &directory.join(super::FILE)).map_err(failed)?;
    Ok(snapshot.meta.revision)
}

fn copy(snapshot: &Snapshot, path: &Path) -> Result<(), redb::Error> {
    let copy = Database::builder().set_cache_size(4 << 20).create(path)?;
    let write = copy.begin_write()?;
    {
        let mut tables = Tables::open(&write)?;
        for row in snapshot.current.range::<&str>(..)? {
            let (key, value) = row?;
            tables.current.insert(key.value(), value.value())?;
        }
        for row in snapshot.read.open_table(OLD)?.range::<(&str, u64)>(..)? {
            let (key, value) = row?;
            tables.old.insert(key.value(), value.value())?;
        }
        for row in snapshot.read.open_table(LOG)?.range::<u64>(..)? {
            let (key, value) = row?;
            tables.log.insert(key.value(), value.value())?;
        }
        tables.meta.insert("format", tables::FORMAT)?;
        snapshot.meta.write(&mut tables.meta)?;
    }
    write.commit()?;
    Ok(())
}

/// Write keys into a new file, all of one revision.
pub(super) fn fill<E>(
    path: &Path,
    revision: Revision,
    items: impl Iterator<Item = Result<KeyValue, E>>,
) -> Result<u64, RestoreError<E>> {
    /// One transaction for so many keys, so that the pages that wait to be written are bounded.
    const BATCH: u64 = 1000;
    fn failed<E>(error: impl Into<redb::Error>) -> RestoreError<E> {
        RestoreError::Write(Box::new(error.into()))
    }
    let database = Database::builder().set_cache_size(4 << 20).create(path).map_err(failed)?;
    let (mut items, mut count) = (items, 0);
    let mut over = false;
    while !over {
        let write = database.begin_write().map_err(failed)?;
        {
            let mut tables = Tables::open(&write).map_err(failed)?;
            for _ in 0..BATCH {
                let Some(item) = items.next() else {
                    over = true;
                    break;
                };
                tables.put(&item.map_err(RestoreError::Source)?).map_err(failed)?;
                count += 1;
            }
            tables.meta.insert("format", tables::FORMAT).map_err(failed)?;
            let meta = Meta { revision, compacted: revision, history_bytes: 0 };
            meta.write(&mut tables.meta).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
    }
    Ok(count)
}
