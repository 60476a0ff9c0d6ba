//! A container's output in CRI log format, with rotation.
//!
//! ```text
//!   2026-01-02T03:04:05.678901234Z stdout F a whole line
//!   2026-01-02T03:04:05.678901234Z stderr P the beginning of a long line, or an end without a newline
//! ```
//!
//! Nothing is lost to rotation: the file is renamed and a new one begun between two writes. A file is given up
//! only between lines, unless a line has no end. When the disk is full, what cannot be written is dropped,
//! whole lines at a time, because the alternative is to stop the container.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags};

use crate::spec::LogSpec;

/// Longer lines are written in parts, as other runtimes do and readers expect.
const MAX_LINE: usize = 16 * 1024;

/// How far a file may grow past its size while a line has not ended.
const PATIENCE: u64 = 1 << 20;

/// A log file.
#[derive(Debug)]
pub(super) struct Log {
    spec: LogSpec,
    file: Option<OwnedFd>,
    size: u64,
    /// The size at which the next rotation is tried.
    rotate_at: u64,
    /// Formatted lines that have not been written yet; empty between chunks.
    pending: Vec<u8>,
}

/// The lines of one stream.
#[derive(Debug)]
pub(super) struct Lines {
    name: &'static str,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// The last thing that was written was not the end of a line.
    open: bool,
    /// Drop the carriage return that a terminal has put before each newline.
    terminal: bool,
}

impl Log {
    /// Opens a log, and goes on with it if the file exists.
    pub(super) fn open(spec: LogSpec) -> io::Result<Self> {
        let (file, size) = open_file(&spec.path)?;
        let rotate_at = spec.max_size.max(1);
        Ok(Self { spec, file: Some(file), size, rotate_at, pending: Vec::new() })
    }

    fn line(&mut self, stream: &str, tag: u8, parts: [&[u8]; 2], now: SystemTime) {
        self.pending.extend_from_slice(&timestamp(now));
        self.pending.push(b' ');
        self.pending.extend_from_slice(stream.as_bytes());
        self.pending.extend_from_slice(&[b' ', tag, b' ']);
        self.pending.extend_from_slice(parts[0]);
        self.pending.extend_from_slice(parts[1]);
        self.pending.push(b'\n');
    }

    /// Writes what has been formatted, and rotates if it is time. `between_lines`: no stream has begun a line
    /// whose end is missing.
    fn flush(&mut self, between_lines: bool) {
        if !self.pending.is_empty() {
            self.write();
            self.pending.clear();
            // Long lines are rare, and a keeper lives long.
            self.pending.shrink_to(4096);
        }
        let overdue = self.size >= self.rotate_at.saturating_add(PATIENCE);
        if self.size >= self.rotate_at && (between_lines || overdue) {
            self.rotate();
        }
    }

    fn write(&mut self) {
        if self.file.is_none() {
            // A rotation could not open the new file; perhaps now.
            if let Ok((file, size)) = open_file(&self.spec.path) {
                (self.file, self.size) = (Some(file), size);
            }
        }
        let Some(file) = &self.file else { return };
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(file, rest)) {
                Ok(count) => rest = &rest[count..],
                Err(_) => {
                    // Half a line would spoil the next one, so the file ends where it ended.
                    let _ = rustix::fs::ftruncate(file, self.size);
                    return;
                }
            }
        }
        self.size += u64::try_from(self.pending.len()).unwrap_or(0);
    }

    fn rotate(&mut self) {
        let aside = rotated_name(&self.spec.path, SystemTime::now());
        if fs::rename(&self.spec.path, &aside).is_err() {
            // Go on with this file, and try again when it has grown by as much once more.
            self.rotate_at = self.size.saturating_add(self.spec.max_size.max(1));
            return;
        }
        self.rotate_at = self.spec.max_size.max(1);
        match open_file(&self.spec.path) {
            Ok((file, size)) => (self.file, self.size) = (Some(file), size),
            Err(_) => (self.file, self.size) = (None, 0),
        }
        remove_oldest(&self.spec.path, usize::try_from(self.spec.max_files).unwrap_or(usize::MAX));
    }
}

impl Lines {
    pub(super) fn new(name: &'static str, terminal: bool) -> Self {
        Self { name, partial: Vec::new(), open: false, terminal }
    }

    /// Takes a chunk of output as it was read.
    pub(super) fn take(&mut self, mut chunk: &[u8], log: &mut Log, others_between: bool) {
        let now = SystemTime::now();
        while !chunk.is_empty() {
            match chunk.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.grow(&chunk[..end], log, now);
                    let line = std::mem::take(&mut self.partial);
                    let bytes = match line.strip_suffix(b"\r") {
                        Some(bytes) if self.terminal => bytes,
                        _ => &line,
                    };
                    log.line(self.name, b'F', [bytes, b""], now);
                    self.open = false;
                    // The next line gets the same place, unless it would be a large one.
                    if line.capacity() <= 1024 {
                        self.partial = line;
                        self.partial.clear();
                    }
                    chunk = &chunk[end + 1..];
                    // Empty lines grow forty times longer on their way to the log.
                    if log.pending.len() >= MAX_LINE {
                        log.flush(others_between);
                    }
                }
                None => {
                    self.grow(chunk, log, now);
                    break;
                }
            }
        }
        log.flush(!self.open && others_between);
    }

    /// Adds to the unfinished line; writes what is too long of it.
    fn grow(&mut self, mut bytes: &[u8], log: &mut Log, now: SystemTime) {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let (fits, rest) = bytes.split_at(MAX_LINE - self.partial.len());
            log.line(self.name, b'P', [&self.partial, fits], now);
            self.partial.clear();
            self.open = true;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// No more output comes: an end without a newline is a part.
    pub(super) fn finish(&mut self, log: &mut Log) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            log.line(self.name, b'P', [&rest, b""], SystemTime::now());
        }
        self.open = false;
        log.flush(true);
    }

    /// No line is left without its end in the file.
    pub(super) fn between(&self) -> bool {
        !self.open
    }
}

