//! What a request says of its own balancing: its dice, where it was before, when it began, whether it waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{Dice, carry::PolicyOf, config::RequestPriority, endpoint::Tried};

/// What a request says of its own balancing.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Decides the draws of this attempt. A request that has dice of its own rolls these with them.
    pub dice: Dice,
    /// Where earlier attempts were.
    pub tried: Tried,
    /// The attempt's reading of the clock.
    pub now: Instant,
    /// Counts it against the request breaker of its cluster, at this priority; none where nobody does, or where a
    /// [`LimitLayer`](crate::limit::LimitLayer) does.
    pub breaker: Option<RequestPriority>,
    /// Whether it waits for an endpoint rather than fail for want of one. It waits as long as its caller does.
    pub wait_for_ready: bool,
}

/// The terms of requests that carry none: dice of the balancer's own, from a seed and the number of the call; nothing was tried
/// before and nothing waits.
///
/// Clones count together.
#[derive(Clone, Debug)]
pub struct OwnDice {
    seed: u64,
    calls: Arc<AtomicU64>,
}

// === impl Terms ===

impl Terms {
    /// Those of a request that was nowhere before, counts nowhere and does not wait.
    pub const fn new(dice: Dice, now: Instant) -> Self {
        Self { dice, tried: Tried::new(), now, breaker: None, wait_for_ready: false }
    }
}

// === impl OwnDice ===

impl OwnDice {
    /// Dice seeded with `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: Arc::default() }
    }
}

impl<R> PolicyOf<R, Terms> for OwnDice {
    fn policy_of(&self, _: &mut R) -> Terms {
        let call = self.calls.fetch_add(1, Relaxed);
        Terms::new(Dice::of_call(self.seed, 0, call), Instant::now())
    }
}
