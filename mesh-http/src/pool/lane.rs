//! One lane of a pool: the connections that are interchangeable, and the queue of those who wait for one of them.

use std::{collections::VecDeque, sync::Arc};

use mesh_core::{config::RequestPriority, limit::Permit, outcome::Failed};
use tokio::sync::oneshot;

use super::connection::{Connection, Lease};
use crate::tls::PeerName;

/// Connections that any request of the lane may have, and those who wait.
pub(super) struct Lane<B> {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) name: Option<PeerName>,
    /// Those that take requests, now or once they have ended one.
    pub(super) open: Vec<Arc<Connection<B>>>,
    /// Those of HTTP/1 that are ready; the last was used last.
    pub(super) idle: Vec<Arc<Connection<B>>>,
    /// How many rest: they are ready at once, or never again.
    pub(super) resting: usize,
    pub(super) connecting: usize,
    /// In the order of their numbers.
    pub(super) waiting: VecDeque<Waiter<B>>,
    /// Streams that one more HTTP/2 connection is taken to permit.
    pub(super) streams: usize,
}

/// Whom the connections of a lane are for: the host of an authority, where that is what the peer must prove.
pub(super) type Key = Option<Box<str>>;

/// A request in the queue, as the lane sees it.
pub(super) struct Waiter<B> {
    pub(super) id: u64,
    pub(super) priority: RequestPriority,
    tell: oneshot::Sender<News<B>>,
    /// Held for its drop.
    _permit: Permit,
}

/// What one who waits is told.
pub(super) enum News<B> {
    Lease(Lease<B>),
    Failed(Failed),
    /// The pool has changed so much that the request has to ask again, at its place.
    Again,
}

// === impl Lane ===

impl<B> Lane<B> {
    pub(super) fn new(id: u64, key: Key, name: Option<PeerName>, streams: usize) -> Self {
        Self {
            id,
            key,
            name,
            open: Vec::new(),
            idle: Vec::new(),
            resting: 0,
            connecting: 0,
            waiting: VecDeque::new(),
            streams,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.connecting == 0 && self.waiting.is_empty()
    }

    /// A connection for one request: of HTTP/1 the one that was used last, of HTTP/2 the one that has the least to do.
    pub(super) fn check_out(&mut self) -> Option<Lease<B>> {
        while let Some(idle) = self.idle.pop() {
            if let Some(lease) = idle.clone().lease_whole() {
                return Some(lease);
            }
            self.remove(&idle);
        }
        if self.open.iter().any(|open| open.is_h2()) { least_loaded(&self.open) } else { None }
    }

    /// Forgets a connection; says whether it was known.
    pub(super) fn remove(&mut self, connection: &Arc<Connection<B>>) -> bool {
        let Some(at) = self.open.iter().position(|open| Arc::ptr_eq(open, connection)) else { return false };
        self.open.remove(at);
        self.idle.retain(|idle| !Arc::ptr_eq(idle, connection));
        if connection.pulse.is_resting() {
            self.resting -= 1;
        }
        connection.pulse.set_resting(false);
        true
    }

    pub(super) fn has_usable(&self) -> bool {
        self.open.iter().any(|open| open.is_usable())
    }

    pub(super) fn retire(&mut self) {
        self.idle.clear();
        self.resting = 0;
        for open in self.open.drain(..) {
            open.retire();
            open.pulse.set_resting(false);
            open.let_go();
        }
    }
}

pub(super) fn is_for(key: &Key, host: Option<&str>) -> bool {
    match (key, host) {
        (Some(key), Some(host)) => key.eq_ignore_ascii_case(host),
        (key, host) => key.is_none() && host.is_none(),
    }
}

/// A stream of the connection that has the fewest in flight. There are few connections; a scan costs less than an order.
pub(super) fn least_loaded<B>(open: &[Arc<Connection<B>>]) -> Option<Lease<B>> {
    match open {
        [only] => only.lease_stream(),
        _ => {
            let least = open.iter().filter(|open| open.is_usable()).min_by_key(|open| open.streams())?;
            // Somebody may have been faster; then any will do.
            least.lease_stream().or_else(|| open.iter().find_map(Connection::lease_stream))
        }
    }
}

// === impl Waiter ===

impl<B> Waiter<B> {
    pub(super) fn new(id: u64, priority: RequestPriority, permit: Permit) -> (Self, oneshot::Receiver<News<B>>) {
        let (tell, told) = oneshot::channel();
        (Self { id, priority, tell, _permit: permit }, told)
    }

    /// Tells it; what it no longer takes comes back, to be dropped without the lock.
    pub(super) fn tell(self, news: News<B>) -> Option<Lease<B>> {
        match self.tell.send(news) {
            Err(News::Lease(lease)) => Some(lease),
            _ => None,
        }
    }
}
