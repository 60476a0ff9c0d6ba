//! The listening end of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{LINE, Request, Response, socket_path};

/// Connections at most; more wait. Each pod that leaves may hold one for a moment.
const CONNECTIONS: usize = 256;

/// A request, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Response>,
}

/// Listens in place of whoever did before. Appears complete: bound beside and renamed.
pub(crate) fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    let path = socket_path(run_dir);
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&beside, &path)?;
    Ok(listener)
}

/// Hands requests over and sends the answers back, for ever.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, asked).await {
                        tracing::debug!(%error, "control connection");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a control connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        if (&mut reader).take(LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_slice(&line) {
            Ok(request) => {
                let (answer, wait) = oneshot::channel();
                let handed_over = asked.send(Asked { request, answer }).await.is_ok();
                match wait.await {
                    Ok(response) if handed_over => response,
                    _ => Response::Failed("the proxy is ending".into()),
                }
            }
            Err(error) => Response::Failed(format!("understanding the request: {error}")),
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
}