fn open_file(path: &Path) -> io::Result<(OwnedFd, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o640))?;
    let size = rustix::fs::fstat(&file)?.st_size;
    Ok((file, u64::try_from(size).unwrap_or(0)))
}

/// `<path>.20060102-150405.123456789`: as the kubelet names them, with a fraction that keeps two rotations
/// within a second apart.
fn rotated_name(path: &Path, now: SystemTime) -> PathBuf {
    let stamp = timestamp(now);
    let digits: String = stamp
        .iter()
        .map(|byte| char::from(*byte))
        .filter_map(|c| match c {
            'T' => Some('-'),
            '0'..='9' | '.' => Some(c),
            _ => None,
        })
        .collect();
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(digits);
    PathBuf::from(name)
}

/// Removes rotated files but the newest, so that `keep` files remain with the current one.
fn remove_oldest(path: &Path, keep: usize) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let mut rotated: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|entry| {
            let suffix = entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
            suffix.is_some_and(|suffix| suffix.starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    rotated.sort_unstable();
    let spare = (rotated.len() + 1).saturating_sub(keep.max(1));
    for old in rotated.iter().take(spare) {
        let _ = fs::remove_file(directory.join(old));
    }
}

/// RFC 3339 with all nine digits, in UTC.
pub(crate) fn timestamp(now: SystemTime) -> [u8; 30] {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March put the leap day at the end; 400 of them always have the same number of days.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600);
    put(14, 2, of_day / 60 % 60);
    put(17, 2, of_day % 60);
    put(20, 9, since.subsec_nanos().into());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(directory: &Path, max_size: u64, max_files: u32) -> LogSpec {
        LogSpec { path: directory.join("0.log"), max_size, max_files }
    }

    /// The lines of a log without their timestamps.
    fn contents(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn times_are_told() {
        let at = |seconds, nanos| {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
            String::from_utf8(timestamp(time).to_vec()).unwrap()
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399, 1), "2000-02-28T23:59:59.000000001Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(at(4_102_444_800, 0), "2100-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn lines_are_found_however_chunks_fall() {
        let text = b"one\n\nthree\nfour without end";
        for step in 1..text.len() {
            let directory = tempfile::tempdir().unwrap();
            let mut log = Log::open(spec(directory.path(), 1 << 20, 2)).unwrap();
            let mut lines = Lines::new("stdout", false);
            for chunk in text.chunks(step) {
                lines.take(chunk, &mut log, true);
            }
            lines.finish(&mut log);
            let expected = ["stdout F one", "stdout F ", "stdout F three", "stdout P four without end"];
            assert_eq!(contents(&directory.path().join("0.log")), expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn long_lines_come_in_parts() {
        for (length, parts) in [(MAX_LINE, 1), (MAX_LINE + 1, 2), (3 * MAX_LINE, 3), (3 * MAX_LINE + 5, 4)] {
            let directory = tempfile::tempdir().unwrap();
            let mut log = Log::open(spec(directory.path(), 1 << 30, 2)).unwrap();
            let mut lines = Lines::new("stderr", false);
            let mut text = vec![b'x'; length];
            text.push(b'\n');
            for chunk in text.chunks(5000) {
                lines.take(chunk, &mut log, true);
            }
            let written = contents(&directory.path().join("0.log"));
            assert_eq!(written.len(), parts, "{length}");
            let (last, first) = written.split_last().unwrap();
            assert!(first.iter().all(|line| line.starts_with("stderr P ")));
            assert!(last.starts_with("stderr F "));
            let total: usize = written.iter().map(|line| line.len() - "stderr P ".len()).sum();
            assert_eq!(total, length);
        }
    }

    #[test]
    fn a_terminals_carriage_returns_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(spec(directory.path(), 1 << 20, 2)).unwrap();
        Lines::new("stdout", true).take(b"from a terminal\r\n", &mut log, true);
        Lines::new("stdout", false).take(b"from a pipe\r\n", &mut log, true);
        let text = fs::read_to_string(directory.path().join("0.log")).unwrap();
        assert!(text.contains("from a terminal\n") && text.contains("from a pipe\r\n"), "{text:?}");
    }

    #[test]
    fn rotation_loses_nothing_and_keeps_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(spec(directory.path(), 2000, 100)).unwrap();
        let mut lines = Lines::new("stdout", false);
        for number in 0..500 {
            lines.take(format!("line {number}\n").as_bytes(), &mut log, true);
        }
        let mut files: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        // `0.log` is the newest and sorts first.
        files.sort();
        files.rotate_left(1);
        assert!(files.len() > 5, "{files:?}");
        let all: Vec<String> = files.iter().flat_map(|file| contents(file)).collect();
        let expected: Vec<String> = (0..500).map(|number| format!("stdout F line {number}")).collect();
        assert_eq!(all, expected);
        for file in &files {
            assert!(fs::metadata(file).unwrap().len() < 2100);
        }

        let mut log = Log::open(spec(directory.path(), 2000, 3)).unwrap();
        for number in 0..500 {
            lines.take(format!("line {number}\n").as_bytes(), &mut log, true);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_line_is_not_torn_unless_it_has_no_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(spec(directory.path(), 1000, 100)).unwrap();
        let mut lines = Lines::new("stdout", false);
        lines.take(&[b'x'; 40_000], &mut log, true);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "waits for the end");
        lines.take(b"\n", &mut log, true);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        for _ in 0..100 {
            lines.take(&[b'x'; 16_384], &mut log, true);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "but not for ever");
    }
}
