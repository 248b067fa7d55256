//! What the handles, requests and tasks of one pool share, and everything that happens to it.
//!
//! Its [`State`] is under one short lock, but for the one thing that nearly every HTTP/2 request needs: a [`View`] of the open
//! connections, replaced whole when they change. No code of others runs under the lock: what there is to spawn, wake or drop
//! is gathered and done after it.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use mesh_core::{
    config::{Address, RequestPriority},
    limit::Permit,
    outcome::Failed,
};
use tokio::sync::oneshot;

use super::{
    connection::{Connection, Home, Lease, lock, mark},
    context::PoolContext,
    error::ConnectError,
    lane::{Lane, News, Waiter, is_for, least_loaded},
    state::{State, View, is_keyed},
    version::Version,
};
use crate::tls::PeerName;

/// What the handles, requests and tasks of one pool share.
pub(super) struct Shared<B> {
    pub(super) addresses: Box<[Address]>,
    pub(super) hostname: Option<Arc<str>>,
    view: ArcSwap<View<B>>,
    /// Requests that wait, in all lanes. In one order with the claims of streams.
    waiting: AtomicUsize,
    opened: AtomicU64,
    failed: AtomicU64,
    state: Mutex<State<B>>,
    /// Starts to connect. A pointer, so that nothing but the making of a pool needs to know what a body is.
    launch: fn(Opening<B>),
}

/// What a pool has at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolFigures {
    /// Connections, from ready to closed; those that finish what they have included.
    pub connections: usize,
    /// Connections being opened.
    pub connecting: usize,
    /// Connections without a request.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
    /// Streams in flight on HTTP/2 connections that take requests.
    pub streams: usize,
    /// Connections that became ready, since the pool was made.
    pub opened: u64,
    /// Attempts to connect that failed, since the pool was made.
    pub failed: u64,
}

/// A place among those who wait; dropping it leaves.
pub(super) struct Ticket<B> {
    pub(super) told: oneshot::Receiver<News<B>>,
    pub(super) id: u64,
    lane: u64,
    pub(super) shared: Arc<Shared<B>>,
}

/// What a request gets.
pub(super) enum Acquired<B> {
    Lease(Lease<B>),
    Wait(Ticket<B>),
}

/// A socket that counts until dropped.
pub(super) struct SocketPermit<B> {
    shared: Arc<Shared<B>>,
    permit: Option<Permit>,
}

/// A connection to be, for whoever makes it. Dropping it before it has come to an end tells those who wait for it.
pub(super) struct Opening<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) context: Arc<PoolContext>,
    pub(super) id: u64,
    pub(super) lane: u64,
    /// Who the peer has to be.
    pub(super) name: Option<PeerName>,
    /// Taken with the connection when it is ready, and dropped when there is none.
    socket: Option<SocketPermit<B>>,
    is_over: bool,
}

/// What is left to do when the lock is free again.
struct After<B> {
    openings: Vec<Opening<B>>,
    leases: Vec<Lease<B>>,
}

// === impl Shared ===

impl<B> Shared<B> {
    pub(super) fn new(
        context: Arc<PoolContext>,
        addresses: Box<[Address]>,
        hostname: Option<Arc<str>>,
        launch: fn(Opening<B>),
    ) -> Self {
        let state = State::new(context);
        Self {
            addresses,
            view: ArcSwap::from_pointee(state.view(hostname.as_deref())),
            hostname,
            waiting: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            state: Mutex::new(state),
            launch,
        }
    }

