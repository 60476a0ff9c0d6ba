//! The store in one crash-safe file.
//!
//! [redb] keeps the pages: copy-on-write B-trees with checksums, one `fdatasync` per transaction. On top
//! of it this module keeps revisions (see `tables`), and one writer thread (see `writer`) that turns all
//! the commits that wait into one transaction, so that many writers share one sync.
//!
//! - A commit is answered after the sync, never before.
//! - History is bounded by age, number and bytes; every commit sweeps a little more than it adds, so the file
//!   does not grow under churn.
//! - The file has mode 0600 and one owner; a second one is told who the first is.
//! - After a failed write or sync (a full disk) the file is opened again: what is on disk then is the truth,
//!   the commits in question were answered with [`StoreError::Unknown`].

#[cfg(test)]
mod faults;
mod read;
mod sweep;
mod tables;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::hub::{Commit, Hub, Past, RingLimits};
use crate::{Committed, KeyValue, ListOptions, Listing, Revision, Store, StoreError, Txn, WatchStream, txn};
use writer::{Request, Writer};

/// Name of the file in the directory that is given to [`EmbeddedStore::open`].
const FILE: &str = "store.redb";

/// How many commits may wait for the writer. When it is full, writers wait for a place.
const WAITING: usize = 1024;

/// The part of the past that is kept in memory; watches that are further behind read the file.
const RING: RingLimits = RingLimits { commits: 1024, bytes: 2 << 20 };

/// A file larger than this that is mostly empty is made smaller when it is opened.
const WORTH_COMPACTING: u64 = 16 << 20;

/// How much is kept, on disk and in memory.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// History older than this is compacted.
    pub history_age: Duration,
    /// No more than about this many revisions are kept.
    pub history_revisions: u64,
    /// No more than about this many bytes of superseded values are kept.
    pub history_bytes: u64,
    /// Memory for pages.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            // As long as Kubernetes keeps it: watches may resume and lists may be continued for five minutes.
            history_age: Duration::from_secs(300),
            history_revisions: 50_000,
            history_bytes: 16 << 20,
            cache_bytes: 8 << 20,
        }
    }
}

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("creating directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened, created or synced.
    #[error("opening {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process, or another store in this one, has it open.
    #[error(
        "{path} is in use by {}: two servers cannot share one data directory",
        owner.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds the lock, if it can be seen.
        owner: Option<u32>,
    },
    /// It is no store, or is damaged.
    #[error("reading {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<redb::Error>,
    },
    /// It was written by a version of coracle that this one does not know.
    #[error("{path} has format {found}, this version reads format {}", tables::FORMAT)]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// The writer thread cannot be started.
    #[error("starting the writer thread")]
    Thread(#[source] io::Error),
}

