//! What is in the file.
//!
//! | table | key | value |
//! |---|---|---|
//! | `current` | key | create revision, modification revision, value |
//! | `old` | key, modification revision | create revision, revision that replaced it, value |
//! | `log` | revision | what changed: kind, key, modification revision of the value before |
//! | `meta` | name | a number |
//!
//! A write moves the value before from `current` to `old`. So the newest state is one dense table, the state at
//! an older revision is both tables merged by key, an event is rebuilt from a row of `log` and one or two look-ups,
//! and compaction removes the oldest rows of `log` with the rows of `old` that they made.

use bytes::Bytes;
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition, WriteTransaction,
};

use crate::{KeyValue, Revision};

/// Changes when the tables do.
pub(super) const FORMAT: u64 = 1;

pub(super) const CURRENT: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("current");
pub(super) const OLD: TableDefinition<'static, (&str, u64), &[u8]> = TableDefinition::new("old");
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// Bytes in front of a value in `current` and `old`.
const HEADER: usize = 16;

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) revision: Revision,
    /// The oldest revision that can be read.
    pub(super) compacted: Revision,
    /// Bytes in `old` and `log`.
    pub(super) history_bytes: u64,
}

impl Meta {
    pub(super) fn read(table: &impl ReadableTable<&'static str, u64>) -> Result<Meta, StorageError> {
        let number = |name| Ok::<u64, StorageError>(table.get(name)?.map_or(1, |number| number.value()));
        Ok(Meta {
            revision: Revision(number("revision")?),
            compacted: Revision(number("compacted")?),
            history_bytes: table.get("history-bytes")?.map_or(0, |number| number.value()),
        })
    }

    pub(super) fn write(&self, table: &mut Table<'_, &'static str, u64>) -> Result<(), StorageError> {
        table.insert("revision", self.revision.0)?;
        table.insert("compacted", self.compacted.0)?;
        table.insert("history-bytes", self.history_bytes)?;
        Ok(())
    }
}

/// Make the tables, so that readers always find them, and read where the store stands. `Err` is a foreign format.
pub(super) fn prepare(database: &Database) -> Result<Result<Meta, u64>, redb::Error> {
    let read = database.begin_read()?;
    if let Ok(meta) = read.open_table(META) {
        return match meta.get("format")?.map(|format| format.value()) {
            Some(FORMAT) => Ok(Ok(Meta::read(&meta)?)),
            other => Ok(Err(other.unwrap_or(0))),
        };
    }
    let write = database.begin_write()?;
    let meta = Meta { revision: Revision(1), compacted: Revision(1), history_bytes: 0 };
    {
        let Tables { meta: mut table, .. } = Tables::open(&write)?;
        table.insert("format", FORMAT)?;
        meta.write(&mut table)?;
    }
    write.commit()?;
    Ok(Ok(meta))
}

/// All tables of a write transaction.
pub(super) struct Tables<'txn> {
    pub(super) current: Table<'txn, &'static str, &'static [u8]>,
    pub(super) old: Table<'txn, (&'static str, u64), &'static [u8]>,
    pub(super) log: Table<'txn, u64, &'static [u8]>,
    pub(super) meta: Table<'txn, &'static str, u64>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(write: &'txn WriteTransaction) -> Result<Tables<'txn>, redb::TableError> {
        Ok(Tables {
            current: write.open_table(CURRENT)?,
            old: write.open_table(OLD)?,
            log: write.open_table(LOG)?,
            meta: write.open_table(META)?,
        })
    }

    /// The newest value of a key.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        let Some(row) = self.current.get(key)? else { return Ok(None) };
        let (create_revision, mod_revision, value) = decode(row.value())?;
        let value = Bytes::copy_from_slice(value);
        Ok(Some(KeyValue { key: key.to_owned(), value, create_revision, mod_revision }))
    }

    pub(super) fn put(&mut self, now: &KeyValue) -> Result<(), StorageError> {
        let mut row = self.current.insert_reserve(now.key.as_str(), HEADER + now.value.len())?;
        encode(row.as_mut(), now.create_revision, now.mod_revision, &now.value);
        Ok(())
    }

    /// Keep a value that has been replaced. Returns its bytes.
    pub(super) fn keep(&mut self, before: &KeyValue, until: Revision) -> Result<u64, StorageError> {
        let key = (before.key.as_str(), before.mod_revision.0);
        let mut row = self.old.insert_reserve(key, HEADER + before.value.len())?;
        encode(row.as_mut(), before.create_revision, until, &before.value);
        Ok((before.key.len() + 8 + HEADER + before.value.len()) as u64)
    }
}

/// Two revisions and the value. In `current` they are creation and modification, in `old` creation and end.
fn encode(row: &mut [u8], first: Revision, second: Revision, value: &[u8]) {
    row[..8].copy_from_slice(&first.0.to_le_bytes());
    row[8..HEADER].copy_from_slice(&second.0.to_le_bytes());
    row[HEADER..].copy_from_slice(value);
}

/// The opposite of [`encode`].
pub(super) fn decode(row: &[u8]) -> Result<(Revision, Revision, &[u8]), StorageError> {
    let damaged = || StorageError::Corrupted("a row is shorter than its header".to_owned());
    let (first, rest) = row.split_first_chunk().ok_or_else(damaged)?;
    let (second, value) = rest.split_first_chunk().ok_or_else(damaged)?;
    Ok((Revision(u64::from_le_bytes(*first)), Revision(u64::from_le_bytes(*second)), value))
}

/// One change in a row of `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change<'a> {
    pub(super) put: bool,
    /// Modification revision of the value before; 0 if there was none.
    pub(super) before: Revision,
    pub(super) key: &'a str,
}

impl Change<'_> {
    pub(super) fn encode(&self, row: &mut Vec<u8>) {
        row.push(u8::from(self.put));
        row.extend_from_slice(&self.before.0.to_le_bytes());
        // Keys are bounded by MAX_TXN_BYTES, far below four gigabytes.
        row.extend_from_slice(&u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_le_bytes());
        row.extend_from_slice(self.key.as_bytes());
    }
}

/// The changes of a row of `log`.
pub(super) fn changes(mut row: &[u8]) -> Result<Vec<Change<'_>>, StorageError> {
    let mut changes = Vec::new();
    while !row.is_empty() {
        let (change, rest) = change(row)
            .ok_or_else(|| StorageError::Corrupted("a row of the log cannot be read".to_owned()))?;
        changes.push(change);
        row = rest;
    }
    Ok(changes)
}

fn change(row: &[u8]) -> Option<(Change<'_>, &[u8])> {
    let (put, row) = row.split_first()?;
    let (before, row) = row.split_first_chunk()?;
    let (length, row) = row.split_first_chunk()?;
    let (key, rest) = row.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let key = std::str::from_utf8(key).ok()?;
    Some((Change { put: *put == 1, before: Revision(u64::from_le_bytes(*before)), key }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_rows_read_back() {
        let written = [
            Change { put: true, before: Revision(0), key: "/a" },
            Change { put: false, before: Revision(7), key: "/ä/ö" },
            Change { put: true, before: Revision(u64::MAX), key: "" },
        ];
        let mut row = Vec::new();
        written.iter().for_each(|change| change.encode(&mut row));
        assert_eq!(changes(&row).unwrap(), written);
        for cut in 1..row.len() {
            // Either an error or fewer changes, never a panic or a wrong one.
            if let Ok(read) = changes(&row[..cut]) {
                assert_eq!(read, written[..read.len()]);
            }
        }
    }
}
