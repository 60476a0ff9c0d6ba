//! One line of a log in CRI format: `2026-11-22T10:00:00.123456789Z stdout F the text`.

use jiff::Timestamp;

/// A line's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as it stands in the file.
    pub time: &'a str,
    /// It was written to standard error.
    pub stderr: bool,
    /// The line goes on in the next one.
    pub partial: bool,
    /// The text, without the end of the line.
    pub content: &'a [u8],
}

impl Line<'_> {
    /// When it was written.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads a line; `None` for one that is not in this format.
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is whole.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, stderr, partial, content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = parse(b"2026-11-22T10:00:00.5Z stderr F a b  c\n").unwrap();
        assert_eq!((line.stderr, line.partial, line.content), (true, false, &b"a b  c"[..]));
        assert_eq!(line.timestamp().unwrap().to_string(), "2026-11-22T10:00:00.5Z");
        let line = parse(b"2026-11-22T10:00:00Z stdout P:x half").unwrap();
        assert_eq!((line.stderr, line.partial, line.content), (false, true, &b"half"[..]));
        assert_eq!(parse(b"2026-11-22T10:00:00Z stdout F \n").unwrap().content, b"");
        assert_eq!(parse(b"2026-11-22T10:00:00Z stdout F\n").unwrap().content, b"");
        for bad in [&b""[..], b"text", b"t stdout", b"t nowhere F x", b"t stdout X x"] {
            assert_eq!(parse(bad), None);
        }
    }
}
