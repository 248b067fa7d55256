//! From hyper's `execute` to a slot: futures on their way, in allocations that serve again.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::rt::Executor;

/// Finished futures whose allocation is kept for the next ones. Bursts above it give their memory back.
const SPARE: usize = 64;

/// Takes hyper's futures to the connection's own task.
#[derive(Clone)]
pub(in crate::conn) struct Spawner(Arc<Handover>);

/// Where futures wait between hyper's `execute` and their slot, and empty cells for reuse.
#[derive(Default)]
pub(super) struct Handover(Mutex<Waiting>);

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) fresh: Vec<Box<dyn Cell>>,
    pub(super) spare: Vec<Box<dyn Cell>>,
}

/// A future that can be taken out of its allocation.
pub(super) trait Cell: Any + Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The only [`Cell`]. hyper's futures are `Unpin`, so one may be put where another was.
struct Holder<F>(Option<F>);

// === impl Spawner ===

impl Spawner {
    pub(super) fn new(handover: &Arc<Handover>) -> Self {
        Self(Arc::clone(handover))
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut waiting = self.0.lock();
        let cell = match waiting.spare.pop() {
            Some(spare) => refill(spare, future),
            None => Box::new(Holder(Some(future))),
        };
        waiting.fresh.push(cell);
    }
}

fn refill<F>(mut spare: Box<dyn Cell>, future: F) -> Box<dyn Cell>
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    let any: &mut dyn Any = &mut *spare;
    let Some(holder) = any.downcast_mut::<Holder<F>>() else {
        return Box::new(Holder(Some(future)));
    };
    holder.0 = Some(future);
    spare
}

// === impl Handover ===

impl Handover {
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under the lock but allocation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the allocation of a future that has ended.
    #[inline]
    pub(super) fn recycle(&self, cell: Box<dyn Cell>) {
        let mut waiting = self.lock();
        if waiting.spare.len() < SPARE {
            waiting.spare.push(cell);
        }
    }
}

// === impl Holder ===

impl<F> Cell for Holder<F>
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(());
        };
        let polled = Pin::new(future).poll(cx);
        if polled.is_ready() {
            // The end of a future is what its peers wait for, so it goes now, and not when its cell is used again.
            self.0 = None;
        }
        polled
    }
}
