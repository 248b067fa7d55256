//! One HTTP/2 connection: any number of callers, one task, one write for what they send together.
//!
//! ```
//! # async fn example(socket: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
//! use bytes::Bytes;
//! use http_body_util::Empty;
//! use mesh_http::conn::{Http2Options, h2};
//!
//! let (mut sender, driver) = h2::handshake(socket, &Http2Options::default()).await?;
//! tokio::spawn(driver);
//! let request = http::Request::get("http://reviews/v1/7").body(Empty::<Bytes>::new())?;
//! let response = sender.send(request).await?;
//! # Ok(()) }
//! ```
//!
//! # The peer's limit of streams
//!
//! A request beyond what the peer permits waits inside hyper, ahead of all later ones, and cannot be had back. Callers
//! that hold a [`Claim`] for each request, and send by [`Sender::send_claimed`] what streams, do not come to that, but where a
//! peer has ended responses and leaves the last of their requests, which h2 holds, without a window.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop;

use self::upload::{Upload, Uploading};
use super::error::{BoxError, Error, SendError};
use super::io::{Cork, Corked, Failed, Look, cork};
use super::options::Http2Options;
use super::task::{MAIN, Spawner, Tasks};

mod upload;

/// Futures polled in one poll of the driver. tokio's own budget usually ends a poll first; this one holds where it does
/// not apply, and for bodies that are always ready.
const POLLS: usize = 512;

/// What RFC 9113 (6.9.1) allows; h2 panics beyond it.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Prepares a connection over `io`. Nothing is written until the driver runs: the preface leaves together with the
/// first requests. Whether the peer speaks HTTP/2 shows only in its first answer.
///
/// # Errors
///
/// None today: hyper's signature allows for a transport that fails while the preface is written, and here that is in
/// memory.
pub async fn handshake<IO, B>(io: IO, options: &Http2Options) -> Result<(Sender<B>, Driver<IO, B>), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let tasks = Tasks::new();
    let (corked, cork) = cork(io);
    let (requests, dispatch) =
        builder(tasks.spawner(), options).handshake(corked).await.map_err(|error| Error::classify(error, false))?;

    let figures = Arc::new(Figures::new(options, tasks.spawner()));
    let driver = Driver {
        dispatch: Some(dispatch),
        tasks,
        cork,
        heard: false,
        answered: false,
        figures: Arc::clone(&figures),
        outcome: Ok(()),
    };
    Ok((Sender { requests, figures }, driver))
}

/// Sends requests. Clones share the connection; when the last is dropped, the driver ends after the calls in flight.
pub struct Sender<B> {
    requests: http2::SendRequest<Uploading<B>>,
    figures: Arc<Figures>,
}

/// Does the work of a connection. Spawn it: nothing moves otherwise.
///
/// It ends well when all senders are gone, or the peer said GOAWAY without blame, and every stream has ended. It ends
/// with the error of the connection otherwise; the calls in flight have heard of it then. Dropping it closes the
/// socket.
#[must_use = "futures do nothing unless polled"]
pub struct Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    /// hyper's connection future, which opens streams for requests. Gone once it takes no more.
    dispatch: Option<http2::Connection<Corked<IO>, Uploading<B>, Spawner>>,
    /// What it spawned: the mover of bytes, and the streams.
    tasks: Tasks,
    cork: Cork<IO>,
    /// Whether the peer has said anything yet.
    heard: bool,
    /// Whether a call, or a body, ended in this poll and since the last [`survey`](Self::survey).
    answered: bool,
    figures: Arc<Figures>,
    /// What `dispatch` ended with, told once the streams have ended too.
    outcome: Result<(), Error>,
}

/// One of the streams that the peer permits, taken until dropped: hold it until the response body has ended, and was dropped.
///
/// Where the request was [sent with it](Sender::send_claimed), dropping it also ends what is still sent of the request, and
/// the stream counts until that has happened.
#[derive(Debug)]
pub struct Claim {
    figures: Arc<Figures>,
    ordinal: usize,
    /// What holds the stream too, and frees it.
    upload: Option<Arc<Upload>>,
}

/// What is known about a connection from outside its task.
#[derive(Debug)]
struct Figures {
    phase: AtomicU8,
    claimed: AtomicUsize,
    permitted: AtomicUsize,
    /// Whether there is more room than before, and the driver has yet to say so.
    has_room: AtomicBool,
    /// What is permitted on this side.
    most: usize,
    spawner: Spawner,
}

/// The life of a connection; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    /// New requests are taken.
    Open,
    /// Streams finish; new requests come back.
    Draining,
    /// The driver has ended by itself.
    Finished,
    /// The driver was dropped before that.
    Dropped,
}

