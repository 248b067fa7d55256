//! Who calls: what the clones of a client share, and what each call takes from it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{Dice, outcome::FailureKind};
use tokio::time::{Instant, timeout};

use crate::{
    Error, Mesh,
    mesh::{State, Target},
};

/// What the clones of a client share.
#[derive(Debug)]
pub(crate) struct Caller {
    mesh: Mesh,
    target: Arc<Target>,
    seed: u64,
    number: u64,
    calls: AtomicU64,
    ready_timeout: Duration,
}

/// What is a call's own from its beginning.
pub(crate) struct Beginning {
    pub(crate) dice: Dice,
    /// The one reading of the clock at the start of a call.
    pub(crate) start: Instant,
}

impl Caller {
    /// A caller of `target`; the mesh gives it a seed and a number.
    pub(crate) fn new(mesh: Mesh, target: Arc<Target>, ready_timeout: Duration) -> Self {
        let (seed, number) = mesh.seed_and_number();
        Self { mesh, target, seed, number, calls: AtomicU64::new(0), ready_timeout }
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Begins a call.
    pub(crate) fn begin(&self) -> Beginning {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Beginning { dice: self.dice_of(call), start: Instant::now() }
    }

    /// The first roll of the call that comes next.
    pub(crate) fn next_roll(&self) -> u64 {
        self.dice_of(self.calls.load(Ordering::Relaxed)).roll()
    }

    /// Waits for the configuration, within the bound that the builder set.
    pub(crate) fn known(self: Arc<Self>) -> Pin<Box<dyn Future<Output = Result<Arc<State>, Error>> + Send>> {
        Box::pin(async move {
            match timeout(self.ready_timeout, self.target.known()).await {
                Ok(state) => Ok(state),
                Err(_) => Err(self.mesh.why_waiting(&self.target.name, self.ready_timeout)),
            }
        })
    }

    pub(crate) fn unavailable(&self, reason: &str) -> Error {
        Error::new(FailureKind::NoConfig, format!("target `{}` has no configuration: {reason}", self.target.name))
    }

    fn dice_of(&self, call: u64) -> Dice {
        Dice::of_call(self.seed, self.number, call)
    }
}
