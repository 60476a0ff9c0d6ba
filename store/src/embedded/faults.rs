//! Power cuts and failing disks: a disk in memory that forgets what was not synced, at every single write.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use redb::StorageBackend;

use super::{EmbeddedStore, OpenError, Options};
use crate::{Committed, Event, ListOptions, Op, Revision, Store, StoreError, Txn, WatchMessage};

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Disk {
    /// What reads see.
    seen: Vec<u8>,
    /// What has been synced.
    durable: Vec<u8>,
    /// Lengths and writes since then.
    pending: Vec<Change>,
    operations: u64,
    fault: Option<Fault>,
}

#[derive(Debug)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

/// What happens at an operation with this number.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Everything fails from then on.
    PowerCut(u64),
    /// It fails, and so do the next ones, as on a full disk.
    Full(u64, u64),
}

impl Disk {
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some(Fault::PowerCut(at)) if self.operations >= at => Err(io::Error::other("power cut")),
            Some(Fault::Full(from, count)) if (from..from + count).contains(&self.operations) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// What is found after a power cut: what was synced, and any sectors of what was not.
    fn after_power_cut(&self, seed: u64) -> Disk {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut keep = || {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            match seed % 4 {
                0 => false,
                1 => true,
                _ => !dice.is_multiple_of(3),
            }
        };
        let mut found = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::Length(length) if keep() => found.resize(*length, 0),
                Change::Length(_) => {}
                Change::Write(offset, data) => {
                    for (i, sector) in data.chunks(SECTOR).enumerate() {
                        let start = offset + i * SECTOR;
                        if keep() {
                            found.resize(found.len().max(start + sector.len()), 0);
                            found[start..start + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        Disk { seen: found.clone(), durable: found, ..Disk::default() }
    }
}

#[derive(Debug, Clone, Default)]
struct Backend(Arc<Mutex<Disk>>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let data = disk.seen.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.operation()?;
        let len = usize::try_from(len).unwrap();
        disk.seen.resize(len, 0);
        disk.pending.push(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.operation()?;
        disk.pending.clear();
        disk.durable = disk.seen.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let outcome = disk.operation();
        if outcome.is_ok() {
            disk.seen[start..start + data.len()].copy_from_slice(data);
        }
        // The write that fails may have reached the disk all the same.
        disk.pending.push(Change::Write(start, data.to_owned()));
        outcome
    }
}

fn open(backend: &Backend) -> Result<EmbeddedStore, OpenError> {
    let options = Options { cache_bytes: 1 << 20, history_revisions: 8, ..Options::default() };
    let backend = backend.clone();
    let make = move || Ok(Box::new(backend.clone()) as Box<dyn StorageBackend>);
    EmbeddedStore::open_on(PathBuf::from("/nonexistent/store.redb"), options, Box::new(make), None)
}

/// An empty store, as [`super::create`] leaves it.
fn empty() -> Backend {
    let backend = Backend::default();
    drop(open(&backend).unwrap());
    let mut disk = backend.0.lock().unwrap();
    assert!(disk.pending.is_empty(), "closing syncs");
    disk.operations = 0;
    drop(disk);
    backend
}

/// The `n`th transaction: two keys that agree, and one that comes and goes.
fn transaction(n: u64) -> Txn {
    let value = Bytes::from(n.to_string());
    let filler = format!("filler/{}", n % 5);
    let filler = match n % 3 {
        0 => Op::Delete(filler),
        _ => Op::Put(filler, Bytes::from(vec![b'.'; usize::try_from(n * 997 % 9000).unwrap()])),
    };
    let ops = vec![Op::Put("first".to_owned(), value.clone()), filler, Op::Put("second".to_owned(), value)];
    Txn { compare: vec![], ops }
}

/// What both keys say.
async fn agreed(store: &EmbeddedStore) -> u64 {
    let value = async |key| match store.get(key).await.unwrap().0 {
        Some(kv) => std::str::from_utf8(&kv.value).unwrap().parse().unwrap(),
        None => 0,
    };
    let (first, second) = (value("first").await, value("second").await);
    assert_eq!(first, second, "half a transaction");
    first
}

/// Write until it fails or `count` is reached; the last that was acknowledged.
async fn write(store: &EmbeddedStore, from: u64, count: u64) -> Result<u64, (u64, StoreError)> {
    for n in from + 1..=from + count {
        match store.commit(transaction(n)).await {
            Ok(Committed::Done(_)) => {}
            Ok(Committed::Conflict(_)) => unreachable!("nothing was compared"),
            Err(error) => return Err((n - 1, error)),
        }
    }
    Ok(from + count)
}

#[tokio::test]
async fn a_power_cut_at_every_write() {
    const COMMITS: u64 = 16;
    let whole = empty();
    write(&open(&whole).unwrap(), 0, COMMITS).await.unwrap();
    let operations = whole.0.lock().unwrap().operations;
    assert!(operations > 3 * COMMITS, "a commit is some writes and a sync");
    for at in 1..=operations {
        let backend = empty();
        backend.0.lock().unwrap().fault = Some(Fault::PowerCut(at));
        let acknowledged = match open(&backend) {
            // Cut while it was opened.
            Err(_) => 0,
            Ok(store) => write(&store, 0, COMMITS).await.unwrap_or_else(|(last, _)| last),
        };
        for seed in 0..4_u64 {
            let rebooted = backend.0.lock().unwrap().after_power_cut(at * 4 + seed);
            let rebooted = Backend(Arc::new(Mutex::new(rebooted)));
            let store = open(&rebooted).unwrap_or_else(|error| panic!("cut at {at}, seed {seed}: {error:?}"));
            let found = agreed(&store).await;
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "cut at {at}, seed {seed}: acknowledged {acknowledged}, found {found}"
            );
            write(&store, found, 3).await.unwrap();
            assert_eq!(agreed(&store).await, found + 3);
        }
    }
}

/// The disk is full for a while, at every write: the store says so, goes on afterwards, and watches miss nothing.
#[tokio::test]
async fn a_disk_that_is_full_for_a_while() {
    let mut unknown = 0;
    for at in 1..120 {
        let backend = empty();
        let store = open(&backend).unwrap();
        let mut watch = store.watch("first", Revision(1)).await.unwrap();
        backend.0.lock().unwrap().fault = Some(Fault::Full(at, 1 + at % 7));
        let mut last = 0;
        let mut failures = 0;
        while last < 20 {
            match write(&store, last, 20 - last).await {
                Ok(done) => last = done,
                Err((done, error)) => {
                    failures += 1;
                    assert!(failures < 20, "it never recovers: {error:?}");
                    // Ask until it answers; writing is what makes it try again.
                    let (kv, _) = match store.get("first").await {
                        Ok(answer) => answer,
                        Err(_) => {
                            last = done;
                            continue;
                        }
                    };
                    let found = kv.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
                    match error {
                        StoreError::Unavailable(_) => assert_eq!(found, done, "nothing was written"),
                        StoreError::Unknown(_) => assert!(found == done || found == done + 1),
                        other => panic!("{other:?}"),
                    }
                    unknown += u32::from(found == done + 1);
                    last = found;
                }
            }
        }
        assert_eq!(agreed(&store).await, 20);
        let end = store.revision().await.unwrap();
        let (mut seen, mut reached) = (Vec::new(), Revision(1));
        while reached < end {
            match watch.next().await.unwrap().unwrap() {
                WatchMessage::Progress(revision) => reached = revision,
                WatchMessage::Events(events) => {
                    reached = events.last().unwrap().revision();
                    seen.extend(events.into_iter().map(|event| match event {
                        Event::Put { now, .. } => {
                            std::str::from_utf8(&now.value).unwrap().parse::<u64>().unwrap()
                        }
                        Event::Delete { .. } => unreachable!("it is never deleted"),
                    }));
                }
            }
        }
        seen.dedup();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
        let list = store.list("", &ListOptions::default()).await.unwrap();
        assert_eq!(list.revision, end);
    }
    println!("{unknown} writes of unknown outcome had happened");
}
