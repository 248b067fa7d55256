//! The beginning of every call: what the clones of a client share, and what a call takes from it.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Request;
use mesh_core::{
    Dice,
    deadline::{Bound, Expiry},
    outcome::{Failed, FailureKind, Sent},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::CallOptions;
use crate::{
    Error, Mesh,
    mesh::{Routes, Target},
    protocol::Protocol,
    scope::Scope,
    telemetry::CallMetrics,
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
    /// Of the calls that end before they have a cluster.
    metrics: Arc<CallMetrics>,
}

/// What is a call's own from its beginning.
pub(crate) struct Beginning {
    pub(crate) dice: Dice,
    /// The one reading of the clock at the start of a call.
    pub(crate) start: Instant,
    pub(crate) scope: Scope,
    pub(crate) options: CallOptions,
}

/// A call's time was up before its target had a configuration.
#[derive(Debug)]
struct Late {
    /// Why there was none.
    why: String,
    elapsed: Failed,
}

/// Waits for a target's configuration.
pub(crate) type Known = Pin<Box<dyn Future<Output = Result<Arc<Routes>, Error>> + Send>>;

// === impl Caller ===

impl Caller {
    /// A caller of `target`; the mesh gives it a seed and a number.
    pub(crate) fn new(mesh: Mesh, target: Arc<Target>, ready_timeout: Duration) -> Self {
        let (seed, number) = mesh.seed_and_number();
        let metrics = Arc::new(CallMetrics::of_target(&target.name));
        Self { mesh, target, seed, number, calls: AtomicU64::new(0), ready_timeout, metrics }
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Until when a request may wait for the cluster that it names; none where there is no more to wait for.
    pub(crate) fn ask(&self, cluster: &str) -> Option<Instant> {
        self.mesh.ask(&self.target, cluster, Instant::now())
    }

    /// Waits `until` then, or where that is not said for ever, for the cluster that a request names or for other routes than
    /// `seen`, unless the time of the call is up first. Whether it came shows when the call is routed again.
    pub(crate) fn reached(
        self: Arc<Self>,
        (cluster, seen): (Arc<str>, Arc<Routes>),
        until: Option<Instant>,
        own: Option<Expiry>,
    ) -> Known {
        Box::pin(async move {
            let reached = async {
                tokio::select! {
                    biased;
                    () = self.target.on_demand.reached(&cluster) => {}
                    _ = self.target.other_than(&seen) => {}
                }
            };
            let nearest = [until, own.map(|own| own.at())].into_iter().flatten().min();
            match nearest {
                Some(at) => _ = timeout_at(at, reached).await,
                None => reached.await,
            }
            match own {
                Some(own) if own.at() <= Instant::now() => Err(Failed::from(own.elapsed(Sent::No)).into()),
                _ => Ok(self.target.routes().clone()),
            }
        })
    }

    pub(crate) fn metrics(&self) -> &Arc<CallMetrics> {
        &self.metrics
    }

    /// Begins a call of `request`, which is made on this task.
    pub(crate) fn begin<B>(&self, request: &mut Request<B>) -> Beginning {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (dice, options) = (self.dice_of(call), CallOptions::take(request));
        Beginning { dice, start: Instant::now(), scope: Scope::current(), options }
    }

    /// The first roll of the call that comes next.
    pub(crate) fn next_roll(&self) -> u64 {
        self.dice_of(self.calls.load(Ordering::Relaxed)).roll()
    }

    /// Waits for a configuration other than `seen`: as long as the builder said, or the call itself, whichever is less. A
    /// call that waits for ready has only its own limit.
    pub(crate) fn known(self: Arc<Self>, seen: Arc<Routes>, own: Option<Expiry>, waits_for_ready: bool) -> Known {
        let bound = (!waits_for_ready).then_some(self.ready_timeout);
        Box::pin(async move {
            let waiting = async {
                match bound {
                    Some(bound) => timeout(bound, self.target.other_than(&seen)).await.ok(),
                    None => Some(self.target.other_than(&seen).await),
                }
            };
            let routes = match own {
                Some(own) => match timeout_at(own.at(), waiting).await {
                    Ok(routes) => routes,
                    Err(_) => return Err(self.late(&seen, &own)),
                },
                None => waiting.await,
            };
            let why = || self.mesh.why_waiting(&self.target.name, self.ready_timeout);
            routes.ok_or_else(|| Error::new(FailureKind::NoConfig, why()))
        })
    }

    /// The error of a call whose own time was up before there was other than `seen`.
    fn late(&self, seen: &Routes, own: &Expiry) -> Error {
        let elapsed = own.elapsed(Sent::No);
        let why = match seen {
            Routes::Waiting => self.mesh.why_waiting(&self.target.name, elapsed.limit()),
            Routes::Unavailable(reason) => self.without(reason),
            Routes::Ready(_) | Routes::Closed => return Failed::from(elapsed).into(),
        };
        Error::from_below(Box::new(Late { why, elapsed: elapsed.into() }))
    }

    pub(crate) fn unavailable(&self, reason: &str) -> Error {
        Error::new(FailureKind::NoConfig, self.without(reason))
    }

    fn without(&self, reason: &str) -> String {
        format!("target `{}` has no configuration: {reason}", self.target.name)
    }

    fn dice_of(&self, call: u64) -> Dice {
        Dice::of_call(self.seed, self.number, call)
    }
}

// === impl Beginning ===

impl Beginning {
    /// When the caller's own time is up: what `request` asks for itself, or what the scope says.
    pub(crate) fn expiry<B, P: Protocol>(&self, request: &Request<B>) -> Option<Expiry> {
        let asked = P::asked_timeout(request.headers()).map(|limit| Expiry::new(Bound::Request, self.start, limit));
        Expiry::nearer(asked, self.own_expiry())
    }

    /// When the time is up that the options of a call give it, or the scope, for one that keeps to it.
    pub(super) fn own_expiry(&self) -> Option<Expiry> {
        let asked = self.options.timeout.map(|limit| Expiry::new(Bound::Request, self.start, limit));
        let scoped = self.scope.deadline().filter(|_| !self.options.detached);
        let scoped = scoped.map(|at| at.saturating_duration_since(self.start));
        Expiry::nearer(asked, scoped.map(|limit| Expiry::new(Bound::Request, self.start, limit)))
    }
}

// === impl Late ===

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl StdError for Late {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.elapsed)
    }
}
