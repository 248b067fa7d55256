//! The life of a connection that is ready: its task drives it to its end, and keeps its time.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use mesh_core::outcome::BoxError;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    connection::{Connection, Home, Pulse},
    context::Span,
    shared::Shared,
};
use crate::{
    conn::{self, h1, h2},
    connect::Stream,
};

/// A driver of either version.
pub(super) enum Driver<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    H1(Box<h1::Driver<Stream, B>>),
    H2(Box<h2::Driver<Stream, B>>),
}

/// What a driver sees of its connection, and when it looks at the clock.
pub(super) struct Watch<B> {
    connection: Weak<Connection<B>>,
    shared: Arc<Shared<B>>,
    lane: u64,
    pulse: Arc<Pulse>,
    /// When the connection is to be retired for its age.
    expires: Option<Instant>,
    idle: Option<Idle>,
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

// === impl Driver ===

impl<B> Driver<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), conn::Error>> {
        match self {
            Self::H1(driver) => Pin::new(driver).poll(cx),
            Self::H2(driver) => Pin::new(driver).poll(cx),
        }
    }

    pub(super) fn has_heard(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(driver) => driver.has_heard(),
        }
    }
}

// === impl Watch ===

impl<B> Watch<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    pub(super) fn new(shared: Arc<Shared<B>>, connection: &Arc<Connection<B>>, span: Span) -> Self {
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
            is_open: true,
        }
    }

    /// Runs the connection to its end, or until nobody has a use for what it still does.
    pub(super) async fn drive(mut self, mut driver: Driver<B>) {
        let mut alarm = pin!(Alarm::at(self.next_look()));
        let ended = poll_fn(|cx| {
            if let Driver::H1(_) = driver {
                self.pulse.driver.register(cx.waker());
            }
            while alarm.as_mut().poll(cx).is_ready() {
                self.look_at_clock(Instant::now());
                alarm.set(Alarm::at(self.next_look()));
            }
            let is_let_go = self.connection.strong_count() == 0;
            let polled = driver.poll(cx);
            if polled.is_pending() && !self.look(&driver, is_let_go) {
                return Poll::Ready(Ok(()));
            }
            polled
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(endpoint.addr = ?self.shared.addresses.first(), %error, "connection ended");
        }
    }

    /// Passes on what the driver alone can know, and says whether it is to go on.
    fn look(&mut self, driver: &Driver<B>, is_let_go: bool) -> bool {
        match driver {
            // What is left of it is a request whose response was read, or given up.
            Driver::H1(_) if is_let_go => return false,
            Driver::H1(_) if !self.pulse.is_resting() => {}
            Driver::H1(_) => {
                return self.connection.upgrade().is_none_or(|connection| self.shared.look_at_rest(&connection));
            }
            Driver::H2(driver) => {
                if self.is_open && !driver.is_open() {
                    self.is_open = false;
                    self.with_connection(|_, connection| connection.retire_at_home());
                }
                if driver.take_room() && self.shared.is_awaited() {
                    self.shared.clone().stream_freed(self.lane);
                }
            }
        }
        true
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
