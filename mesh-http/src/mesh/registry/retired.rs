//! Routes that no request finds any more, on their way to be taken apart.
//!
//! A table of thousands of routes takes milliseconds to drop, and the last who holds it drops it. That may be a request which was
//! just reading it when another took its place, waits for a better one, or was made by the last client of its target. So whoever
//! replaces one puts the old one here, and who follows the source takes it apart when nobody else holds it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::memory;
use tokio::task::yield_now;

use super::{
    Compiled, Routes,
    pass::{SLICE, STEP},
};

/// Where routes wait until nobody reads them.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Retired(Mutex<Vec<Arc<Routes>>>);

// === impl Retired ===

impl Retired {
    /// Takes what nobody finds any more.
    pub(super) fn put(&self, routes: Arc<Routes>) {
        // The others are small.
        if matches!(*routes, Routes::Ready(_)) {
            self.lock().push(routes);
        }
    }

    /// Whether any are still to be taken apart.
    pub(in crate::mesh) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Drops what nobody reads, in slices. The rest is left for the next time.
    pub(in crate::mesh) async fn take_apart(&self) {
        for routes in self.take() {
            match Arc::try_unwrap(routes) {
                Ok(routes) => take_apart(routes).await,
                Err(still_read) => self.put(still_read),
            }
        }
    }

    /// Everything, for whoever would rather drop it himself.
    pub(in crate::mesh) fn take(&self) -> Vec<Arc<Routes>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Routes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take_apart(routes: Routes) {
    let Routes::Ready(Compiled { table, listener, clusters }) = routes else { return };
    drop_in_slices(table.take_apart()).await;
    drop_in_slices(listener.take_apart()).await;
    drop_in_slices(clusters.into_iter()).await;
}

async fn drop_in_slices(pieces: impl Iterator) {
    for (count, piece) in (1..).zip(pieces) {
        drop(piece);
        if count % (SLICE / STEP) == 0 {
            memory::settle();
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::{
        config::{Listener, RouteConfig},
        route::RouteTable,
    };

    use super::*;

    fn routes() -> Arc<Routes> {
        let config = Arc::new(RouteConfig::new("routes", Vec::new()).expect("legal"));
        let table = RouteTable::compile(&config, |_, _| unreachable!("there are no routes"));
        let listener = Arc::new(Listener::new("listener", config));
        Arc::new(Routes::Ready(Compiled { table, listener, clusters: BTreeMap::new() }))
    }

    #[tokio::test]
    async fn reader_of_routes_is_not_the_last_who_holds_them() {
        let (retired, read, unread) = (Retired::default(), routes(), routes());
        let (of_read, of_unread) = (Arc::downgrade(&read), Arc::downgrade(&unread));
        retired.put(read.clone());
        retired.put(unread);
        retired.take_apart().await;
        assert_eq!((of_read.strong_count(), of_unread.strong_count()), (2, 0));

        drop(read);
        assert_eq!(of_read.strong_count(), 1, "it waits here");
        retired.take_apart().await;
        assert_eq!(of_read.strong_count(), 0);
        assert!(retired.is_empty());
    }

    #[test]
    fn what_is_small_goes_at_once() {
        let retired = Retired::default();
        retired.put(Arc::new(Routes::Waiting));
        assert!(retired.is_empty());
    }
}
