//! The thread on which a mesh follows its source, apart from those that serve requests.
//!
//! What a control plane says is decoded, assembled, compiled and in the end taken apart, and one large resource takes as long as
//! it is large, whatever is done in slices around it. Envoy has its main thread for that, beside its workers; this is the
//! mesh's. What comes of it (connections, look-ups, the work of clusters) is spawned on the runtime that serves requests.
//!
//! The thread runs one future, which ends with the work of the mesh or with the runtime of the requests. A task of that runtime
//! sees to both, and to it that nobody who serves requests waits for the end: a [`shutdown`](super::Mesh::shutdown) does
//! without blocking, and a runtime that is dropped does as for its own blocking work.
//!
//! A thread of its own is not yet a core of its own. What is done here comes in slices, and after some of them the thread
//! [offers its core](Courteous) to whoever else is ready: an operating system lets a thread that has begun run on for
//! milliseconds, which is what a request of another thread would have waited for, where all cores are in use.

use std::{
    io,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mesh_core::{config::ConfigError, source::Work};
use pin_project::pin_project;
use tokio::{
    runtime::{Builder, Handle, Runtime, RuntimeFlavor},
    sync::oneshot,
    task,
};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Where a mesh follows its source.
///
/// To follow one is to read its stream, decode and check what it says, and compile routes and clusters from that: tens of
/// milliseconds of CPU for a push of thousands of clusters, in slices of some 50 us. What a request does is the same either
/// way; what differs is whether it has to wait for a slice, or for several, at each of its turns.
///
/// A mesh without a source has nothing to follow and never has a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// On a thread of the mesh's own, named `mesh-control`, with a current-thread runtime of its own. The default where the
    /// mesh's runtime is a multi-threaded one.
    ///
    /// Take it wherever requests must not wait for a control plane, on a current-thread runtime above all. It costs one
    /// thread a mesh: its stack, an event queue of the operating system's, and a wake-up from another thread when routes
    /// change. On a machine whose every core is busy it lets others go first, several times a millisecond: requests are not
    /// held up, and a change may take as many times longer to be followed as the machine is short of cores.
    ///
    /// The source's work, and what it spawns by `tokio::spawn`, runs in that runtime: its connection to the control plane is
    /// made there, and it must not call `block_in_place`. What is set for a thread alone (a local subscriber or recorder)
    /// does not reach it.
    OwnThread,
    /// On the mesh's runtime, in slices between which requests have their turn. The default where that runtime is a
    /// current-thread one.
    ///
    /// Take it where everything is to stay in one thread: a simulation under a paused clock, which a second thread would keep
    /// from replaying, or a process that may not have more threads.
    Runtime,
}

/// The thread, as those see it who do not wait for it.
#[derive(Debug)]
pub(super) struct ControlThread {
    /// Cancelled when all that ran there has ended.
    ended: CancellationToken,
}

/// The thread before it was told what to run. When this is dropped, it ends.
pub(super) struct Idle {
    begin: oneshot::Sender<Work>,
    thread: JoinHandle<()>,
}

/// Ends the thread when it is dropped, and has it waited for.
struct Sentinel {
    tasks: Tasks,
    thread: Option<JoinHandle<()>>,
}

/// Waits for the thread, where blocking is allowed.
///
/// A runtime that is being shut down drops this undone. One that has workers does so on one of them, where waiting is in
/// nobody's way. The thread of the caller, on which a current-thread runtime drops its tasks, is left alone: it has asked not to
/// wait, or for no longer than it said, or else the runtime's tasks would have gone before its blocking work.
struct Joining {
    thread: Option<JoinHandle<()>>,
    has_workers: bool,
}

/// Work of the thread that offers its core to other threads now and then: between slices, where nothing is locked that a
/// request might want.
#[pin_project]
struct Courteous<F> {
    #[pin]
    work: F,
    /// For how long it has run since it last did.
    ran: Duration,
    offer: fn(),
}

const NAME: &str = "mesh-control";

/// For how long work keeps its core, where its slices allow: not as long as a request takes, and a hundred times as long as an
/// offer that nobody accepts.
const TURN: Duration = Duration::from_micros(50);

// === impl Control ===

impl Control {
    /// What is best beside requests of this runtime.
    pub(super) fn beside(requests: &Handle) -> Self {
        match requests.runtime_flavor() {
            RuntimeFlavor::CurrentThread => Self::Runtime,
            _ => Self::OwnThread,
        }
    }
}

// === impl ControlThread ===

