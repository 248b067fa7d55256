//! The tasks that a mesh spawned, and how they end.

use std::{future::Future, time::Duration};

use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::pool::{Spawn, Task};

/// Spawns tasks on one runtime and ends them.
///
/// There are two kinds. Work (following a source, resolving names, sweeping outliers) ends when the mesh is dropped.
/// Connections outlive it until their last stream has ended, as a response that is still being read must; only a shutdown
/// whose grace is over cuts them.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    work: Kind,
    connections: Kind,
}

#[derive(Clone, Debug, Default)]
struct Kind {
    tracker: TaskTracker,
    stop: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, work: Kind::default(), connections: Kind::default() }
    }

    /// Spawns background work.
    pub(crate) fn work(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(&self.runtime, future);
    }

    /// Spawns what drives a connection.
    pub(crate) fn connection(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(&self.runtime, future);
    }

    /// Ends the work at its next await.
    pub(crate) fn stop_work(&self) {
        self.work.stop.cancel();
    }

    /// Ends the work, waits up to `grace` for connections to end by themselves, then cuts what is left. Returns whether all
    /// ended by themselves.
    pub(crate) async fn shutdown(&self, grace: Duration) -> bool {
        self.stop_work();
        self.work.tracker.close();
        self.work.tracker.wait().await;
        self.connections.tracker.close();
        let drained = timeout(grace, self.connections.tracker.wait()).await.is_ok();
        self.connections.stop.cancel();
        self.connections.tracker.wait().await;
        drained
    }
}

impl Spawn for Tasks {
    fn spawn(&self, task: Task) {
        self.connection(task);
    }
}

// === impl Kind ===

impl Kind {
    fn spawn(&self, runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn_on(
            async move {
                stop.run_until_cancelled(future).await;
            },
            runtime,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_connections_up_to_the_grace() {
        let tasks = Tasks::new(Handle::current());
        tasks.work(pending());
        tasks.connection(async { tokio::time::sleep(Duration::from_secs(1)).await });
        assert!(tasks.shutdown(Duration::from_secs(2)).await);

        let tasks = Tasks::new(Handle::current());
        tasks.connection(pending());
        assert!(!tasks.shutdown(Duration::from_secs(2)).await);
    }
}
