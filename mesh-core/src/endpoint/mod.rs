//! Endpoints while they are in use: who they are, what is known of them, and who is in a cluster at a time.
//!
//! An `Endpoint` is one record per identity, which is its addresses and hostname within a cluster. Sets come and go with
//! every update; the record stays as long as some set holds its identity, and with it what was learnt: requests in flight,
//! latency, failures in a row, ejection, connections. Weight, health, metadata, locality and priority may change from one
//! update to the next, so they are of the set and not of the record.
//!
//! A record is small: what the transport keeps for an endpoint is made at the first pick. What requests write stands in its
//! first 40 bytes, and it is two cache lines long, so no two endpoints write to the same line.
//!
//! The reference count of a record is its count of requests: a request in flight holds a reference
//! ([`Picked`](crate::pick::Picked)), each set that it is in holds one, and those are counted apart. That saves every request
//! two atomic writes, where threads contend for the same few endpoints.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use tokio::time::Instant;

use crate::config::{self, Address};

mod home;
mod live;
mod roster;
mod tried;

pub use self::tried::Tried;
pub(crate) use self::{
    home::{Accusation, Detector, Home},
    live::{Live, Measure, Standing},
    roster::{Group, Member, Roster},
};
pub use crate::outcome::EndpointId;

/// One live endpoint, with what the transport keeps for it (`H`).
#[repr(C)]
pub(crate) struct Endpoint<H> {
    live: Live,
    /// How many references are seats.
    seats: AtomicU32,
    has_left: AtomicBool,
    id: EndpointId,
    used: OnceLock<Used<H>>,
    identity: Identity,
}

/// A set's hold on an endpoint.
pub(crate) struct Seat<H>(Arc<Endpoint<H>>);

/// What there is once an endpoint was picked.
struct Used<H> {
    handle: H,
    home: Arc<Home>,
}

/// Who an endpoint is. Nearly all of them are one address and nothing else, and that takes no second allocation.
#[derive(Debug)]
enum Identity {
    Address(Address),
    Named(Box<Named>),
}

#[derive(Debug)]
struct Named {
    addresses: Box<[Address]>,
    hostname: Option<Arc<str>>,
}

// === impl Endpoint ===

impl<H> Endpoint<H> {
    /// Its number.
    pub(crate) fn id(&self) -> EndpointId {
        self.id
    }

    /// Where it listens; at least one address.
    pub(crate) fn addresses(&self) -> &[Address] {
        self.identity.addresses()
    }

    /// Its name, if it has one.
    pub(crate) fn hostname(&self) -> Option<&Arc<str>> {
        self.identity.hostname()
    }

    /// What the transport keeps for it; none before its first pick.
    pub(crate) fn handle(&self) -> Option<&H> {
        self.used.get().map(|used| &used.handle)
    }

    /// Whether it is left out because its answers were bad.
    pub(crate) fn is_ejected(&self) -> bool {
        self.live.standing().is_ejected()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// What it shares with its cluster's others; none before its first pick.
    pub(crate) fn home(&self) -> Option<&Arc<Home>> {
        self.used.get().map(|used| &used.home)
    }

    pub(crate) fn is(&self, config: &config::Endpoint) -> bool {
        self.addresses() == config.addresses() && self.hostname() == config.hostname()
    }

    fn open(&self, home: &Arc<Home>, open: impl FnOnce() -> H, retire: impl FnOnce(&H)) {
        self.used.get_or_init(|| {
            self.live.restart_cost(home, Instant::now());
            Used { handle: open(), home: home.clone() }
        });
        // Either this thread sees that the endpoint has left or the one who takes it away sees the handle: both write,
        // fence, then read.
        fence(SeqCst);
        if self.has_left.load(Relaxed) {
            self.retire(retire);
        }
    }

    /// Tells the transport that it has left, if there is something to tell, once.
    fn retire(&self, tell: impl FnOnce(&H)) {
        if let Some(used) = self.used.get()
            && self.live.is_first_to_retire()
        {
            tell(&used.handle);
        }
    }
}

impl<H> fmt::Debug for Endpoint<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

// === impl Seat ===

impl<H> Seat<H> {
    /// The first seat of a new endpoint.
    pub(crate) fn new(id: EndpointId, config: &config::Endpoint) -> Self {
        Self(Arc::new(Endpoint {
            live: Live::default(),
            seats: AtomicU32::new(1),
            has_left: AtomicBool::new(false),
            id,
            used: OnceLock::new(),
            identity: Identity::of(config),
        }))
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        // A seat that comes or goes at this moment may be counted as a request; to balancing that is nothing.
        (Arc::strong_count(&self.0) as u32).saturating_sub(self.0.seats.load(Relaxed))
    }

    /// The endpoint for one more request, if it was opened.
    #[inline]
    pub(crate) fn take(&self) -> Option<Arc<Endpoint<H>>> {
        self.0.used.get().is_some().then(|| self.0.clone())
    }

    /// The endpoint for one more request, opened if it was not, with a fence after that. `retire` is called when it has left
    /// the cluster in the meantime.
    pub(crate) fn open(&self, home: &Arc<Home>, open: impl FnOnce() -> H, retire: impl FnOnce(&H)) -> Arc<Endpoint<H>> {
        self.0.open(home, open, retire);
        self.0.clone()
    }

    /// It has left the cluster for good; `retire` is called, once, if there is something to retire.
    pub(crate) fn leave(&self, retire: impl FnOnce(&H)) {
        self.0.has_left.store(true, Relaxed);
        fence(SeqCst);
        self.0.retire(retire);
    }
}

impl<H> Clone for Seat<H> {
    fn clone(&self) -> Self {
        self.0.seats.fetch_add(1, Relaxed);
        Self(self.0.clone())
    }
}

impl<H> Drop for Seat<H> {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Relaxed);
    }
}

impl<H> Deref for Seat<H> {
    type Target = Endpoint<H>;

    #[inline]
    fn deref(&self) -> &Endpoint<H> {
        &self.0
    }
}

// === impl Identity ===

impl Identity {
    fn addresses(&self) -> &[Address] {
        match self {
            Self::Address(address) => std::slice::from_ref(address),
            Self::Named(named) => &named.addresses,
        }
    }

    fn hostname(&self) -> Option<&Arc<str>> {
        match self {
            Self::Address(_) => None,
            Self::Named(named) => named.hostname.as_ref(),
        }
    }

    fn of(config: &config::Endpoint) -> Self {
        match (config.addresses(), config.hostname()) {
            ([address], None) => Self::Address(address.clone()),
            (addresses, hostname) => {
                Self::Named(Box::new(Named { addresses: addresses.into(), hostname: hostname.cloned() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `Arc` adds.
    const COUNTS: usize = 2 * size_of::<usize>();

    #[test]
    fn idle_endpoint_is_a_small_record() {
        assert!(size_of::<Endpoint<Arc<()>>>() + COUNTS <= 120);
        assert!(size_of::<Member<Arc<()>>>() <= 24);
    }

    #[test]
    fn what_two_endpoints_write_is_a_cache_line_apart() {
        let written = COUNTS + std::mem::offset_of!(Endpoint<Arc<()>>, live) + size_of::<Live>();
        assert_eq!(written, 40);
        assert!(size_of::<Endpoint<Arc<()>>>() + COUNTS >= written + 64);
    }
}
