//! What the clients of a process share: a source of configuration, identities, connections, clusters, and every task.

mod control;
mod dns;
pub(crate) mod on_demand;
mod registry;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Dice,
    cluster::ClusterStatus,
    config::{self, ClusterPolicy, ConfigError, IdentityName, Security, Semantics, Snapshot, Trust, UpstreamTls},
    identity::{Identities, IdentitySource, IdentityStatus},
    source::{ConfigSource, SourceStatus, Work},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::control::Control;
pub(crate) use self::registry::{Compiled, Routes, Target};
use self::{
    control::{ControlThread, Idle},
    on_demand::OnDemand,
    registry::{Pass, Registry, Retired},
};
use crate::{
    Error,
    cluster::{Cluster, Environment, PoolStatus},
    connect::{Connect, SocketConnector},
    plan::Profile,
    resolve::{Resolve, SystemResolver},
    tasks::{MOMENT, Tasks},
    tls::{Provider, TlsClient},
};

/// A handle on what the clients of a process share.
///
/// Clones are cheap. Clients hold one, so a mesh lives as long as its last client; then its work ends, and connections end
/// with their last response. There is nothing process-wide: two meshes know nothing of each other.
///
/// # Examples
///
/// ```no_run
/// # async fn example(source: impl mesh_core::source::ConfigSource) -> Result<(), mesh_http::Error> {
/// use mesh_http::{Client, Mesh};
///
/// let mesh = Mesh::builder().source(source).build()?;
/// let reviews = Client::builder("reviews.shop:9080").mesh(&mesh).build()?;
/// reviews.ready().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

/// Builds a [`Mesh`].
#[must_use]
pub struct MeshBuilder {
    source: Option<Arc<dyn ConfigSource>>,
    identities: Vec<(Arc<str>, Arc<dyn IdentitySource>)>,
    connector: Arc<dyn Connect>,
    resolver: Arc<dyn Resolve>,
    provider: Option<Provider>,
    runtime: Option<Handle>,
    control: Option<Control>,
    seed: Option<u64>,
}

/// How a mesh stands, for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MeshStatus {
    /// The source, where there is one.
    pub source: Option<SourceStatus>,
    /// Every target that clients hold.
    pub targets: Vec<TargetStatus>,
    /// Every cluster in use, by name.
    pub clusters: Vec<ClusterStatus>,
    /// The connections to every endpoint that was used, in the order of the clusters.
    pub pools: Vec<PoolStatus>,
    /// Every identity.
    pub identities: Vec<(Arc<str>, IdentityStatus)>,
}

/// How a target stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Why it has no configuration, where it has none.
    pub unavailable: Option<Arc<str>>,
}

struct Shared {
    parts: Parts,
    source: Option<Arc<dyn ConfigSource>>,
    registry: Mutex<Registry>,
    /// Where the source is followed on a thread of its own.
    thread: Option<ControlThread>,
}

/// The parts that clusters and targets are made of and with.
pub(crate) struct Parts {
    pub(crate) tasks: Tasks,
    pub(crate) resolver: Arc<dyn Resolve>,
    /// Rung when targets should be looked at again.
    pub(crate) poke: Arc<Notify>,
    retired: Arc<Retired>,
    environment: Environment,
    identities: Identities,
    /// What ends the work of each identity that code has added, for the one that takes its place.
    working: Mutex<BTreeMap<Arc<str>, DropGuard>>,
    seed: u64,
    numbers: AtomicU64,
}

// === impl Mesh ===

impl Mesh {
    /// Builds a mesh.
    pub fn builder() -> MeshBuilder {
        MeshBuilder {
            source: None,
            identities: Vec::new(),
            connector: Arc::new(SocketConnector),
            resolver: Arc::new(SystemResolver::default()),
            provider: None,
            runtime: None,
            control: None,
            seed: None,
        }
    }

