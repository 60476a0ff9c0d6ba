//! The one writer: all commits that wait become one transaction and one sync.
//!
//! ```text
//!   callers --bounded queue--> [ take all that wait -> evaluate in order -> sweep -> sync -> publish -> answer ]
//!                                        failed: answer, open the file again, publish what is on disk
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::sweep::{self, Clock};
use super::tables::{Change, Meta, Tables};
use super::{Shared, read};
use crate::hub::{Commit, Hub};
use crate::{Committed, Compare, Event, KeyValue, Op, Revision, StoreError, Txn};

/// One transaction carries at most this many commits, and stops growing beyond this many bytes.
const BATCH_COMMITS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// Every transaction sweeps this many revisions more than it adds, so history that is too long gets shorter.
const SWEEP_AHEAD: usize = 64;

/// An asked-for compaction goes in transactions of this many revisions.
const SWEEP_STEP: usize = 4096;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Request {
    Commit { txn: Txn, reply: Reply<Committed> },
    Compact { revision: Revision, reply: Reply<()> },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    requests: mpsc::Receiver<Request>,
    /// As on disk, after the last successful transaction.
    meta: Meta,
    clock: Clock,
    /// A write failed and the file has not been opened again since.
    failed: bool,
}

/// A transaction did not happen, or may have.
enum Failure {
    Before(redb::Error),
    During(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Before(error.into())
    }
}

