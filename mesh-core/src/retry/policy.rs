//! What the driver must know of a request, and where a retry layer that stands alone has it from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Dice,
    carry::PolicyOf,
    config::{CircuitBreakers, RequestPriority, RetryBudget, RetryPolicy, Thresholds},
    deadline::{Bound, Expiry, Silence},
    limit::{Breaker, Limits, Permit},
};

/// What the driver must know of a request; one value a call, dropped with it.
pub trait AttemptPolicy {
    /// When and how often there is another attempt.
    fn retry(&self) -> Option<&RetryPolicy>;

    /// The call's dice, for jitter.
    fn dice(&self) -> Dice;

    /// Whose limits retries count against; without any, only the policy's number counts.
    fn budget(&self) -> Option<Breaker> {
        None
    }

    /// When everything must be over.
    fn deadline(&self) -> Option<Expiry> {
        None
    }

    /// How long an attempt may take to its response.
    fn per_try(&self) -> Option<Duration> {
        None
    }

    /// How long an attempt may be silent: from its start to its response, and between the frames of that. An attempt that
    /// reads a streaming request is not silent; it is looked at once a limit, so that it is cut off after two at most.
    fn silence(&self) -> Option<Silence> {
        None
    }

    /// Whether the caller says that the request may be repeated whatever became of it.
    fn is_idempotent(&self) -> bool {
        false
    }

    /// Whether the request is kept at all; default: when the policy allows a retry. What HTTP/2 may bounce unprocessed must
    /// be kept even without a policy.
    fn is_kept(&self) -> bool {
        self.retry().is_some_and(|policy| policy.retries() > 0)
    }
}

/// The same policy for every request, for a layer that stands alone.
///
/// Unless it is given [`Limits`] to share, it has its own: retries under way are at most 20 % of the requests under way, but
/// three are always allowed.
#[derive(Clone, Debug)]
pub struct Standalone {
    retry: Arc<RetryPolicy>,
    limits: Arc<Limits>,
    /// Whether the limits are its own, and so count requests by its word alone.
    counts_requests: bool,
    timeout: Option<Duration>,
    per_try: Option<Duration>,
    per_try_idle: Option<Duration>,
    seed: u64,
    calls: Arc<AtomicU64>,
}

/// The policy of one call of a [`Standalone`].
#[derive(Debug)]
pub struct StandaloneCall {
    retry: Arc<RetryPolicy>,
    limits: Arc<Limits>,
    deadline: Option<Expiry>,
    per_try: Option<Duration>,
    per_try_idle: Option<Duration>,
    dice: Dice,
    /// Held for the retry budget, which is a share of the requests under way.
    _request: Option<Permit>,
}

// === impl Standalone ===

impl Standalone {
    pub(super) fn new(retry: RetryPolicy) -> Self {
        let thresholds = Thresholds {
            max_requests: Some(u32::MAX),
            retry_budget: Some(RetryBudget::default()),
            ..Thresholds::default()
        };
        Self {
            retry: Arc::new(retry),
            limits: Limits::new(&CircuitBreakers { default: thresholds, high: thresholds }),
            counts_requests: true,
            timeout: None,
            per_try: None,
            per_try_idle: None,
            seed: Dice::random_seed(),
            calls: Arc::default(),
        }
    }

    pub(super) fn share(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
        self.counts_requests = false;
    }

    pub(super) const fn timeout(&mut self, limit: Duration) {
        self.timeout = Some(limit);
    }

    pub(super) const fn per_try(&mut self, limit: Duration) {
        self.per_try = Some(limit);
    }

    pub(super) const fn per_try_idle(&mut self, limit: Duration) {
        self.per_try_idle = Some(limit);
    }

    pub(super) const fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }
}

impl<R> PolicyOf<R, StandaloneCall> for Standalone {
    fn policy_of(&self, _: &mut R) -> StandaloneCall {
        let request = || self.limits.request(RequestPriority::Default).ok();
        StandaloneCall {
            retry: self.retry.clone(),
            limits: self.limits.clone(),
            deadline: self.timeout.map(|limit| Expiry::new(Bound::Request, Instant::now(), limit)),
            per_try: self.per_try,
            per_try_idle: self.per_try_idle,
            dice: Dice::of_call(self.seed, 0, self.calls.fetch_add(1, Relaxed)),
            _request: self.counts_requests.then(request).flatten(),
        }
    }
}

// === impl StandaloneCall ===

impl AttemptPolicy for StandaloneCall {
    fn retry(&self) -> Option<&RetryPolicy> {
        Some(&self.retry)
    }

    fn dice(&self) -> Dice {
        self.dice
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.limits.clone(), priority: RequestPriority::Default })
    }

    fn deadline(&self) -> Option<Expiry> {
        self.deadline
    }

    fn per_try(&self) -> Option<Duration> {
        self.per_try
    }

    fn silence(&self) -> Option<Silence> {
        self.per_try_idle.map(|limit| Silence { bound: Bound::PerTryIdle, limit })
    }
}
