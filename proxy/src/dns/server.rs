//! The sockets of the DNS server.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::reply::{Question, Reply, Rest, Transport, reply};
use super::zone::Zone;
use crate::data::Metrics;

/// Connections at most; more wait in the queue.
const CONNECTIONS: usize = 128;

/// A connection without a question ends after this.
const IDLE: Duration = Duration::from_secs(10);

/// Forwarded questions whose answers are being waited for, at most. More are dropped: their clients ask again.
const WAITING: usize = 512;

/// The DNS server.
#[derive(Debug)]
pub(crate) struct Server {
    zone: RwLock<Arc<Zone>>,
    forwarder: Forwarder,
    metrics: Arc<Metrics>,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn new(zone: Zone, forwarder: Forwarder, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            zone: RwLock::new(Arc::new(zone)),
            forwarder,
            metrics,
            turn: AtomicUsize::new(0),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// From now on answers come from this.
    pub(crate) fn swap(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    /// Answers datagrams for ever.
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "receiving a DNS question");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            match self.reply(&buffer[..length], Transport::Udp) {
                Reply::Done(answer) => send(&socket, &answer, from),
                Reply::Ignore => {}
                asks_others => {
                    let Ok(permit) = self.waiting.clone().try_acquire_owned() else { continue };
                    let (server, socket) = (self.clone(), socket.clone());
                    tokio::spawn(async move {
                        let answer = server.ask_others(asks_others, Transport::Udp).await;
                        send(&socket, &answer, from);
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Answers on connections for ever.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let limit = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = limit.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let _ = server.converse(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting a DNS connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut question = vec![0; timeout(IDLE, stream.read_u16()).await??.into()];
            timeout(IDLE, stream.read_exact(&mut question)).await??;
            let answer = match self.reply(&question, Transport::Tcp) {
                Reply::Done(answer) => answer,
                Reply::Ignore => return Ok(()),
                asks_others => self.ask_others(asks_others, Transport::Tcp).await,
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn reply(&self, bytes: &[u8], transport: Transport) -> Reply {
        self.metrics.dns_queries.add(1);
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner).clone();
        reply(&zone, bytes, transport, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    async fn ask_others(&self, what: Reply, transport: Transport) -> Vec<u8> {
        self.metrics.dns_forwarded.add(1);
        let (question, answer) = match what {
            Reply::Forward(question) => {
                let answer = self.forwarder.ask(&question.bytes, transport).await;
                (question, answer)
            }
            Reply::Chase(question, answers, query) => {
                let answer = self.chase(&question, answers, *query).await;
                (question, answer)
            }
            Reply::Done(answer) => return answer,
            Reply::Ignore => return Vec::new(),
        };
        answer.unwrap_or_else(|error| {
            self.metrics.dns_failed.add(1);
            tracing::debug!(%error, "asking upstream name servers");
            question.failure()
        })
    }

    /// Asks about an alias's target by TCP, so that nothing is cut off, and puts the alias before the answer.
    async fn chase(
        &self,
        question: &Question,
        mut answers: Vec<hickory_proto::rr::Record>,
        query: Query,
    ) -> Result<Vec<u8>, super::forward::ForwardError> {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(query);
        let bytes = message.to_vec().unwrap_or_default();
        let found = match self.forwarder.ask(&bytes, Transport::Udp).await? {
            cut_off if cut_off[2] & 0x02 != 0 => self.forwarder.ask(&bytes, Transport::Tcp).await?,
            whole => whole,
        };
        let Ok(found) = Message::from_vec(&found) else { return Ok(question.failure()) };
        let code = found.metadata.response_code;
        answers.extend(found.answers);
        let authority = found.authorities.into_iter().next().filter(|_| code != ResponseCode::NoError);
        let rest = Rest { authority, ..Rest::default() };
        Ok(question.answer(code, answers, rest))
    }
}

/// A client whose buffers are full asks again.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if !answer.is_empty() {
        let _ = socket.try_send_to(answer, to);
    }
}
