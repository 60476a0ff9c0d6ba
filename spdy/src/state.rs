//! What a session knows of its streams: who may send how much, what waits to be read and to be written. No I/O.
//!
//! One lock, held for a moment and never across an await. The three parties are the reading half of the driver, its writing half, and the
//! streams' owners.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::frame::{Frame, INITIAL_WINDOW_SIZE, status};
use crate::headers::Headers;
use crate::session::{Limits, Role};

/// What a peer may send ahead, on a stream and on the session, before anything has been said about it.
const DEFAULT_WINDOW: u32 = 64 << 10;
/// A window that grows beyond this is a mistake or an attack.
const MAX_WINDOW: i64 = i32::MAX as i64;
/// What goes into one data frame.
const CHUNK: usize = 16 << 10;
/// However many streams there are, each may have so much waiting to be sent.
const LEAST_UNSENT: usize = 4 << 10;
/// Answers that wait to be sent; then nothing more is read that could ask for another one.
const MAX_CONTROL: usize = 256;
/// What a piece of data costs beside its bytes, so that many small ones are not free.
const PIECE: usize = 64;
/// Credit is given back in pieces that are worth a frame.
const CREDIT: u32 = 32 << 10;

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    received: VecDeque<Bytes>,
    unread: usize,
    remote_closed: bool,
    reset: bool,
    reader: Option<Waker>,
    credit: u32,

    queue: VecDeque<Bytes>,
    unsent: usize,
    fin: bool,
    fin_sent: bool,
    window: i64,
    writer: Option<Waker>,
    is_ready: bool,

    replied: bool,
    opener: Option<Waker>,
    /// Its owner has gone; what is queued is still sent.
    abandoned: bool,
}

impl Flow {
    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take(), self.opener.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn can_send(&self) -> bool {
        !self.queue.is_empty() || (self.fin && !self.fin_sent)
    }

    fn is_over(&self) -> bool {
        self.abandoned && (self.reset || (self.fin_sent && self.remote_closed))
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limits: Limits,
    streams: HashMap<u32, Flow>,
    next: u32,
    newest: u32,
    control: VecDeque<Frame>,
    /// Streams with something to send, in turn.
    ready: VecDeque<u32>,
    unread: usize,

    /// The peer takes part in flow control.
    flow_control: bool,
    /// It has been told our windows.
    announced: bool,
    peer_window: u32,
    session_window: i64,
    session_credit: u32,

    going: bool,
    finishing: bool,
    said_goodbye: bool,
    ended: bool,
}

/// What becomes of a frame beyond a change of the state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// Somebody opens a stream.
    Opened(u32, Headers),
}

/// Why there is nothing to read or to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The peer has reset the stream.
    Reset,
    /// The session has ended.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There may be something to write.
    pub(crate) write: Notify,
    /// There may be room for what is read.
    pub(crate) read: Notify,
}

impl Shared {
    pub(crate) fn new(role: Role, limits: Limits) -> Self {
        let mut state = State {
            limits,
            streams: HashMap::new(),
            next: if role == Role::Client { 1 } else { 2 },
            newest: 0,
            control: VecDeque::new(),
            ready: VecDeque::new(),
            unread: 0,
            flow_control: false,
            announced: false,
            peer_window: DEFAULT_WINDOW,
            session_window: i64::from(DEFAULT_WINDOW),
            session_credit: 0,
            going: false,
            finishing: false,
            said_goodbye: false,
            ended: false,
        };
        if role == Role::Client {
            state.announce();
        }
        Self { state: Mutex::new(state), write: Notify::new(), read: Notify::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the peer how much it may send ahead.
    fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        self.control.push_back(Frame::Settings(vec![(INITIAL_WINDOW_SIZE, self.limits.window)]));
        let more = u32::try_from(self.limits.unread).unwrap_or(u32::MAX).saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            self.control.push_back(Frame::WindowUpdate { stream: 0, delta: more });
        }
    }

    fn is_ours(&self, stream: u32) -> bool {
        stream % 2 == self.next % 2
    }

    fn reset(&mut self, stream: u32, status: u32) {
        self.control.push_back(Frame::RstStream { stream, status });
    }

