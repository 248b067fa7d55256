//! Who is to be polled, and whether the driver must be woken for it.
//!
//! Each slot has a bit, and 64 slots share a word. A waker sets its bit, then [`WOKEN`]; only who finds the board at
//! rest wakes the task. The driver polls what is set until a whole round finds nothing, then goes from [`RUNNING`] to
//! rest by a compare-and-swap that fails if `WOKEN` was set meanwhile. A waker that comes before the swap is seen by
//! the driver; one that comes after it sees rest and wakes the task, whose waker was registered when the poll began.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// No poll is going on, and no wake is under way.
const REST: u8 = 0;
/// The driver is polling, and will look at the board again before it rests.
const RUNNING: u8 = 1;
/// A bit was set since the driver last looked.
const WOKEN: u8 = 2;

/// Whether the driver rests, runs or is woken, and whom to wake.
pub(super) struct Board {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Which of 64 slots are to be polled.
pub(super) struct Word {
    ready: AtomicU64,
    board: Arc<Board>,
}

/// Sets the bit of one slot.
pub(super) struct SlotWaker {
    word: Arc<Word>,
    bit: u64,
}

// === impl Board ===

impl Board {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(REST), task: AtomicWaker::new() }
    }

    /// The driver, which is woken by `waker`, begins a poll: from here on wakes only set bits.
    #[inline]
    pub(super) fn run(&self, waker: &Waker) {
        self.task.register(waker);
        self.state.swap(RUNNING, Ordering::AcqRel);
    }

    /// Makes the driver look again before it rests; wakes nobody.
    pub(super) fn note(&self) {
        self.state.fetch_or(WOKEN, Ordering::AcqRel);
    }

    /// Ends a poll with nothing left to do. False if something was woken meanwhile.
    #[inline]
    pub(super) fn rest(&self) -> bool {
        self.state.compare_exchange(RUNNING, REST, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends a poll with work left over, for which the driver wakes itself.
    pub(super) fn pause(&self) {
        self.state.store(WOKEN, Ordering::Release);
    }

    /// Whether a bit was set since this was last asked.
    #[inline]
    pub(super) fn take_woken(&self) -> bool {
        self.state.load(Ordering::Acquire) & WOKEN != 0 && self.state.swap(RUNNING, Ordering::AcqRel) & WOKEN != 0
    }
}

// === impl Word ===

impl Word {
    pub(super) fn new(board: &Arc<Board>) -> Arc<Self> {
        Arc::new(Self { ready: AtomicU64::new(0), board: Arc::clone(board) })
    }

    /// Sets bits without a wake.
    #[inline]
    pub(super) fn mark(&self, bits: u64) {
        self.ready.fetch_or(bits, Ordering::AcqRel);
    }

    /// Takes all bits that are set.
    #[inline]
    pub(super) fn take(&self) -> u64 {
        if self.ready.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.ready.swap(0, Ordering::AcqRel)
    }
}

// === impl SlotWaker ===

impl SlotWaker {
    /// The waker that sets `bit` of `word`.
    pub(super) fn of(word: &Arc<Word>, bit: u64) -> Waker {
        Waker::from(Arc::new(Self { word: Arc::clone(word), bit }))
    }
}

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
