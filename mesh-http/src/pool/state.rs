//! What a pool has: its lanes, by the name that their peer has proven, and what it has learned of the endpoint.

use std::sync::Arc;

use mesh_core::{config::HttpProtocol, outcome::Failed};

use super::{
    connection::Connection,
    context::PoolContext,
    error::{self, ConnectError},
    lane::{Key, Lane, is_for},
    version::Version,
};
use crate::conn::Http2Options;

/// What changes under the lock of a pool.
pub(super) struct State<B> {
    pub(super) context: Arc<PoolContext>,
    pub(super) lanes: Vec<Lane<B>>,
    /// What the endpoint was found to speak, where the configuration leaves it open.
    pub(super) learned: Option<Version>,
    /// Sockets open or about to be.
    pub(super) sockets: usize,
    pub(super) is_retired: bool,
    last_id: u64,
}

/// What a request reads without a lock: the HTTP/2 connections that take requests.
pub(super) struct View<B> {
    /// Whether connections are for one authority each.
    pub(super) is_keyed: bool,
    lanes: Vec<(Key, Vec<Arc<Connection<B>>>)>,
}

// === impl State ===

impl<B> State<B> {
    pub(super) fn new(context: Arc<PoolContext>) -> Self {
        Self { context, lanes: Vec::new(), learned: None, sockets: 0, is_retired: false, last_id: 0 }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The lane for requests to `host`.
    pub(super) fn lane<'h>(
        &mut self,
        hostname: Option<&str>,
        host: impl FnOnce() -> Option<&'h str>,
    ) -> Result<usize, Failed> {
        let tls = match &self.context.tls {
            Some(Err(error)) => return Err(ConnectError::Tls(error.clone()).failed()),
            Some(Ok(tls)) => Some(tls),
            None => None,
        };
        let key = if is_keyed(&self.context, hostname) { host() } else { None };
        if let Some(at) = self.lanes.iter().position(|lane| is_for(&lane.key, key)) {
            return Ok(at);
        }
        let name = tls.map(|tls| tls.peer_name(key.unwrap_or_default(), hostname));
        let name = name.transpose().map_err(error::unsendable)?;
        let id = self.next_id();
        let Http2Options { initial_streams, max_streams, .. } = self.context.http2;
        let streams = initial_streams.min(max_streams).max(1);
        self.lanes.push(Lane::new(id, key.map(Into::into), name, streams));
        Ok(self.lanes.len() - 1)
    }

    pub(super) fn position(&self, lane: u64) -> Option<usize> {
        self.lanes.iter().position(|known| known.id == lane)
    }

    fn version(&self) -> Option<Version> {
        match self.context.protocol {
            HttpProtocol::Http2 => Some(Version::H2),
            HttpProtocol::Auto if self.context.tls.is_some() => self.learned,
            _ => Some(Version::H1),
        }
    }

    /// How many connections would have to be opened for those who wait.
    pub(super) fn demand(&self, at: usize) -> usize {
        let lane = &self.lanes[at];
        if self.version() == Some(Version::H1) {
            return lane.waiting.len().saturating_sub(lane.connecting + lane.resting);
        }
        // One that has no stream in flight, and none to give, permits none: another would not either.
        if lane.open.iter().any(|open| open.is_h2() && open.streams() == 0 && open.is_usable()) {
            return 0;
        }
        let unmet = lane.waiting.len().saturating_sub(lane.connecting * lane.streams);
        unmet.div_ceil(lane.streams)
    }

    /// The connections as requests may see them now.
    pub(super) fn view(&self, hostname: Option<&str>) -> View<B> {
        let open_streams = |lane: &Lane<B>| {
            let open: Vec<_> = lane.open.iter().filter(|open| open.is_h2()).cloned().collect();
            (!open.is_empty()).then(|| (lane.key.clone(), open))
        };
        View {
            is_keyed: is_keyed(&self.context, hostname),
            lanes: self.lanes.iter().filter_map(open_streams).collect(),
        }
    }
}

/// Whether connections are for one authority each. Elsewhere they are interchangeable.
pub(super) fn is_keyed(context: &PoolContext, hostname: Option<&str>) -> bool {
    matches!(&context.tls, Some(Ok(tls)) if tls.asks_for_authority(hostname))
}

// === impl View ===

impl<B> View<B> {
    pub(super) fn find(&self, host: Option<&str>) -> Option<&[Arc<Connection<B>>]> {
        self.lanes.iter().find(|(key, _)| is_for(key, host)).map(|(_, open)| &**open)
    }
}
