//! From the bytes of a question to the bytes of its answer, as far as that needs nobody else.

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

use super::zone::{Verdict, Zone};

/// The longest answer by UDP: fits into one packet on every link (DNS flag day 2020).
const UDP_MAX: usize = 1232;

/// The longest answer by UDP for those who do not say.
const UDP_PLAIN: usize = 512;

const HEADER: usize = 12;

/// How a question came, which says how long the answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Send this.
    Done(Vec<u8>),
    /// Ask the upstream servers the same.
    Forward(Question),
    /// Ask the upstream servers about the target of an alias and put the aliases before what they say.
    Chase(Question, Vec<Record>, Box<Query>),
    /// Not a question: say nothing.
    Ignore,
}

/// A question that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    id: u16,
    recursion_desired: bool,
    query: Query,
    edns: Option<Edns>,
    limit: usize,
}

impl Question {
    /// An answer with these records.
    pub(crate) fn answer(&self, code: ResponseCode, answers: Vec<Record>, rest: Rest) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.authoritative = rest.authoritative;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.answers = answers;
        message.authorities = rest.authority.into_iter().collect();
        message.additionals = rest.additionals;
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(UDP_MAX).unwrap_or(u16::MAX));
            message.set_edns(edns);
        }
        encode(message, self.limit)
    }

    /// "I could not find out."
    pub(crate) fn failure(&self) -> Vec<u8> {
        self.answer(ResponseCode::ServFail, Vec::new(), Rest::default())
    }
}

/// What goes with an answer.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// We are who says so.
    pub(crate) authoritative: bool,
    /// The zone's own record, with a "no".
    pub(crate) authority: Option<Record>,
    /// What the asker will want to know next.
    pub(crate) additionals: Vec<Record>,
}

/// Answers a question, or says whom else to ask. Never panics, whatever the bytes.
pub(crate) fn reply(zone: &Zone, bytes: &[u8], transport: Transport, turn: usize) -> Reply {
    let Some(header) = bytes.get(..HEADER) else { return Reply::Ignore };
    if header[2] & 0x80 != 0 {
        // An answer. Answering it could make two servers talk for ever.
        return Reply::Ignore;
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let id = count(0);
    let refuse = |code| {
        let opcode = OpCode::from_u8(header[2] >> 3 & 0x0f);
        Reply::Done(Message::error_msg(id, opcode, code).to_vec().unwrap_or_default())
    };
    if header[2] >> 3 & 0x0f != 0 {
        return refuse(ResponseCode::NotImp);
    }
    // Counts are checked before anything is reserved for them.
    if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 2 {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let Some(query) = message.queries.pop() else { return refuse(ResponseCode::FormErr) };
    let limit = match (transport, &message.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_PLAIN,
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload()).clamp(UDP_PLAIN, UDP_MAX),
    };
    let question = Question {
        bytes: bytes.to_vec(),
        id,
        recursion_desired: message.metadata.recursion_desired,
        query,
        edns: message.edns,
        limit,
    };
    if question.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Reply::Done(question.answer(ResponseCode::BADVERS, Vec::new(), Rest::default()));
    }
    if question.query.query_class() != DNSClass::IN
        || matches!(question.query.query_type(), RecordType::AXFR | RecordType::IXFR)
    {
        return Reply::Done(question.answer(ResponseCode::Refused, Vec::new(), Rest::default()));
    }
    let verdict = zone.ask(question.query.name(), question.query.query_type(), turn);
    let ours = |code, answers: Vec<Record>, additionals| {
        let authority = answers.is_empty().then(|| zone.authority());
        Reply::Done(question.answer(code, answers, Rest { authoritative: true, authority, additionals }))
    };
    match verdict {
        Verdict::Records { answers, additionals } => ours(ResponseCode::NoError, answers, additionals),
        Verdict::NoSuchName => ours(ResponseCode::NXDomain, Vec::new(), Vec::new()),
        Verdict::Alias { answers, target } => {
            let query = Box::new(Query::query(target, question.query.query_type()));
            Reply::Chase(question, answers, query)
        }
        Verdict::Elsewhere => Reply::Forward(question),
    }
}

/// The message's bytes, at most `limit` of them: what goes beyond is left out, extras first. When answers are
/// missing the message says that it is truncated, and the asker comes again by TCP.
fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.additionals.clear();
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    // A question alone fits into 512 bytes; an empty datagram would say nothing wrong.
    let mut best = fits(&message).unwrap_or_default();
    let (mut enough, mut too_many) = (0, answers.len());
    while too_many - enough > 1 {
        let middle = enough + (too_many - enough) / 2;
        message.answers = answers[..middle].to_vec();
        match fits(&message) {
            Some(bytes) => (enough, best) = (middle, bytes),
            None => too_many = middle,
        }
    }
    best
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
