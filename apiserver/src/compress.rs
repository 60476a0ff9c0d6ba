//! Large answers are compressed for clients that accept it.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderValue, Response};

use crate::body::{Body, BodyError};

/// Below this, the time is worth more than the bytes. As upstream.
const WORTH: usize = 128 << 10;

/// Compresses the body if it is long and the client accepts gzip.
pub(crate) fn when_worth(response: Response<Body>, accepted: &str) -> Response<Body> {
    let worth = response.body().known_length().is_some_and(|length| length >= WORTH);
    if !worth || !accepts_gzip(accepted) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, compress(body))
}

fn accepts_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|clause| {
        let (coding, parameters) = clause.split_once(';').unwrap_or((clause, ""));
        let refused = matches!(parameters.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
        matches!(coding.trim(), "gzip" | "*") && !refused
    })
}

/// Compresses piece by piece, as the connection takes them.
fn compress(body: Body) -> Body {
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let state = (body.into_stream(), Some(encoder));
    Body::stream(futures_util::stream::try_unfold(state, async |(mut chunks, encoder)| {
        let Some(mut encoder) = encoder else { return Ok::<_, BodyError>(None) };
        while let Some(chunk) = chunks.next().await {
            encoder.write_all(&chunk?)?;
            if !encoder.get_ref().is_empty() {
                let out = Bytes::from(std::mem::take(encoder.get_mut()));
                return Ok(Some((out, (chunks, Some(encoder)))));
            }
        }
        Ok(Some((encoder.finish()?.into(), (chunks, None))))
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn accepted_codings() {
        for (header, expected) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
        ] {
            assert_eq!(accepts_gzip(header), expected, "{header}");
        }
    }

    #[tokio::test]
    async fn long_bodies_come_back_whole() {
        let text: String = (0..60_000).map(|n| format!("{n},")).collect();
        let chunks: Vec<Bytes> = text.as_bytes().chunks(100_000).map(Bytes::copy_from_slice).collect();
        let response = when_worth(Response::new(Body::chunks(chunks)), "gzip");
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let compressed = response.into_body().collect().await.unwrap().to_bytes();
        assert!(compressed.len() < text.len());
        let mut back = String::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        let small = when_worth(Response::new(Body::from("small".to_owned())), "gzip");
        assert!(small.headers().is_empty());
    }
}