    /// Whether the next frame can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.unread < self.limits.unread && self.control.len() < MAX_CONTROL
    }

    /// Takes a frame of the peer.
    pub(crate) fn take(&mut self, frame: Frame) -> Effect {
        match frame {
            Frame::SynStream { stream, fin, headers } => return self.opened(stream, fin, headers),
            Frame::SynReply { stream, fin, .. } => {
                if let Some(flow) = self.streams.get_mut(&stream) {
                    flow.replied = true;
                    flow.remote_closed |= fin;
                    flow.wake();
                }
            }
            Frame::Headers { stream, fin, .. } => {
                if let Some(flow) = self.streams.get_mut(&stream).filter(|_| fin) {
                    flow.remote_closed = true;
                    flow.wake();
                }
            }
            Frame::Data { stream, fin, data } => self.received(stream, fin, data),
            Frame::RstStream { stream, .. } => self.was_reset(stream),
            Frame::Settings(settings) => {
                self.flow_control = true;
                self.announce();
                for (_, value) in settings.into_iter().filter(|(id, _)| *id == INITIAL_WINDOW_SIZE) {
                    let value = value.min(i32::MAX.cast_unsigned());
                    let change = i64::from(value) - i64::from(self.peer_window);
                    self.peer_window = value;
                    self.streams.values_mut().for_each(|flow| flow.window += change);
                }
                self.find_ready();
            }
            Frame::WindowUpdate { stream: 0, delta } => {
                self.flow_control = true;
                self.session_window = (self.session_window + i64::from(delta)).min(MAX_WINDOW);
            }
            Frame::WindowUpdate { stream, delta } => {
                self.flow_control = true;
                self.announce();
                if let Some(flow) = self.streams.get_mut(&stream) {
                    flow.window = (flow.window + i64::from(delta)).min(MAX_WINDOW);
                    self.make_ready(stream);
                }
            }
            // One's own come back by themselves.
            Frame::Ping(id) if !self.is_ours(id) => self.control.push_back(Frame::Ping(id)),
            Frame::GoAway { .. } => {
                self.going = true;
                self.streams.values_mut().filter(|flow| !flow.replied).for_each(Flow::wake);
            }
            Frame::Ping(_) | Frame::Unknown(_) => {}
        }
        Effect::None
    }

    fn opened(&mut self, stream: u32, fin: bool, headers: Headers) -> Effect {
        if self.is_ours(stream) || stream <= self.newest {
            self.reset(stream, status::PROTOCOL_ERROR);
            return Effect::None;
        }
        self.newest = stream;
        if self.streams.len() >= self.limits.streams || self.finishing {
            self.reset(stream, status::REFUSED_STREAM);
            return Effect::None;
        }
        let flow = Flow { remote_closed: fin, window: i64::from(self.peer_window), ..Flow::default() };
        self.streams.insert(stream, flow);
        Effect::Opened(stream, headers)
    }

    fn received(&mut self, stream: u32, fin: bool, data: Bytes) {
        let length = data.len();
        let held = self.flow_control && self.announced;
        let window = usize::try_from(self.limits.window).unwrap_or(usize::MAX);
        let Some(flow) = self.streams.get_mut(&stream).filter(|flow| !flow.reset && !flow.remote_closed)
        else {
            // Of a stream that is gone: nobody misses it, but it counts for the session.
            return self.consumed(None, length);
        };
        if flow.abandoned {
            flow.remote_closed |= fin;
            let over = flow.is_over();
            if over {
                self.streams.remove(&stream);
            }
            return self.consumed(None, length);
        }
        // What was sent before the peer had heard of the window counts as well: twice the window is certainly too much.
        if held && flow.unread + length > 2 * window.max(DEFAULT_WINDOW as usize) {
            flow.reset = true;
            flow.wake();
            self.reset(stream, status::FLOW_CONTROL_ERROR);
            return self.consumed(None, length);
        }
        flow.remote_closed |= fin;
        if length > 0 {
            flow.unread += length;
            flow.received.push_back(data);
            self.unread += length + PIECE;
        }
        if let Some(waker) = flow.reader.take() {
            waker.wake();
        }
    }

    fn was_reset(&mut self, stream: u32) {
        let Some(flow) = self.streams.get_mut(&stream) else { return };
        flow.reset = true;
        flow.queue.clear();
        flow.unsent = 0;
        flow.wake();
        if flow.is_over() {
            self.streams.remove(&stream);
        }
    }

    /// Gives credit back for bytes that have been read, or thrown away.
    fn consumed(&mut self, stream: Option<u32>, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.session_credit = self.session_credit.saturating_add(length);
        if let Some((stream, flow)) = stream.and_then(|id| Some((id, self.streams.get_mut(&id)?))) {
            flow.credit = flow.credit.saturating_add(length);
            let worth = CREDIT.min(self.limits.window / 2).max(1);
            if self.announced && self.flow_control && flow.credit >= worth && !flow.remote_closed {
                let delta = std::mem::take(&mut flow.credit);
                self.control.push_back(Frame::WindowUpdate { stream, delta });
            }
        }
        if self.announced && self.flow_control && self.session_credit >= CREDIT {
            let delta = std::mem::take(&mut self.session_credit);
            self.control.push_back(Frame::WindowUpdate { stream: 0, delta });
        }
    }

    // The writing half.

    /// The next frame to write, streams in turn.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        for _ in 0..self.ready.len() {
            let stream = self.ready.pop_front()?;
            let Some(flow) = self.streams.get_mut(&stream) else { continue };
            flow.is_ready = false;
            let allowed = if self.flow_control {
                let allowed = flow.window.min(self.session_window).max(0);
                usize::try_from(allowed).unwrap_or(usize::MAX).min(CHUNK)
            } else {
                CHUNK
            };
            let data = match flow.queue.front_mut() {
                // It comes back with the session's window; that of the stream makes it ready again.
                Some(_) if allowed == 0 => {
                    if flow.window > 0 {
                        flow.is_ready = true;
                        self.ready.push_back(stream);
                    }
                    continue;
                }
                Some(front) if front.len() > allowed => front.split_to(allowed),
                Some(_) => flow.queue.pop_front().unwrap_or_default(),
                None if flow.fin && !flow.fin_sent => Bytes::new(),
                None => continue,
            };
            flow.unsent -= data.len();
            let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
            flow.window -= length;
            self.session_window -= length;
            let fin = flow.fin && flow.queue.is_empty();
            flow.fin_sent |= fin;
            if let Some(waker) = flow.writer.take() {
                waker.wake();
            }
            if flow.is_over() {
                self.streams.remove(&stream);
            } else {
                self.make_ready(stream);
            }
            return Some(Frame::Data { stream, fin, data });
        }
        None
    }

    /// Whether all has been written and nothing more will come. Says goodbye once.
    pub(crate) fn goodbye(&mut self) -> Option<Frame> {
        let silent = self.control.is_empty() && !self.streams.values().any(Flow::can_send);
        if !self.finishing || self.said_goodbye || !silent {
            return None;
        }
        self.said_goodbye = true;
        Some(Frame::GoAway { last: self.newest, status: 0 })
    }

    fn make_ready(&mut self, stream: u32) {
        let Some(flow) = self.streams.get_mut(&stream) else { return };
        let blocked = self.flow_control && flow.window <= 0 && !flow.queue.is_empty();
        if flow.can_send() && !flow.is_ready && !blocked {
            flow.is_ready = true;
            self.ready.push_back(stream);
        }
    }

    fn find_ready(&mut self) {
        let streams: Vec<u32> = self.streams.keys().copied().collect();
        streams.into_iter().for_each(|stream| self.make_ready(stream));
    }

    // The streams' owners.

    /// Opens a stream; `None` if none can be opened any more.
    pub(crate) fn open(&mut self, headers: Headers) -> Option<u32> {
        if self.going || self.ended || self.finishing || self.next > i32::MAX.cast_unsigned() {
            return None;
        }
        let stream = self.next;
        self.next += 2;
        let flow = Flow { window: i64::from(self.peer_window), ..Flow::default() };
        self.streams.insert(stream, flow);
        self.control.push_back(Frame::SynStream { stream, fin: false, headers });
        Some(stream)
    }

    /// Whether an opened stream has been taken; `None` as long as nobody knows.
    pub(crate) fn poll_reply(&mut self, stream: u32, waker: &Waker) -> Option<Result<(), Gone>> {
        let (ended, going) = (self.ended, self.going);
        let Some(flow) = self.streams.get_mut(&stream) else { return Some(Err(Gone::Reset)) };
        if flow.replied {
            return Some(Ok(()));
        }
        if flow.reset {
            return Some(Err(Gone::Reset));
        }
        if ended || going {
            return Some(Err(Gone::Ended));
        }
        flow.opener = Some(waker.clone());
        None
    }

    /// Takes a stream of the peer.
    pub(crate) fn reply(&mut self, stream: u32) {
        if let Some(flow) = self.streams.get_mut(&stream)
            && !std::mem::replace(&mut flow.replied, true)
        {
            self.control.push_back(Frame::SynReply { stream, fin: false, headers: Headers::new() });
        }
    }

    /// Reads up to `most` bytes; nothing means the end; `None` as long as there is nothing.
    pub(crate) fn poll_read(
        &mut self,
        stream: u32,
        most: usize,
        waker: &Waker,
    ) -> Option<Result<Bytes, Gone>> {
        let ended = self.ended;
        let Some(flow) = self.streams.get_mut(&stream) else { return Some(Err(Gone::Ended)) };
        if let Some(front) = flow.received.front_mut() {
            let bytes = front.split_to(most.min(front.len()));
            if front.is_empty() {
                flow.received.pop_front();
                self.unread -= PIECE;
            }
            flow.unread -= bytes.len();
            self.unread -= bytes.len();
            self.consumed(Some(stream), bytes.len());
            return Some(Ok(bytes));
        }
        if flow.remote_closed {
            return Some(Ok(Bytes::new()));
        }
        if flow.reset {
            return Some(Err(Gone::Reset));
        }
        if ended {
            return Some(Err(Gone::Ended));
        }
        flow.reader = Some(waker.clone());
        None
    }

    /// Queues some of the bytes and says how many; `None` as long as there is no room.
    pub(crate) fn poll_write(
        &mut self,
        stream: u32,
        bytes: &[u8],
        waker: &Waker,
    ) -> Option<Result<usize, Gone>> {
        let fair = (self.limits.unsent / self.streams.len().max(1)).clamp(LEAST_UNSENT, 4 * CHUNK);
        let ended = self.ended;
        let Some(flow) = self.streams.get_mut(&stream) else { return Some(Err(Gone::Ended)) };
        if flow.reset || flow.fin {
            return Some(Err(Gone::Reset));
        }
        if ended {
            return Some(Err(Gone::Ended));
        }
        let room = fair.saturating_sub(flow.unsent);
        if room == 0 {
            flow.writer = Some(waker.clone());
            return None;
        }
        let taken = bytes.len().min(room).min(CHUNK);
        flow.queue.push_back(Bytes::copy_from_slice(&bytes[..taken]));
        flow.unsent += taken;
        self.make_ready(stream);
        Some(Ok(taken))
    }

    /// Whether all that was queued has been handed to the connection.
    pub(crate) fn poll_flush(&mut self, stream: u32, waker: &Waker) -> Option<Result<(), Gone>> {
        let ended = self.ended;
        let Some(flow) = self.streams.get_mut(&stream) else { return Some(Err(Gone::Ended)) };
        if flow.unsent == 0 || flow.reset {
            return Some(Ok(()));
        }
        if ended {
            return Some(Err(Gone::Ended));
        }
        flow.writer = Some(waker.clone());
        None
    }

    /// Nothing more will be written.
    pub(crate) fn close(&mut self, stream: u32) {
        if let Some(flow) = self.streams.get_mut(&stream) {
            flow.fin = true;
            self.make_ready(stream);
        }
    }

    /// The stream's owner has gone.
    pub(crate) fn abandon(&mut self, stream: u32) {
        let Some(flow) = self.streams.get_mut(&stream) else { return };
        flow.abandoned = true;
        let unread = std::mem::take(&mut flow.unread);
        self.unread -= unread + flow.received.len() * PIECE;
        flow.received.clear();
        let reset = (!flow.fin && !flow.reset).then_some(if flow.replied || flow.opener.is_some() {
            status::CANCEL
        } else {
            status::REFUSED_STREAM
        });
        if flow.is_over() || reset.is_some() || self.ended {
            self.streams.remove(&stream);
        }
        self.consumed(None, unread);
        if let Some(status) = reset.filter(|_| !self.ended) {
            self.reset(stream, status);
        }
    }

    /// No stream will be opened or taken from now on; those that are open go on.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
    }

    /// The connection is gone.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.streams.values_mut().for_each(Flow::wake);
        self.streams.retain(|_, flow| !flow.abandoned);
    }
}
