//! From hyper's `execute` to a slot: futures on their way, in allocations that serve again.
//!
//! What hyper spawns has no name and no handle. So what is to be ended from outside is announced just before it is spawned.

use std::any::Any;
use std::fmt;
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
    /// What ends the future that comes next.
    halt: Option<Arc<dyn Halt>>,
}

/// Ends a future from outside: it is dropped.
pub(in crate::conn) trait Halt: Send + Sync {
    /// Whether it is to end. If not, `cx` is woken when it is.
    fn is_due(&self, cx: &Context<'_>) -> bool;
}

/// A future that can be taken out of its allocation.
pub(super) trait Cell: Any + Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The only [`Cell`]. hyper's futures are `Unpin`, so one may be put where another was.
struct Holder<F> {
    future: Option<F>,
    halt: Option<Arc<dyn Halt>>,
}

// === impl Spawner ===

impl Spawner {
    pub(super) fn new(handover: &Arc<Handover>) -> Self {
        Self(Arc::clone(handover))
    }

    /// The future that is spawned next ends when `halt` says so.
    pub(in crate::conn) fn halt_next(&self, halt: Arc<dyn Halt>) {
        self.0.lock().halt = Some(halt);
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut waiting = self.0.lock();
        let halt = waiting.halt.take();
        let cell = match waiting.spare.pop() {
            Some(spare) => refill(spare, future, halt),
            None => Box::new(Holder { future: Some(future), halt }),
        };
        waiting.fresh.push(cell);
    }
}

fn refill<F>(mut spare: Box<dyn Cell>, future: F, halt: Option<Arc<dyn Halt>>) -> Box<dyn Cell>
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    let any: &mut dyn Any = &mut *spare;
    let Some(holder) = any.downcast_mut::<Holder<F>>() else {
        return Box::new(Holder { future: Some(future), halt });
    };
    holder.future = Some(future);
    holder.halt = halt;
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
        let Some(future) = &mut self.future else {
            return Poll::Ready(());
        };
        let is_halted = self.halt.as_ref().is_some_and(|halt| halt.is_due(cx));
        let polled = if is_halted { Poll::Ready(()) } else { Pin::new(future).poll(cx) };
        if polled.is_ready() {
            // The end of a future is what its peers wait for, so it goes now, and not when its cell is used again.
            self.future = None;
            self.halt = None;
        }
        polled
    }
}
