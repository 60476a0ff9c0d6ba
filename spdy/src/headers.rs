//! Header blocks: names and values, compressed with a dictionary that both sides know.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The dictionary of section 2.6.10.1 of the draft.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// A block does not become larger than this.
pub(crate) const MAX_BLOCK: usize = 64 << 10;
/// Nor has it more headers.
const MAX_HEADERS: usize = 256;
/// Several values of one name have this between them.
const SEPARATOR: char = '\0';

/// Names in lower case with their values, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first value of a name, which is looked for in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(have, _)| have.eq_ignore_ascii_case(name))?;
        Some(value.split(SEPARATOR).next().unwrap_or_default())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A block that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It could not be decompressed.
    #[error("the header block is not compressed as it should be")]
    Compression,
    /// It is too large.
    #[error("the header block is larger than {MAX_BLOCK} bytes or has more than {MAX_HEADERS} headers")]
    TooLarge,
    /// It ends before it should, or has more than it says.
    #[error("the header block is not as long as it says")]
    Length,
    /// A name or value is not text.
    #[error("a header is not UTF-8")]
    Text,
}

/// Compresses the blocks of one direction, in order.
pub(crate) struct Compressor(Compress);

impl Compressor {
    pub(crate) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(DICTIONARY)
            .expect("a dictionary is taken by a compressor that has not begun");
        Self(compress)
    }

    /// Appends the compressed block.
    pub(crate) fn write(&mut self, headers: &Headers, output: &mut Vec<u8>) {
        let mut plain = Vec::new();
        put_length(&mut plain, headers.0.len());
        for (name, value) in &headers.0 {
            put_length(&mut plain, name.len());
            plain.extend_from_slice(name.as_bytes());
            put_length(&mut plain, value.len());
            plain.extend_from_slice(value.as_bytes());
        }
        let mut rest = plain.as_slice();
        loop {
            output.reserve(rest.len() / 2 + 64);
            let before = self.0.total_in();
            let status = self
                .0
                .compress_vec(rest, output, FlushCompress::Sync)
                .expect("compressing in memory does not fail");
            rest = &rest[usize::try_from(self.0.total_in() - before).unwrap_or(rest.len())..];
            // Room that is left over says that all has been flushed.
            if rest.is_empty() && (output.len() < output.capacity() || status == Status::BufError) {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Compressor")
    }
}

/// Decompresses the blocks of one direction, in order.
pub(crate) struct Decompressor {
    inflate: Decompress,
    began: bool,
}

impl Decompressor {
    pub(crate) fn new() -> Self {
        Self { inflate: Decompress::new(true), began: false }
    }

    /// Reads a whole block.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let plain = self.inflate(block)?;
        parse(&plain)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity((block.len() * 4).clamp(256, MAX_BLOCK));
        let mut rest = block;
        loop {
            let (consumed, written) = (self.inflate.total_in(), plain.len());
            let step = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest = &rest[usize::try_from(self.inflate.total_in() - consumed).unwrap_or(rest.len())..];
            match step {
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                Ok(_) => {}
                // The first block asks for the dictionary once.
                Err(error) if error.needs_dictionary().is_some() && !self.began => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| HeaderError::Compression)?;
                    self.began = true;
                    continue;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
            let full = plain.len() == plain.capacity();
            if rest.is_empty() && !full {
                return Ok(plain);
            }
            if full {
                if plain.len() >= MAX_BLOCK {
                    return Err(HeaderError::TooLarge);
                }
                plain.reserve(plain.len());
            } else if plain.len() == written && !rest.is_empty() {
                // Neither input nor room is missing, and nothing moves.
                return Err(HeaderError::Compression);
            }
        }
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Decompressor")
    }
}

fn put_length(output: &mut Vec<u8>, length: usize) {
    output.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// Reads a decompressed block.
fn parse(mut plain: &[u8]) -> Result<Headers, HeaderError> {
    let count = take_length(&mut plain)?;
    if count > MAX_HEADERS {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = take_text(&mut plain)?.to_ascii_lowercase();
        headers.push((name, take_text(&mut plain)?));
    }
    if plain.is_empty() { Ok(Headers(headers)) } else { Err(HeaderError::Length) }
}

fn take_length(plain: &mut &[u8]) -> Result<usize, HeaderError> {
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
    *plain = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| HeaderError::Length)
}

fn take_text(plain: &mut &[u8]) -> Result<String, HeaderError> {
    let length = take_length(plain)?;
    let (text, rest) = plain.split_at_checked(length).ok_or(HeaderError::Length)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_as_they_went_in() {
        let (mut compress, mut decompress) = (Compressor::new(), Decompressor::new());
        let long = "x".repeat(30_000);
        for headers in [
            Headers::new().with("streamType", "error").with("port", "80"),
            Headers::new(),
            Headers::new().with("streamtype", "data").with("requestID", long),
            Headers::new().with("streamType", "error").with("port", "80"),
        ] {
            let mut block = Vec::new();
            compress.write(&headers, &mut block);
            assert_eq!(decompress.read(&block), Ok(headers));
        }
    }

    #[test]
    fn the_dictionary_is_the_one_that_everybody_has() {
        // A zlib stream names its dictionary by this checksum, after two bytes of header.
        let mut block = Vec::new();
        Compressor::new().write(&Headers::new(), &mut block);
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn what_expands_without_end_is_refused() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(64 << 10);
        compress.compress_vec(&vec![0; 16 << 20], &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Decompressor::new().read(&block), Err(HeaderError::TooLarge));
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(parse(&[0, 0, 0]), Err(HeaderError::Length));
        assert_eq!(parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1]), Err(HeaderError::Length));
        assert_eq!(parse(&[0xff; 4]), Err(HeaderError::TooLarge));
        assert_eq!(parse(&[0, 0, 0, 0, 1]), Err(HeaderError::Length));
    }

    #[test]
    fn names_are_found_in_any_case() {
        let headers = Headers::new().with("streamType", "error\0data");
        assert_eq!(headers.get("StreamType"), Some("error"));
        assert_eq!(headers.get("port"), None);
    }
}
