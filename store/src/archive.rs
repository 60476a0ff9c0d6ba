//! A copy of a whole store as one stream of bytes, to keep in a file or to move to another engine.
//!
//! ```text
//! "coracle store 1\n" │ revision │ ( 'K' │ key length │ key │ created │ modified │ value length │ value )* │ 'E' │ count │ SHA-256
//! ```
//!
//! Numbers are little-endian, lengths 32 bits and all others 64. Everything is of one revision, in the order of the keys;
//! history is not in it. The end is marked and the sum covers all before it, so a copy that broke off is not taken for a
//! whole one. Where the engine can (see [`EmbeddedStore::restore`](crate::embedded::EmbeddedStore::restore)) revisions are
//! kept, so that clients go on where they were; etcd gives new ones.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use sha2::{Digest, Sha256};

use crate::{Committed, Compare, KeyValue, ListOptions, Op, Revision, Store, StoreError, Txn};

const MAGIC: &[u8] = b"coracle store 1\n";
const KEY: u8 = b'K';
const END: u8 = b'E';

/// So many keys are read from the store at a time, and as many are in a chunk.
const PAGE: usize = 256;
/// A transaction of a restore has at most this many keys and aims at this many bytes.
const WRITE_KEYS: usize = 100;
const WRITE_BYTES: usize = 1 << 20;
/// No key is longer than this, and no value: anything else is not an archive.
const LONGEST: u32 = 64 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("reading the archive")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("this is no archive of a store")]
    Foreign,
    /// It ends before its end.
    #[error("the archive is cut off after {0} keys")]
    CutOff(u64),
    /// Bytes have changed.
    #[error("the archive is damaged: its sum or its number of keys is wrong")]
    Damaged,
    /// The store that it is written to says no.
    #[error("writing to the store")]
    Store(#[from] StoreError),
    /// There is something in the store that it would be written to.
    #[error("the store is not empty: it has {0}")]
    NotEmpty(String),
}

/// Writes the pieces.
#[derive(Default)]
struct Encoder {
    digest: Sha256,
    count: u64,
}

impl Encoder {
    fn head(&mut self, revision: Revision) -> Bytes {
        let mut out = BytesMut::from(MAGIC);
        out.put_u64_le(revision.0);
        self.sum(out)
    }

    fn page(&mut self, items: &[KeyValue]) -> Bytes {
        let mut out = BytesMut::new();
        for item in items {
            out.put_u8(KEY);
            // What a transaction may carry is far below four gigabytes.
            out.put_u32_le(u32::try_from(item.key.len()).unwrap_or(u32::MAX));
            out.put_slice(item.key.as_bytes());
            out.put_u64_le(item.create_revision.0);
            out.put_u64_le(item.mod_revision.0);
            out.put_u32_le(u32::try_from(item.value.len()).unwrap_or(u32::MAX));
            out.put_slice(&item.value);
        }
        self.count += items.len() as u64;
        self.sum(out)
    }

    fn end(mut self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(END);
        out.put_u64_le(self.count);
        self.digest.update(&out);
        out.put_slice(&self.digest.finalize());
        out.freeze()
    }

    fn sum(&mut self, piece: BytesMut) -> Bytes {
        self.digest.update(&piece);
        piece.freeze()
    }
}

/// A copy of the store as it is now, while it is in use.
pub fn stream(store: Arc<dyn Store>) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    enum Next {
        Head(Encoder),
        Page(Encoder, ListOptions),
        End(Encoder),
        Over,
    }
    stream::try_unfold((store, Next::Head(Encoder::default())), async |(store, next)| {
        Ok(match next {
            Next::Head(mut encoder) => {
                let revision = store.revision().await?;
                let options = ListOptions { revision: Some(revision), limit: PAGE, after: None };
                Some((encoder.head(revision), (store, Next::Page(encoder, options))))
            }
            Next::Page(mut encoder, mut options) => {
                let page = store.list("", &options).await?;
                let piece = encoder.page(&page.items);
                options.after = page.items.into_iter().next_back().map(|item| item.key);
                let next =
                    if page.remaining == 0 { Next::End(encoder) } else { Next::Page(encoder, options) };
                Some((piece, (store, next)))
            }
            Next::End(encoder) => Some((encoder.end(), (store, Next::Over))),
            Next::Over => None,
        })
    })
}

