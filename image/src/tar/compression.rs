//! How a stream is compressed, seen from its first bytes: media types and file names lie.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// The larger the window, the more memory a stranger's archive can make us use: 32 MiB. (`zstd -19` needs 8 MiB.)
const LARGEST_ZSTD_WINDOW: u32 = 25;

/// What a stream is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or a skippable frame, with which some writers begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// The plain stream.
pub(crate) fn decompress<'a>(mut source: impl Read + 'a) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match source.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let compression = Compression::of(&start[..filled]);
    let source = Cursor::new(start).take(filled as u64).chain(source);
    let source = BufReader::with_capacity(128 << 10, source);
    Ok((
        compression,
        match compression {
            Compression::None => Box::new(source),
            Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source)?;
                decoder.window_log_max(LARGEST_ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        },
    ))
}
