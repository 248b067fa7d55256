//! One request on its way: from the caller to an endpoint, through the stack of layers, and back.
//!
//! ```text
//! route -> change headers -> faults -> drops -> Retry  (deadline, attempts, back-off: one timer)
//!                                                 per attempt: Balance (breaker, pick) -> pool -> endpoint
//! ```
//!
//! What was decided about a request travels in its type: [`Routed`](routed::Routed) down to the retry layer,
//! [`Attempt`](attempt::Attempt) below it. The layers are mesh-core's own, told by [`Carried`] to find their policy there.

mod attempt;
mod caller;
mod delivery;
mod faults;
mod future;
mod keep;
mod options;
mod route;
mod routed;
mod rules;

use mesh_core::{
    balance::Balance,
    carry::Carried,
    hold::{JoinEnd, UntilEnd},
    retry::{Retry, RetryLayer},
};
use tower_layer::Layer;

pub(crate) use self::caller::Caller;
pub use self::{future::ResponseFuture, options::CallOptions};
use self::{keep::KeepRouted, rules::Rules};
use crate::{cluster::Transport, protocol::Protocol};

/// What every request of a protocol passes after it was routed.
pub(crate) type Stack<P> = Retry<Balanced<P>, KeepRouted<P>, Rules<P>, JoinEnd>;

type Balanced<P> = Balance<Transport, Carried, Carried, UntilEnd<<P as Protocol>::Classifier>>;

/// The stack; it holds nothing, since every request brings what its layers need.
pub(crate) fn stack<P: Protocol>() -> Stack<P> {
    let balance = Balance::new(Carried, Carried, UntilEnd(P::classifier()));
    RetryLayer::with_parts(KeepRouted::new(), Rules::new(), JoinEnd).layer(balance)
}
