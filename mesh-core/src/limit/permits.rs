//! The counters of a cluster and the permits that move them.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::Overloaded;
use crate::{
    config::{CircuitBreakers, RequestPriority, RetryBudget, Thresholds},
    hold::Settle,
    outcome::Outcome,
};

/// What one cluster has under way, by priority, and how much it may have (`CircuitBreakers`).
///
/// A change of policy changes the limits in place, so that what is under way stays counted. What is over a limit that was
/// lowered runs to its end.
#[derive(Debug)]
pub struct Limits {
    default: Tier,
    high: RareTier,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Requests under way, to the end of their responses; those that wait for a connection are among them.
    Requests,
    /// Requests that wait for a connection.
    Pending,
    /// Connections.
    Connections,
    /// Retries scheduled or under way.
    Retries,
}

/// One of what is limited; dropping it makes room.
///
/// It cannot be cloned: each permit is one thing under way.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once admits nothing"]
pub struct Permit {
    limits: Arc<Limits>,
    resource: Resource,
    priority: RequestPriority,
}

/// What a priority has under way and may have, at a glance; the counts are read one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Requests under way.
    pub requests: Figure,
    /// Requests that wait for a connection.
    pub pending: Figure,
    /// Connections.
    pub connections: Figure,
    /// Retries scheduled or under way.
    pub retries: Figure,
}

/// A count and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Under way now.
    pub active: u32,
    /// How many may be under way; for retries under a budget, what the budget comes to now.
    pub limit: u32,
    /// How many were refused since the counters were made.
    pub refused: u64,
}

/// The counters of one priority.
#[derive(Debug, Default)]
pub(super) struct Tier {
    requests: Counter,
    pending: Counter,
    connections: Counter,
    retries: Counter,
}

/// The counters of a priority that hardly any cluster has requests of. They are made for the first of these, since counters
/// that lie apart are large.
#[derive(Debug)]
struct RareTier {
    /// What their limits are, or would be.
    thresholds: Mutex<Thresholds>,
    counters: OnceLock<Box<Tier>>,
}

/// One count and its limit, on cache lines of their own: two, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter {
    active: AtomicU32,
    /// A [`Ceiling`], packed, so that a change is never seen by halves.
    ceiling: AtomicU64,
    refused: AtomicU64,
}

/// How a limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ceiling {
    Count(u32),
    /// A share of the requests under way, in millionths, but at least `floor`.
    Share {
        millionths: u32,
        floor: u32,
    },
}

// === impl Limits ===

impl Limits {
    /// Counters at zero under these limits.
    pub fn new(breakers: &CircuitBreakers) -> Arc<Self> {
        Arc::new(Self { default: Tier::new(&breakers.default), high: RareTier::new(breakers.high) })
    }

    /// Sets other limits; what is under way stays counted and runs on.
    pub fn update(&self, breakers: &CircuitBreakers) {
        self.default.update(&breakers.default);
        self.high.update(breakers.high);
    }

    /// Admits one request.
    ///
    /// # Errors
    ///
    /// Refuses when as many as allowed are under way, as do the three below.
    pub fn request(self: &Arc<Self>, priority: RequestPriority) -> Result<Permit, Overloaded> {
        self.clone().admit(Resource::Requests, priority)
    }

    /// Admits one request to those that wait for a connection.
    ///
    /// # Errors
    ///
    /// Refuses when as many as allowed are waiting.
    pub fn pending(self: &Arc<Self>, priority: RequestPriority) -> Result<Permit, Overloaded> {
        self.clone().admit(Resource::Pending, priority)
    }

    /// Admits one connection.
    ///
    /// # Errors
    ///
    /// Refuses when as many as allowed are open.
    pub fn connection(self: &Arc<Self>, priority: RequestPriority) -> Result<Permit, Overloaded> {
        self.clone().admit(Resource::Connections, priority)
    }

