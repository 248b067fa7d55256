//! Whether an attempt is followed by another: the decision, as a trait.

use super::backoff::Wait;
use crate::{
    config::RetryPolicy,
    outcome::{BoxError, Failure, Flags},
};

/// Decides what follows an attempt. Closures are judges: `|tried: Tried<'_, Res>| -> Verdict`.
pub trait Judge<Res> {
    /// Looks at how an attempt ended. Called only for what was sent; what never left, or was refused unprocessed, is
    /// repeated without asking.
    fn judge(&self, tried: Tried<'_, Res>) -> Verdict;

    /// Notes in a response that is delivered why it was not tried again: [`Flags::URX`] when retries, or the time for them,
    /// were used up, [`Flags::UO`] when the budget was. Failed attempts carry the same flags in their error. Nothing by
    /// default, for responses that have no room for notes.
    fn note(&self, response: &mut Res, flags: Flags) {
        let _ = (response, flags);
    }
}

/// How an attempt ended, and what it is judged by.
#[derive(Debug)]
pub struct Tried<'a, Res> {
    /// The response, or the error.
    pub result: Result<&'a Res, &'a BoxError>,
    /// What the error stands for.
    pub failure: Option<Failure>,
    /// The policy.
    pub policy: &'a RetryPolicy,
    /// Whether the request may be repeated whatever became of it.
    pub idempotent: bool,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its result is delivered.
    Deliver,
    /// Another attempt is worth while, after this wait.
    Retry(Wait),
}

// === impl Judge ===

impl<Res, F> Judge<Res> for F
where
    F: Fn(Tried<'_, Res>) -> Verdict,
{
    fn judge(&self, tried: Tried<'_, Res>) -> Verdict {
        self(tried)
    }
}
