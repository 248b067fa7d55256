//! Long work in slices, between which others on the thread have their turn.

use mesh_core::memory;
use tokio::task::yield_now;

/// How far the present slice has come.
///
/// Nothing is locked or borrowed from whom others may need it where a slice ends; what the work has read must not change
/// until it is done, or be read again.
#[derive(Debug)]
pub(crate) struct Pace {
    left: usize,
}

/// How many steps are in a slice: look-ups among thousands of names, or names that are asked for, some 50 us of them.
///
/// Counted rather than timed, so that a run under a paused clock takes the same steps twice.
pub(crate) const SLICE: usize = 64;

// === impl Pace ===

impl Pace {
    pub(crate) fn new() -> Self {
        Self { left: SLICE }
    }

    /// Ends a step, and at the end of the slice gives others their turn.
    pub(crate) async fn step(&mut self) {
        self.left -= 1;
        if self.left == 0 {
            self.end_slice().await;
        }
    }

    /// Gives others their turn: a slice's worth has been done in one step.
    pub(crate) async fn end_slice(&mut self) {
        self.left = SLICE;
        memory::settle();
        yield_now().await;
    }

    /// Drops what has been replaced, piece by piece.
    pub(crate) async fn let_go<T>(&mut self, pieces: impl IntoIterator<Item = T>) {
        for piece in pieces {
            drop(piece);
            self.step().await;
        }
    }
}

/// What comes of work that gives way now and then, and how often it has.
#[cfg(test)]
pub(crate) fn in_slices<T>(work: impl Future<Output = T>) -> (T, usize) {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    let (mut work, mut gave_way) = (pin!(work), 0);
    loop {
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return (done, gave_way),
            Poll::Pending => gave_way += 1,
        }
    }
}