    /// Counts a connection whatever the limit says: an endpoint that has none is given one, as in Envoy, since requests to
    /// it would otherwise wait for connections that other endpoints hold.
    pub fn first_connection(self: &Arc<Self>, priority: RequestPriority) -> Permit {
        let counter = self.tier(priority).counter(Resource::Connections);
        counter.active.fetch_add(1, Relaxed);
        Permit { limits: self.clone(), resource: Resource::Connections, priority }
    }

    /// Admits one retry, from when it is scheduled to its response.
    ///
    /// # Errors
    ///
    /// Refuses when the count or the budget allows no more: `active retries < max(percent * requests, min_concurrency)`.
    /// Envoy adds the requests that wait for a connection to those that have one (`RetryBudget.budget_percent`); here a
    /// request that waits has its permit already, and counts once.
    pub fn retry(self: &Arc<Self>, priority: RequestPriority) -> Result<Permit, Overloaded> {
        self.clone().admit(Resource::Retries, priority)
    }

    /// Admits one of `resource`; as [`request`](Self::request) and its like, for who has a handle to give away.
    ///
    /// # Errors
    ///
    /// Refuses when as many as allowed are under way.
    #[inline]
    pub fn admit(self: Arc<Self>, resource: Resource, priority: RequestPriority) -> Result<Permit, Overloaded> {
        self.enter(resource, priority).map(|()| Permit { limits: self, resource, priority })
    }

    /// As [`admit`](Self::admit), for who needs no handle to say when it is over: by [`leave`](Self::leave), once.
    #[inline]
    pub(crate) fn enter(&self, resource: Resource, priority: RequestPriority) -> Result<(), Overloaded> {
        let tier = self.tier(priority);
        let admitted = tier.counter(resource).admit(|| tier.under_way());
        admitted.map_err(|limit| Overloaded::new(resource, priority, limit))
    }

    /// Makes room for another.
    #[inline]
    pub(crate) fn leave(&self, resource: Resource, priority: RequestPriority) {
        self.tier(priority).counter(resource).active.fetch_sub(1, Relaxed);
    }

    /// What is under way and allowed.
    pub fn figures(&self, priority: RequestPriority) -> Figures {
        match priority {
            RequestPriority::Default => self.default.figures(),
            RequestPriority::High => self.high.figures(),
        }
    }

    fn tier(&self, priority: RequestPriority) -> &Tier {
        match priority {
            RequestPriority::Default => &self.default,
            RequestPriority::High => self.high.counters(),
        }
    }
}

// === impl Resource ===

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Pending => "pending requests",
            Self::Connections => "connections",
            Self::Retries => "retries",
        })
    }
}

// === impl Permit ===

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        self.limits.leave(self.resource, self.priority);
    }
}

impl Settle for Permit {
    /// Nothing: however the work ended, the permit goes back when it is dropped.
    fn settle(&mut self, _: &Outcome) {}
}

// === impl Tier ===

impl Tier {
    fn new(thresholds: &Thresholds) -> Self {
        let tier = Self::default();
        tier.update(thresholds);
        tier
    }

    fn update(&self, thresholds: &Thresholds) {
        let count = |max: Option<u32>, default| Ceiling::Count(max.unwrap_or(default));
        self.requests.limit(count(thresholds.max_requests, Thresholds::DEFAULT));
        self.pending.limit(count(thresholds.max_pending, Thresholds::DEFAULT));
        self.connections.limit(count(thresholds.max_connections, Thresholds::DEFAULT));
        self.retries.limit(match thresholds.retry_budget {
            Some(budget) => Ceiling::of_budget(budget),
            None => count(thresholds.max_retries, Thresholds::DEFAULT_RETRIES),
        });
    }

    const fn counter(&self, resource: Resource) -> &Counter {
        match resource {
            Resource::Requests => &self.requests,
            Resource::Pending => &self.pending,
            Resource::Connections => &self.connections,
            Resource::Retries => &self.retries,
        }
    }

