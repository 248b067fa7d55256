//! Endpoints while they are in use: who they are, what is known of them, and the sets that they are picked from.
//!
//! An [`Endpoint`] is one record per identity, which is its addresses and hostname within a cluster. Sets come and go with
//! every update; the record stays as long as some set holds its identity, and with it what was learnt: requests in flight,
//! latency, failures in a row, ejection, connections. Weight, health, metadata, locality and priority may change from one
//! update to the next, so they are of the set and not of the record.
//!
//! A record is small until it is used: what the transport keeps for an endpoint is made at the first pick. The words that
//! every pick reads and every request writes stand in the record itself. They fill half a cache line, and the record is
//! nearly two lines long, so no two endpoints' words share one.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{
        Arc, OnceLock,
        atomic::{Ordering, fence},
    },
};

use crate::config::{self, Address, ClusterPolicy, Metadata};

mod home;
mod live;
mod set;
mod tried;

pub use self::{home::Detector, tried::Tried};
pub(crate) use self::{
    home::{Accusation, Home},
    live::{Live, Measure, Standing},
    set::{EndpointSet, Group, Member, Roster},
};

/// The number of an endpoint within its cluster: the same as long as the identity stays in the cluster, never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(NonZeroU64);

/// One live endpoint, with what the transport keeps for it (`H`).
pub struct Endpoint<H> {
    live: Live,
    id: EndpointId,
    identity: Identity,
    used: OnceLock<Box<Used<H>>>,
}

/// What a transport is told of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInfo<'a> {
    /// The name of its cluster.
    pub cluster: &'a Arc<str>,
    /// Its number within the cluster.
    pub id: EndpointId,
    /// Where it listens; at least one address, to be tried in order.
    pub addresses: &'a [Address],
    /// Its name, if it has one.
    pub hostname: Option<&'a Arc<str>>,
    /// Facts about it.
    pub metadata: Option<&'a Arc<Metadata>>,
    /// How its cluster is treated.
    pub policy: &'a ClusterPolicy,
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

/// What there is once an endpoint was picked.
struct Used<H> {
    handle: H,
    home: Arc<Home>,
}

// === impl EndpointId ===

impl EndpointId {
    pub(crate) fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Endpoint ===

impl<H> Endpoint<H> {
    pub(crate) fn new(id: EndpointId, config: &config::Endpoint) -> Self {
        Self { live: Live::default(), id, identity: Identity::of(config), used: OnceLock::new() }
    }

    /// Its number.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where it listens; at least one address.
    pub fn addresses(&self) -> &[Address] {
        match &self.identity {
            Identity::Address(address) => std::slice::from_ref(address),
            Identity::Named(named) => &named.addresses,
        }
    }

    /// Its name, if it has one.
    pub fn hostname(&self) -> Option<&Arc<str>> {
        match &self.identity {
            Identity::Address(_) => None,
            Identity::Named(named) => named.hostname.as_ref(),
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.live.in_flight()
    }

    /// Whether it is left out because its answers were bad.
    pub fn is_ejected(&self) -> bool {
        self.live.is_ejected()
    }

    /// Whether it has left its cluster: it finishes what it has and gets nothing new.
    pub fn is_retired(&self) -> bool {
        self.live.is_retired()
    }

    /// What the transport keeps for it; none before its first pick.
    pub fn handle(&self) -> Option<&H> {
        self.used.get().map(|used| &used.handle)
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) fn home(&self) -> Option<&Arc<Home>> {
        self.used.get().map(|used| &used.home)
    }

    pub(crate) fn is(&self, config: &config::Endpoint) -> bool {
        self.addresses() == config.addresses() && self.hostname() == config.hostname()
    }

    /// Starts to use it, unless that has happened. `retire` is called when it has left the cluster in the meantime.
    #[inline]
    pub(crate) fn open(&self, home: &Arc<Home>, open: impl FnOnce() -> H, retire: impl FnOnce(&H)) {
        if self.used.get().is_none() {
            self.open_now(home, open, retire);
        }
    }

    #[cold]
    fn open_now(&self, home: &Arc<Home>, open: impl FnOnce() -> H, retire: impl FnOnce(&H)) {
        self.used.get_or_init(|| Box::new(Used { handle: open(), home: home.clone() }));
        // Either this thread sees the retirement or the retiring one sees the handle: both write, fence, then read.
        fence(Ordering::SeqCst);
        if self.live.is_retired() {
            self.tell_retired(retire);
        }
    }

    /// Takes it out of use for good; `retire` is called, once, if there is something to retire.
    pub(crate) fn retire(&self, retire: impl FnOnce(&H)) {
        self.live.mark_retired();
        fence(Ordering::SeqCst);
        self.tell_retired(retire);
    }

    fn tell_retired(&self, retire: impl FnOnce(&H)) {
        if let Some(handle) = self.handle()
            && self.live.is_first_to_tell()
        {
            retire(handle);
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

// === impl Identity ===

impl Identity {
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

    #[test]
    fn record_of_an_idle_endpoint_is_small() {
        // What `Arc` adds is two counters.
        let record = size_of::<Endpoint<Arc<()>>>() + 2 * size_of::<usize>();
        assert!(record <= 104, "{record} bytes");
        assert!(size_of::<Member<Arc<()>>>() <= 24);
    }
}
