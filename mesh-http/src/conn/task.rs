//! All the futures of one connection, run as one task.
//!
//! hyper hands futures to an executor: one that moves the connection's bytes, and one or two for each request.
//! [`Spawner`] is that executor; it puts them into [`Tasks`], which the driver polls, beside hyper's own connection
//! future, inside the one task that the caller spawned. A request then wakes no other thread than the one that works
//! anyway, and the driver knows when *everything* is idle, which is the moment to flush the socket.
//!
//! `FuturesUnordered` is the nearest cousin. It allocates per future and orders by wake; here a slot keeps its waker
//! for as long as the connection lives, the allocation of a finished future serves the next one, and what is ready is
//! polled by slot number, so that the order of work does not depend on a race between wakers.
//!
//! # Waking
//!
//! Each slot has a bit, and 64 slots share a word. A waker sets its bit, then [`WOKEN`]; only who finds the board at
//! rest wakes the task. The driver polls what is set until a whole round finds nothing, then goes from [`RUNNING`] to
//! rest by a compare-and-swap that fails if `WOKEN` was set meanwhile. A waker that comes before the swap is seen by
//! the driver; one that comes after it sees rest and wakes the task, whose waker was registered when the poll began.

use std::any::Any;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;

/// The slot of the future that the driver keeps itself.
pub(super) const MAIN: usize = 0;

const SLOTS_PER_WORD: usize = u64::BITS as usize;

/// Finished futures whose allocation is kept for the next ones. Bursts above it give their memory back.
const SPARE: usize = 64;

/// No poll is going on, and no wake is under way.
const REST: u8 = 0;
/// The driver is polling, and will look at the board again before it rests.
const RUNNING: u8 = 1;
/// A bit was set since the driver last looked.
const WOKEN: u8 = 2;

/// The futures of one connection, but for the main one, which has the slot [`MAIN`].
///
/// Dropping it drops them all, those just handed over included.
pub(super) struct Tasks {
    board: Arc<Board>,
    handover: Arc<Handover>,
    words: Vec<Arc<Word>>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Futures on their way into slots. Kept for its allocation.
    arrivals: Vec<Box<dyn Cell>>,
    round: Round,
}

/// Takes hyper's futures to the connection's own task.
#[derive(Clone)]
pub(super) struct Spawner(Arc<Handover>);

/// How far the present round has come.
struct Round {
    /// The next word to look at.
    next: usize,
    /// The first slot of the word being worked through.
    base: usize,
    /// Slots of that word still to be polled.
    ready: u64,
}

struct Slot {
    waker: Waker,
    cell: Option<Box<dyn Cell>>,
}

struct Board {
    state: AtomicU8,
    task: AtomicWaker,
}

struct Word {
    ready: AtomicU64,
    board: Arc<Board>,
}

struct SlotWaker {
    word: Arc<Word>,
    bit: u64,
}

/// Where futures wait between hyper's `execute` and their slot, and empty cells for reuse.
#[derive(Default)]
struct Handover(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    fresh: Vec<Box<dyn Cell>>,
    spare: Vec<Box<dyn Cell>>,
}

/// A future that can be taken out of its allocation.
trait Cell: Any + Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The only [`Cell`]. hyper's futures are `Unpin`, so one may be put where another was.
struct Holder<F>(Option<F>);

// === impl Tasks ===