/// Why a store was not made from a copy.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// There is one already.
    #[error("{0} exists: move it away first")]
    NotEmpty(PathBuf),
    /// The directory or the file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy cannot be read.
    #[error("reading the copy")]
    Source(#[source] E),
    /// The file cannot be written.
    #[error("writing the store")]
    Write(#[source] Box<redb::Error>),
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

/// Makes the storage below the database; tests put faults here.
type MakeBackend = dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync;

/// What readers and the writer share.
struct Shared {
    path: PathBuf,
    options: Options,
    make_backend: Box<MakeBackend>,
    /// Gone while the file is being opened again after a failure.
    database: RwLock<Option<Arc<Database>>>,
    /// The newest revision that is on disk, or that a reader has seen.
    newest: AtomicU64,
    /// Held for as long as the store is open, also while the file is being opened again.
    _lock: Option<File>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Open the store in a directory, or create it there. The directory is made if it is missing.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<EmbeddedStore, OpenError> {
        let directory = directory.as_ref();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        let lock = lock_directory(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists().map_err(|source| OpenError::File { path: path.clone(), source })? {
            create(directory)?;
        }
        let make_backend = file_backend(path.clone());
        EmbeddedStore::open_on(path, options, make_backend, Some(lock))
    }

    fn open_on(
        path: PathBuf,
        options: Options,
        make_backend: Box<MakeBackend>,
        lock: Option<File>,
    ) -> Result<EmbeddedStore, OpenError> {
        let (database_slot, newest) = (RwLock::new(None), AtomicU64::new(0));
        let shared = Shared { path, options, make_backend, database: database_slot, newest, _lock: lock };
        let (database, meta) = shared.open_database(true)?;
        shared.reached(meta.revision);
        shared.set(Some(Arc::new(database)));
        let shared = Arc::new(shared);
        let hub = Arc::new(Hub::new(meta.revision, RING));
        let (requests, waiting) = mpsc::channel(WAITING);
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&hub), meta, waiting);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(EmbeddedStore { shared, hub, requests: Some(requests), writer: Some(writer) })
    }

    /// The size of the file, and what of it is in use by live data.
    pub async fn size(&self) -> Result<Size, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let file = std::fs::metadata(&shared.path).map_err(|e| StoreError::Unavailable(e.into()))?.len();
            read::size(&*shared.database()?, file)
        })
        .await
    }

    /// Write a copy of the store as it is now into another directory, while it is in use.
    pub async fn backup(&self, directory: impl AsRef<Path>) -> Result<Revision, StoreError> {
        let (shared, directory) = (Arc::clone(&self.shared), directory.as_ref().to_owned());
        blocking(move || read::backup(&*shared.database()?, &directory)).await
    }

    /// Make the store in a directory that has none, from a copy: with its revisions, and without history.
    pub fn restore<E>(
        directory: impl AsRef<Path>,
        revision: Revision,
        items: impl Iterator<Item = Result<KeyValue, E>>,
    ) -> Result<u64, RestoreError<E>> {
        let directory = directory.as_ref();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        let _lock = lock_directory(directory)?;
        let (beside, path) = (directory.join("store.redb.new"), directory.join(FILE));
        let failed = |source| OpenError::File { path: path.clone(), source };
        if path.try_exists().map_err(failed)? {
            return Err(RestoreError::NotEmpty(path));
        }
        create_file(&beside).map_err(failed)?;
        let count = read::fill(&beside, revision, items)?;
        publish_file(&beside, &path).map_err(failed)?;
        Ok(count)
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("the writer has stopped".into());
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        requests.send(request(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| StoreError::Unknown("the writer stopped in the middle".into()))?
    }
}

/// Ends the watches, waits for the writer to finish what it has begun, and releases the file.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.requests.take());
        self.hub.close();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been printed and its callers have been told.
            let _ = writer.join();
        }
        self.shared.set(None);
    }
}

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Length of the file.
    pub file: u64,
    /// Bytes of current keys and values.
    pub current: u64,
    /// Bytes of history.
    pub history: u64,
    /// Keys.
    pub keys: u64,
}

impl Shared {
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| StoreError::Unavailable("the file is not open after a failure".into()))
    }

    /// Notes that a revision is there for all to see.
    fn reached(&self, revision: Revision) {
        self.newest.fetch_max(revision.0, Ordering::SeqCst);
    }

    fn set(&self, database: Option<Arc<Database>>) -> Option<Arc<Database>> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, database)
    }

    /// Open the file, repair it if the last owner crashed, and read where it stands.
    fn open_database(&self, may_compact: bool) -> Result<(Database, tables::Meta), OpenError> {
        let path = || self.path.clone();
        let corrupt = |source: redb::Error| OpenError::Database { path: path(), source: Box::new(source) };
        let backend = (self.make_backend)().map_err(|source| OpenError::File { path: path(), source })?;
        let shown = path();
        let mut builder = Database::builder();
        builder.set_cache_size(self.options.cache_bytes).set_repair_callback(move |repair| {
            // Called several times; the first is enough to say what goes on.
            if repair.progress() == 0.0 {
                info!(path = %shown.display(), "the last owner of the store crashed: checking the file");
            }
        });
        let mut database = match builder.create_with_backend(Boxed(backend)) {
            Ok(database) => database,
            Err(error) => return Err(corrupt(error.into())),
        };
        let meta = match tables::prepare(&database).map_err(corrupt)? {
            Ok(meta) => meta,
            Err(found) => return Err(OpenError::Format { path: path(), found }),
        };
        let length = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        if may_compact && length > WORTH_COMPACTING {
            let size = read::size(&database, length).ok();
            if size.is_some_and(|size| (size.current + size.history) * 4 < length) {
                database.compact().map_err(|e| corrupt(e.into()))?;
            }
        }
        Ok((database, meta))
    }
}

