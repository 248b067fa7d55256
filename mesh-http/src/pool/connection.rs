//! One connection as its pool sees it, and the use of it by one request.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use futures_util::task::AtomicWaker;
use http::Request;
use mesh_core::outcome::Failed;

use super::{
    context::PoolContext,
    overhear::TlsEnd,
    target::{self, HostCache, Undo},
};
use crate::conn::{h1, h2};

/// A connection that is open. Its sender lives in it, so the driver ends once nobody holds it: neither the pool nor a
/// request.
pub(super) struct Connection<B> {
    pub(super) id: u64,
    /// The number of its lane.
    pub(super) lane: u64,
    home: Arc<dyn Home<B>>,
    pub(super) sender: Sender<B>,
    pub(super) pulse: Arc<Pulse>,
    host: HostCache,
    is_secure: bool,
    pub(super) tls_end: TlsEnd,
    /// Requests that it may carry in all.
    pub(super) max_requests: Option<u32>,
    /// It takes nothing new.
    retired: AtomicBool,
}

/// Whom a connection belongs to, and who is told when a use of it has ended. Its pool; a trait, so that connections need not
/// know what a pool is.
pub(super) trait Home<B>: Send + Sync {
    /// An HTTP/1 connection has carried a response to its end.
    fn give_back(self: Arc<Self>, connection: Arc<Connection<B>>);

    /// A connection takes nothing new from now on. What it carries finishes.
    fn retire_connection(self: Arc<Self>, connection: &Arc<Connection<B>>);

    /// Whether requests wait. In one order with the claims of streams.
    fn is_awaited(&self) -> bool;

    /// A stream of this lane can be had.
    fn stream_freed(self: Arc<Self>, lane: u64);
}

/// A sender of either version.
pub(super) enum Sender<B> {
    H1(Mutex<h1::Sender<B>>),
    H2(h2::Sender<B>),
}

/// What a connection and its driver know of each other. The driver must not hold the connection, or it would never end.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests that it was given.
    pub(super) uses: AtomicU32,
    /// Whether its response, of HTTP/1, has been read, and the driver is to say whether it can take another request. Written
    /// under the pool's lock, read by the driver without it.
    is_resting: AtomicBool,
    /// To have the driver polled.
    pub(super) driver: AtomicWaker,
}

/// A connection for one request. Dropped before it was used, it goes back; later, its call is given up.
pub(super) struct Lease<B> {
    /// Taken when the lease ends.
    connection: Option<Arc<Connection<B>>>,
    claim: Option<h2::Claim>,
    is_used: bool,
    is_first: bool,
}

/// A connection in use until a response has ended; whoever holds it need not know the type of requests.
pub(super) struct Occupied {
    /// Taken when it ends.
    connection: Option<Arc<dyn Release>>,
    claim: Option<h2::Claim>,
}

/// Takes back what a request has used.
pub(super) trait Release: Send + Sync {
    /// The request has ended, whole or not.
    fn release(self: Arc<Self>, is_whole: bool);
}

// === impl Connection ===

impl<B> Connection<B> {
    pub(super) fn new(
        (id, lane): (u64, u64),
        home: Arc<dyn Home<B>>,
        sender: Sender<B>,
        tls_end: TlsEnd,
        context: &PoolContext,
    ) -> Self {
        Self {
            id,
            lane,
            home,
            sender,
            pulse: Arc::default(),
            host: HostCache::default(),
            is_secure: context.tls.is_some(),
            tls_end,
            max_requests: context.max_requests,
            retired: AtomicBool::new(false),
        }
    }

    /// Gives `request` the form that goes over this connection.
    pub(super) fn shape<T>(&self, request: &mut Request<T>) -> Result<Undo, Failed> {
        match &self.sender {
            Sender::H1(_) => target::to_http1(request, &self.host),
            Sender::H2(_) => target::to_http2(request, self.is_secure),
        }
    }

    pub(super) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(_))
    }

    /// Whether it takes new requests, as far as is known.
    pub(super) fn is_usable(&self) -> bool {
        let is_open = match &self.sender {
            Sender::H1(sender) => !lock(sender).is_closed(),
            Sender::H2(sender) => sender.is_open(),
        };
        is_open && !self.is_retired() && !self.is_spent()
    }

    fn is_spent(&self) -> bool {
        self.max_requests.is_some_and(|max| self.pulse.uses.load(Ordering::Relaxed) >= max)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Streams in flight, of HTTP/2.
    pub(super) fn streams(&self) -> usize {
        match &self.sender {
            Sender::H1(_) => 0,
            Sender::H2(sender) => sender.in_flight(),
        }
    }

    pub(super) fn max_streams(&self) -> usize {
        match &self.sender {
            Sender::H1(_) => 1,
            Sender::H2(sender) => sender.max_streams(),
        }
    }

    pub(super) fn is_h1_ready(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => lock(sender).is_ready(),
            Sender::H2(_) => false,
        }
    }

    /// A stream of HTTP/2 for one request, if there is one.
    pub(super) fn lease_stream(self: &Arc<Self>) -> Option<Lease<B>> {
        match &self.sender {
            Sender::H2(sender) if !self.is_retired() => {
                let claim = sender.claim()?;
                self.count_use().map(|uses| Lease::new(self.clone(), Some(claim), uses))
            }
            _ => None,
        }
    }

    /// An idle connection of HTTP/1 for one request, unless it is at its end.
    pub(super) fn lease_whole(self: Arc<Self>) -> Option<Lease<B>> {
        if !self.is_h1_ready() || self.is_retired() {
            return None;
        }
        self.count_use().map(|uses| Lease::new(self, None, uses))
    }

    /// Counts a use, and says how many that makes; none when it has had all that it may.
    fn count_use(&self) -> Option<u32> {
        let uses = &self.pulse.uses;
        let before = match self.max_requests {
            None => uses.fetch_add(1, Ordering::Relaxed),
            Some(max) => {
                uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |uses| (uses < max).then_some(uses + 1)).ok()?
            }
        };
        Some(before.wrapping_add(1))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Send + 'static> Release for Connection<B> {
    fn release(self: Arc<Self>, is_whole: bool) {
        self.give_up(is_whole);
    }
}