impl Tasks {
    pub(super) fn new() -> Self {
        let mut tasks = Self {
            board: Arc::new(Board { state: AtomicU8::new(REST), task: AtomicWaker::new() }),
            handover: Arc::default(),
            words: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            arrivals: Vec::new(),
            round: Round::first(),
        };
        let main = tasks.vacant_slot();
        debug_assert_eq!(main, MAIN);
        tasks.mark(MAIN);
        tasks
    }

    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::clone(&self.handover))
    }

    /// Begins a poll of the driver: from here on wakes only set bits.
    pub(super) fn run(&mut self, cx: &Context<'_>) {
        self.board.task.register(cx.waker());
        self.board.state.swap(RUNNING, Ordering::AcqRel);
        self.round = Round::first();
    }

    /// The next slot to poll, or none when nothing is ready.
    ///
    /// Futures handed over during a round take part in the next, after the older ones: a stream's first DATA can then
    /// be written in the poll in which the connection opened it.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        loop {
            if let Some(slot) = self.round.take() {
                return Some(slot);
            }
            if let Some(word) = self.words.get(self.round.next) {
                self.round.enter(word.take());
                continue;
            }
            self.round = Round::first();
            let arrived = self.admit();
            if !self.board.take_woken() && !arrived {
                return None;
            }
        }
    }

    /// Polls the future in `slot`, if one is there: wakers outlive the futures that they were given to. Ready if it
    /// has come to its end now.
    pub(super) fn poll(&mut self, slot: usize) -> Poll<()> {
        let Slot { waker, cell } = &mut self.slots[slot];
        let Some(future) = cell else { return Poll::Pending };
        ready!(future.poll(&mut Context::from_waker(waker)));
        if let Some(cell) = cell.take() {
            self.free.push(slot);
            self.handover.recycle(cell);
        }
        Poll::Ready(())
    }

    /// The waker for the future that the driver keeps in the slot [`MAIN`].
    pub(super) fn main_waker(&self) -> &Waker {
        &self.slots[MAIN].waker
    }

    /// Marks every slot, so that everyone looks at what has changed under them.
    pub(super) fn wake_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.mark(slot);
        }
        self.board.state.fetch_or(WOKEN, Ordering::AcqRel);
    }

    /// Drops every future.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.words.clear();
        self.free.clear();
        let waiting = mem::take(&mut *self.handover.lock());
        // Outside the lock, which a future's destructor might want.
        drop(waiting);
    }

    /// Ends a poll with nothing left to do. False if something was woken meanwhile: then there is.
    pub(super) fn rest(&mut self) -> bool {
        self.board.state.compare_exchange(RUNNING, REST, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends a poll with work left over. The caller must wake its own task, because nobody else will.
    pub(super) fn pause(&mut self) {
        if let Some(word) = self.words.get(self.round.base / SLOTS_PER_WORD) {
            word.ready.fetch_or(self.round.ready, Ordering::AcqRel);
        }
        self.round = Round::first();
        self.board.state.store(WOKEN, Ordering::Release);
    }

    fn admit(&mut self) -> bool {
        let mut arrivals = mem::take(&mut self.arrivals);
        mem::swap(&mut arrivals, &mut self.handover.lock().fresh);
        let arrived = !arrivals.is_empty();
        for cell in arrivals.drain(..) {
            let slot = self.vacant_slot();
            self.slots[slot].cell = Some(cell);
            self.mark(slot);
        }
        self.arrivals = arrivals;
        arrived
    }

    fn vacant_slot(&mut self) -> usize {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = self.slots.len();
        if slot.is_multiple_of(SLOTS_PER_WORD) {
            self.words.push(Arc::new(Word { ready: AtomicU64::new(0), board: Arc::clone(&self.board) }));
        }
        let waker = SlotWaker { word: Arc::clone(&self.words[slot / SLOTS_PER_WORD]), bit: bit(slot) };
        self.slots.push(Slot { waker: Waker::from(Arc::new(waker)), cell: None });
        slot
    }

    fn mark(&self, slot: usize) {
        self.words[slot / SLOTS_PER_WORD].ready.fetch_or(bit(slot), Ordering::AcqRel);
    }
}

impl Drop for Tasks {
    /// The futures hold the spawner, and so those still waiting would otherwise keep themselves.
    fn drop(&mut self) {
        self.clear();
    }
}

fn bit(slot: usize) -> u64 {
    1 << (slot % SLOTS_PER_WORD)
}

// === impl Spawner ===

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

// === impl Round ===

impl Round {
    fn first() -> Self {
        Self { next: 0, base: 0, ready: 0 }
    }

    fn enter(&mut self, ready: u64) {
        self.base = self.next * SLOTS_PER_WORD;
        self.next += 1;
        self.ready = ready;
    }

    fn take(&mut self) -> Option<usize> {
        if self.ready == 0 {
            return None;
        }
        let slot = self.base + self.ready.trailing_zeros() as usize;
        self.ready &= self.ready - 1;
        Some(slot)
    }
}

// === impl Board ===

impl Board {
    fn take_woken(&self) -> bool {
        self.state.load(Ordering::Acquire) & WOKEN != 0 && self.state.swap(RUNNING, Ordering::AcqRel) & WOKEN != 0
    }
}

// === impl Word ===

impl Word {
    fn take(&self) -> u64 {
        if self.ready.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.ready.swap(0, Ordering::AcqRel)
    }
}

// === impl SlotWaker ===

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.word.ready.fetch_or(self.bit, Ordering::AcqRel);
        if before & self.bit != 0 {
            // The driver clears a bit before it polls, so it has yet to poll for this one; whoever set it does the
            // rest.
            return;
        }
        let board = &self.word.board;
        if board.state.fetch_or(WOKEN, Ordering::AcqRel) == REST {
            board.task.wake();
        }
    }
}

