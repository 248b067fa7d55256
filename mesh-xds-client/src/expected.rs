//! Names that are wanted of a kind of which everything is asked for: nobody asks for them, and they are waited for all the same.
//!
//! A control plane sends clusters before the routes that name them, where both are there. Where a cluster is to follow, as
//! when a rule that makes subsets is applied after the one that names them, the routes before serve until it comes; and
//! when it has not come in time, it counts as absent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::ResourceKind;

/// What is waited for, soonest first: all wait equally long.
#[derive(Debug)]
pub(crate) struct Expected {
    patience: Duration,
    waiting: VecDeque<(Instant, ResourceKind, Arc<str>)>,
}

/// The shortest wait, so that who has no patience at all does not look all the time.
const LEAST: Duration = Duration::from_millis(100);

// === impl Expected ===

impl Expected {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience: patience.max(LEAST), waiting: VecDeque::new() }
    }

    /// Waits for `name` from now on.
    pub(crate) fn wait_for(&mut self, kind: ResourceKind, name: &Arc<str>, now: Instant) {
        let due = now.checked_add(self.patience);
        self.waiting.extend(due.map(|due| (due, kind, name.clone())));
    }

    /// When the next has waited long enough.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, ..)| *due)
    }

    /// The next that has waited long enough, whether it has come or not.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(ResourceKind, Arc<str>)> {
        if self.next()? > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, kind, name)| (kind, name))
    }
}
