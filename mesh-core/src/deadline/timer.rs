//! The one timer of a request.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that exists only once something has to be waited for, and then serves every limit of its request: it is set to
/// whichever is nearest.
///
/// It lives inside the future that uses it: no allocation, no task. A deadline that moves away costs nothing, as the timer
/// stays where it is and moves on when it goes off early; so a limit on silence does not pay the timer wheel for each frame.
///
/// # Panics
///
/// [`poll`](Self::poll) panics outside a tokio runtime that has its time driver enabled, as tokio's `Sleep` does.
#[pin_project]
#[derive(Debug, Default)]
pub struct Timer {
    #[pin]
    sleep: Option<Sleep>,
}

impl Timer {
    /// A timer that is not set.
    pub const fn new() -> Self {
        Self { sleep: None }
    }

    /// Ready when `deadline` has passed; call it after whatever else could make progress was pending.
    pub fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut slot = self.project().sleep;
        if slot.is_none() {
            slot.set(Some(sleep_until(deadline)));
        }
        let mut sleep = slot.as_pin_mut().expect("it was set above");
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