// === impl Handover ===

impl Handover {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under the lock but allocation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recycle(&self, cell: Box<dyn Cell>) {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;

    use tokio::sync::Notify;
    use tokio_test::task::{Spawn, spawn};

    use super::*;

    type Mock = Spawn<Tasks>;

    /// Polls what is ready as a driver does, and returns the slots polled, in order.
    fn turn(tasks: &mut Mock) -> Vec<usize> {
        tasks.enter(|cx, mut tasks| {
            tasks.run(cx);
            let mut polled = Vec::new();
            loop {
                while let Some(slot) = tasks.next_ready() {
                    let _ = tasks.poll(slot);
                    polled.push(slot);
                }
                if tasks.rest() {
                    return polled;
                }
            }
        })
    }

    /// Tasks whose main slot has had its first turn.
    fn started() -> (Mock, Spawner) {
        let mut tasks = spawn(Tasks::new());
        let spawner = tasks.spawner();
        assert_eq!(turn(&mut tasks), [MAIN]);
        (tasks, spawner)
    }

    fn waiting_for(notify: &Arc<Notify>) -> impl Future<Output = ()> + Unpin + Send + use<> {
        let notify = Arc::clone(notify);
        Box::pin(async move { notify.notified().await })
    }

    #[test]
    fn only_woken_futures_are_polled() {
        let (mut tasks, spawner) = started();
        let notifies: Vec<_> = (0..200).map(|_| Arc::new(Notify::new())).collect();
        for notify in &notifies {
            spawner.execute(waiting_for(notify));
        }
        assert_eq!(turn(&mut tasks), (1..=200).collect::<Vec<_>>());

        for index in [150, 3, 70] {
            notifies[index].notify_one();
        }
        assert!(tasks.is_woken());
        assert_eq!(turn(&mut tasks), [4, 71, 151]);
        assert_eq!(turn(&mut tasks), []);
    }

