//! Asking the host's resolvers what is not ours to know.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::reply::Transport;
use super::resolv_conf::ResolvConf;

/// Questions under way at most; more fail at once.
const IN_FLIGHT: usize = 256;

/// Patience with one server. Two rounds over one server, or one over more, stay within the five seconds
/// that clients usually have.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

const HEADER: usize = 12;

/// The way to the upstream servers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    servers: Mutex<ResolvConf>,
    /// The server that answered last is asked first.
    first: AtomicUsize,
    in_flight: Semaphore,
    /// Identifiers that outsiders cannot guess: a keyed hash of a counter.
    key: RandomState,
    counter: AtomicU64,
}

/// Nobody could be asked, or nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("too many questions under way")]
    TooMany,
    #[error("no upstream name server")]
    NoServer,
    #[error("asking {server}")]
    Server {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl Forwarder {
    pub(crate) fn new(servers: ResolvConf) -> Self {
        Self {
            servers: Mutex::new(servers),
            first: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            key: RandomState::new(),
            counter: AtomicU64::new(0),
        }
    }

    /// What the servers say to this question, with the question's own identifier.
    pub(crate) async fn ask(&self, question: &[u8], transport: Transport) -> Result<Vec<u8>, ForwardError> {
        let _permit = self.in_flight.try_acquire().map_err(|_| ForwardError::TooMany)?;
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner).servers();
        if servers.is_empty() {
            return Err(ForwardError::NoServer);
        }
        let first = self.first.load(Ordering::Relaxed);
        let mut last = ForwardError::NoServer;
        for attempt in 0..ATTEMPTS.max(servers.len().min(ATTEMPTS)) {
            let index = (first + attempt) % servers.len();
            match self.ask_one(servers[index], question, transport).await {
                Ok(answer) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(source) => last = ForwardError::Server { server: servers[index], source },
            }
        }
        Err(last)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        question: &[u8],
        transport: Transport,
    ) -> io::Result<Vec<u8>> {
        let mut question = question.to_vec();
        let original = [question[0], question[1]];
        let hash = self.key.hash_one(self.counter.fetch_add(1, Ordering::Relaxed)).to_ne_bytes();
        question[..2].copy_from_slice(&hash[..2]);
        let answer = match transport {
            Transport::Udp => timeout(PATIENCE, over_udp(server, &question)).await,
            Transport::Tcp => timeout(PATIENCE, over_tcp(server, &question)).await,
        };
        let mut answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        answer[..2].copy_from_slice(&original);
        Ok(answer)
    }
}

/// A socket of its own per question: the kernel gives each a port at random and lets through only what comes from the
/// server, so who wants to slip in an answer has to guess port and identifier.
async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(question, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answers(question, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Is this an answer to that question? The question is repeated in it, bit for bit (capital letters included, which
/// some clients choose at random for this very purpose).
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(question) else { return false };
    answer.len() >= HEADER
        && answer[..2] == question[..2]
        && answer[2] & 0x80 != 0
        && (answer.get(HEADER..end) == question.get(HEADER..end)
            // A refusal may leave the question out.
            || (answer[4..6] == [0, 0] && answer[3] & 0x0f != 0))
}

/// Where the (only) question ends.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 5).filter(|end| *end <= message.len()),
            length if length < 64 => at += 1 + length,
            // Nothing before it that a question could point to.
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(id: u8, flags: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, id, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
        bytes
    }

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let question = message(7, 1, b"Example");
        let check = |answer: &[u8], expected| assert_eq!(answers(&question, answer), expected, "{answer:?}");
        check(&message(7, 0x81, b"Example"), true);
        check(&message(8, 0x81, b"Example"), false);
        check(&message(7, 0x01, b"Example"), false);
        check(&message(7, 0x81, b"example"), false);
        check(&message(7, 0x81, b"Exampl"), false);
        check(&[0, 7, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0], true); // refused, without the question
        check(&[0, 7, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0], false);
        check(&[0, 7], false);
        let mut longer = message(7, 0x81, b"Example");
        longer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]);
        check(&longer, true);
    }

    proptest! {
        #[test]
        fn strange_bytes_are_no_answer_and_no_panic(
            question in prop::collection::vec(any::<u8>(), 0..64),
            answer in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = answers(&question, &answer);
        }
    }
}
