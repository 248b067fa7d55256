//! The tasks that a mesh spawned, and how they end.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project::pin_project;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, timeout},
};
use tokio_util::task::{TaskTracker, task_tracker::TrackedFuture};

use crate::pool::{Spawn, Task};

/// Spawns tasks on one runtime and ends them.
///
/// There are two kinds. Work (resolving names, sweeping outliers, following a source) ends when the mesh is dropped; some of
/// it may be done elsewhere than on that runtime, and ends with it all the same.
/// Connections outlive it until their last stream has ended, as a response that is still being read must; only a shutdown
/// whose grace is over cuts them.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    work: Kind,
    connections: Kind,
}

#[derive(Clone, Debug, Default)]
struct Kind {
    tracker: TaskTracker,
    stop: Arc<Stop>,
}

/// Says that tasks of a kind are to end.
#[derive(Debug, Default)]
struct Stop {
    is_called: AtomicBool,
    bell: Arc<Notify>,
}

/// A task that ends when its kind is stopped.
///
/// The bell is listened to once and not at each poll: a connection is polled several times a request, and a waker that was
/// left with the bell stays there.
#[pin_project]
struct Stoppable<F> {
    #[pin]
    future: F,
    stop: Arc<Stop>,
    #[pin]
    bell: OwnedNotified,
    /// The waker that was left with the bell.
    listens: Option<Waker>,
}

/// The least that work is given to end in, which it does at its next await.
pub(crate) const MOMENT: Duration = Duration::from_secs(1);

// === impl Tasks ===

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, work: Kind::default(), connections: Kind::default() }
    }

    /// Spawns background work.
    pub(crate) fn work(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(&self.runtime, future);
    }

    /// Background work for whoever runs it elsewhere.
    pub(crate) fn track<F: Future<Output = ()>>(&self, work: F) -> impl Future<Output = ()> + use<F> {
        self.work.track(work)
    }

    /// Has this done where blocking is allowed. A runtime that is shut down waits for it, or drops it undone.
    pub(crate) fn blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn_blocking(work);
    }

    /// Whether the runtime has threads of its own to run its tasks on.
    pub(crate) fn have_workers(&self) -> bool {
        self.runtime.runtime_flavor() != RuntimeFlavor::CurrentThread
    }

    /// Spawns what drives a connection.
    pub(crate) fn connection(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(&self.runtime, future);
    }

    /// Ends the work at its next await.
    pub(crate) fn stop_work(&self) {
        self.work.stop.call();
    }

    /// Ends the work, waits up to `grace` for connections to end by themselves, then cuts what is left. Returns whether all
    /// connections ended by themselves. Work that holds its thread is waited for as long, but for a [`MOMENT`] at least.
    pub(crate) async fn shutdown(&self, grace: Duration) -> bool {
        let started = Instant::now();
        self.stop_work();
        self.work.tracker.close();
        let _ = timeout(grace.max(MOMENT), self.work.tracker.wait()).await;
        self.connections.tracker.close();
        let left = grace.saturating_sub(started.elapsed());
        let drained = timeout(left, self.connections.tracker.wait()).await.is_ok();
        self.connections.stop.call();
        self.connections.tracker.wait().await;
        drained
    }
}

impl Spawn for Tasks {
    fn spawn(&self, task: Task) {
        self.connection(task);
    }
}

// === impl Kind ===

impl Kind {
    fn spawn(&self, runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
        runtime.spawn(self.track(future));
    }

    fn track<F: Future<Output = ()>>(&self, future: F) -> TrackedFuture<Stoppable<F>> {
        let (stop, bell) = (self.stop.clone(), self.stop.bell.clone().notified_owned());
        self.tracker.track_future(Stoppable { future, stop, bell, listens: None })
    }
}

// === impl Stop ===

impl Stop {
    fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }
}

// === impl Stoppable ===

impl<F: Future<Output = ()>> Future for Stoppable<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stop.is_called.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if !this.listens.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            // A call between the look and this has rung the bell, which was made before either.
            if this.bell.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            *this.listens = Some(cx.waker().clone());
        }
        this.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_connections_up_to_the_grace() {
        let tasks = Tasks::new(Handle::current());
        tasks.work(pending());
        tasks.connection(async { tokio::time::sleep(Duration::from_secs(1)).await });
        assert!(tasks.shutdown(Duration::from_secs(2)).await);

        let tasks = Tasks::new(Handle::current());
        tasks.connection(pending());
        assert!(!tasks.shutdown(Duration::from_secs(2)).await);
    }

    #[tokio::test]
    async fn shutdown_ends_and_waits_for_work_that_is_done_elsewhere() {
        let tasks = Tasks::new(Handle::current());
        let elsewhere = tasks.track(pending());
        let (is_drained, ()) = tokio::join!(tasks.shutdown(Duration::ZERO), elsewhere);
        assert!(is_drained);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_holds_its_thread_holds_up_no_connections_end() {
        let tasks = Tasks::new(Handle::current());
        let _held = tasks.track(pending());
        tasks.connection(pending());
        let started = Instant::now();
        assert!(!tasks.shutdown(Duration::from_secs(5)).await);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_is_polled_again_and_again_still_hears_of_the_end() {
        let tasks = Tasks::new(Handle::current());
        tasks.connection(async {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        tasks.connection(async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!tasks.shutdown(Duration::ZERO).await);
        // What comes afterwards ends too.
        tasks.connection(pending());
        tasks.connections.tracker.wait().await;
    }
}