fn builder(spawner: Spawner, options: &Http2Options) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.stream_window.min(MAX_WINDOW))
        .initial_connection_window_size(options.connection_window.min(MAX_WINDOW))
        .max_header_list_size(options.max_header_list)
        .initial_max_send_streams(options.initial_streams)
        .max_send_buf_size(options.send_buffer as usize);
    if options.adaptive_window {
        builder.adaptive_window(true);
    }
    if let Some(keep_alive) = options.keep_alive {
        builder
            .keep_alive_interval(keep_alive.interval)
            .keep_alive_timeout(keep_alive.timeout)
            .keep_alive_while_idle(keep_alive.while_idle);
    }
    builder
}

// === impl Sender ===

impl<B> Sender<B> {
    /// Whether new requests are taken, as far as is known. The peer may have closed a moment ago.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.figures.phase() == Phase::Open && !self.requests.is_closed()
    }

    /// Whether streams still finish while new requests are no longer taken: the peer said GOAWAY.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.figures.phase() == Phase::Draining
    }

    /// Whether the connection is gone, and its driver with it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.figures.phase() >= Phase::Finished
    }

    /// Streams claimed at this moment.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.figures.claimed.load(Ordering::Relaxed)
    }

    /// Streams that may be open at once: the peer's SETTINGS_MAX_CONCURRENT_STREAMS, or
    /// [`initial_streams`](Http2Options::initial_streams) before it has spoken, and at most
    /// [`max_streams`](Http2Options::max_streams).
    #[must_use]
    pub fn max_streams(&self) -> usize {
        self.figures.permitted.load(Ordering::Relaxed)
    }

    /// Takes one of the streams that the peer permits, or none when all are taken or the connection is no longer open.
    ///
    /// Claims are in one order with all sequentially consistent operations: who announces that it waits and then finds
    /// no claim is seen by whoever drops one next.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        if !self.is_open() {
            return None;
        }
        let permitted = self.max_streams();
        self.figures
            .claimed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |claimed| (claimed < permitted).then_some(claimed + 1))
            .ok()
            .map(|before| Claim { figures: Arc::clone(&self.figures), ordinal: before + 1, upload: None })
    }
}

