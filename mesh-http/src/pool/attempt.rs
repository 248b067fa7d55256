//! The one task of a connection: it connects, then drives, and keeps the connection's time.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use mesh_core::{config::HttpProtocol, outcome::BoxError};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::{
    connection::{Connection, Home, Line, Pulse, Rest},
    context::Span,
    error::ConnectError,
    overhear::{Overheard, TlsEnd},
    shared::{Opening, Shared, Slot},
    state::Version,
};
use crate::{
    conn::{self, h1, h2},
    connect::{Stream, connect_any},
};

/// Makes the connection that `opening` asks for, on a task of its own.
pub(super) fn launch<B>(opening: Opening<B>)
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let spawn = opening.context.spawn.clone();
    spawn.spawn(Box::pin(Attempt { opening, tls_end: TlsEnd::default() }.run()));
}

/// A connection that is being opened.
struct Attempt<B> {
    opening: Opening<B>,
    tls_end: TlsEnd,
}

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

/// The timer of a connection. It is asked when it has gone off and not at each poll, of which a request takes several: the
/// waker that was left with it stays there.
#[pin_project]
struct Alarm {
    /// None where the connection may live for ever.
    #[pin]
    sleep: Option<Sleep>,
    /// The waker that was left with `sleep`.
    wakes: Option<Waker>,
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

impl<B> Attempt<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    async fn run(mut self) {
        let limit = self.opening.context.connect_timeout;
        let connected = timeout(limit, self.connect()).await.unwrap_or(Err(ConnectError::Elapsed(limit)));
        let (line, driver) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let error = self.tls_end.get().cloned().map_or(error, ConnectError::Tls);
                tracing::debug!(endpoint.addr = ?self.opening.shared.addresses.first(), %error, "no connection");
                return self.opening.fail(&error);
            }
        };
        let (watch, slot) = self.open(line, &driver);
        watch.drive(driver).await;
        drop(slot);
    }

    async fn connect(&self) -> Result<(Line<B>, Driver<B>), ConnectError> {
        let Opening { context, shared, .. } = &self.opening;
        let io = connect_any(&context.connector, &shared.addresses).await;
        let io = io.map_err(|error| ConnectError::Io(Arc::new(error)))?;
        let (io, version) = self.encrypt(io).await?;
        match version {
            Version::H1 => {
                let (sender, driver) = h1::handshake(io, &context.http1).await.map_err(http)?;
                let mut driver = Driver::H1(Box::new(driver));
                begin(&mut driver, |_| sender.is_ready()).await?;
                Ok((Line::H1(sender.into()), driver))
            }
            Version::H2 => {
                let (sender, driver) = h2::handshake(io, &context.http2).await.map_err(http)?;
                let mut driver = Driver::H2(Box::new(driver));
                begin(&mut driver, Driver::has_heard).await?;
                Ok((Line::H2(sender), driver))
            }
        }
    }

    /// Shakes hands where TLS is configured, and finds out what to speak.
    async fn encrypt(&self, io: Stream) -> Result<(Stream, Version), ConnectError> {
        let Opening { context, name, .. } = &self.opening;
        let protocol = context.protocol;
        let (Some(Ok(tls)), Some(name)) = (&context.tls, name) else {
            let version = if protocol == HttpProtocol::Http2 { Version::H2 } else { Version::H1 };
            return Ok((io, version));
        };
        let stream = tls.connect(io, name).await.map_err(ConnectError::Tls)?;
        let version = choose(protocol, stream.alpn())?;
        Ok((Box::new(Overheard::new(stream, self.tls_end.clone())), version))
    }

    /// Makes the connection known. It counts as a socket until the slot is dropped.
    fn open(self, line: Line<B>, driver: &Driver<B>) -> (Watch<B>, Option<Slot<B>>) {
        let Self { opening, tls_end } = self;
        let (shared, span) = (opening.shared.clone(), opening.context.span(opening.id));
        let place = (opening.id, opening.lane);
        let connection = Arc::new(Connection::new(place, shared.clone(), line, tls_end, &opening.context));
        let slot = opening.succeed(&connection);
        (Watch::new(shared, &connection, span, driver), slot)
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
    fn new(shared: Arc<Shared<B>>, connection: &Arc<Connection<B>>, span: Span, driver: &Driver<B>) -> Self {
        let now = Instant::now();
        let idle = |limit: Duration| {
            let tick = limit / TICKS;
            Idle { tick, next: now + tick, uses: 0, was_idle: true, quiet: 0 }
        };
        Self {
            connection: Arc::downgrade(connection),
            shared,
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
        let mut alarm = pin!(Alarm::at(self.next_look()));
        let ended = poll_fn(|cx| {
            if let Driver::H1(_) = driver {
                self.pulse.driver.register(cx.waker());
            }
            while alarm.as_mut().poll(cx).is_ready() {
                self.look_at_clock(Instant::now());
                alarm.set(Alarm::at(self.next_look()));
            }
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
            Driver::H1(_) => self.with_connection(|shared, connection| shared.look_at_rest(connection)),
            Driver::H2(driver) => {
                if self.is_open && !driver.is_open() {
                    self.is_open = false;
                    self.with_connection(|_, connection| connection.retire_at_home());
                }
                let before = std::mem::replace(&mut self.max_streams, driver.max_streams());
                if self.max_streams > before && self.shared.is_awaited() {
                    self.shared.clone().stream_freed(self.lane);
                }
            }
        }
    }

    fn with_connection(&self, act: impl FnOnce(&Arc<Shared<B>>, &Arc<Connection<B>>)) {
        if let Some(connection) = self.connection.upgrade() {
            act(&self.shared, &connection);
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let idle = self.idle.as_ref().map(|idle| idle.next);
        self.expires.into_iter().chain(idle).min()
    }

    fn look_at_clock(&mut self, now: Instant) {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.expires = None;
            self.with_connection(|_, connection| connection.retire_at_home());
        }
        let Some(idle) = self.idle.as_mut().filter(|idle| idle.next <= now) else { return };
        let Some(connection) = self.connection.upgrade() else {
            // It was let go of and ends by itself. A look that is due and never done would be due again at once.
            self.idle = None;
            return;
        };
        let uses = self.pulse.uses.load(Ordering::Relaxed);
        if idle.is_over(uses, self.shared.is_idle(&connection), now) {
            connection.retire_at_home();
        }
    }
}

impl<B> Drop for Watch<B> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.retire_at_home();
        }
    }
}

// === impl Alarm ===

impl Alarm {
    fn at(time: Option<Instant>) -> Self {
        Self { sleep: time.map(sleep_until), wakes: None }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let Some(sleep) = this.sleep.as_pin_mut() else { return Poll::Pending };
        let is_set = this.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        let polled = sleep.poll(cx);
        *this.wakes = Some(cx.waker().clone());
        polled
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