/// One owner at a time. The lock is on the directory, so it also covers the moment in which the file is opened
/// again; the kernel releases it when the process dies.
fn lock_directory(directory: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::File { path: directory.to_owned(), source };
    let lock = File::open(directory).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::InUse { path: directory.to_owned(), owner: lock_owner(directory) })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Make an empty store beside its place and move it there when it is whole and synced: a power cut leaves no
/// half-made file that the next start would refuse.
fn create(directory: &Path) -> Result<(), OpenError> {
    let (beside, path) = (directory.join("store.redb.new"), directory.join(FILE));
    let failed = |source| OpenError::File { path: beside.clone(), source };
    create_file(&beside).map_err(failed)?;
    let fresh = Shared {
        path: beside.clone(),
        options: Options::default(),
        make_backend: file_backend(beside.clone()),
        database: RwLock::new(None),
        newest: AtomicU64::new(0),
        _lock: None,
    };
    drop(fresh.open_database(false)?);
    publish_file(&beside, &path).map_err(failed)
}

/// Make an empty file that was never readable by others.
fn create_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// Give a whole and synced file its name.
fn publish_file(beside: &Path, path: &Path) -> io::Result<()> {
    File::open(beside)?.sync_all()?;
    std::fs::rename(beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn file_backend(path: PathBuf) -> Box<MakeBackend> {
    Box::new(move || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend) as Box<dyn StorageBackend>)
    })
}

/// Who holds the lock on a file, from `/proc/locks` (`1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> …`).
fn lock_owner(path: &Path) -> Option<u32> {
    let inode = std::fs::metadata(path).ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|field| field.rsplit(':').next() == Some(inode.as_str()))?;
        fields.get(at.checked_sub(1)?)?.parse::<u32>().ok().filter(|pid| *pid > 0)
    })
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        // Not from the hub: a reader may already have seen what is yet to be published.
        Ok(Revision(self.shared.newest.load(Ordering::SeqCst)))
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let found = read::get(&*self.shared.database()?, key)?;
        self.shared.reached(found.1);
        Ok(found)
    }

    async fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError> {
        let (shared, prefix, options) = (Arc::clone(&self.shared), prefix.to_owned(), options.clone());
        let listing = blocking(move || read::list(&*shared.database()?, &prefix, &options)).await?;
        // The revision that the store is known to have come to, also when an older state was asked for.
        self.shared.reached(listing.revision);
        Ok(listing)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn::check(&txn)?;
        self.request(|reply| Request::Commit { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        read::check_revision(&*self.shared.database()?, after)?;
        let past = FilePast(Arc::downgrade(&self.shared));
        Ok(self.hub.watch(Arc::new(past), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.request(|reply| Request::Compact { revision, reply }).await
    }
}

/// Commits that have left the ring are read from the file. Weak: a forgotten watch must not keep it locked.
#[derive(Debug)]
struct FilePast(Weak<Shared>);

#[async_trait]
impl Past for FilePast {
    async fn commits_after(&self, after: Revision) -> Result<Vec<Arc<Commit>>, StoreError> {
        let shared =
            self.0.upgrade().ok_or_else(|| StoreError::Unavailable("the store has been closed".into()))?;
        blocking(move || read::commits_after(&*shared.database()?, after)).await
    }
}

/// Disk work goes to the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Unavailable(e.into()))?
}

/// redb's errors before anything was written.
fn unavailable(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Unavailable(Box::new(error.into()))
}

/// A boxed backend is a backend.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