impl<B: Body + Unpin + 'static> Sender<B> {
    /// Hands a request to the connection, at once, and returns the future of its response.
    ///
    /// Dropping that future, or the response's body, resets the stream with CANCEL, or takes the request back if it was
    /// still waiting. A request whose body is still being sent when its response has begun goes on by itself: see
    /// [`send_claimed`](Self::send_claimed).
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`](super::ErrorKind). A request that had not left comes back with the error.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> + use<B> {
        self.start(request.map(|body| Uploading::new(body, None)))
    }

    /// As [`send`](Self::send), for a body that may still be sent when its response has begun. That ends when `claim`, which
    /// is this sender's and for this request, is dropped: drop the response's body first, and the stream is reset with
    /// CANCEL. It costs an allocation.
    ///
    /// # Errors
    ///
    /// As of [`send`](Self::send).
    pub fn send_claimed(
        &mut self,
        request: Request<B>,
        claim: &mut Claim,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> + use<B> {
        let Claim { figures, upload, .. } = claim;
        let upload = upload.get_or_insert_with(|| Upload::new(Arc::clone(figures))).clone();
        self.start(request.map(|body| Uploading::new(body, Some(upload))))
    }

    fn start(
        &mut self,
        request: Request<Uploading<B>>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> + use<B> {
        let figures = Arc::clone(&self.figures);
        let response = self.requests.try_send_request(request);
        async move {
            let response = response.await;
            response.map_err(|failed| {
                let error = SendError::new(failed, figures.is_abandoned()).map_body(Uploading::into_inner);
                if error.is_about_connection() {
                    figures.advance(Phase::Draining);
                }
                error
            })
        }
    }
}

impl<B> Clone for Sender<B> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), figures: Arc::clone(&self.figures) }
    }
}

impl<B> fmt::Debug for Sender<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("figures", &self.figures).finish()
    }
}

// === impl Driver ===

/// What a pass over the ready futures came to.
enum Pass {
    Idle,
    OutOfBudget,
}

impl<IO, B> Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    /// Whether the peer has said anything yet, which for a peer that speaks HTTP/2 is its SETTINGS: how many streams it
    /// permits is known from then on.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.heard
    }

    /// As [`Sender::is_open`], for who must not hold a sender.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.figures.phase() == Phase::Open
    }

    /// Whether more streams can be had than when this was last asked, other than by dropping a [`Claim`]: the peer permits
    /// more, or a request that had outlived its response has ended.
    pub(crate) fn take_room(&self) -> bool {
        let has_room = &self.figures.has_room;
        has_room.load(Ordering::Relaxed) && has_room.swap(false, Ordering::AcqRel)
    }

    fn poll_ready_futures(&mut self, budget: &mut usize) -> Pass {
        while let Some(slot) = self.tasks.next_ready() {
            if slot == MAIN {
                self.poll_dispatch();
            } else {
                self.answered |= self.tasks.poll(slot).is_ready();
            }
            *budget = budget.saturating_sub(1);
            if *budget == 0 || !coop::has_budget_remaining() {
                return Pass::OutOfBudget;
            }
        }
        Pass::Idle
    }

    fn poll_dispatch(&mut self) {
        let Some(dispatch) = &mut self.dispatch else { return };
        let mut cx = Context::from_waker(self.tasks.main_waker());
        if let Poll::Ready(ended) = Pin::new(dispatch).poll(&mut cx) {
            self.outcome = ended.map_err(|error| Error::classify(error, false));
            // First, so that a request that hyper gives back on being dropped finds the connection no longer open.
            self.figures.advance(Phase::Draining);
            self.dispatch = None;
        }
    }

    /// Looks for what the peer may have said to the whole connection, of which hyper tells nobody: a new limit of
    /// streams, and GOAWAY, which the dispatcher finds only when it is polled: that would be for the next request.
    ///
    /// Polling it after each read would cost 3% of a unary call. So a read after which a call ended is taken to have
    /// said no more. Should a GOAWAY come in the same read, and nothing after it, the next request finds out and comes
    /// back.
    fn survey(&mut self) {
        if !std::mem::take(&mut self.answered) {
            self.poll_dispatch();
        }
        if let Some(dispatch) = &self.dispatch {
            self.figures.permit(dispatch.current_max_send_streams());
        }
    }

    /// Sends what was gathered. If the socket takes only a part, its waker is the driver's: the next poll flushes
    /// again.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(Failed)) = self.cork.poll_flush(cx) {
            self.tasks.wake_all();
        }
    }

    fn finish(&mut self) -> Poll<Result<(), Error>> {
        self.figures.advance(Phase::Finished);
        self.dispatch = None;
        self.tasks.clear();
        Poll::Ready(std::mem::replace(&mut self.outcome, Ok(())))
    }
}

impl<IO, B> Future for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut budget = POLLS;
        this.answered = false;
        this.tasks.run(cx);
        loop {
            if let Pass::OutOfBudget = this.poll_ready_futures(&mut budget) {
                // What is gathered must not wait for the other tasks of this thread.
                this.flush(cx);
                this.tasks.pause();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match this.cork.look() {
                Look::Released => return this.finish(),
                Look::Heard => {
                    this.survey();
                    this.heard = true;
                    continue;
                }
                Look::Quiet => {}
            }
            this.flush(cx);
            if this.tasks.rest() {
                return Poll::Pending;
            }
        }
    }
}

impl<IO, B> Drop for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn drop(&mut self) {
        if self.figures.phase() != Phase::Finished {
            self.figures.advance(Phase::Dropped);
        }
    }
}

impl<IO, B> fmt::Debug for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("figures", &self.figures).finish_non_exhaustive()
    }
}

// === impl Claim ===

impl Claim {
    /// How many streams were claimed once this one was.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match &self.upload {
            Some(upload) => upload.stop(),
            None => self.figures.release(),
        }
    }
}

// === impl Figures ===

impl Figures {
    fn new(options: &Http2Options, spawner: Spawner) -> Self {
        let most = options.max_streams.max(1);
        Self {
            most,
            spawner,
            has_room: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Open as u8),
            claimed: AtomicUsize::new(0),
            permitted: AtomicUsize::new(options.initial_streams.min(most)),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Draining,
            2 => Phase::Finished,
            _ => Phase::Dropped,
        }
    }

    fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The peer permits so many.
    fn permit(&self, streams: usize) {
        let streams = streams.min(self.most);
        // Read before written: this line is shared with every caller, and the limit hardly ever changes.
        let before = self.permitted.load(Ordering::Relaxed);
        if before != streams {
            self.permitted.store(streams, Ordering::Relaxed);
            self.note_room();
        }
    }

    /// A stream that was claimed is free.
    fn release(&self) {
        self.claimed.fetch_sub(1, Ordering::SeqCst);
    }

    fn note_room(&self) {
        self.has_room.store(true, Ordering::Release);
    }

    /// Whether a call that hyper dropped without a word fell victim to the connection's end.
    fn is_abandoned(&self) -> bool {
        self.phase() != Phase::Open
    }
}
