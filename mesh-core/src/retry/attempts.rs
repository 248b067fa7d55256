//! The attempts that are under way.
//!
//! There is room for one, which lives inside the driver. The driver does not know that: it starts attempts, hears of
//! whichever ends or runs out of time, and clears what is left; so one that starts the next after a delay needs more room
//! here and nothing else.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::Instant;

use super::keep::Try;
use crate::deadline::{Bound, Expiry, Silence};

#[pin_project]
#[derive(Debug)]
pub(super) struct Attempts<F> {
    /// None between attempts.
    #[pin]
    future: Option<F>,
    this: Try,
    /// When it first had to be waited for, which is when it started: until then no time passed that anyone could see.
    since: Option<Instant>,
    /// When it was last seen to move.
    moved: Option<Instant>,
}

impl<F> Attempts<F> {
    pub(super) const fn new() -> Self {
        Self { future: None, this: Try { id: 0, number: 1 }, since: None, moved: None }
    }

    #[inline]
    pub(super) fn start(self: Pin<&mut Self>, this: Try, future: F) {
        let mut slot = self.project();
        slot.future.set(Some(future));
        *slot.this = this;
        *slot.since = None;
        *slot.moved = None;
    }

    /// When the nearest limit of an attempt passes; `was_read` tells whether the request was read since that was last asked.
    pub(super) fn nearest(
        self: Pin<&mut Self>,
        limit: Option<Duration>,
        silence: Option<Silence>,
        was_read: impl FnOnce() -> bool,
    ) -> Option<Expiry> {
        let slot = self.project();
        slot.future.as_ref().as_pin_ref()?;
        if limit.is_none() && silence.is_none() {
            return None;
        }
        let since = *slot.since.get_or_insert_with(Instant::now);
        let whole = limit.map(|limit| Expiry::new(Bound::PerTry, since, limit));
        let silent = silence.map(|Silence { bound, limit }| {
            let moved = slot.moved.get_or_insert_with(|| {
                // What was read before the silence does not end it.
                was_read();
                since
            });
            Expiry::new(bound, *moved, limit)
        });
        match (whole, silent) {
            (Some(whole), Some(silent)) if silent.at() < whole.at() => Some(silent),
            (whole, silent) => whole.or(silent),
        }
    }

    /// An attempt that takes in what it is sent is not silent: its silence starts again.
    pub(super) fn moved(self: Pin<&mut Self>) {
        *self.project().moved = Some(Instant::now());
    }

    /// The attempt that has ended, or whose limit is the nearest.
    pub(super) const fn latest(&self) -> Try {
        self.this
    }

    /// Drops an attempt.
    #[inline]
    pub(super) fn end(self: Pin<&mut Self>, this: Try) {
        debug_assert_eq!(self.this, this, "there is one at a time");
        self.clear();
    }

    /// Drops all.
    #[inline]
    pub(super) fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

impl<F: Future> Attempts<F> {
    /// The result of the next attempt that ends, which is then the [`latest`](Self::latest); pending while there is none.
    #[inline]
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}
