//! One layer from the registry to the disk.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::client::{ATTEMPTS, Session, pause};
use super::{Progress, PullError, blob_path, blocking};
use crate::store::blobs::Unfinished;
use crate::store::documents::Blob;
use crate::store::{ImageStore, StoreError};

/// Pieces on the way from the network to the disk. When the disk is slower, the network waits.
const IN_FLIGHT: usize = 16;

/// What the writer of the file gets.
enum Piece {
    Data(Bytes),
    /// The registry cannot go on in the middle.
    Restart,
}

/// Fetch a layer unless it is here.
pub(super) async fn layer(
    store: &Arc<ImageStore>,
    session: &Session,
    layer: &Blob,
    progress: &Progress,
) -> Result<(), PullError> {
    let (for_lock, blob) = (Arc::clone(store), *layer);
    // Somebody else may be fetching the same layer: wait for them, then it is here.
    let lock = blocking(move || for_lock.working_on(&blob.digest.hex())).await?;
    if store.has_blob(layer) {
        progress.forward(layer.size);
        return Ok(());
    }
    let unfinished = store.new_blob()?;
    let (pieces, incoming) = mpsc::channel(IN_FLIGHT);
    let writer = tokio::task::spawn_blocking(move || write(unfinished, incoming));
    let fetched = fetch(session, layer, &pieces, progress).await;
    drop(pieces);
    let stopped = |_| PullError::Stopped { reference: session.reference().to_owned() };
    let written = writer.await.map_err(stopped)?;
    // If the disk failed, the writer knows why.
    let (unfinished, ()) = (written?, fetched?);
    let (store, blob) = (Arc::clone(store), *layer);
    blocking(move || {
        let _lock = lock;
        store.finish_blob(unfinished, Some(&blob))
    })
    .await?;
    Ok(())
}

fn write(mut file: Unfinished, mut incoming: mpsc::Receiver<Piece>) -> Result<Unfinished, StoreError> {
    while let Some(piece) = incoming.blocking_recv() {
        let outcome = match piece {
            Piece::Data(bytes) => file.write_all(&bytes),
            Piece::Restart => file.restart(),
        };
        if let Err(source) = outcome {
            return Err(StoreError::Io { step: "writing", path: file.path().to_owned(), source });
        }
    }
    Ok(file)
}

/// Send the whole layer to the writer, going on where it was when a link breaks.
async fn fetch(
    session: &Session,
    layer: &Blob,
    pieces: &mpsc::Sender<Piece>,
    progress: &Progress,
) -> Result<(), PullError> {
    let path = blob_path(&layer.digest);
    // Only getting further than ever before counts as progress: what begins again and again must end.
    let (mut have, mut furthest, mut attempts) = (0, 0, 0);
    while have < layer.size || layer.size == 0 {
        let mut response = session.get(&path, "", have).await?;
        match response.status() {
            StatusCode::OK if have == 0 => {}
            StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => {}
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                // Not from where we are: all of it again, counted as an attempt so that it ends.
                progress.back(have);
                have = 0;
                if pieces.send(Piece::Restart).await.is_err() {
                    return Ok(());
                }
                attempts += 1;
                if response.status() != StatusCode::OK {
                    if attempts == ATTEMPTS {
                        return Err(session.unwelcome(response).await);
                    }
                    continue;
                }
            }
            _ => return Err(session.unwelcome(response).await),
        }
        let broken = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let length = chunk.len() as u64;
                    if have + length > layer.size {
                        return Err(
                            session.protocol(format!("layer {} is larger than announced", layer.digest))
                        );
                    }
                    if pieces.send(Piece::Data(chunk)).await.is_err() {
                        // The disk has failed; the writer says how.
                        return Ok(());
                    }
                    have += length;
                    progress.forward(length);
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if have == layer.size {
            return Ok(());
        }
        attempts = if have > furthest { 1 } else { attempts + 1 };
        furthest = furthest.max(have);
        if attempts >= ATTEMPTS {
            return Err(match broken {
                Some(error) => session.broken(&format!("layer {}", layer.digest), attempts, error),
                None => session.protocol(format!(
                    "layer {} has {} bytes, but it sends {have}",
                    layer.digest, layer.size
                )),
            });
        }
        tokio::time::sleep(pause(attempts)).await;
    }
    Ok(())
}

/// `Content-Range: bytes 1000-1999/2000`
fn starts_at(response: &Response, position: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start =
        range.and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    start == Some(position)
}
