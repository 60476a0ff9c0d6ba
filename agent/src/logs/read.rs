//! Reading a container's log, from wherever was asked for to its end, and on from there if that was asked for.
//!
//! ```text
//!   0.log.20261122-100000   0.log.20261122-110000   0.log     (the last one is written to)
//!   ├───── read to the end ─┤├──── read to the end ─┤├─ read, and wait for more ─ ─ ─ ▶
//! ```
//!
//! When the log is rotated, the file that is open is renamed: it is read to its end before the new one is opened, so
//! no line is lost and none comes twice.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::line;
use crate::inotify::{WatchFlags, Watcher};

/// How much is read at once.
const CHUNK: usize = 32 << 10;
/// A line that is longer than this is not one of ours.
const MAX_LINE: usize = 1 << 20;

/// What is wanted of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on when the end is reached.
    pub follow: bool,
    /// Only so many lines before the end.
    pub tail: Option<u64>,
    /// Only lines that are not older.
    pub since: Option<Timestamp>,
    /// With the time before each line.
    pub timestamps: bool,
    /// So many bytes and no more.
    pub limit_bytes: Option<u64>,
    /// Only this stream: true for standard error.
    pub stderr: Option<bool>,
}

/// The log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Opening or reading a file.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting for changes.
    #[error("watching {path}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads the log at `path` into `output`. Ends at the end of the log, or, when following, once `ended` says that the
/// container writes no more; and when nobody reads `output` any more.
pub async fn read(
    path: PathBuf,
    query: LogQuery,
    output: mpsc::Sender<Bytes>,
    ended: CancellationToken,
) -> Result<(), LogError> {
    // The watch first: what is written after the end was reached is then heard of.
    let mut watcher = if query.follow { Some(watch(&path)?) } else { None };
    let mut reader = on_disk(path.clone(), {
        let query = query.clone();
        move |path| Reader::open(path, query)
    })
    .await?;
    loop {
        // Looked at before reading: what was written before the end is then read below.
        let over = ended.is_cancelled();
        loop {
            let (back, chunk) = on_disk(path.clone(), move |_| {
                let chunk = reader.next()?;
                Ok((reader, chunk))
            })
            .await?;
            reader = back;
            match chunk {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => {
                    if output.send(chunk).await.is_err() {
                        return Ok(());
                    }
                }
                None => break,
            }
        }
        let Some(watcher) = watcher.as_mut().filter(|_| !over && !reader.is_full()) else { return Ok(()) };
        tokio::select! {
            changes = watcher.next() => {
                changes.map_err(|source| LogError::Watch { path: path.clone(), source })?;
            }
            () = ended.cancelled() => {}
            () = output.closed() => return Ok(()),
        }
    }
}

/// Watches the directory: it tells of writes to the file as well as of its rotation.
fn watch(path: &Path) -> Result<Watcher, LogError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let failed = |source| LogError::Watch { path: dir.to_owned(), source };
    let watcher = Watcher::new().map_err(failed)?;
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
    watcher.add(dir, what).map_err(failed)?;
    Ok(watcher)
}

async fn on_disk<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let named = path.clone();
    match tokio::task::spawn_blocking(move || work(&path)).await {
        Ok(result) => result,
        Err(error) => Err(LogError::Read { path: named, source: io::Error::other(error) }),
    }
}

/// A position in a log that may consist of several files.
#[derive(Debug)]
struct Reader {
    /// The file that is written to.
    current: PathBuf,
    /// Files to be read before it.
    rotated: Vec<PathBuf>,
    file: Option<File>,
    /// The open file has been rotated, so its end is final.
    drained: bool,
    /// What was read and is not yet a whole line.
    rest: Vec<u8>,
    query: LogQuery,
    /// The line before was the first part of a longer one.
    within_line: bool,
    left: u64,
}

impl Reader {
    fn open(path: &Path, query: LogQuery) -> Result<Self, LogError> {
        let mut reader = Self {
            current: path.to_owned(),
            rotated: rotated(path)?,
            file: None,
            drained: false,
            rest: Vec::new(),
            within_line: false,
            left: query.limit_bytes.unwrap_or(u64::MAX),
            query,
        };
        if let Some(lines) = reader.query.tail {
            reader.skip_to_tail(lines)?;
        }
        Ok(reader)
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }

