//! How soon a refusal is told to a control plane that offers the same again.
//!
//! A server that keeps to what it has (go-control-plane does) sends the refused version again as soon as it hears of the
//! refusal. Answered at once, each would call forth the next, as fast as the network goes and for as long as nobody mends
//! the resource. No rule says when an answer is due, so the second refusal in a row and each after it waits: exponentially
//! longer while the resources are the same, byte by byte, and from the start where they differ, since somebody is at work on
//! them. A mended version thus comes late by no more than a part of the time for which the broken one stood, and by
//! [`Config::nack_max`](super::Config) at most.
//!
//! What waits holds up nobody: other kinds go on. In state of the world a change of names takes the waiting refusal along at
//! once, and a later response settles the earlier one with its own answer, as it does in Envoy and in gRPC. In delta, where
//! every response is answered by itself, what is accepted leaves the refusal of something else waiting.

use tokio::time::Instant;

use super::{Reply, backoff::Backoff};
use crate::fingerprint::Fingerprint;

/// The refusals of one kind on the current stream, since a response was last accepted whole.
#[derive(Debug)]
pub(super) struct Refusals {
    backoff: Backoff,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The last response was accepted, or there was none.
    None,
    /// The last response was refused, and the server has been told, or is about to be. Resources that were refused first are
    /// not known, so that what is accepted costs no hashing.
    Told { refused: Option<Fingerprint> },
    /// The last response was refused, and the server is to be told at `until`.
    Held { refused: Option<Fingerprint>, until: Instant, reply: Reply },
}

// === impl Refusals ===

impl Refusals {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, state: State::None }
    }

    /// Whether the next response should have a fingerprint.
    pub(super) fn compares(&self) -> bool {
        !matches!(self.state, State::None)
    }

    /// A response was accepted, or the stream is gone. Returns whether a refusal was waiting, which is settled by that.
    pub(super) fn end(&mut self) -> bool {
        self.backoff.reset();
        matches!(std::mem::replace(&mut self.state, State::None), State::Held { .. })
    }

    /// A response was refused. Returns whether the refusal before it was waiting still, and is settled by this one.
    pub(super) fn hold(&mut self, refused: Option<Fingerprint>, reply: Reply, now: Instant) -> bool {
        let (last, waiting) = match &self.state {
            State::None => (None, Some(now)),
            State::Told { refused } => (*refused, None),
            State::Held { refused, until, .. } => (*refused, Some(*until)),
        };
        if last != refused {
            self.backoff.reset();
        }
        let until = waiting.unwrap_or_else(|| now + self.backoff.next_wait());
        let state = State::Held { refused, until, reply };
        matches!(std::mem::replace(&mut self.state, state), State::Held { .. })
    }

    /// When the refusal that waits is to be told.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.state {
            State::Held { until, .. } => Some(*until),
            State::None | State::Told { .. } => None,
        }
    }

    /// Takes the refusal that waits, to be told now.
    pub(super) fn release(&mut self) -> Option<Reply> {
        match std::mem::replace(&mut self.state, State::None) {
            State::Held { refused, reply, .. } => {
                self.state = State::Told { refused };
                Some(reply)
            }
            other => {
                self.state = other;
                None
            }
        }
    }
}
