//! What happened in a world, in the order in which it happened.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The one record of a world, kept by all of its parts. A handle.
#[derive(Clone, Debug)]
pub struct Record {
    start: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the world began, by its own clock.
    pub at: Duration,
    /// What it was.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Somebody asked for a connection.
    Dialled {
        /// To whom.
        to: SocketAddr,
    },
    /// A request reached a backend.
    Arrived {
        /// Its `x-call`, or its path where it has none.
        call: String,
        /// The backend's name.
        backend: String,
    },
    /// A call has ended.
    Ended {
        /// Its number.
        call: String,
        /// Who answered, or what failed.
        outcome: String,
    },
    /// The test has changed something.
    Changed(&'static str),
}

// === impl Record ===

impl Record {
    /// An empty record, which counts time from now.
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), entries: Arc::default() }
    }

    /// Adds what happens now.
    pub fn note(&self, what: What) {
        let entry = Entry { at: self.start.elapsed(), what };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// All of it so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets it, so that a test which runs for long keeps its memory.
    pub fn forget(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