    /// The next part of the output; empty if there was nothing in it for the reader, `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        if self.is_full() {
            return Ok(None);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.file.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(file) = &mut self.file else { return Ok(None) };
            let length = file.read(&mut buffer).map_err(|source| self.failed(source))?;
            if length > 0 {
                self.rest.extend_from_slice(&buffer[..length]);
                return Ok(Some(self.lines()));
            }
            if self.drained {
                self.file = None;
                self.drained = false;
            } else if self.has_been_rotated()? {
                // Something may have been written between the last read and the rotation: once more, then on.
                self.drained = true;
            } else {
                return Ok(None);
            }
        }
    }

    /// Opens the next file; false if there is none.
    fn open_next(&mut self) -> Result<bool, LogError> {
        while !self.rotated.is_empty() {
            let path = self.rotated.remove(0);
            match File::open(&path) {
                Ok(file) => {
                    self.file = Some(file);
                    return Ok(true);
                }
                // It was the oldest, and has made room for a new one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::Read { path, source }),
            }
        }
        match File::open(&self.current) {
            Ok(file) => self.file = Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(self.failed(source)),
        }
        Ok(true)
    }

    /// Whether the open file is no longer the one that is written to; finds those that were written since.
    fn has_been_rotated(&mut self) -> Result<bool, LogError> {
        if !self.rotated.is_empty() {
            return Ok(true);
        }
        let Some(file) = &self.file else { return Ok(false) };
        let open = file.metadata().map_err(|source| self.failed(source))?;
        match std::fs::metadata(&self.current) {
            Ok(current) if (open.dev(), open.ino()) == (current.dev(), current.ino()) => Ok(false),
            Ok(_) => {
                let files = rotated(&self.current)?;
                let is_open = |path: &PathBuf| {
                    std::fs::metadata(path)
                        .is_ok_and(|meta| (meta.dev(), meta.ino()) == (open.dev(), open.ino()))
                };
                // One that is not there any more was older than all that are.
                let newer = files.iter().position(is_open).map_or(0, |index| index + 1);
                self.rotated = files[newer..].to_vec();
                Ok(true)
            }
            // Between the renaming and the new file, or after both: there is nothing to go on with.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.current.clone(), source }
    }

    /// Turns the whole lines that were read into output.
    fn lines(&mut self) -> Bytes {
        let mut output = Vec::new();
        let mut used = 0;
        while let Some(end) = self.rest[used..].iter().position(|byte| *byte == b'\n') {
            let raw = used..used + end + 1;
            used = raw.end;
            if self.left == 0 {
                break;
            }
            if let Some(parsed) = line::parse(&self.rest[raw]) {
                let begins = !self.within_line;
                self.within_line = parsed.partial;
                if self.query.stderr.is_some_and(|stderr| stderr != parsed.stderr) {
                    continue;
                }
                if let Some(since) = self.query.since
                    && parsed.timestamp().is_some_and(|time| time < since)
                {
                    continue;
                }
                let from = output.len();
                if self.query.timestamps && begins {
                    output.extend_from_slice(parsed.time.as_bytes());
                    output.push(b' ');
                }
                output.extend_from_slice(parsed.content);
                if !parsed.partial {
                    output.push(b'\n');
                }
                let length = (output.len() - from) as u64;
                if length > self.left {
                    output.truncate(from + usize::try_from(self.left).unwrap_or(usize::MAX));
                }
                self.left = self.left.saturating_sub(length);
            }
        }
        self.rest.drain(..used);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        output.into()
    }

    /// Begins so many lines before the end, looking into older files as far as needed.
    fn skip_to_tail(&mut self, lines: u64) -> Result<(), LogError> {
        let mut missing = lines;
        let mut files = self.rotated.clone();
        files.push(self.current.clone());
        for (index, path) in files.iter().enumerate().rev() {
            let failed = |source| LogError::Read { path: path.clone(), source };
            let mut file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            let (start, found) = tail_start(&mut file, missing).map_err(failed)?;
            if found >= missing || index == 0 {
                file.seek(SeekFrom::Start(start)).map_err(failed)?;
                self.file = Some(file);
                self.rotated = files.get(index + 1..files.len() - 1).unwrap_or_default().to_vec();
                if index == files.len() - 1 {
                    self.rotated.clear();
                }
                return Ok(());
            }
            missing -= found;
        }
        Ok(())
    }
}

/// Where the last `lines` lines of a file begin, and how many there are at most.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let end = file.metadata()?.len();
    let mut position = end;
    let mut found = 0;
    let mut buffer = vec![0; CHUNK];
    if lines == 0 {
        return Ok((end, 0));
    }
    while position > 0 {
        let length = position.min(CHUNK as u64);
        position -= length;
        file.seek(SeekFrom::Start(position))?;
        let chunk = &mut buffer[..usize::try_from(length).unwrap_or(CHUNK)];
        file.read_exact(chunk)?;
        for (index, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = position + index as u64 + 1;
            // The end of the last line begins no further one.
            if after == end {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((after, found));
            }
        }
    }
    Ok((0, found + u64::from(end > 0)))
}

