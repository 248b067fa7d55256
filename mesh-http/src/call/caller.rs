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

use http::{HeaderMap, Request};
use mesh_core::{
    Dice,
    deadline::Expiry,
    outcome::{FailureKind, Sent},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{CallOptions, Facts};
use crate::{
    Error, Mesh,
    mesh::{State, Target},
    protocol::Protocol,
    scope::Scope,
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
    pub(crate) scope: Scope,
}

/// Waits for a target's configuration.
pub(crate) type Known = Pin<Box<dyn Future<Output = Result<Arc<State>, Error>> + Send>>;

// === impl Caller ===

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

    /// Begins a call, which is made on this task.
    pub(crate) fn begin(&self) -> Beginning {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Beginning { dice: self.dice_of(call), start: Instant::now(), scope: Scope::current() }
    }

    /// The first roll of the call that comes next.
    pub(crate) fn next_roll(&self) -> u64 {
        self.dice_of(self.calls.load(Ordering::Relaxed)).roll()
    }

    /// Waits for the configuration: as long as the builder said, or the call itself, whichever is less. A call that waits
    /// for ready has only its own limit.
    pub(crate) fn known(self: Arc<Self>, own: Option<Expiry>, waits_for_ready: bool) -> Known {
        let bound = (!waits_for_ready).then_some(self.ready_timeout);
        Box::pin(async move {
            let waiting = async {
                match bound {
                    Some(bound) => timeout(bound, self.target.known()).await.ok(),
                    None => Some(self.target.known().await),
                }
            };
            let state = match own {
                Some(own) => match timeout_at(own.at(), waiting).await {
                    Ok(state) => state,
                    Err(_) => return Err(Error::from_below(own.elapsed(Sent::No).into())),
                },
                None => waiting.await,
            };
            state.ok_or_else(|| self.mesh.why_waiting(&self.target.name, self.ready_timeout))
        })
    }

    pub(crate) fn unavailable(&self, reason: &str) -> Error {
        Error::new(FailureKind::NoConfig, format!("target `{}` has no configuration: {reason}", self.target.name))
    }

    fn dice_of(&self, call: u64) -> Dice {
        Dice::of_call(self.seed, self.number, call)
    }
}

// === impl Beginning ===

impl Beginning {
    /// When the caller's own time is up: what `request` asks for itself, or what the scope says.
    pub(crate) fn expiry<B, P: Protocol>(&self, request: &Request<B>) -> Option<Expiry> {
        let options = request.extensions().get::<CallOptions>().copied().unwrap_or_default();
        let asked = asked::<P>(request.headers(), &options).map(|limit| Facts::expiry(self.start, limit));
        nearer(asked, self.scoped(&options), Expiry::at)
    }

    /// When the scope's time is up, for a request that keeps to it.
    pub(super) fn scoped(&self, options: &CallOptions) -> Option<Expiry> {
        let at = self.scope.deadline().filter(|_| !options.is_detached())?;
        Some(Facts::expiry(self.start, at.saturating_duration_since(self.start)))
    }
}

/// The time that a request asks for itself.
pub(super) fn asked<P: Protocol>(headers: &HeaderMap, options: &CallOptions) -> Option<Duration> {
    nearer(P::asked_timeout(headers), options.timeout(), |limit| *limit)
}

/// The one that comes first.
pub(super) fn nearer<T, K: Ord>(one: Option<T>, other: Option<T>, key: impl Fn(&T) -> K) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(std::cmp::min_by_key(one, other, key)),
        (one, other) => one.or(other),
    }
}