    /// How everything stands.
    pub fn status(&self) -> MeshStatus {
        let registry = self.shared.registry();
        let targets = registry.targets().map(|target| {
            let unavailable = target.routes().lacking();
            TargetStatus { name: target.name.clone(), unavailable }
        });
        MeshStatus {
            source: self.shared.source.as_ref().map(|source| source.status()),
            targets: targets.collect(),
            clusters: registry.clusters().map(|cluster| cluster.balanced().status()).collect(),
            pools: registry.clusters().flat_map(|cluster| cluster.pools()).collect(),
            identities: self.shared.parts.identities.statuses(),
        }
    }

    /// Adds an identity, or replaces the one of that name, whose work ends. Handshakes read it from now on.
    pub fn add_identity(&self, name: impl Into<Arc<str>>, source: impl IdentitySource) {
        self.shared.parts.add_identity(name.into(), Arc::new(source));
    }

    /// Ends the work, waits up to `grace` for responses under way, then cuts the connections that are left. Returns whether
    /// nothing had to be cut. Requests that are made afterwards may fail. Where the source is followed on a [thread of its
    /// own](Control::OwnThread), the thread has ended by then, unless the source holds it for longer than `grace`, or a second if
    /// that is more.
    ///
    /// Dropping the future leaves the work ended and the connections as they are.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.shared.registry().close();
        let Parts { tasks, retired, .. } = &self.shared.parts;
        let thread_ends = async {
            if let Some(thread) = &self.shared.thread {
                let _ = timeout(grace.max(MOMENT), thread.ended()).await;
            }
        };
        let (is_drained, ()) = tokio::join!(biased; tasks.shutdown(grace), thread_ends);
        // Who took them apart has ended.
        let retired = retired.take();
        if !retired.is_empty() {
            tasks.blocking(move || drop(retired));
        }
        is_drained
    }

    /// Adds a target that stands in code.
    pub(crate) fn add_code(&self, name: Arc<str>, profile: Profile, snapshot: Snapshot) -> Arc<Target> {
        let target = self.shared.registry().add_code(&self.shared.parts, name, profile, snapshot);
        Pass::over_one(&self.shared.parts, &self.shared.registry, &target);
        target
    }

    /// Adds a target that the source knows.
    pub(crate) fn add_steered(&self, name: Arc<str>, profile: Profile) -> Result<Arc<Target>, ConfigError> {
        let Some(source) = &self.shared.source else {
            let remedy = "give endpoints, routes, or a mesh that has a source";
            return Err(ConfigError::new("target", name, remedy));
        };
        let interest = source.watch(&name);
        let target = self.shared.registry().add_steered(&self.shared.parts, name, profile, interest);
        Pass::over_one(&self.shared.parts, &self.shared.registry, &target);
        Ok(target)
    }

    /// Until when a request of `target` may wait for the cluster `name`, which is asked for if it was not before; none where
    /// there is nobody to ask, or no more to wait for.
    pub(crate) fn ask(&self, target: &Arc<Target>, name: &str, now: Instant) -> Option<Instant> {
        let source = self.shared.source.as_ref().filter(|_| target.is_steered())?;
        let until = target.on_demand.ask(name, now, &**source)?;
        OnDemand::watch(target, &self.shared.parts);
        // It may be in the snapshot on another target's account.
        self.shared.parts.poke.notify_one();
        Some(until)
    }

    /// Whose rules the source follows, if it has its own.
    pub(crate) fn semantics(&self) -> Option<Semantics> {
        self.shared.source.as_ref().and_then(|source| source.semantics())
    }

    /// Refuses a policy that names identities which nobody registered.
    pub(crate) fn check_identities(&self, policy: &ClusterPolicy) -> Result<(), ConfigError> {
        if let Some(tls) = &policy.tls {
            self.check_tls("tls", tls)?;
        }
        for (index, one) in policy.security.iter().enumerate() {
            if let Security::Tls(tls) = &one.security {
                self.check_tls(&format!("security[{index}]"), tls)?;
            }
        }
        Ok(())
    }

    fn check_tls(&self, field: &str, tls: &UpstreamTls) -> Result<(), ConfigError> {
        self.check_identity(&format!("{field}.identity"), tls.identity())?;
        match tls.trust() {
            Trust::Identity(name) => self.check_identity(&format!("{field}.trust"), Some(name)),
            _ => Ok(()),
        }
    }

    fn check_identity(&self, field: &str, name: Option<&IdentityName>) -> Result<(), ConfigError> {
        match name {
            Some(name) if self.shared.parts.identities.get(name).is_none() => {
                Err(ConfigError::new(field, name, "register it with the mesh, by `identity`"))
            }
            _ => Ok(()),
        }
    }

    /// Why a target is still without configuration after `waited`.
    pub(crate) fn why_waiting(&self, target: &str, waited: Duration) -> String {
        let mut reason = format!("target `{target}` has no configuration after {waited:?}");
        if let Some(status) = self.shared.source.as_ref().map(|source| source.status()) {
            let link = if status.connected { "connected to" } else { "not connected to" };
            reason.push_str(&format!("; {link} {}", status.server));
            if let Some(error) = status.last_error {
                reason.push_str(&format!(", last error: {error}"));
            }
        }
        reason
    }

    /// The seed of the mesh, and a number that no other client of it has.
    pub(crate) fn seed_and_number(&self) -> (u64, u64) {
        (self.shared.parts.seed, self.shared.parts.next_number())
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("steered", &self.shared.source.is_some()).finish_non_exhaustive()
    }
}

