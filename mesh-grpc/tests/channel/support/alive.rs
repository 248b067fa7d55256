//! How many of something are alive, and waiting until they are so many.

use tokio::sync::watch;

use super::until;

/// Counts what is alive. A handle.
#[derive(Clone, Default)]
pub(crate) struct Alive(watch::Sender<usize>);

/// Something that is alive until dropped.
pub(crate) struct AliveGuard(Alive);

// === impl Alive ===

impl Alive {
    pub(crate) fn enter(&self) -> AliveGuard {
        self.0.send_modify(|count| *count += 1);
        AliveGuard(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until so many are alive.
    pub(crate) async fn reaches(&self, count: usize) {
        let mut changes = self.0.subscribe();
        let reached = changes.wait_for(|alive| *alive == count);
        until(&format!("{count} alive"), reached).await.expect("its sender is here");
    }
}

// === impl AliveGuard ===

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
