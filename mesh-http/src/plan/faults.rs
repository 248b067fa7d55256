//! How many requests meet faults now, counted across updates.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::AtomicU32},
};

/// How many requests meet the faults of each filter: by whose targets they are, the listener's name and the filter's. An
/// update of either goes on counting.
#[derive(Debug, Default)]
pub(crate) struct ActiveFaults(BTreeMap<(u64, Arc<str>, Arc<str>), Weak<AtomicU32>>);

// === impl ActiveFaults ===

impl ActiveFaults {
    /// The counter of a filter. It lives as long as a plan or a request has it.
    pub(crate) fn of(&mut self, scope: u64, listener: &Arc<str>, filter: &Arc<str>) -> Arc<AtomicU32> {
        let key = (scope, listener.clone(), filter.clone());
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        self.0.retain(|_, counter| counter.strong_count() > 0);
        let counter = Arc::default();
        self.0.insert(key, Arc::downgrade(&counter));
        counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_of_a_filter_outlives_an_update_of_its_routes() {
        let (listener, filter) = ("l".into(), "f".into());
        let mut active = ActiveFaults::default();
        let before = active.of(1, &listener, &filter);
        assert!(Arc::ptr_eq(&before, &active.of(1, &listener, &filter)));
        assert!(!Arc::ptr_eq(&before, &active.of(2, &listener, &filter)), "another's target of that name");
    }
}
