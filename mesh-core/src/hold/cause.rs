//! Why work is dropped before its end, told to the guards inside it.
//!
//! Whoever gives work up for want of time drops it, and to the guards in there that looks like a caller who has lost
//! interest. Outlier detection and latencies need the difference: it is the endpoint who was slow. Between the two stand
//! futures and bodies of other people's layers, which would pass no trait of ours on; but all of them are on the stack when
//! the drop reaches a guard. So the cause lies where everything further up that stack finds it, and nothing else does: what
//! is dropped elsewhere, as by a buffer's task, hears of no cause, and counts as before.

use std::cell::Cell;

use crate::outcome::{EndpointId, Failure};

/// A drop under way.
#[derive(Clone, Copy)]
struct GivenUp {
    failure: Failure,
    /// Where the work was, as the guard there has said.
    endpoint: Option<EndpointId>,
}

thread_local! {
    /// Set during [`give_up`], read by guards that are dropped before they were settled: a call that ends well touches it
    /// at no time.
    static GIVEN_UP: Cell<Option<GivenUp>> = const { Cell::new(None) };
}

/// Restores what was there before, even when a drop panics.
struct Scope(Option<GivenUp>);

/// Gives work up: runs `end`, which drops it, and settles the guards inside with `failure` in place of a cancellation.
/// Returns the endpoint that had the work.
///
/// For layers that end calls of their inner service on their own account, as [`Deadline`](crate::deadline::Deadline) and
/// [`Retry`](crate::retry::Retry) do.
///
/// # Examples
///
/// ```
/// use mesh_core::{hold, outcome::{Failure, FailureKind, Sent}};
///
/// let mut slow = Some(std::future::pending::<()>());
/// let failure = Failure::new(FailureKind::PerTryTimeout, Sent::Maybe);
/// let endpoint = hold::give_up(failure, || slow = None);
/// assert!(endpoint.is_none(), "it was not at one");
/// ```
pub fn give_up(failure: Failure, end: impl FnOnce()) -> Option<EndpointId> {
    let _scope = Scope(GIVEN_UP.replace(Some(GivenUp { failure, endpoint: None })));
    end();
    GIVEN_UP.get()?.endpoint
}

/// Why the guard that asks is being dropped; none when the caller went away.
pub(super) fn cause() -> Option<Failure> {
    GIVEN_UP.get().map(|given_up| given_up.failure)
}

/// As [`cause`]; notes where the work was.
pub(crate) fn cause_at(endpoint: EndpointId) -> Option<Failure> {
    let given_up = GIVEN_UP.get()?;
    GIVEN_UP.set(Some(GivenUp { endpoint: Some(endpoint), ..given_up }));
    Some(given_up.failure)
}

// === impl Scope ===

impl Drop for Scope {
    fn drop(&mut self) {
        GIVEN_UP.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::outcome::{FailureKind, Sent};

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, Sent::Maybe)
    }

    #[test]
    fn cause_is_the_innermost_and_ends_with_the_drop() {
        assert_eq!(cause(), None);
        give_up(failure(FailureKind::Timeout), || {
            give_up(failure(FailureKind::PerTryTimeout), || {
                assert_eq!(cause(), Some(failure(FailureKind::PerTryTimeout)));
            });
            assert_eq!(cause(), Some(failure(FailureKind::Timeout)));
        });
        assert_eq!(cause(), None);
    }

    #[test]
    fn cause_does_not_outlive_a_panic() {
        let panicked =
            catch_unwind(AssertUnwindSafe(|| give_up(failure(FailureKind::Timeout), || panic!("in a drop"))));
        assert!(panicked.is_err());
        assert_eq!(cause(), None);
    }
}