/// Reads an archive key by key; after the last one it has been checked to be whole.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    digest: Sha256,
    /// The revision that it shows.
    pub revision: Revision,
    /// Keys so far.
    pub count: u64,
    over: bool,
}

impl<R: Read> Archive<R> {
    /// Reads the head.
    pub fn open(reader: R) -> Result<Archive<R>, ArchiveError> {
        let mut archive =
            Archive { reader, digest: Sha256::new(), revision: Revision(0), count: 0, over: false };
        let mut magic = [0; MAGIC.len()];
        match archive.exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) | Err(ArchiveError::CutOff(_)) => return Err(ArchiveError::Foreign),
            Err(error) => return Err(error),
        }
        archive.revision = Revision(archive.number()?);
        Ok(archive)
    }

    /// Reads to the end, and says how many keys there are.
    pub fn verify(mut self) -> Result<(Revision, u64), ArchiveError> {
        self.by_ref().try_for_each(|item| item.map(drop))?;
        Ok((self.revision, self.count))
    }

    fn exact(&mut self, out: &mut [u8]) -> Result<(), ArchiveError> {
        self.reader.read_exact(out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::CutOff(self.count),
            _ => ArchiveError::Read(error),
        })?;
        self.digest.update(&*out);
        Ok(())
    }

    fn number(&mut self) -> Result<u64, ArchiveError> {
        let mut bytes = [0; 8];
        self.exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = [0; 4];
        self.exact(&mut bytes)?;
        let length = u32::from_le_bytes(bytes);
        if length > LONGEST {
            return Err(ArchiveError::Damaged);
        }
        let mut text = vec![0; length as usize];
        self.exact(&mut text)?;
        Ok(text)
    }

    fn read(&mut self) -> Result<Option<KeyValue>, ArchiveError> {
        let mut kind = [0];
        self.exact(&mut kind)?;
        match kind[0] {
            KEY => {
                let key = String::from_utf8(self.text()?).map_err(|_| ArchiveError::Damaged)?;
                let (create_revision, mod_revision) = (Revision(self.number()?), Revision(self.number()?));
                let value = self.text()?.into();
                self.count += 1;
                Ok(Some(KeyValue { key, value, create_revision, mod_revision }))
            }
            END => {
                let count = self.number()?;
                let expected = self.digest.clone().finalize();
                let mut sum = [0; 32];
                self.exact(&mut sum)?;
                if count != self.count || sum[..] != expected[..] {
                    return Err(ArchiveError::Damaged);
                }
                Ok(None)
            }
            _ => Err(ArchiveError::Damaged),
        }
    }
}

