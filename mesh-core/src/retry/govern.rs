//! A kept request and its policy, as the one thing that the driver holds.

use std::{fmt, marker::PhantomData};

use super::{
    keep::{Keep, Kept},
    policy::{AttemptPolicy, Standalone, StandaloneCall},
    replay::Replay,
};
use crate::carry::PolicyOf;

/// Keeps requests under their policies: [`Under`] puts a policy beside the request, and a request that carries its own keeps
/// it where it is, so that it need not be copied.
pub trait Govern<R> {
    /// A request that is kept, and its policy.
    type Governed: Governed;

    /// Keeps `request`, as its policy says.
    fn govern(&self, request: R) -> Self::Governed;
}

/// A kept request and its policy; one value a call, dropped with it.
pub trait Governed {
    /// The request.
    type Kept: Kept;
    /// The policy.
    type Policy: AttemptPolicy;

    /// The request.
    fn kept(&mut self) -> &mut Self::Kept;

    /// The policy.
    fn policy(&self) -> &Self::Policy;
}

/// Keeps requests with `K`, each under the policy `P` that `O` finds.
pub struct Under<K = Replay, O = Standalone, P = StandaloneCall> {
    keep: K,
    pub(super) origin: O,
    policy: PhantomData<fn() -> P>,
}

impl<K: Kept, P: AttemptPolicy> Governed for (K, P) {
    type Kept = K;
    type Policy = P;

    #[inline]
    fn kept(&mut self) -> &mut K {
        &mut self.0
    }

    #[inline]
    fn policy(&self) -> &P {
        &self.1
    }
}

// === impl Under ===

impl<K, O, P> Under<K, O, P> {
    /// Keeps requests with `keep`, each under the policy that `origin` finds.
    pub const fn new(keep: K, origin: O) -> Self {
        Self { keep, origin, policy: PhantomData }
    }
}

impl<R, K, O, P> Govern<R> for Under<K, O, P>
where
    K: Keep<R>,
    O: PolicyOf<R, P>,
    P: AttemptPolicy,
{
    type Governed = (K::Kept, P);

    #[inline]
    fn govern(&self, mut request: R) -> Self::Governed {
        let policy = self.origin.policy_of(&mut request);
        (self.keep.keep(request, policy.is_kept()), policy)
    }
}

impl<K: Clone, O: Clone, P> Clone for Under<K, O, P> {
    fn clone(&self) -> Self {
        Self::new(self.keep.clone(), self.origin.clone())
    }
}

impl<K: fmt::Debug, O: fmt::Debug, P> fmt::Debug for Under<K, O, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Under").field("keep", &self.keep).field("origin", &self.origin).finish()
    }
}