    #[test]
    fn wake_during_a_poll_brings_another_round_and_not_another_wake() {
        let (mut tasks, spawner) = started();
        let mut turns = 0;
        spawner.execute(poll_fn(move |cx| {
            turns += 1;
            if turns == 3 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        assert_eq!(turn(&mut tasks), [1, 1, 1]);
        assert!(!tasks.is_woken());
    }

    #[test]
    fn future_spawned_by_a_future_runs_in_the_next_round() {
        let (mut tasks, spawner) = started();
        let inner = spawner.clone();
        spawner.execute(poll_fn(move |_| {
            inner.execute(std::future::ready(()));
            Poll::Ready(())
        }));
        assert_eq!(turn(&mut tasks), [1, 1]);
    }

    #[test]
    fn finished_future_leaves_its_slot_and_allocation_to_the_next() {
        let (mut tasks, spawner) = started();
        let notify = Arc::new(Notify::new());
        for _ in 0..1000 {
            spawner.execute(waiting_for(&notify));
            assert_eq!(turn(&mut tasks), [1]);
            notify.notify_waiters();
            assert_eq!(turn(&mut tasks), [1]);
        }
        assert_eq!(tasks.handover.lock().spare.len(), 1);
        assert_eq!(Arc::strong_count(&notify), 1);
    }

    #[test]
    fn allocation_of_another_type_is_not_reused() {
        let (mut tasks, spawner) = started();
        spawner.execute(std::future::ready(()));
        turn(&mut tasks);
        let (tx, rx) = mpsc::channel();
        spawner.execute(poll_fn(move |_| tx.send(()).map_or(Poll::Pending, Poll::Ready)));
        turn(&mut tasks);
        assert_eq!(rx.try_recv(), Ok(()));
    }

    #[test]
    fn pause_keeps_what_was_not_polled() {
        let (mut tasks, spawner) = started();
        for _ in 0..3 {
            spawner.execute(std::future::ready(()));
        }
        tasks.enter(|cx, mut tasks| {
            tasks.run(cx);
            assert_eq!(tasks.next_ready(), Some(1));
            assert!(tasks.poll(1).is_ready());
            tasks.pause();
        });
        assert_eq!(turn(&mut tasks), [2, 3]);
    }

    #[test]
    fn wake_all_polls_everyone() {
        let (mut tasks, spawner) = started();
        spawner.execute(waiting_for(&Arc::new(Notify::new())));
        turn(&mut tasks);
        tasks.wake_all();
        assert_eq!(turn(&mut tasks), [MAIN, 1]);
    }

    #[test]
    fn dropping_drops_futures_that_never_ran() {
        let (tasks, spawner) = started();
        let notify = Arc::new(Notify::new());
        let (future, own) = (waiting_for(&notify), spawner.clone());
        spawner.execute(Box::pin(async move {
            future.await;
            drop(own);
        }));
        drop(tasks);
        assert_eq!(Arc::strong_count(&notify), 1);
    }

    #[test]
    fn no_wake_from_other_threads_is_lost() {
        const THREADS: usize = 4;
        const TURNS: usize = 5_000;

        let polled = Arc::new(AtomicUsize::new(0));
        let mut tasks = Tasks::new();
        let mut handles = Vec::new();
        for _ in 0..THREADS {
            let (go, turns) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<()>>();
            let mut turns = turns;
            let count = Arc::clone(&polled);
            tasks.spawner().execute(poll_fn(move |cx| {
                loop {
                    let Some(done) = ready!(turns.poll_recv(cx)) else { return Poll::Ready(()) };
                    count.fetch_add(1, Ordering::Relaxed);
                    done.send(()).expect("the thread waits for its turn");
                }
            }));
            handles.push(thread::spawn(move || {
                for _ in 0..TURNS {
                    let (tx, rx) = mpsc::channel();
                    go.send(tx).expect("the future is there until the channel closes");
                    rx.recv_timeout(std::time::Duration::from_secs(20)).expect("a wake was lost");
                }
            }));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        runtime.block_on(poll_fn(|cx| {
            tasks.run(cx);
            loop {
                while let Some(slot) = tasks.next_ready() {
                    let _ = tasks.poll(slot);
                    if !tokio::task::coop::has_budget_remaining() {
                        tasks.pause();
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                if tasks.free.len() == THREADS {
                    return Poll::Ready(());
                }
                if tasks.rest() {
                    return Poll::Pending;
                }
            }
        }));
        for handle in handles {
            handle.join().expect("no thread lost a wake");
        }
        assert_eq!(polled.load(Ordering::Relaxed), THREADS * TURNS);
    }
}
