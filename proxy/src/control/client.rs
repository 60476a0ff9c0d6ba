//! Speaking to a running proxy.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{LINE, Pong, Request, Response, socket_path};

/// Patience with an answer. The proxy answers within milliseconds, or it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a running proxy.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// The proxy could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("connecting to the proxy")]
    Connect(#[source] io::Error),
    /// The conversation broke.
    #[error("talking to the proxy")]
    Talk(#[source] io::Error),
    /// It does not answer.
    #[error("the proxy did not answer within {PATIENCE:?}")]
    Silent,
    /// Its answer makes no sense.
    #[error("understanding the proxy's answer")]
    Decode(#[source] serde_json::Error),
    /// It answered something else.
    #[error("the proxy answered {answer:?}")]
    Unexpected {
        /// What.
        answer: Response,
    },
}

impl Control {
    /// Connects to the proxy of this run directory.
    pub async fn connect(run_dir: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(socket_path(run_dir)).await.map_err(ControlError::Connect)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer })
    }

    /// Who is it?
    pub async fn ping(&mut self) -> Result<Pong, ControlError> {
        match self.ask(&Request::Ping).await? {
            Response::Pong(pong) => Ok(pong),
            answer => Err(ControlError::Unexpected { answer }),
        }
    }

    /// Takes a pod out of the table. When this returns, no new connection goes to it, and it has answered those that it
    /// has.
    pub async fn leaving(&mut self, pod_uid: &str, addresses: &[IpAddr]) -> Result<(), ControlError> {
        self.done(&Request::Leaving { pod_uid: pod_uid.to_owned(), addresses: addresses.to_vec() }).await
    }

    /// Counters, in Prometheus' text format.
    pub async fn metrics(&mut self) -> Result<String, ControlError> {
        match self.ask(&Request::Metrics).await? {
            Response::Metrics(text) => Ok(text),
            answer => Err(ControlError::Unexpected { answer }),
        }
    }

    /// Makes it close its listeners; it ends when its last connection has ended, or after `drain`.
    pub async fn step_aside(&mut self, drain: Duration) -> Result<(), ControlError> {
        self.done(&Request::StepAside { drain_seconds: drain.as_secs() }).await
    }

    /// Resolves when the proxy has ended.
    pub async fn ended(mut self) {
        // It never speaks unasked, so whatever this returns, the connection is over.
        let _ = self.reader.read_u8().await;
    }

    async fn done(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.ask(request).await? {
            Response::Done => Ok(()),
            answer => Err(ControlError::Unexpected { answer }),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Response, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(ControlError::Decode)?;
        line.push(b'\n');
        let answer = async {
            self.writer.write_all(&line).await?;
            let mut answer = Vec::new();
            (&mut self.reader).take(LINE).read_until(b'\n', &mut answer).await?;
            Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| ControlError::Silent)?
            .map_err(ControlError::Talk)?;
        if answer.is_empty() {
            return Err(ControlError::Talk(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&answer).map_err(ControlError::Decode)
    }
}