    /// A stream of an open HTTP/2 connection, without a lock, unless somebody waits already.
    pub(super) fn lease_stream<'h>(self: &Arc<Self>, host: impl FnOnce() -> Option<&'h str>) -> Option<Lease<B>> {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let view = self.view.load();
        let key = if view.is_keyed { host() } else { None };
        let lease = least_loaded(view.find(key)?)?;
        if lease.crosses_mark() {
            self.grow(key);
        }
        Some(lease)
    }

    /// A connection for a request to `host`, or a place in the queue: at its end, or where its `place` was before.
    pub(super) fn acquire<'h>(
        self: &Arc<Self>,
        host: impl FnOnce() -> Option<&'h str>,
        priority: RequestPriority,
        place: Option<u64>,
    ) -> Result<Acquired<B>, Failed> {
        self.with(|state, after| {
            let at = state.lane(self.hostname.as_deref(), host)?;
            let lane = &mut state.lanes[at];
            let is_next = lane.waiting.front().is_none_or(|first| place.is_some_and(|place| place < first.id));
            if is_next && let Some(lease) = lane.check_out() {
                return Ok(Acquired::Lease(lease));
            }
            let permit = state.context.limits.pending(priority)?;
            let id = place.unwrap_or_else(|| state.next_id());
            let (waiter, told) = Waiter::new(id, priority, permit);
            let lane = &mut state.lanes[at];
            let position = lane.waiting.partition_point(|waiter| waiter.id < id);
            lane.waiting.insert(position, waiter);
            let lane_id = lane.id;
            // Announced before the connections are looked at again: a stream that ends now either is found there, or
            // finds this.
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.pump(state, at, after);
            Ok(Acquired::Wait(Ticket { told, id, lane: lane_id, shared: self.clone() }))
        })
    }

    /// Connects although nobody waits, where it is clear for whom and there is no connection.
    pub(super) fn connect_ahead(self: &Arc<Self>) {
        self.with(|state, after| {
            if state.is_retired || is_keyed(&state.context, self.hostname.as_deref()) {
                return;
            }
            // What is wrong with the configuration fails the requests.
            let Ok(at) = state.lane(self.hostname.as_deref(), || None) else { return };
            let lane = &state.lanes[at];
            if lane.connecting > 0 || lane.has_usable() {
                return;
            }
            // Nobody waits, so this one has no claim to be the exception to the limit.
            if let Ok(permit) = state.context.limits.connection(RequestPriority::Default) {
                self.order(state, at, permit, after);
            }
        });
    }

    /// Opens one more HTTP/2 connection when those that there are run out of streams.
    #[cold]
    fn grow(self: &Arc<Self>, host: Option<&str>) {
        self.with(|state, after| {
            let Some(at) = state.lanes.iter().position(|lane| is_for(&lane.key, host)) else { return };
            let lane = &state.lanes[at];
            let has_many = |open: &Arc<Connection<B>>| open.streams() >= mark(open.max_streams()) || !open.is_usable();
            let is_short = lane.open.iter().all(has_many);
            if is_short && lane.connecting == 0 && !state.is_retired {
                self.connect(state, at, RequestPriority::Default, after);
            }
        });
    }

    /// A connection is ready. One that nobody wants any more ends with the caller's handle.
    fn opened(self: &Arc<Self>, connection: &Arc<Connection<B>>) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.with(|state, after| {
            let Some(at) = state.position(connection.lane) else { return connection.retire() };
            let lane = &mut state.lanes[at];
            lane.connecting -= 1;
            lane.open.push(connection.clone());
            if connection.is_h2() {
                lane.streams = connection.max_streams().max(1);
                state.learned = Some(Version::H2);
            } else {
                lane.idle.push(connection.clone());
                state.learned = Some(Version::H1);
            }
            self.pump(state, at, after);
            if state.is_retired {
                state.lanes[at].retire();
                self.pump(state, at, after);
            }
            self.publish(state);
        });
    }

    /// No connection could be made: all who wait in the lane are told, as in Envoy, so that they may go elsewhere.
    fn not_opened(self: &Arc<Self>, lane: u64, error: &ConnectError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.with(|state, after| {
            let Some(at) = state.position(lane) else { return };
            state.lanes[at].connecting -= 1;
            self.dismiss(&mut state.lanes[at], after, || News::Failed(error.failed()));
        });
    }

    /// The driver of a connection that rests has been polled. Says whether the connection is to go on: not where the peer
    /// answered before it had read the request. It may never read the rest, and Envoy closes such a connection too.
    pub(super) fn look_at_rest(self: &Arc<Self>, connection: &Arc<Connection<B>>) -> bool {
        self.with(|state, after| {
            let Some(at) = state.position(connection.lane) else { return true };
            if !connection.pulse.is_resting() {
                return true;
            }
            if !connection.is_h1_ready() {
                self.remove(state, connection, after);
                return false;
            }
            connection.pulse.set_resting(false);
            state.lanes[at].resting -= 1;
            state.lanes[at].idle.push(connection.clone());
            self.pump(state, at, after);
            true
        })
    }

    /// Whether no request uses a connection. One may at any moment; a connection that is retired by then carries it still.
    pub(super) fn is_idle(&self, connection: &Arc<Connection<B>>) -> bool {
        if connection.is_h2() {
            return connection.streams() == 0;
        }
        let state = lock(&self.state);
        state.lanes.iter().any(|lane| lane.idle.iter().any(|idle| Arc::ptr_eq(idle, connection)))
    }

    /// Retires all connections, and those that are still to come once they have served who waits.
    pub(super) fn retire(self: &Arc<Self>) {
        self.with(|state, after| {
            state.is_retired = true;
            state.lanes.iter_mut().for_each(Lane::retire);
            self.publish(state);
            self.pump_all(state, after);
        });
    }

    /// Follows another context. Under another generation nothing that was opened, or is being opened, fits.
    pub(super) fn update(self: &Arc<Self>, context: Arc<PoolContext>) {
        self.with(|state, after| {
            let is_other = state.context.generation != context.generation;
            state.context = context;
            if is_other {
                state.learned = None;
                for mut lane in std::mem::take(&mut state.lanes) {
                    lane.retire();
                    self.dismiss(&mut lane, after, || News::Again);
                }
                self.publish(state);
            }
            self.pump_all(state, after);
        });
    }

    pub(super) fn figures(&self) -> PoolFigures {
        let state = lock(&self.state);
        let mut figures = PoolFigures {
            opened: self.opened.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            pending: self.waiting.load(Ordering::Relaxed),
            ..PoolFigures::default()
        };
        let mut connecting = 0;
        for lane in &state.lanes {
            connecting += lane.connecting;
            figures.idle += lane.idle.len();
            for open in &lane.open {
                figures.streams += open.streams();
                figures.idle += usize::from(open.is_h2() && open.streams() == 0);
            }
        }
        figures.connecting = connecting;
        figures.connections = state.sockets.saturating_sub(connecting);
        figures
    }

    fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut State<B>, &mut After<B>) -> T) -> T {
        let mut after = After { openings: Vec::new(), leases: Vec::new() };
        let mut state = lock(&self.state);
        let result = change(&mut state, &mut after);
        state.lanes.retain(|lane| !lane.is_empty());
        drop(state);
        after.openings.into_iter().for_each(self.launch);
        result
    }

    /// Serves who waits in a lane, in order, and connects for those that are left.
    fn pump(self: &Arc<Self>, state: &mut State<B>, at: usize, after: &mut After<B>) {
        let lane = &mut state.lanes[at];
        while !lane.waiting.is_empty()
            && let Some(lease) = lane.check_out()
            && let Some(waiter) = lane.waiting.pop_front()
        {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            after.leases.extend(waiter.tell(News::Lease(lease)));
        }
        for _ in 0..state.demand(at) {
            let priority = state.lanes[at].waiting.front().map_or(RequestPriority::Default, |first| first.priority);
            if !self.connect(state, at, priority, after) {
                break;
            }
        }
    }

    fn pump_all(self: &Arc<Self>, state: &mut State<B>, after: &mut After<B>) {
        (0..state.lanes.len()).for_each(|at| self.pump(state, at, after));
    }

    /// Sends everyone away who waits in a lane.
    fn dismiss(&self, lane: &mut Lane<B>, after: &mut After<B>, news: impl Fn() -> News<B>) {
        let waiting = std::mem::take(&mut lane.waiting);
        self.waiting.fetch_sub(waiting.len(), Ordering::SeqCst);
        after.leases.extend(waiting.into_iter().filter_map(|waiter| waiter.tell(news())));
    }

    /// Starts to connect if the limits permit it. A lane without a connection is given one in any case (Envoy): those who
    /// wait there would wait for connections that others hold.
    fn connect(
        self: &Arc<Self>,
        state: &mut State<B>,
        at: usize,
        priority: RequestPriority,
        after: &mut After<B>,
    ) -> bool {
        let limits = &state.context.limits;
        let is_first = state.lanes[at].connecting == 0 && !state.lanes[at].has_usable();
        let has_room = state.context.max_per_endpoint.is_none_or(|max| state.sockets < max as usize);
        let permit = match limits.connection(priority) {
            Ok(permit) if has_room || is_first => permit,
            Err(_) if is_first => limits.first_connection(priority),
            _ => return false,
        };
        self.order(state, at, permit, after);
        true
    }

    /// Has a connection opened.
    fn order(self: &Arc<Self>, state: &mut State<B>, at: usize, permit: Permit, after: &mut After<B>) {
        state.sockets += 1;
        let id = state.next_id();
        let lane = &mut state.lanes[at];
        lane.connecting += 1;
        let socket = SocketPermit { shared: self.clone(), permit: Some(permit) };
        after.openings.push(Opening {
            shared: self.clone(),
            context: state.context.clone(),
            id,
            lane: lane.id,
            name: lane.name.clone(),
            socket: Some(socket),
            is_over: false,
        });
    }

    fn remove(self: &Arc<Self>, state: &mut State<B>, connection: &Arc<Connection<B>>, after: &mut After<B>) {
        let Some(at) = state.position(connection.lane) else { return };
        if state.lanes[at].remove(connection) && connection.is_h2() {
            self.publish(state);
        }
        self.pump(state, at, after);
    }

    /// Lets requests see the connections as they are now.
    fn publish(&self, state: &State<B>) {
        self.view.store(Arc::new(state.view(self.hostname.as_deref())));
    }

    fn socket_closed(self: &Arc<Self>) {
        self.with(|state, after| {
            state.sockets -= 1;
            self.pump_all(state, after);
        });
    }

    fn leave(self: &Arc<Self>, lane: u64, id: u64) {
        self.with(|state, _| {
            let Some(lane) = state.lanes.iter_mut().find(|known| known.id == lane) else { return };
            if let Ok(at) = lane.waiting.binary_search_by_key(&id, |waiter| waiter.id) {
                lane.waiting.remove(at);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
}

impl<B: Send + 'static> Home<B> for Shared<B> {
    fn give_back(self: Arc<Self>, connection: Arc<Connection<B>>) {
        let is_ready = self.with(|state, after| {
            if !connection.is_usable() {
                self.remove(state, &connection, after);
                return false;
            }
            let Some(at) = state.position(connection.lane) else { return false };
            connection.pulse.set_resting(true);
            let is_ready = connection.is_h1_ready();
            if is_ready {
                connection.pulse.set_resting(false);
                state.lanes[at].idle.push(connection.clone());
                self.pump(state, at, after);
            } else {
                state.lanes[at].resting += 1;
            }
            is_ready
        });
        if !is_ready {
            connection.let_go();
        }
    }

    fn retire_connection(self: Arc<Self>, connection: &Arc<Connection<B>>) {
        connection.retire();
        self.with(|state, after| self.remove(state, connection, after));
    }

    fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn stream_freed(self: Arc<Self>, lane: u64) {
        self.with(|state, after| {
            if let Some(at) = state.position(lane) {
                self.pump(state, at, after);
            }
        });
    }
}

impl<B> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

// === impl Ticket ===

impl<B> Drop for Ticket<B> {
    fn drop(&mut self) {
        // A lease that was granted but not seen goes back with the channel, after this.
        self.shared.leave(self.lane, self.id);
    }
}

// === impl Opening ===

impl<B> Opening<B> {
    /// The connection is ready. What is returned is dropped when it is closed.
    pub(super) fn succeed(mut self, connection: &Arc<Connection<B>>) -> Option<SocketPermit<B>> {
        self.is_over = true;
        self.shared.opened(connection);
        self.socket.take()
    }

    /// There will be no connection.
    pub(super) fn fail(&mut self, error: &ConnectError) {
        self.is_over = true;
        // The room that it took may be somebody else's by the time that they are told.
        self.socket = None;
        self.shared.not_opened(self.lane, error);
    }
}

impl<B> Drop for Opening<B> {
    fn drop(&mut self) {
        if !self.is_over {
            self.fail(&ConnectError::Cancelled);
        }
    }
}

// === impl SocketPermit ===

impl<B> Drop for SocketPermit<B> {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.shared.socket_closed();
    }
}
