//! The recipe of a [`Limit`].

use std::sync::Arc;

use tower_layer::Layer;

use super::{Breaker, Limit, Limits};
use crate::{carry::Fixed, config::RequestPriority, hold::AtOnce};

/// Refuses requests beyond a limit. All services that one layer makes share its limits.
///
/// `P` says whose limits count ([`Fixed`] or [`Carried`](crate::carry::Carried)), `H` how long a permit is held.
#[derive(Clone, Copy, Debug)]
pub struct LimitLayer<P = Fixed<Breaker>, H = AtOnce> {
    policy: P,
    hold: H,
}

impl LimitLayer {
    /// Counts every request against the default priority of `limits`, from `call` to response.
    pub const fn new(limits: Arc<Limits>) -> Self {
        Self::with_policy(Fixed(Breaker { limits, priority: RequestPriority::Default }))
    }
}

impl<P> LimitLayer<P> {
    /// Counts a request against the limits that `policy` finds for it.
    pub const fn with_policy(policy: P) -> Self {
        Self { policy, hold: AtOnce }
    }
}

impl<P, H> LimitLayer<P, H> {
    /// Holds the permit as `hold` says; default: until there is a response. HTTP responses still have a body by then:
    /// [`UntilEnd`](crate::hold::UntilEnd) holds it to their end.
    #[must_use]
    pub fn hold<T>(self, hold: T) -> LimitLayer<P, T> {
        LimitLayer { policy: self.policy, hold }
    }
}

impl<S, P: Clone, H: Clone> Layer<S> for LimitLayer<P, H> {
    type Service = Limit<S, P, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit::with_parts(inner, self.policy.clone(), self.hold.clone())
    }
}
