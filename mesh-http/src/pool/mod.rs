//! The connections to one endpoint, and the queue of those who wait for one.
//!
//! A [`Pool`] turns an endpoint's addresses into something that answers requests. hyper-util's client pools too, for all
//! hosts at once and without limits; here there is one pool for each endpoint, because an endpoint was picked before, and
//! what it may cost is bounded: connections, requests on each, requests that wait.
//!
//! | | HTTP/1.1 | HTTP/2 |
//! |---|---|---|
//! | a request gets | the connection that was used last, whole | a stream of the connection with the fewest |
//! | in place of a lock | one short one | an atomic claim on a snapshot |
//! | another connection opens | for each request that waits | when nine tenths of all streams are in use |
//! | it comes back | when the response body has ended | likewise |
//!
//! # Lazy
//!
//! A pool holds no connection, no task and no memory to speak of until a request comes, or somebody who expects one says
//! [`connect_ahead`](Pool::connect_ahead). Opening a connection and driving it
//! is one task, spawned through the injected [`Spawn`], so handshakes never run on the task of a request. A failure
//! is told to all who wait; nothing tries again until a request asks.
//!
//! # Whom a connection is for
//!
//! Where TLS asks the peer to prove the request's authority, connections are kept apart by it; requests of one authority
//! never go over a connection that was verified for another.
//!
//! # Cancellation
//!
//! Dropping a [`Sending`], or a [`PoolBody`] before its end, resets the stream or closes the connection, and makes room at
//! once. A response that has ended ends its request too, as in Envoy: what is left of a body is not sent. Dropping the pool
//! retires it: what is in flight finishes.
//!
//! # The files
//!
//! Each leans on those above it.
//!
//! | | |
//! |---|---|
//! | version.rs | which HTTP a connection speaks |
//! | connection.rs | one connection, and the lease of it to a request |
//! | lane.rs | connections that are interchangeable, and their queue |
//! | state.rs | all lanes: what the lock guards |
//! | shared.rs | the lock, the view that is read without it, and everything that happens to a pool |
//! | drive.rs | the task of a connection that is ready |
//! | open.rs | what that task does before: connecting, TLS, the first frame |
//! | send.rs | a request on its way through |

mod body;
mod connection;
mod context;
mod drive;
mod error;
mod lane;
mod open;
mod overhear;
mod send;
mod shared;
mod state;
mod target;
mod version;

use std::{
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use mesh_core::{
    config::{Address, RequestPriority},
    outcome::BoxError,
};

pub(crate) use self::send::Manner;
use self::shared::Shared;
pub use self::{
    body::PoolBody,
    context::{PoolContext, Spawn, Task},
    error::ConnectError,
    send::Sending,
    shared::PoolFigures,
};

/// The connections to one endpoint. `B` is the one type of request bodies that they carry.
pub struct Pool<B> {
    shared: Arc<Shared<B>>,
}

/// Reads a pool that somebody else has, and does not keep it.
pub(crate) struct Gauge<B>(Weak<Shared<B>>);

// === impl Pool ===

impl<B> Pool<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    /// A pool for the endpoint that listens at `addresses`, tried in order (happy eyeballs), and bears `hostname`.
    pub fn new(context: Arc<PoolContext>, addresses: impl Into<Box<[Address]>>, hostname: Option<Arc<str>>) -> Self {
        Self { shared: Arc::new(Shared::new(context, addresses.into(), hostname, open::launch)) }
    }

    /// Sends `request` over a connection that is ready, or waits for one in turn, under the limits of `priority`.
    ///
    /// The target may be in the form of either version of HTTP. The first steps are taken at once, before the future is
    /// polled.
    ///
    /// # Errors
    ///
    /// [`Undelivered`](mesh_core::cluster::Undelivered), with the request where none of it was sent; its error is a
    /// [`Failed`](mesh_core::outcome::Failed). What a closing connection gives back goes on over another one by itself;
    /// nothing else is repeated.
    pub fn send(&self, request: Request<B>, priority: RequestPriority) -> Sending<B> {
        self.send_as(request, Manner { priority, is_whole: false })
    }

    /// The same for one who knows more of the request.
    pub(crate) fn send_as(&self, request: Request<B>, manner: Manner) -> Sending<B> {
        Sending::new(&self.shared, request, manner)
    }
}

impl<B> Pool<B> {
    /// Opens a connection if there is none, so that the first request finds one. Does nothing where the peer has to prove
    /// the authority of a request, which is not known yet, nor where the cluster's limit of connections is reached. A failure
    /// is counted and told to the requests that wait by then; nothing tries again until one asks.
    pub fn connect_ahead(&self) {
        self.shared.connect_ahead();
    }

    /// Follows `context` from now on. Connections that exist keep the times that they were opened with. With another
    /// [generation](PoolContext::generation) they finish what they have and take nothing new.
    pub fn update(&self, context: Arc<PoolContext>) {
        self.shared.update(context);
    }

    /// Closes idle connections, and the others when they have finished what they have. Requests that still come are
    /// carried, by connections that are not kept.
    pub fn retire(&self) {
        self.shared.retire();
    }

    /// What there is at this moment.
    #[must_use]
    pub fn figures(&self) -> PoolFigures {
        self.shared.figures()
    }

    /// The name of its endpoint, if it has one.
    pub(crate) fn hostname(&self) -> Option<&Arc<str>> {
        self.shared.hostname.as_ref()
    }

    pub(crate) fn gauge(&self) -> Gauge<B> {
        Gauge(Arc::downgrade(&self.shared))
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        self.shared.retire();
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("shared", &self.shared).field("figures", &self.figures()).finish()
    }
}

// === impl Gauge ===

impl<B> Gauge<B> {
    /// Where the pool's connections lead, and what there is; none where the pool is gone.
    pub(crate) fn read(&self) -> Option<(Box<[Address]>, PoolFigures)> {
        let shared = self.0.upgrade()?;
        Some((shared.addresses.clone(), shared.figures()))
    }
}

impl<B> Clone for Gauge<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