impl<B> Connection<B> {
    fn give_up(self: Arc<Self>, is_clean: bool) {
        match &self.sender {
            // Its last use went to somebody who did not take it.
            Sender::H2(_) if self.is_spent() => self.retire_at_home(),
            Sender::H2(_) if self.home.is_awaited() => self.home.clone().stream_freed(self.lane),
            Sender::H2(_) => {}
            Sender::H1(_) if is_clean => self.home.clone().give_back(self),
            Sender::H1(_) => {
                self.retire_at_home();
                self.let_go();
            }
        }
    }

    /// Has the driver look whether it is still wanted. hyper would not, while a request is being sent.
    pub(super) fn let_go(self: Arc<Self>) {
        let pulse = self.pulse.clone();
        drop(self);
        pulse.driver.wake();
    }

    /// Takes nothing new from now on.
    pub(super) fn retire_at_home(self: &Arc<Self>) {
        self.home.clone().retire_connection(self);
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("is_h2", &self.is_h2()).finish_non_exhaustive()
    }
}

// === impl Pulse ===

impl Pulse {
    /// In one order with the `want` of hyper's, which is sequentially consistent too: a driver that says it is ready and
    /// then looks here, and a caller who writes here and then asks whether it is ready, do not miss each other.
    pub(super) fn is_resting(&self) -> bool {
        self.is_resting.load(Ordering::SeqCst)
    }

    pub(super) fn set_resting(&self, is_resting: bool) {
        self.is_resting.store(is_resting, Ordering::SeqCst);
    }
}

// === impl Lease ===

impl<B> Lease<B> {
    fn new(connection: Arc<Connection<B>>, claim: Option<h2::Claim>, uses: u32) -> Self {
        Self { connection: Some(connection), claim, is_used: false, is_first: uses == 1 }
    }

    /// Whether the connection had carried nothing before.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    pub(super) fn connection(&self) -> &Arc<Connection<B>> {
        self.connection.as_ref().expect("it is taken only when the lease ends")
    }

    /// The connection, from now on in use, and the claim to its stream where it has such.
    pub(super) fn start(&mut self) -> (&Arc<Connection<B>>, Option<&mut h2::Claim>) {
        let connection = self.connection.as_ref().expect("it is taken only when the lease ends");
        if !self.is_used && connection.is_spent() {
            connection.retire_at_home();
        }
        self.is_used = true;
        (connection, self.claim.as_mut())
    }

    /// Whether as many streams are claimed as `shared` should know of, to open another connection in time.
    pub(super) fn crosses_mark(&self) -> bool {
        let (Some(connection), Some(claim)) = (&self.connection, &self.claim) else { return false };
        claim.ordinal() == mark(connection.max_streams())
    }
}

/// The number of streams in flight from which on another connection is opened: nine tenths of what the peer permits.
pub(super) fn mark(max_streams: usize) -> usize {
    (max_streams - max_streams / 10).max(1)
}

impl<B: Send + 'static> Lease<B> {
    /// Passes the connection on to the response.
    pub(super) fn occupy(&mut self) -> Occupied {
        let connection = self.connection.take().map(|connection| connection as Arc<dyn Release>);
        Occupied { connection, claim: self.claim.take() }
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        // First, so that whoever is told of a free stream finds it free.
        drop(self.claim.take());
        if let Some(connection) = self.connection.take() {
            connection.give_up(!self.is_used);
        }
    }
}

// === impl Occupied ===

impl Occupied {
    /// Whether it is a stream of a connection, and not all of one.
    pub(super) fn is_stream(&self) -> bool {
        self.claim.is_some()
    }

    /// The response is whole.
    pub(super) fn finish(mut self) {
        self.end(true);
    }

    fn end(&mut self, is_whole: bool) {
        // As in `Lease`: the claim first.
        drop(self.claim.take());
        if let Some(connection) = self.connection.take() {
            connection.release(is_whole);
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl fmt::Debug for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Occupied").field("claim", &self.claim).finish_non_exhaustive()
    }
}