impl Failure {
    /// The error for each of those who waited.
    fn to_error(&self) -> StoreError {
        match self {
            Failure::Before(error) => StoreError::Unavailable(error.to_string().into()),
            Failure::During(error) => StoreError::Unknown(error.to_string().into()),
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        hub: Arc<Hub>,
        meta: Meta,
        requests: mpsc::Receiver<Request>,
    ) -> Writer {
        let clock = Clock::new(shared.options.history_age, Instant::now(), meta.revision);
        Writer { shared, hub, requests, meta, clock, failed: false }
    }

    /// Until all senders are gone.
    pub(super) fn run(mut self) {
        let mut after_batch = None;
        while let Some(first) = after_batch.take().or_else(|| self.requests.blocking_recv()) {
            match first {
                Request::Compact { revision, reply } => {
                    // Nobody waits for it any more: then nobody needs the answer.
                    let _ = reply.send(self.compact(revision));
                }
                Request::Commit { txn, reply } => {
                    let mut bytes = weight(&txn);
                    let mut batch = vec![(txn, reply)];
                    while batch.len() < BATCH_COMMITS && bytes < BATCH_BYTES {
                        match self.requests.try_recv() {
                            Ok(Request::Commit { txn, reply }) => {
                                bytes += weight(&txn);
                                batch.push((txn, reply));
                            }
                            Ok(other) => {
                                after_batch = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit(batch);
                }
            }
        }
    }

    fn commit(&mut self, batch: Vec<(Txn, Reply<Committed>)>) {
        let (txns, replies): (Vec<Txn>, Vec<Reply<Committed>>) = batch.into_iter().unzip();
        let outcome = self.with_file(|writer, database| writer.transaction(database, txns));
        match outcome {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(Ok(answer));
                }
            }
            Err(failure) => {
                for reply in replies {
                    let _ = reply.send(Err(failure.to_error()));
                }
            }
        }
    }

    /// One transaction, synced and published.
    fn transaction(&mut self, database: &Database, txns: Vec<Txn>) -> Result<Vec<Committed>, Failure> {
        let mut meta = self.meta;
        let mut commits = Vec::with_capacity(txns.len());
        let mut answers = Vec::with_capacity(txns.len());
        let write = database.begin_write()?;
        {
            let mut tables = Tables::open(&write)?;
            for txn in txns {
                answers.push(evaluate(&mut tables, &mut meta, txn, &mut commits)?);
            }
            if !commits.is_empty() {
                let now = Instant::now();
                self.clock.mark(now, meta.revision);
                let options = &self.shared.options;
                let horizon = sweep::horizon(&mut self.clock, now, &meta, options);
                let budget = commits.len() + SWEEP_AHEAD;
                sweep::sweep(&mut tables, &mut meta, horizon, options.history_bytes, budget)?;
                meta.write(&mut tables.meta)?;
            }
        }
        if commits.is_empty() {
            write.abort()?;
            return Ok(answers);
        }
        write.commit().map_err(|error| Failure::During(error.into()))?;
        self.meta = meta;
        self.shared.reached(meta.revision);
        self.hub.publish(commits);
        Ok(answers)
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let current = self.meta.revision;
        if revision > current {
            return Err(StoreError::Future { requested: revision, current });
        }
        while self.meta.compacted < revision {
            let step = self.with_file(|writer, database| {
                let mut meta = writer.meta;
                let write = database.begin_write()?;
                {
                    let mut tables = Tables::open(&write)?;
                    sweep::sweep(&mut tables, &mut meta, revision, u64::MAX, SWEEP_STEP)?;
                    meta.write(&mut tables.meta)?;
                }
                write.commit().map_err(|error| Failure::During(error.into()))?;
                writer.meta = meta;
                Ok(())
            });
            step.map_err(|failure| failure.to_error())?;
        }
        Ok(())
    }

    /// Do something with the open file; if it fails, open it again before the next time.
    fn with_file<T>(
        &mut self,
        work: impl FnOnce(&mut Writer, &Database) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.failed {
            self.reopen().map_err(Failure::Before)?;
        }
        let database = self.shared.database().map_err(|_| redb::Error::DatabaseClosed)?;
        let result = work(self, &database);
        drop(database);
        if let Err(Failure::Before(error) | Failure::During(error)) = &result {
            error!(path = %self.shared.path.display(), %error, "writing to the store failed");
            self.failed = true;
            // At once, so that readers go on and those who wait for the outcome can see it.
            if let Err(error) = self.reopen() {
                error!(path = %self.shared.path.display(), %error, "opening the store again failed");
            }
        }
        result
    }

    /// Close the file and open it again: redb refuses to go on after an I/O error, and what is on disk decides
    /// which commits happened.
    fn reopen(&mut self) -> Result<(), redb::Error> {
        if let Some(mut database) = self.shared.set(None) {
            // Readers hold it for the moment of one read.
            let patience = Instant::now() + Duration::from_secs(5);
            loop {
                match Arc::try_unwrap(database) {
                    Ok(last) => break drop(last),
                    Err(shared) if Instant::now() < patience => {
                        database = shared;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(shared) => {
                        self.shared.set(Some(shared));
                        return Err(redb::Error::DatabaseAlreadyOpen);
                    }
                }
            }
        }
        let (database, meta) = self.shared.open_database(false).map_err(|error| match error {
            super::OpenError::Database { source, .. } => *source,
            other => redb::Error::Io(std::io::Error::other(other)),
        })?;
        // What turned out to have happened is news to the watches.
        while self.hub.head() < meta.revision {
            let commits = read::commits_after(&database, self.hub.head()).map_err(std::io::Error::other)?;
            self.hub.publish(commits.into_iter().filter_map(Arc::into_inner));
        }
        info!(path = %self.shared.path.display(), revision = %meta.revision, "opened the store again");
        self.shared.set(Some(Arc::new(database)));
        self.shared.reached(meta.revision);
        self.meta = meta;
        self.failed = false;
        Ok(())
    }
}

fn weight(txn: &Txn) -> usize {
    txn.ops.iter().map(|op| if let Op::Put(_, value) = op { value.len() } else { 0 }).sum()
}

/// Compare and write within the open transaction.
fn evaluate(
    tables: &mut Tables<'_>,
    meta: &mut Meta,
    txn: Txn,
    commits: &mut Vec<Commit>,
) -> Result<Committed, redb::StorageError> {
    let mut seen = Vec::with_capacity(txn.compare.len());
    for compare in &txn.compare {
        seen.push(tables.get(compare.key())?);
    }
    if !txn.compare.iter().zip(&seen).all(|(compare, kv)| holds(compare, kv.as_ref())) {
        return Ok(Committed::Conflict(seen));
    }
    let revision = Revision(meta.revision.0 + 1);
    let (mut events, mut row) = (Vec::with_capacity(txn.ops.len()), Vec::new());
    for op in txn.ops {
        let before = match seen.iter_mut().find(|kv| kv.as_ref().is_some_and(|kv| kv.key == op.key())) {
            Some(kv) => kv.take(),
            None => tables.get(op.key())?,
        };
        let put = matches!(op, Op::Put(..));
        if !put && before.is_none() {
            continue;
        }
        let modified = before.as_ref().map_or(Revision(0), |before| before.mod_revision);
        Change { put, before: modified, key: op.key() }.encode(&mut row);
        if let Some(before) = &before {
            meta.history_bytes += tables.keep(before, revision)?;
        }
        events.push(match op {
            Op::Put(key, value) => {
                let create_revision = before.as_ref().map_or(revision, |before| before.create_revision);
                let now = KeyValue { key, value, create_revision, mod_revision: revision };
                tables.put(&now)?;
                Event::Put { now, before }
            }
            Op::Delete(key) => {
                tables.current.remove(key.as_str())?;
                Event::Delete { key, revision, before }
            }
        });
    }
    if events.is_empty() {
        return Ok(Committed::Done(meta.revision));
    }
    meta.history_bytes += row.len() as u64 + 8;
    tables.log.insert(revision.0, row.as_slice())?;
    meta.revision = revision;
    commits.push(Commit { revision, events });
    Ok(Committed::Done(revision))
}

fn holds(compare: &Compare, newest: Option<&KeyValue>) -> bool {
    match compare {
        Compare::Absent(_) => newest.is_none(),
        Compare::ModRevision(_, revision) => newest.is_some_and(|kv| kv.mod_revision == *revision),
    }
}
