//! How a request is kept for another attempt: what the driver asks for, and the simplest answer, which is a clone.

use std::task::Context;

use crate::{
    deadline::Progress,
    outcome::{BoxError, Failure},
};

/// Keeps requests for another attempt.
pub trait Keep<R> {
    /// A request that is kept.
    type Kept: Kept;

    /// Keeps `request`; there will be one attempt only where it is not `repeatable`, and nothing need be kept.
    fn keep(&self, request: R, repeatable: bool) -> Self::Kept;
}

/// A request that is kept, to be sent once or more.
///
/// Dropping it means that no further attempt will be made.
pub trait Kept {
    /// What is sent.
    type Attempt;

    /// Called once before the first attempt, with the waker of the call: the time to see what of the request is there.
    fn gather(&mut self, _: &mut Context<'_>) {}

    /// The request for one more attempt; none where it can no longer be made, which ends the call.
    fn attempt(&mut self, this: Try) -> Option<Self::Attempt>;

    /// An attempt has ended, and another is wanted instead: stops whatever still reads for it, and returns whether there can
    /// be another. Where there cannot, nothing is stopped, since the attempt's answer will be delivered after all.
    fn retire(&mut self, this: Try) -> bool;

    /// The answer of this attempt is delivered: no other will be made.
    fn commit(&mut self, this: Try);

    /// Whether the request, of which an attempt has failed without leaving, is to be sent elsewhere at once, without policy or
    /// budget, as no attempt: where whoever keeps it knows a place that whoever sends it does not. No by default. Called once
    /// for each such failure; where this always said yes, the call would never end.
    fn moves_on(&mut self, failure: &Failure) -> bool {
        let _ = failure;
        false
    }

    /// Where it is noted that the request is read, which is no silence, before the answer or after; none where nobody would
    /// note it. Asked for under a limit on silence, more than once, and after [`commit`](Self::commit) for the last time.
    fn progress(&mut self) -> Option<Progress> {
        None
    }

    /// Whether the request may be repeated whatever became of it, by what can be seen from it.
    fn is_idempotent(&self) -> bool {
        false
    }
}

/// Hears how each attempt of a kept request ended, to avoid the endpoint next time for example. Does nothing by default.
pub trait Observe<Res> {
    /// Attempt `this` has ended with `result`, or has failed with it, as when its time was up.
    fn observe(&mut self, this: Try, result: Result<&Res, &BoxError>) {
        let _ = (this, result);
    }
}

/// Which attempt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    /// Counts everything that was started, from 0.
    pub id: u32,
    /// Counts attempts, from 1; a repetition of what the peer has not processed has the number of what it repeats. This is
    /// what peers are told (`x-envoy-attempt-count`; one less is `grpc-previous-rpc-attempts`).
    pub number: u32,
}

/// Keeps a clone of any request.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByClone;

/// A request kept by [`ByClone`].
#[derive(Clone, Debug)]
pub struct Cloned<R> {
    /// None once the only attempt has it.
    request: Option<R>,
    repeatable: bool,
}

// === impl ByClone ===

impl<R: Clone> Keep<R> for ByClone {
    type Kept = Cloned<R>;

    fn keep(&self, request: R, repeatable: bool) -> Cloned<R> {
        Cloned { request: Some(request), repeatable }
    }
}

impl<R: Clone> Kept for Cloned<R> {
    type Attempt = R;

    fn attempt(&mut self, _: Try) -> Option<R> {
        if self.repeatable { self.request.clone() } else { self.request.take() }
    }

    fn retire(&mut self, _: Try) -> bool {
        self.repeatable
    }

    fn commit(&mut self, _: Try) {
        self.request = None;
    }
}

impl<R, Res> Observe<Res> for Cloned<R> {}
