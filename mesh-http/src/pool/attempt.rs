//! The one task of a connection: it connects, then drives, and keeps the connection's time.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use mesh_core::config::HttpProtocol;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::{
    connection::{Connection, Line, Pulse, Rest},
    context::{PoolContext, Span},
    error::ConnectError,
    overhear::{Overheard, TlsEnd},
    shared::{Shared, Slot, Version},
};
use crate::{
    conn::{self, h1, h2},
    connect::{Stream, connect_any},
    tls::PeerName,
};

/// A connection to be. Dropping it before it has come to an end tells those who wait for it.
pub(super) struct Attempt<B> {
    shared: Arc<Shared<B>>,
    context: Arc<PoolContext>,
    id: u64,
    lane: u64,
    name: Option<PeerName>,
    slot: Option<Slot<B>>,
    tls_end: TlsEnd,
    is_over: bool,
}

/// What a request body must be.
pub(super) type BoxError = mesh_core::outcome::BoxError;

/// A driver of either version.
enum Driver<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    H1(Box<h1::Driver<Stream, B>>),
    H2(Box<h2::Driver<Stream, B>>),
}

/// What a driver sees of its connection, and when it looks at the clock.
struct Watch<B> {
    connection: Weak<Connection<B>>,
    shared: Arc<Shared<B>>,
    lane: u64,
    pulse: Arc<Pulse>,
    /// When the connection is to be retired for its age.
    expires: Option<Instant>,
    idle: Option<Idle>,
    /// Streams that the peer permits, as last seen.
    max_streams: usize,
    is_open: bool,
}

/// Finds out that nothing was sent for a time without a clock reading per request: it looks eight times in that time, and
/// so notices up to an eighth later.
struct Idle {
    tick: Duration,
    next: Instant,
    uses: u32,
    was_idle: bool,
    quiet: u32,
}

const TICKS: u32 = 8;

// === impl Attempt ===

impl<B> Attempt<B> {
    pub(super) fn new(
        shared: Arc<Shared<B>>,
        context: Arc<PoolContext>,
        (id, lane): (u64, u64),
        name: Option<PeerName>,
        slot: Slot<B>,
    ) -> Self {
        Self { shared, context, id, lane, name, slot: Some(slot), tls_end: TlsEnd::default(), is_over: false }
    }

    fn fail(&mut self, error: &ConnectError) {
        self.is_over = true;
        // The room that it took may be somebody else's by the time that they are told.
        self.slot = None;
        self.shared.not_opened(self.lane, error);
    }
}

impl<B> Drop for Attempt<B> {
    fn drop(&mut self) {
        if !self.is_over {
            self.fail(&ConnectError::Cancelled);
        }
    }
}

impl<B> Attempt<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    /// Spawns it.
    pub(super) fn launch(self) {
        let spawn = self.context.spawn.clone();
        spawn.spawn(Box::pin(self.run()));
    }

    async fn run(mut self) {
        let limit = self.context.connect_timeout;
        let connected = timeout(limit, self.connect()).await.unwrap_or(Err(ConnectError::Elapsed(limit)));
        let (line, driver) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let error = self.tls_end.get().cloned().map_or(error, ConnectError::Tls);
                tracing::debug!(endpoint.addr = ?self.shared.addresses.first(), %error, "no connection");
                return self.fail(&error);
            }
        };
        let slot = self.slot.take();
        let watch = self.open(line, &driver);
        drop(self);
        watch.drive(driver).await;
        drop(slot);
    }

    async fn connect(&self) -> Result<(Line<B>, Driver<B>), ConnectError> {
        let io = connect_any(&self.context.connector, &self.shared.addresses).await;
        let io = io.map_err(|error| ConnectError::Io(Arc::new(error)))?;
        let (io, version) = self.encrypt(io).await?;
        match version {
            Version::H1 => {
                let (sender, driver) = h1::handshake(io, &self.context.http1).await.map_err(http)?;
                let mut driver = Driver::H1(Box::new(driver));
                begin(&mut driver, |_| sender.is_ready()).await?;
                Ok((Line::H1(sender.into()), driver))
            }
            Version::H2 => {
                let (sender, driver) = h2::handshake(io, &self.context.http2).await.map_err(http)?;
                let mut driver = Driver::H2(Box::new(driver));
                begin(&mut driver, Driver::has_heard).await?;
                Ok((Line::H2(sender), driver))
            }
        }
    }

    /// Shakes hands where TLS is configured, and finds out what to speak.
    async fn encrypt(&self, io: Stream) -> Result<(Stream, Version), ConnectError> {
        let protocol = self.context.protocol;
        let (Some(tls), Some(name)) = (&self.context.tls, &self.name) else {
            let version = if protocol == HttpProtocol::Http2 { Version::H2 } else { Version::H1 };
            return Ok((io, version));
        };
        let stream = tls.connect(io, name).await.map_err(ConnectError::Tls)?;
        let version = choose(protocol, stream.alpn())?;
        Ok((Box::new(Overheard::new(stream, self.tls_end.clone())), version))
    }

    /// Makes the connection known.
    fn open(&mut self, line: Line<B>, driver: &Driver<B>) -> Watch<B> {
        let place = (self.id, self.lane);
        let tls_end = self.tls_end.clone();
        let connection = Arc::new(Connection::new(place, self.shared.clone(), line, tls_end, &self.context));
        self.is_over = true;
        self.shared.opened(&connection);
        Watch::new(&connection, self.context.span(self.id), driver)
    }
}

