//! The recipe of a [`Retry`].

use std::{marker::PhantomData, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{ByClone, FailureRules, HttpRules, Replay, Retry, Standalone, StandaloneCall};
use crate::{config::RetryPolicy, hold::AtOnce, limit::Limits};

/// Tries requests again. All services that one layer makes share its budget.
///
/// - `K` keeps requests: [`Replay`] for HTTP, [`ByClone`] for any.
/// - `J` judges results: [`HttpRules`], [`FailureRules`], or a closure.
/// - `H` says how far time limits reach: to the response ([`AtOnce`]), or to the end of its body
///   ([`UntilEnd`](crate::hold::UntilEnd)).
/// - `O` is where the policy `P` of a request comes from: [`Standalone`], or [`Carried`](crate::carry::Carried).
#[derive(Debug)]
pub struct RetryLayer<K = Replay, J = HttpRules, H = AtOnce, O = Standalone, P = StandaloneCall> {
    pub(super) keep: K,
    pub(super) judge: J,
    pub(super) hold: H,
    pub(super) origin: O,
    policy: PhantomData<fn() -> P>,
}

impl RetryLayer {
    /// Tries HTTP requests again, as `policy` says.
    pub fn new(policy: RetryPolicy) -> Self {
        Self::with_parts(Replay::new(), HttpRules, AtOnce, Standalone::new(policy))
    }
}

impl RetryLayer<ByClone, FailureRules> {
    /// Tries requests of any type that can be cloned again. Of the policy's conditions only those on failures count, unless
    /// another [`judge`](RetryLayer::judge) is given.
    pub fn cloning(policy: RetryPolicy) -> Self {
        Self::with_parts(ByClone, FailureRules, AtOnce, Standalone::new(policy))
    }
}

impl<K, J, H, O, P> RetryLayer<K, J, H, O, P> {
    /// From its parts: `keep` keeps requests, `judge` judges results, `hold` says how far time limits reach, `origin` finds
    /// the policy `P` of each request.
    pub const fn with_parts(keep: K, judge: J, hold: H, origin: O) -> Self {
        Self { keep, judge, hold, origin, policy: PhantomData }
    }

    /// Keeps requests in another way.
    #[must_use]
    pub fn keep<T>(self, keep: T) -> RetryLayer<T, J, H, O, P> {
        RetryLayer::with_parts(keep, self.judge, self.hold, self.origin)
    }

    /// Judges results in another way.
    #[must_use]
    pub fn judge<T>(self, judge: T) -> RetryLayer<K, T, H, O, P> {
        RetryLayer::with_parts(self.keep, judge, self.hold, self.origin)
    }

    /// How far time limits reach; default: to the response.
    #[must_use]
    pub fn hold<T>(self, hold: T) -> RetryLayer<K, J, T, O, P> {
        RetryLayer::with_parts(self.keep, self.judge, hold, self.origin)
    }
}

impl<K, J, H> RetryLayer<K, J, H> {
    /// Ends each call after `limit`, all attempts and waits included. Default: never.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.origin.timeout(limit);
        self
    }

    /// Gives an attempt up when it has no response after `limit`. Default: never.
    #[must_use]
    pub const fn per_try_timeout(mut self, limit: Duration) -> Self {
        self.origin.per_try(limit);
        self
    }

    /// Gives an attempt up when nothing is heard for `limit`: from its start to its response and, where [`hold`](Self::hold)
    /// makes limits reach into the body, between frames. Default: never.
    #[must_use]
    pub const fn per_try_idle_timeout(mut self, limit: Duration) -> Self {
        self.origin.per_try_idle(limit);
        self
    }

    /// Counts retries against `limits`, whose requests somebody else counts, as a [`LimitLayer`](crate::limit::LimitLayer)
    /// within does. Default: limits of its own.
    #[must_use]
    pub fn budget(mut self, limits: Arc<Limits>) -> Self {
        self.origin.share(limits);
        self
    }

    /// Makes jitter repeatable. Default: a seed of the process.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.origin.seed(seed);
        self
    }
}

impl<K: Clone, J: Clone, H: Clone, O: Clone, P> Clone for RetryLayer<K, J, H, O, P> {
    fn clone(&self) -> Self {
        Self::with_parts(self.keep.clone(), self.judge.clone(), self.hold.clone(), self.origin.clone())
    }
}

impl<S, K: Clone, J: Clone, H: Clone, O: Clone, P> Layer<S> for RetryLayer<K, J, H, O, P> {
    type Service = Retry<S, K, J, H, O, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, recipe: self.clone() }
    }
}
