//! The recipe of a [`Retry`].

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{ByClone, FailureRules, HttpRules, Replay, Retry, Standalone, Under};
use crate::{config::RetryPolicy, hold::AtOnce, limit::Limits};

/// Tries requests again. All services that one layer makes share its budget.
///
/// - `G` keeps requests under their policies: [`Under`] puts the two together of a way to keep requests, as [`Replay`] for
///   HTTP or [`ByClone`] for any, and a policy, as [`Standalone`].
/// - `J` judges results: [`HttpRules`], [`FailureRules`], or a closure.
/// - `H` says how far time limits reach: to the response ([`AtOnce`]), or to the end of its body
///   ([`UntilEnd`](crate::hold::UntilEnd)).
#[derive(Clone, Copy, Debug)]
pub struct RetryLayer<G = Under, J = HttpRules, H = AtOnce> {
    pub(super) govern: G,
    pub(super) judge: J,
    pub(super) hold: H,
}

impl RetryLayer {
    /// Tries HTTP requests again, as `policy` says.
    pub fn new(policy: RetryPolicy) -> Self {
        Self::with_parts(Under::new(Replay::new(), Standalone::new(policy)), HttpRules, AtOnce)
    }
}

impl RetryLayer<Under<ByClone>, FailureRules> {
    /// Tries requests of any type that can be cloned again. Of the policy's conditions only those on failures count, unless
    /// another [`judge`](RetryLayer::judge) is given.
    pub fn cloning(policy: RetryPolicy) -> Self {
        Self::with_parts(Under::new(ByClone, Standalone::new(policy)), FailureRules, AtOnce)
    }
}

impl<G, J, H> RetryLayer<G, J, H> {
    /// From its parts: `govern` keeps requests under their policies, `judge` judges results, `hold` says how far time limits
    /// reach.
    pub const fn with_parts(govern: G, judge: J, hold: H) -> Self {
        Self { govern, judge, hold }
    }

    /// Judges results in another way.
    #[must_use]
    pub fn judge<T>(self, judge: T) -> RetryLayer<G, T, H> {
        RetryLayer::with_parts(self.govern, judge, self.hold)
    }

    /// How far time limits reach; default: to the response.
    #[must_use]
    pub fn hold<T>(self, hold: T) -> RetryLayer<G, J, T> {
        RetryLayer::with_parts(self.govern, self.judge, hold)
    }
}

impl<K, J, H> RetryLayer<Under<K>, J, H> {
    /// Keeps requests in another way.
    #[must_use]
    pub fn keep<T>(self, keep: T) -> RetryLayer<Under<T>, J, H> {
        RetryLayer::with_parts(Under::new(keep, self.govern.origin), self.judge, self.hold)
    }

    /// Ends each call after `limit`, all attempts and waits included. Default: never.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.govern.origin.timeout(limit);
        self
    }

    /// Gives an attempt up when it has no response after `limit`. Default: never.
    #[must_use]
    pub const fn per_try_timeout(mut self, limit: Duration) -> Self {
        self.govern.origin.per_try(limit);
        self
    }

    /// Gives an attempt up when nothing is heard for `limit`: from its start to its response and, where [`hold`](Self::hold)
    /// makes limits reach into the body, between frames. Default: never.
    #[must_use]
    pub const fn per_try_idle_timeout(mut self, limit: Duration) -> Self {
        self.govern.origin.per_try_idle(limit);
        self
    }

    /// Counts retries against `limits`, whose requests somebody else counts, as a [`LimitLayer`](crate::limit::LimitLayer)
    /// within does. Default: limits of its own.
    #[must_use]
    pub fn budget(mut self, limits: Arc<Limits>) -> Self {
        self.govern.origin.share(limits);
        self
    }

    /// Makes jitter repeatable. Default: a seed of the process.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.govern.origin.seed(seed);
        self
    }
}

impl<S, G: Clone, J: Clone, H: Clone> Layer<S> for RetryLayer<G, J, H> {
    type Service = Retry<S, G, J, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, recipe: self.clone() }
    }
}