    fn figures(&self) -> Figures {
        let figure = |resource| self.counter(resource).figure(self.under_way());
        Figures {
            requests: figure(Resource::Requests),
            pending: figure(Resource::Pending),
            connections: figure(Resource::Connections),
            retries: figure(Resource::Retries),
        }
    }

    /// What a retry budget is a share of: requests, those that wait for a connection among them. Where nobody counts requests,
    /// those that wait are all that is known.
    fn under_way(&self) -> u64 {
        u64::from(self.requests.active.load(Relaxed).max(self.pending.active.load(Relaxed)))
    }
}

// === impl RareTier ===

impl RareTier {
    const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds: Mutex::new(thresholds), counters: OnceLock::new() }
    }

    fn update(&self, thresholds: Thresholds) {
        let mut known = self.thresholds();
        *known = thresholds;
        if let Some(counters) = self.counters.get() {
            counters.update(&known);
        }
    }

    fn counters(&self) -> &Tier {
        match self.counters.get() {
            Some(counters) => counters,
            None => self.make(),
        }
    }

    #[cold]
    fn make(&self) -> &Tier {
        // Held until they are there, so that they miss no update.
        let thresholds = self.thresholds();
        self.counters.get_or_init(|| Box::new(Tier::new(&thresholds)))
    }

    fn figures(&self) -> Figures {
        match self.counters.get() {
            Some(counters) => counters.figures(),
            None => Tier::new(&self.thresholds()).figures(),
        }
    }

    fn thresholds(&self) -> MutexGuard<'_, Thresholds> {
        self.thresholds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Counter ===

impl Counter {
    fn limit(&self, ceiling: Ceiling) {
        self.ceiling.store(ceiling.pack(), Relaxed);
    }

    fn ceiling(&self) -> Ceiling {
        Ceiling::unpack(self.ceiling.load(Relaxed))
    }

    /// Counts one more while there is room, or says how much room there was in all.
    ///
    /// It compares and exchanges rather than adding and taking back: an addition that is about to be taken back would
    /// refuse others who had room, and show in the figures. No memory is published through a count, so the orderings are
    /// relaxed.
    #[inline]
    fn admit(&self, under_way: impl FnOnce() -> u64) -> Result<(), u32> {
        let limit = self.ceiling().limit(under_way);
        let admitted = self.active.fetch_update(Relaxed, Relaxed, |active| (active < limit).then_some(active + 1));
        admitted.map(|_| ()).map_err(|_| {
            self.refused.fetch_add(1, Relaxed);
            limit
        })
    }

    fn figure(&self, under_way: u64) -> Figure {
        Figure {
            active: self.active.load(Relaxed),
            limit: self.ceiling().limit(|| under_way),
            refused: self.refused.load(Relaxed),
        }
    }
}

// === impl Ceiling ===

impl Ceiling {
    /// In the upper half of a packed ceiling: it is a count. No share is that large.
    const COUNT: u32 = u32::MAX;

    fn of_budget(budget: RetryBudget) -> Self {
        // At most 1,000,000, so the cast is exact.
        let millionths = (budget.percent.share() * 1e6).round() as u32;
        Self::Share { millionths, floor: budget.min_concurrency }
    }

    fn limit(self, under_way: impl FnOnce() -> u64) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Share { millionths, floor } => {
                let share = under_way().saturating_mul(u64::from(millionths)) / 1_000_000;
                u32::try_from(share).unwrap_or(u32::MAX).max(floor)
            }
        }
    }

    const fn pack(self) -> u64 {
        let (upper, lower) = match self {
            Self::Count(count) => (Self::COUNT, count),
            Self::Share { millionths, floor } => (millionths, floor),
        };
        ((upper as u64) << 32) | lower as u64
    }

    const fn unpack(packed: u64) -> Self {
        let (upper, lower) = ((packed >> 32) as u32, packed as u32);
        match upper {
            Self::COUNT => Self::Count(lower),
            millionths => Self::Share { millionths, floor: lower },
        }
    }
}