// === impl MeshBuilder ===

impl MeshBuilder {
    /// Steers targets by `source`, such as an xDS client. Default: none, and every client says in code where to send.
    pub fn source(mut self, source: impl ConfigSource) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Registers an identity under a name by which TLS contexts refer to it. Default: none.
    pub fn identity(mut self, name: impl Into<Arc<str>>, source: impl IdentitySource) -> Self {
        self.identities.push((name.into(), Arc::new(source)));
        self
    }

    /// Opens every connection through `connector`. Default: [`SocketConnector`].
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// Looks names up with `resolver`. Default: [`SystemResolver`].
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// The cryptography of TLS. Default: aws-lc-rs, or ring where only that is compiled in.
    pub fn crypto(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Spawns tasks on this runtime, all but those that follow the source where [that has its own](Control::OwnThread).
    /// Default: the one in which [`build`](Self::build) is called.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Where the source is followed. Default: on a thread of the mesh's own where its runtime is multi-threaded, and on the
    /// runtime where that is a current-thread one. See [`Control`] for when to choose which. Without a source it means
    /// nothing.
    pub fn control(mut self, control: Control) -> Self {
        self.control = Some(control);
        self
    }

    /// Makes every random decision repeatable. Default: a seed of its own.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds the mesh, and starts its work.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when there is no tokio runtime to work in, an identity stands twice, or the thread that follows the
    /// source cannot be started (`control`). Without cryptography (none compiled in, none given by [`crypto`](Self::crypto)) a
    /// mesh builds, and the calls of clusters that ask for TLS fail.
    pub fn build(self) -> Result<Mesh, Error> {
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| {
                ConfigError::new("runtime", "none", "call build inside a tokio runtime, or give one by `runtime`")
            })?,
        };
        if let Some(name) = twice(&self.identities) {
            return Err(ConfigError::new("identity", name, "register a name once").into());
        }
        let control = self.control.unwrap_or_else(|| Control::beside(&runtime));
        let started = match (&self.source, control) {
            (Some(_), Control::OwnThread) => Some(ControlThread::start()?),
            _ => None,
        };
        let (thread, idle) = started.unzip();
        let identities = self.source.as_ref().and_then(|source| source.identities()).unwrap_or_default();
        let tasks = Tasks::new(runtime);
        let tls =
            self.provider.or_else(Provider::compiled_in).map(|provider| TlsClient::new(provider, identities.clone()));
        let parts = Parts {
            environment: Environment { connector: self.connector, tls, tasks: tasks.clone() },
            tasks,
            resolver: self.resolver,
            poke: Arc::default(),
            retired: Arc::default(),
            identities,
            working: Mutex::default(),
            seed: self.seed.unwrap_or_else(Dice::random_seed),
            numbers: AtomicU64::new(0),
        };
        for (name, source) in self.identities {
            parts.add_identity(name, source);
        }
        let shared = Arc::new(Shared { parts, source: self.source, registry: Mutex::default(), thread });
        Shared::start(&shared, idle);
        Ok(Mesh { shared })
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder").finish_non_exhaustive()
    }
}