/// Older files of a log, the oldest first: their names end in the time of their rotation.
fn rotated(path: &Path) -> Result<Vec<PathBuf>, LogError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(LogError::Read { path: dir.to_owned(), source }),
    };
    let prefix = format!("{name}.");
    let is_rotated = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_rotated).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    fn write(path: &Path, numbers: std::ops::Range<u32>) {
        let mut text = String::new();
        for number in numbers {
            let stream = if number % 2 == 0 { "stdout" } else { "stderr" };
            let _ = writeln!(text, "2026-11-22T10:00:{:02}.5Z {stream} F line {number}", number % 60);
        }
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn collect(path: &Path, query: LogQuery) -> String {
        let (sender, mut receiver) = mpsc::channel(4);
        let reading = tokio::spawn(read(path.to_owned(), query, sender, CancellationToken::new()));
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
        reading.await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    fn lines(numbers: impl IntoIterator<Item = u32>) -> String {
        numbers.into_iter().map(|number| format!("line {number}\n")).collect()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&dir.path().join("0.log.20261122-100000"), 0..3);
        write(&dir.path().join("0.log.20261122-110000"), 3..6);
        write(&path, 6..10);
        write(&dir.path().join("1.log"), 50..55);
        let query = LogQuery::default;
        let check = async |query: LogQuery, expected: String| {
            assert_eq!(collect(&path, query.clone()).await, expected, "{query:?}");
        };
        check(query(), lines(0..10)).await;
        check(LogQuery { tail: Some(2), ..query() }, lines(8..10)).await;
        check(LogQuery { tail: Some(4), ..query() }, lines(6..10)).await;
        check(LogQuery { tail: Some(5), ..query() }, lines(5..10)).await;
        check(LogQuery { tail: Some(9), ..query() }, lines(1..10)).await;
        check(LogQuery { tail: Some(0), ..query() }, String::new()).await;
        check(LogQuery { tail: Some(100), ..query() }, lines(0..10)).await;
        let since = "2026-11-22T10:00:04Z".parse().ok();
        check(LogQuery { since, ..query() }, lines(4..10)).await;
        check(LogQuery { tail: Some(9), since, ..query() }, lines(4..10)).await;
        check(LogQuery { stderr: Some(true), ..query() }, lines([1, 3, 5, 7, 9])).await;
        check(LogQuery { limit_bytes: Some(10), ..query() }, "line 0\nlin".to_owned()).await;
        let timed = "2026-11-22T10:00:09.5Z line 9\n".to_owned();
        check(LogQuery { timestamps: true, tail: Some(1), ..query() }, timed).await;
        assert_eq!(collect(&dir.path().join("7.log"), query()).await, "", "a log that is not there is empty");
    }

    #[tokio::test]
    async fn long_lines_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-11-22T10:00:00Z stdout P one,\n2026-11-22T10:00:01Z stdout F two\n")
            .unwrap();
        assert_eq!(collect(&path, LogQuery::default()).await, "one,two\n");
        let query = LogQuery { timestamps: true, ..LogQuery::default() };
        assert_eq!(collect(&path, query).await, "2026-11-22T10:00:00Z one,two\n");
    }

    #[tokio::test]
    async fn following_goes_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, 0..2);
        let (sender, mut receiver) = mpsc::channel(64);
        let ended = CancellationToken::new();
        let query = LogQuery { follow: true, tail: Some(1), ..LogQuery::default() };
        let reading = tokio::spawn(read(path.clone(), query, sender, ended.clone()));
        let mut text = Vec::new();
        let mut until = async |last: u32| {
            let wanted = format!("line {last}\n");
            while !text.ends_with(wanted.as_bytes()) {
                let chunk = tokio::time::timeout(Duration::from_secs(2), receiver.recv()).await;
                text.extend_from_slice(&chunk.expect("a line in time").expect("the log goes on"));
            }
            text.clone()
        };
        until(1).await;
        for round in 0..5 {
            let first = 2 + round * 20;
            write(&path, first..first + 10);
            std::fs::rename(&path, dir.path().join(format!("0.log.2026-{round}"))).unwrap();
            write(&path, first + 10..first + 20);
            until(first + 19).await;
        }
        // Several at once, with lines in each.
        for round in 0..3 {
            write(&path, 102 + round..103 + round);
            std::fs::rename(&path, dir.path().join(format!("0.log.2026-8{round}"))).unwrap();
        }
        write(&path, 105..106);
        let found = until(105).await;
        assert_eq!(String::from_utf8(found).unwrap(), lines(1..106));
        write(&path, 106..107);
        ended.cancel();
        until(106).await;
        assert!(receiver.recv().await.is_none(), "the log ends with its container");
        reading.await.unwrap().unwrap();
    }
}
