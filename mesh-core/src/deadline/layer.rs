//! The recipe of a [`Deadline`].

use std::time::Duration;

use tower_layer::Layer;

use super::{After, Deadline};
use crate::hold::AtOnce;

/// Ends requests that take too long.
///
/// `P` says when a request's time is up ([`After`], or [`Carried`](crate::carry::Carried) by the request), `H` how far the
/// limit reaches.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer<P = After, H = AtOnce> {
    policy: P,
    hold: H,
}

impl DeadlineLayer {
    /// Ends calls that have no response after `limit`.
    pub const fn new(limit: Duration) -> Self {
        Self::with_policy(After(limit))
    }
}

impl<P> DeadlineLayer<P> {
    /// Ends each call when `policy` says; a call for which it says nothing may take as long as it likes.
    pub const fn with_policy(policy: P) -> Self {
        Self { policy, hold: AtOnce }
    }
}

impl<P, H> DeadlineLayer<P, H> {
    /// How far the limit reaches; default: to the response, whatever its type. HTTP responses still have a body by then,
    /// and [`UntilEnd`](crate::hold::UntilEnd) makes the limit reach to its end: the body becomes a
    /// [`TimedBody`](super::TimedBody).
    #[must_use]
    pub fn hold<T>(self, hold: T) -> DeadlineLayer<P, T> {
        DeadlineLayer { policy: self.policy, hold }
    }
}

impl<S, P: Clone, H: Clone> Layer<S> for DeadlineLayer<P, H> {
    type Service = Deadline<S, P, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::with_parts(inner, self.policy.clone(), self.hold.clone())
    }
}
