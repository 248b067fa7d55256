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
//! Futures come here by way of the [`handover`]; who of them is to be polled stands on the [`board`].

mod board;
mod handover;

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use self::board::{Board, SlotWaker, Word};
use self::handover::{Cell, Handover};
pub(super) use self::handover::{Halt, Spawner};

/// The slot of the future that the driver keeps itself.
pub(super) const MAIN: usize = 0;

const SLOTS_PER_WORD: usize = u64::BITS as usize;

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

// === impl Tasks ===

impl Tasks {
    pub(super) fn new() -> Self {
        let mut tasks = Self {
            board: Arc::new(Board::new()),
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
        Spawner::new(&self.handover)
    }

    /// Begins a poll of the driver: from here on wakes only set bits.
    pub(super) fn run(&mut self, cx: &Context<'_>) {
        self.board.run(cx.waker());
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
        self.board.note();
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
        self.board.rest()
    }

    /// Ends a poll with work left over. The caller must wake its own task, because nobody else will.
    pub(super) fn pause(&mut self) {
        if let Some(word) = self.words.get(self.round.base / SLOTS_PER_WORD) {
            word.mark(self.round.ready);
        }
        self.round = Round::first();
        self.board.pause();
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
            self.words.push(Word::new(&self.board));
        }
        let waker = SlotWaker::of(&self.words[slot / SLOTS_PER_WORD], bit(slot));
        self.slots.push(Slot { waker, cell: None });
        slot
    }

    fn mark(&self, slot: usize) {
        self.words[slot / SLOTS_PER_WORD].mark(bit(slot));
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use hyper::rt::Executor;
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
