//! Reading tar streams from strangers.
//!
//! The `tar` crate reads the headers; the walk from header to header is here, because every part of it must be
//! bounded: names and extended headers have a longest length, and extended attributes may contain any byte.
//! Understood are ustar, pax (path, link, size, owner, time, `SCHILY.xattr`) and GNU long names. Sparse files are refused.

mod compression;

use std::io::{self, Read};

use ::tar::{EntryType, Header};
pub(crate) use compression::{Compression, decompress};

const BLOCK: usize = 512;
/// As `PATH_MAX`.
const LONGEST_PATH: usize = 4096;
/// All extended attributes of one file fit into this.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// Extended headers in a row that describe one entry.
const MOST_EXTENSIONS: usize = 8;

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It cannot be read, or ends too early.
    #[error("reading the archive")]
    Read(#[source] io::Error),
    /// A header is none.
    #[error("damaged archive at byte {offset}: {problem}")]
    Damaged {
        /// Where in the archive.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// Something is longer than it may be.
    #[error("{what} in the archive at byte {offset} is longer than {limit} bytes")]
    TooLong {
        /// Name, link or extended header.
        what: &'static str,
        /// Where in the archive.
        offset: u64,
        /// The limit.
        limit: u64,
    },
    /// It uses something that images do not.
    #[error("{path}: {what} in archives are not supported")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Symlink,
    Hardlink,
    Character,
    Block,
    Fifo,
}

/// One entry. Names are as they were written: nothing about them can be trusted.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// What extended headers say about the next entry.
#[derive(Debug, Clone, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

/// Entries one after the other; the data of the newest can be read until the next is asked for.
pub(crate) struct TarReader<R> {
    source: R,
    offset: u64,
    /// Data of the newest entry that has not been read, and the padding after it.
    data: u64,
    padding: u64,
    global: Extension,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R) -> TarReader<R> {
        TarReader { source, offset: 0, data: 0, padding: 0, global: Extension::default() }
    }

    /// The next entry, or the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extension = self.global.clone();
        for _ in 0..=MOST_EXTENSIONS {
            self.skip(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            self.check(header)?;
            let size = header.entry_size().map_err(|error| self.damaged(error))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let body = self.body(size, "an extended header", LARGEST_EXTENSION)?;
                    self.pax(&body, &mut extension)?;
                }
                EntryType::XGlobalHeader => {
                    let body = self.body(size, "an extended header", LARGEST_EXTENSION)?;
                    let mut global = std::mem::take(&mut self.global);
                    self.pax(&body, &mut global)?;
                    self.global = global.clone();
                    extension = global;
                }
                EntryType::GNULongName => extension.path = Some(self.long_name(size, "a name")?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(size, "a link")?),
                kind => return self.entry(header, kind, size, extension).map(Some),
            }
        }
        Err(self.damaged("too many extended headers for one entry"))
    }

    /// The data of the newest entry.
    pub(crate) fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// Go on after the end of the archive: padding belongs to the stream whose digest counts.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extension: Extension,
    ) -> Result<Entry, TarError> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let unsupported = |what| TarError::Unsupported { path: shown(), what };
        if extension.sparse || kind == EntryType::GNUSparse {
            return Err(unsupported("sparse files"));
        }
        let kind = match kind {
            EntryType::Directory => Kind::Directory,
            // Before directories had a type of their own.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::Regular,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            _ => return Err(unsupported("entries of an unknown type")),
        };
        let link = extension.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let link = link.unwrap_or_default();
        for (what, name) in [("a name", &path), ("a link", &link)] {
            if name.len() > LONGEST_PATH {
                return Err(TarError::TooLong { what, offset: self.offset, limit: LONGEST_PATH as u64 });
            }
        }
        let number = |extended: Option<u64>, own: io::Result<u64>| match extended {
            Some(number) => Ok(number),
            None => own.map_err(|error| self.damaged(error)),
        };
        let id = |what: &str, number: u64| match u32::try_from(number) {
            // The last one means "leave it as it is" to the kernel.
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(self.damaged(format!("{what} {number} of {}", shown()))),
        };
        let uid = id("user", number(extension.uid, header.uid())?)?;
        let gid = id("group", number(extension.gid, header.gid())?)?;
        let mtime = match extension.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(number(None, header.mtime())?).unwrap_or(i64::MAX), 0),
        };
        let device = match kind {
            Kind::Character | Kind::Block => {
                let part = |number: io::Result<Option<u32>>| number.map_err(|error| self.damaged(error));
                (part(header.device_major())?.unwrap_or(0), part(header.device_minor())?.unwrap_or(0))
            }
            _ => (0, 0),
        };
        let mode = header.mode().map_err(|error| self.damaged(error))? & 0o7777;
        // Only regular files have data; some writers give the size of the target with a hard link.
        let size = if kind == Kind::Regular { extension.size.unwrap_or(size) } else { 0 };
        self.set_data(size)?;
        Ok(Entry { path, kind, link, mode, uid, gid, mtime, size, device, xattrs: extension.xattrs })
    }

    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        // So that no sum of it can overflow.
        if size > i64::MAX.unsigned_abs() / 2 {
            return Err(self.damaged(format!("a size of {size} bytes")));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The next header, or the end: two empty blocks, one and the end of the stream, or just that.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        for _ in 0..2 {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.source.read(&mut block[filled..]) {
                    Ok(0) if filled == 0 => return Ok(None),
                    Ok(0) => return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into())),
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(TarError::Read(error)),
                }
            }
            self.offset += BLOCK as u64;
            if block.iter().any(|byte| *byte != 0) {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// The sum of all bytes, with the sum itself as blanks; some old writers added them up as signed.
    fn check(&self, header: &Header) -> Result<(), TarError> {
        let bytes = header.as_bytes();
        let wrong = || self.damaged("the checksum of a header is wrong (is this a tar archive?)");
        let expected = header.cksum().map_err(|_| wrong())?;
        let blanked = |(i, byte): (usize, &u8)| if (148..156).contains(&i) { b' ' } else { *byte };
        let unsigned: u32 = bytes.iter().enumerate().map(|byte| u32::from(blanked(byte))).sum();
        let signed: i32 = bytes.iter().enumerate().map(|byte| i32::from(blanked(byte).cast_signed())).sum();
        if expected == unsigned || i64::from(expected) == i64::from(signed) {
            return Ok(());
        }
        Err(wrong())
    }

    /// The whole data of an extended header.
    fn body(&mut self, size: u64, what: &'static str, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::TooLong { what, offset: self.offset, limit });
        }
        self.set_data(size)?;
        let mut body = Vec::new();
        self.data().read_to_end(&mut body).map_err(TarError::Read)?;
        Ok(body)
    }

    fn long_name(&mut self, size: u64, what: &'static str) -> Result<Vec<u8>, TarError> {
        let mut name = self.body(size, what, LONGEST_PATH as u64 + 1)?;
        // It ends at the first zero byte, as all names in headers do.
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// Records of `length key=value\n`, where the length counts the whole record.
    fn pax(&self, mut body: &[u8], extension: &mut Extension) -> Result<(), TarError> {
        while !body.is_empty() {
            let (record, rest) =
                split_record(body).ok_or_else(|| self.damaged("an extended header cannot be read"))?;
            body = rest;
            let Some(at) = record.iter().position(|byte| *byte == b'=') else {
                return Err(self.damaged("a record without '=' in an extended header"));
            };
            let (key, value) = (&record[..at], &record[at + 1..]);
            let number = || {
                let text = std::str::from_utf8(value).ok();
                text.and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(|| self.damaged(format!("{} is no number", String::from_utf8_lossy(key))))
            };
            match key {
                b"path" => extension.path = Some(value.to_owned()),
                b"linkpath" => extension.link = Some(value.to_owned()),
                b"size" => extension.size = Some(number()?),
                b"uid" => extension.uid = Some(number()?),
                b"gid" => extension.gid = Some(number()?),
                b"mtime" => {
                    let time = std::str::from_utf8(value).ok().and_then(timestamp);
                    extension.mtime = Some(time.ok_or_else(|| self.damaged("mtime is no time"))?);
                }
                _ if key.starts_with(b"GNU.sparse.") => extension.sparse = true,
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extension.xattrs.push((name.to_owned(), value.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        let skipped =
            io::copy(&mut (&mut self.source).take(count), &mut io::sink()).map_err(TarError::Read)?;
        self.offset += skipped;
        if skipped < count {
            return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn damaged(&self, problem: impl ToString) -> TarError {
        TarError::Damaged { offset: self.offset, problem: problem.to_string() }
    }
}

/// See [`TarReader::data`].
pub(crate) struct Data<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let longest = usize::try_from(self.0.data).unwrap_or(usize::MAX).min(buffer.len());
        if longest == 0 {
            return Ok(0);
        }
        let n = self.0.source.read(&mut buffer[..longest])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.data -= n as u64;
        self.0.offset += n as u64;
        Ok(n)
    }
}

fn split_record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = body.iter().take(8).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&body[..blank]).ok()?.parse().ok()?;
    let record = body.get(blank + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &body[length..]))
}

/// `-12.345` and the like.
fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // Nanoseconds count forward, also before 1970.
    match (seconds.starts_with('-'), nanos) {
        (true, 1..) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((whole, nanos)),
    }
}

#[cfg(test)]
mod tests;
