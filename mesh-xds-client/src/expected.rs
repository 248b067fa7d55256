//! Names that are wanted of a kind of which everything is asked for: nobody asks for them, and they are waited for all the same.
//!
//! A control plane sends clusters before the routes that name them, where both are there. Where a cluster is to follow, as
//! when a rule that makes subsets is applied after the one that names them, the routes before serve until it comes; and
//! when it has not come in time, it counts as absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::ResourceKind;

/// What is waited for. Each name has one end of its wait, and none when it is forgotten: who asks for it again later has the
/// whole time.
#[derive(Debug)]
pub(crate) struct Expected {
    patience: Duration,
    /// Soonest first.
    waiting: BTreeSet<(Instant, ResourceKind, Arc<str>)>,
    /// When each of these has waited long enough.
    due: BTreeMap<(ResourceKind, Arc<str>), Instant>,
}

/// The shortest wait, so that who has no patience at all does not look all the time.
const LEAST: Duration = Duration::from_millis(100);

// === impl Expected ===

impl Expected {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience: patience.max(LEAST), waiting: BTreeSet::new(), due: BTreeMap::new() }
    }

    /// Waits for `name` from now on.
    pub(crate) fn wait_for(&mut self, kind: ResourceKind, name: &Arc<str>, now: Instant) {
        self.forget(kind, name);
        if let Some(due) = now.checked_add(self.patience) {
            self.waiting.insert((due, kind, name.clone()));
            self.due.insert((kind, name.clone()), due);
        }
    }

    /// Waits for `name` no longer.
    pub(crate) fn forget(&mut self, kind: ResourceKind, name: &Arc<str>) {
        if let Some(due) = self.due.remove(&(kind, name.clone())) {
            self.waiting.remove(&(due, kind, name.clone()));
        }
    }

    /// When the next has waited long enough.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, ..)| *due)
    }

    /// The next that has waited long enough, whether it has come or not.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(ResourceKind, Arc<str>)> {
        if self.next()? > now {
            return None;
        }
        let (_, kind, name) = self.waiting.pop_first()?;
        self.due.remove(&(kind, name.clone()));
        Some((kind, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_is_forgotten_and_wanted_again_waits_once_and_from_the_beginning() {
        let (kind, name, start) = (ResourceKind::Cluster, "a".into(), Instant::now());
        let second = Duration::from_secs(1);
        let mut expected = Expected::new(15 * second);
        for passed in 0..10 {
            expected.wait_for(kind, &name, start + passed * second);
            expected.forget(kind, &name);
        }
        assert_eq!(expected.next(), None);
        expected.wait_for(kind, &name, start + 10 * second);
        assert_eq!(expected.pop(start + 24 * second), None);
        assert_eq!(expected.pop(start + 25 * second), Some((kind, name)));
        assert_eq!(expected.next(), None);
    }
}