impl ControlThread {
    /// Starts the thread.
    pub(super) fn start() -> Result<(Self, Idle), ConfigError> {
        Self::try_start().map_err(|error| {
            let remedy = format!("permit one more thread and its descriptors, or choose `Control::Runtime` ({error})");
            ConfigError::new("control", "OwnThread", remedy)
        })
    }

    fn try_start() -> io::Result<(Self, Idle)> {
        let (begin, begun) = oneshot::channel();
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        // The thread comes first: a runtime must not be dropped here, where there may be another one around.
        let (give, given) = mpsc::channel::<Runtime>();
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            let _ending = ending;
            if let Ok(runtime) = given.recv() {
                run(runtime, begun);
            }
        })?;
        let runtime = Builder::new_current_thread().enable_all().thread_name(NAME).build()?;
        give.send(runtime).expect("the thread waits for it");
        Ok((Self { ended }, Idle { begin, thread }))
    }

    /// Waits until everything that ran there has ended, after it was told to.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

fn run(runtime: Runtime, begun: oneshot::Receiver<Work>) {
    runtime.block_on(async {
        if let Ok(work) = begun.await {
            work.await;
        }
    });
    // Waits for blocking work that has started, such as the last writing of a cache file.
    drop(runtime);
}

/// Spawns a part of the work, on the thread.
pub(super) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> task::JoinHandle<T> {
    tokio::spawn(Courteous { work, ran: Duration::ZERO, offer: thread::yield_now })
}

// === impl Idle ===

impl Idle {
    /// The thread runs this from now on, as part of the work of `tasks`.
    pub(super) fn begin(self, tasks: &Tasks, work: impl Future<Output = ()> + Send + 'static) {
        let Self { begin, thread } = self;
        // It waits for nothing else, unless somebody ended it from outside.
        let _ = begin.send(Box::pin(tasks.track(work)));
        // Second: where there is no runtime any more, the sentinel waits here.
        let sentinel = Sentinel { tasks: tasks.clone(), thread: Some(thread) };
        tasks.work(async move {
            let _sentinel = sentinel;
            std::future::pending().await
        });
    }
}

// === impl Sentinel ===

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.tasks.stop_work();
        // A program that ends drops its mesh, then its runtime, and waits for the latter only.
        let joining = Joining { thread: self.thread.take(), has_workers: self.tasks.have_workers() };
        self.tasks.blocking(move || joining.join());
    }
}

// === impl Joining ===

impl Joining {
    fn join(mut self) {
        // What panicked there has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take_if(|_| self.has_workers) {
            let _ = thread.join();
        }
    }
}

// === impl Courteous ===

impl<F: Future> Future for Courteous<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let began = Instant::now();
        let polled = this.work.poll(cx);
        if spend(this.ran, began.elapsed()) {
            (this.offer)();
        }
        polled
    }
}

/// Adds a slice to what `ran` already, and says whether that makes a turn, after which another begins.
fn spend(ran: &mut Duration, slice: Duration) -> bool {
    *ran += slice;
    let is_over = *ran >= TURN;
    if is_over {
        *ran = Duration::ZERO;
    }
    is_over
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::yield_now;

    use super::*;

    thread_local! {
        static OFFERS: Cell<u32> = const { Cell::new(0) };
    }

    /// Work of so many slices, each of which runs for so long, and one to end with.
    async fn offers(slices: u32, each: Duration) -> u32 {
        let work = async move {
            for _ in 0..slices {
                let began = Instant::now();
                while began.elapsed() < each {}
                yield_now().await;
            }
        };
        OFFERS.set(0);
        Courteous { work, ran: Duration::ZERO, offer: || OFFERS.set(OFFERS.get() + 1) }.await;
        OFFERS.get()
    }

    #[tokio::test]
    async fn a_core_is_offered_after_slices_that_take_a_turn_and_not_after_each() {
        let of_long = offers(5, TURN).await;
        assert!(of_long >= 5, "{of_long}");
        // As many would take 50 ms. Who interrupts this thread makes a slice of it longer, not all of them.
        let of_none = offers(1000, Duration::ZERO).await;
        assert!(of_none < 500, "{of_none}");
    }

    #[test]
    fn slices_shorter_than_a_turn_are_added_up() {
        let mut ran = Duration::ZERO;
        let offers: Vec<_> = (1..=10).filter(|_| spend(&mut ran, TURN / 4)).collect();
        assert_eq!(offers, [4, 8]);
        // However long a slice was, nothing of it counts for the next.
        assert!(spend(&mut ran, TURN * 10) && !spend(&mut ran, TURN / 2));
    }
}