impl<R: Read> Iterator for Archive<R> {
    type Item = Result<KeyValue, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let item = self.read().transpose();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Writes what an archive holds into an empty store of any engine, with new revisions. The archive has been verified before:
/// a store that has half of it is of no use. Answers how many keys there are.
pub async fn restore(
    store: &dyn Store,
    items: impl Iterator<Item = Result<KeyValue, ArchiveError>>,
) -> Result<u64, ArchiveError> {
    let first = store.list("", &ListOptions { limit: 1, ..ListOptions::default() }).await?;
    if let Some(item) = first.items.into_iter().next() {
        return Err(ArchiveError::NotEmpty(item.key));
    }
    let (mut txn, mut bytes, mut count) = (Txn::default(), 0, 0);
    for item in items {
        let item = item?;
        let size = item.key.len() + item.value.len();
        if txn.ops.len() == WRITE_KEYS || (bytes + size > WRITE_BYTES && bytes > 0) {
            commit(store, std::mem::take(&mut txn)).await?;
            bytes = 0;
        }
        bytes += size;
        count += 1;
        txn.compare.push(Compare::Absent(item.key.clone()));
        txn.ops.push(Op::Put(item.key, item.value));
    }
    if !txn.ops.is_empty() {
        commit(store, txn).await?;
    }
    Ok(count)
}

async fn commit(store: &dyn Store, txn: Txn) -> Result<(), ArchiveError> {
    match store.commit(txn).await? {
        Committed::Done(_) => Ok(()),
        Committed::Conflict(found) => {
            let key = found.into_iter().flatten().next().map(|item| item.key);
            Err(ArchiveError::NotEmpty(key.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::embedded::{EmbeddedStore, Options};
    use crate::memory::MemoryStore;

    async fn filled(count: usize) -> Arc<dyn Store> {
        let store = MemoryStore::new();
        for n in 0..count {
            let ops = vec![Op::Put(format!("/k/{n:04}"), format!("value {n}").repeat(n % 50).into())];
            store.commit(Txn { compare: Vec::new(), ops }).await.unwrap();
        }
        store.commit(Txn { compare: Vec::new(), ops: vec![Op::Delete("/k/0003".into())] }).await.unwrap();
        Arc::new(store)
    }

    async fn archived(store: &Arc<dyn Store>) -> Vec<u8> {
        let pieces: Vec<Bytes> = stream(Arc::clone(store)).try_collect().await.unwrap();
        pieces.concat()
    }

    async fn all(store: &dyn Store) -> Vec<KeyValue> {
        store.list("", &ListOptions::default()).await.unwrap().items
    }

    #[tokio::test]
    async fn there_and_back() {
        let store = filled(700).await;
        let archive = archived(&store).await;
        assert_eq!(Archive::open(&archive[..]).unwrap().verify().unwrap(), (Revision(702), 699));
        let kept: Vec<KeyValue> = Archive::open(&archive[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(kept, all(&*store).await);

        let other = MemoryStore::new();
        assert_eq!(restore(&other, Archive::open(&archive[..]).unwrap()).await.unwrap(), 699);
        let values =
            |items: Vec<KeyValue>| items.into_iter().map(|kv| (kv.key, kv.value)).collect::<Vec<_>>();
        assert_eq!(values(all(&other).await), values(kept.clone()));
        let again = restore(&other, Archive::open(&archive[..]).unwrap()).await;
        assert!(matches!(again, Err(ArchiveError::NotEmpty(key)) if key == "/k/0000"));

        // The embedded store keeps revisions, too, and goes on after them.
        let directory = tempfile::tempdir().unwrap();
        let restored = Archive::open(&archive[..]).unwrap();
        EmbeddedStore::restore(directory.path(), restored.revision, restored).unwrap();
        let embedded = EmbeddedStore::open(directory.path(), Options::default()).unwrap();
        assert_eq!((all(&embedded).await, embedded.revision().await.unwrap()), (kept, Revision(702)));
        let put = Txn { compare: Vec::new(), ops: vec![Op::Put("/new".into(), "x".into())] };
        assert_eq!(embedded.commit(put).await.unwrap(), Committed::Done(Revision(703)));
        let restored = Archive::open(&archive[..]).unwrap();
        assert!(EmbeddedStore::restore(directory.path(), restored.revision, restored).is_err());
    }

    #[tokio::test]
    async fn damage_is_noticed() {
        let archive = archived(&filled(20).await).await;
        let verify = |bytes: &[u8]| Archive::open(bytes).and_then(Archive::verify);
        assert!(verify(&archive).is_ok());
        for cut in 0..archive.len() {
            assert!(verify(&archive[..cut]).is_err(), "cut at {cut}");
        }
        for index in (0..archive.len()).step_by(7) {
            let mut damaged = archive.clone();
            damaged[index] ^= 0x10;
            assert!(verify(&damaged).is_err(), "changed at {index}");
        }
        assert!(matches!(verify(b"PK\x03\x04"), Err(ArchiveError::Foreign)));
    }
}
