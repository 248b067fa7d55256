//! What keeps a stream from being silent while nothing comes from its peer: that its request is read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether a request was read since that was last asked: noted by whoever reads it, taken by whoever watches for silence.
///
/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicBool>);

impl Progress {
    /// Some of the request was read.
    pub fn note(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether some was since the last time; it counts once.
    pub fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}
