//! How the control plane misbehaves at present.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use tonic::Status;

use super::Mutations;
use crate::ResourceKind;
use crate::session::Response;

/// A response that was held back, and the stream that it is meant for.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The number of the stream, as in the [record](super::Event).
    pub stream: u64,
    /// The response, with the nonce that the stream gave it.
    pub response: Response,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) delay: Duration,
    /// What comes to it for some kinds.
    pub(super) delays: BTreeMap<ResourceKind, Duration>,
    pub(super) drip: Duration,
    pub(super) is_silent: bool,
    pub(super) is_paused: bool,
    /// What new streams are answered with.
    pub(super) refusal: Option<Status>,
    /// The responses that are held back, if they are, in the order in which they would have left.
    pub(super) held: Option<Vec<Held>>,
    /// What is done to the next responses of a kind, once each.
    pub(super) damages: BTreeMap<ResourceKind, VecDeque<Damage>>,
    /// What is done to every response.
    pub(super) mutations: Option<Mutations>,
}

/// What is done to the bytes of one response.
pub(super) struct Damage(pub(super) Box<Corrupt>);

type Corrupt = dyn FnOnce(&mut Vec<u8>) + Send;

// === impl Faults ===

impl Faults {
    /// How much later a response of this kind is sent.
    pub(super) fn delay_of(&self, kind: Option<ResourceKind>) -> Duration {
        self.delay + kind.and_then(|kind| self.delays.get(&kind)).copied().unwrap_or_default()
    }

    /// Does to a response what is to be done to it.
    pub(super) fn corrupt(&mut self, kind: Option<ResourceKind>, bytes: &mut Vec<u8>) {
        if let Some(Damage(damage)) = kind.and_then(|kind| self.damages.get_mut(&kind)?.pop_front()) {
            damage(bytes);
        }
        if let Some(mutations) = &mut self.mutations {
            *bytes = mutations.of(bytes);
        }
    }
}

// === impl Damage ===

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Damage")
    }
}