fn http(error: conn::Error) -> ConnectError {
    ConnectError::Http(Arc::new(error))
}

/// Which HTTP to speak with a peer that chose `alpn`. One that ignores ALPN is taken to speak what is configured.
fn choose(protocol: HttpProtocol, alpn: Option<&[u8]>) -> Result<Version, ConnectError> {
    let refuse = |alpn: &[u8]| Err(ConnectError::Alpn(String::from_utf8_lossy(alpn).into()));
    match (protocol, alpn) {
        (HttpProtocol::Http2, Some(chosen @ (b"http/1.1" | b"http/1.0"))) => refuse(chosen),
        (HttpProtocol::Http2, _) | (HttpProtocol::Auto, Some(b"h2")) => Ok(Version::H2),
        (HttpProtocol::Http1, Some(chosen @ b"h2")) => refuse(chosen),
        _ => Ok(Version::H1),
    }
}

/// Drives a new connection until it takes requests. One of HTTP/1 does at once. One of HTTP/2 is given time for the peer's
/// first frame: only then is it certain that somebody is there who speaks HTTP/2, and known how many streams it permits.
async fn begin<B>(driver: &mut Driver<B>, is_ready: impl Fn(&Driver<B>) -> bool) -> Result<(), ConnectError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    poll_fn(|cx| match driver.poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(http(error))),
        Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::Io(Arc::new(io::ErrorKind::UnexpectedEof.into())))),
        Poll::Pending if is_ready(driver) => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

// === impl Driver ===

impl<B> Driver<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), conn::Error>> {
        match self {
            Self::H1(driver) => Pin::new(driver).poll(cx),
            Self::H2(driver) => Pin::new(driver).poll(cx),
        }
    }

    fn has_heard(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(driver) => driver.has_heard(),
        }
    }

    fn max_streams(&self) -> usize {
        match self {
            Self::H1(_) => 1,
            Self::H2(driver) => driver.max_streams(),
        }
    }
}

// === impl Watch ===

impl<B> Watch<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn new(connection: &Arc<Connection<B>>, span: Span, driver: &Driver<B>) -> Self {
        let now = Instant::now();
        let idle = |limit: Duration| {
            let tick = limit / TICKS;
            Idle { tick, next: now + tick, uses: 0, was_idle: true, quiet: 0 }
        };
        Self {
            connection: Arc::downgrade(connection),
            shared: connection.shared.clone(),
            lane: connection.lane,
            pulse: connection.pulse.clone(),
            expires: span.age.and_then(|age| now.checked_add(age)),
            idle: span.idle.map(idle),
            max_streams: driver.max_streams(),
            is_open: true,
        }
    }

    /// Runs the connection to its end.
    async fn drive(mut self, mut driver: Driver<B>) {
        let mut timer = pin!(self.next_look().map(sleep_until));
        let ended = poll_fn(|cx| {
            if let Driver::H1(_) = driver {
                self.pulse.driver.register(cx.waker());
            }
            self.poll_timer(timer.as_mut(), cx);
            let polled = driver.poll(cx);
            self.look(&driver);
            polled
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(endpoint.addr = ?self.shared.addresses.first(), %error, "connection ended");
        }
    }

    /// Passes on what the driver alone can know.
    fn look(&mut self, driver: &Driver<B>) {
        match driver {
            Driver::H1(_) if self.pulse.rest() == Rest::No => {}
            Driver::H1(_) => self.with_connection(|connection| connection.shared.look_at_rest(connection)),
            Driver::H2(driver) => {
                if self.is_open && !driver.is_open() {
                    self.is_open = false;
                    self.with_connection(|connection| connection.shared.retire_connection(connection));
                }
                let before = std::mem::replace(&mut self.max_streams, driver.max_streams());
                if self.max_streams > before {
                    self.shared.stream_ended(self.lane);
                }
            }
        }
    }

    fn with_connection(&self, act: impl FnOnce(&Arc<Connection<B>>)) {
        if let Some(connection) = self.connection.upgrade() {
            act(&connection);
        }
    }

    fn poll_timer(&mut self, mut timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) {
        while let Some(sleep) = timer.as_mut().as_pin_mut()
            && sleep.poll(cx).is_ready()
        {
            self.look_at_clock(Instant::now());
            timer.set(self.next_look().map(sleep_until));
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let idle = self.idle.as_ref().map(|idle| idle.next);
        self.expires.into_iter().chain(idle).min()
    }

    fn look_at_clock(&mut self, now: Instant) {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.expires = None;
            self.with_connection(|connection| connection.shared.retire_connection(connection));
        }
        let Some(idle) = self.idle.as_mut().filter(|idle| idle.next <= now) else { return };
        let Some(connection) = self.connection.upgrade() else {
            // It was let go of and ends by itself. A look that is due and never done would be due again at once.
            self.idle = None;
            return;
        };
        let uses = self.pulse.uses.load(Ordering::Relaxed);
        if idle.is_over(uses, self.shared.is_idle(&connection), now) {
            self.shared.retire_connection(&connection);
        }
    }
}

impl<B> Drop for Watch<B> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            self.shared.retire_connection(&connection);
        }
    }
}

// === impl Idle ===

impl Idle {
    /// Whether there was nothing for the whole time.
    fn is_over(&mut self, uses: u32, is_idle: bool, now: Instant) -> bool {
        let was_idle = std::mem::replace(&mut self.was_idle, is_idle);
        let is_quiet = was_idle && is_idle && uses == self.uses;
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        self.uses = uses;
        self.next = now + self.tick;
        self.quiet >= TICKS
    }
}