fn twice(identities: &[(Arc<str>, Arc<dyn IdentitySource>)]) -> Option<&str> {
    let mut seen = std::collections::HashSet::new();
    identities.iter().find(|(name, _)| !seen.insert(name)).map(|(name, _)| &**name)
}

/// How long after a look at the routes that requests were still reading there is another.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

// === impl Shared ===

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts following the source, on a thread of its own where there is one. Nothing that is spawned keeps the mesh alive.
    fn start(shared: &Arc<Self>, idle: Option<Idle>) {
        let tasks = &shared.parts.tasks;
        let source = shared.source.clone();
        let snapshots = source.as_ref().map(|source| source.snapshots());
        let (poke, retired) = (shared.parts.poke.clone(), shared.parts.retired.clone());
        let following = Self::follow(Arc::downgrade(shared), (poke, retired), snapshots);
        let Some(idle) = idle else {
            if let Some(source) = source {
                tasks.work(source.work());
            }
            return tasks.work(following);
        };
        idle.begin(tasks, async move {
            // Two tasks, so that a panic of one is not the end of the other. Both end with this runtime.
            let following = control::spawn(following);
            if let Some(source) = source {
                // It is asked for its work in here: what it may find around it then is the runtime that the work is done in.
                let _ = control::spawn(async move { given(source).await }).await;
            }
            let _ = following.await;
        });
    }

    /// Keeps every target up to date with the source, until the mesh is gone.
    async fn follow(
        mesh: Weak<Self>,
        (poke, retired): (Arc<Notify>, Arc<Retired>),
        mut snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    ) {
        loop {
            // Biased: which of two events is seen first must not be left to chance.
            let snapshot = tokio::select! {
                biased;
                snapshot = next(&mut snapshots) => Some(snapshot),
                () = poke.notified() => None,
                () = sleep(LOOK_AGAIN), if !retired.is_empty() => {
                    retired.take_apart().await;
                    continue;
                }
            };
            let Some(mesh) = mesh.upgrade() else { return };
            Pass::over_all(&mesh.parts, &mesh.registry, snapshot).await;
        }
    }
}

/// The work of `source`, which does not need the handle on it.
fn given(source: Arc<dyn ConfigSource>) -> Work {
    source.work()
}

/// The next snapshot; never, where there is no source or it has ended.
async fn next(snapshots: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Arc<Snapshot> {
    if let Some(receiver) = snapshots {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *snapshots = None;
    }
    std::future::pending().await
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.parts.tasks.stop_work();
    }
}

// === impl Parts ===

impl Parts {
    /// A number that was not given before.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A seed for something that is made now.
    pub(crate) fn next_seed(&self) -> u64 {
        mesh_core::Dice::of_call(self.seed, u64::MAX, self.next_number()).roll()
    }

    /// A cluster without endpoints, whose work is under way.
    pub(crate) fn new_cluster(&self, profile: &Profile, said: &Arc<config::Cluster>) -> Arc<Cluster> {
        let policy = profile.cluster_policy(&said.policy);
        let cluster = Cluster::new(&self.environment, said, policy, profile.rules, self.next_seed());
        self.tasks.work(cluster.balanced().work());
        cluster
    }

    fn add_identity(&self, name: Arc<str>, source: Arc<dyn IdentitySource>) {
        let (stop, work) = (CancellationToken::new(), source.clone().work());
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        self.identities.insert(name.clone(), source);
        let before = working.insert(name, stop.clone().drop_guard());
        drop(working);
        drop(before);
        self.tasks.work(async move { _ = stop.run_until_cancelled(work).await });
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn mesh_without_a_source_has_no_thread_of_its_own() {
        let mesh = Mesh::builder().control(Control::OwnThread).build().expect("a runtime");
        assert!(mesh.shared.thread.is_none());
    }
}
