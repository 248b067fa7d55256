//! How long a scenario waits for what takes moments: what never comes fails its test, and does not hang it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// A loaded machine may take its time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What comes of `waiting`.
///
/// # Panics
///
/// When nothing has come within [`PATIENCE`]; with `what` was waited for.
pub async fn in_time<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Waits until `is_so`, which is asked again and again: of states that nobody is told of.
///
/// # Panics
///
/// As [`in_time`].
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, waiting).await;
}
