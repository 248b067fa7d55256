//! One cluster at work: its policy, its endpoints and what is known of them, behind one handle.
//!
//! Readers never wait. The endpoint set is immutable and swapped whole; a pick loads it once. Everything that changes the
//! set (new endpoints, another policy, ejections) goes through one short mutex, the writer's, which no request takes.
//!
//! A cluster spawns nothing. [`Cluster::work`] is what it would like to have run.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::{
    config::{self, ClusterPolicy, HealthStatus, RequestPriority, Semantics},
    dice::mix,
    endpoint::{Endpoint, EndpointId, Home, Member, Roster, Seat, Tried},
    limit::Limits,
    outlier::Outlier,
    pick::{EndpointSet, NoEndpoint, Picked, Rules, Terms},
};

mod available;
mod capacity;
mod drops;
mod factory;
mod status;
mod transport;
mod work;

pub use self::{
    available::Available,
    capacity::Capacity,
    drops::Dropped,
    factory::{FromFactory, PerRequest, ServiceFuture},
    status::{ClusterStatus, EndpointStatus, PriorityStatus},
    transport::{Dispatch, EndpointInfo, Transport, Undelivered},
};

/// One cluster at work. Clients share it by `Arc`; the last one drops it, and its work ends.
pub struct Cluster<T: Transport> {
    name: Arc<str>,
    semantics: Semantics,
    transport: T,
    home: Arc<Home>,
    set: ArcSwap<EndpointSet<T::Handle>>,
    policy: ArcSwap<ClusterPolicy>,
    /// Whether the set drops requests, which hardly any does: spares requests a look at it.
    is_dropping: AtomicBool,
    writer: Mutex<Writer>,
}

/// What only the writer needs.
struct Writer {
    seed: u64,
    /// The number that was given last.
    last_id: u64,
    /// Counts sets, so that each starts its turns elsewhere.
    generation: u64,
    outlier: Option<Outlier>,
}

impl<T: Transport> Cluster<T> {
    /// The cluster of `config`, without endpoints yet, treated by `policy`, which is what stacking all sources came to.
    pub fn new(
        config: &Arc<config::Cluster>,
        policy: ClusterPolicy,
        semantics: Semantics,
        transport: T,
        seed: u64,
    ) -> Arc<Self> {
        let now = Instant::now();
        let rules = Rules::of(&policy, semantics);
        let home = Arc::new(Home::new(now, Limits::new(&policy.circuit_breakers)));
        home.judge_by(rules.balancing, policy.outlier_detection.as_deref());
        let outlier = policy.outlier_detection.clone().map(|policy| Outlier::new(policy, now, seed));
        Arc::new(Self {
            name: config.name().clone(),
            semantics,
            transport,
            home,
            set: ArcSwap::from_pointee(EndpointSet::new(Arc::new(Roster::empty()), rules, seed)),
            policy: ArcSwap::from_pointee(policy),
            is_dropping: AtomicBool::new(false),
            writer: Mutex::new(Writer { seed, last_id: 0, generation: 0, outlier }),
        })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How it is treated at this moment.
    pub fn policy(&self) -> Arc<ClusterPolicy> {
        self.policy.load_full()
    }

    /// What it has under way and may have: one set of counters for requests, retries, and the transport's queues and
    /// connections.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.home.limits
    }

    /// Its transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Takes `endpoints` for its own. Those that stay keep what is known of them and their connections, those that are gone
    /// are retired, and the next pick sees only the new ones.
    pub fn update_endpoints(&self, endpoints: &config::Endpoints) {
        let mut writer = self.writer();
        let before = self.set.load_full();
        let roster = Arc::new(before.roster.next(endpoints, &mut writer.last_id));
        let gone = before.roster.gone(&roster);
        if let Some(outlier) = &mut writer.outlier {
            gone.iter().for_each(|seat| outlier.forget(seat.id()));
        }
        self.publish(&mut writer, roster.clone(), before.rules);
        self.is_dropping.store(!roster.drops.is_empty(), Relaxed);
        drop(writer);

        // See `catch_up`.
        fence(SeqCst);
        // The transport is other people's code: never called under the lock.
        self.tell_changed_metadata(&before.roster, &roster);
        gone.iter().for_each(|seat| self.retire(seat));
    }

    /// Is treated by `policy` from now on. Requests under way finish by the old one.
    pub fn update_policy(&self, policy: ClusterPolicy) {
        let mut writer = self.writer();
        let before = self.set.load_full();
        let rules = Rules::of(&policy, self.semantics);
        let members = &before.roster.members;
        if self.home.judge_by(rules.balancing, policy.outlier_detection.as_deref()) {
            let now = Instant::now();
            members.iter().for_each(|member| member.seat.live().restart_cost(&self.home, now));
        }
        self.update_outlier(&mut writer, &policy, members);
        self.home.limits.update(&policy.circuit_breakers);
        self.policy.store(Arc::new(policy));
        self.publish(&mut writer, before.roster.clone(), rules);
        drop(writer);
        // Its work sleeps until a sweep of the old interval.
        self.home.bell.notify_one();

        // See `catch_up`.
        fence(SeqCst);
        let policy = self.policy.load();
        members.iter().for_each(|member| self.tell_changed(member, &policy));
    }

    /// The endpoint for a request of these terms; see [`pick`](crate::pick). The breaker is not asked.
    ///
    /// # Errors
    ///
    /// [`NoEndpoint`], when there is nobody, or nobody available and the request would rather wait.
    #[inline]
    pub fn pick(&self, terms: &mut Terms) -> Result<Picked<T::Handle>, NoEndpoint> {
        self.pick_counted(terms, None)
    }

    /// The same for a request that counts against the breaker at the given priority, which the guard takes over.
    // Always in line, as the balancer is the one who calls it.
    #[inline(always)]
    pub(crate) fn pick_counted(
        &self,
        terms: &mut Terms,
        counted: Option<RequestPriority>,
    ) -> Result<Picked<T::Handle>, NoEndpoint> {
        let set = self.set.load();
        let member = set.pick(&self.home, terms).ok_or_else(|| set.refusal())?;
        let endpoint = member.seat.take().unwrap_or_else(|| self.open(&set, member));
        Ok(Picked::new(endpoint, terms.now, counted))
    }

    /// Picks an endpoint that is not among `tried`, of whatever priority.
    #[cold]
    pub(crate) fn pick_untried(&self, terms: &mut Terms, tried: &mut Tried) -> Option<Picked<T::Handle>> {
        let set = self.set.load();
        std::mem::swap(&mut terms.tried, tried);
        let member = set.pick_untried(&self.home, terms);
        std::mem::swap(&mut terms.tried, tried);
        let member = member?;
        let endpoint = member.seat.take().unwrap_or_else(|| self.open(&set, member));
        Some(Picked::new(endpoint, terms.now, None))
    }

    /// Opens the endpoints that nobody has picked yet, as their first pick would, and shows them to `see`, where the cluster
    /// has at most `most`. Those that are unfit for traffic are left for when they are picked.
    pub fn open_ahead(&self, most: usize, mut see: impl FnMut(&T::Handle)) {
        let set = self.set.load_full();
        let members = &set.roster.members;
        if members.len() > most {
            return;
        }
        let is_fit = |health| !matches!(health, HealthStatus::Unhealthy | HealthStatus::Draining);
        for member in members.iter().filter(|member| member.seat.handle().is_none() && is_fit(member.health)) {
            let endpoint = self.open(&set, member);
            see(endpoint.handle().expect("it was opened just now"));
        }
    }

    /// Opens a member of `set` for its first request.
    #[cold]
    fn open(&self, set: &Arc<EndpointSet<T::Handle>>, member: &Member<T::Handle>) -> Arc<Endpoint<T::Handle>> {
        let policy = self.policy.load_full();
        let open = || self.transport.open(&self.info(member, &policy));
        let endpoint = member.seat.open(&self.home, open, |handle| self.transport.retire(handle));
        self.catch_up(member.seat.id(), set.clone(), policy);
        endpoint
    }

    /// Tells the transport what has changed of an endpoint since it was shown to it, until nothing has. Whoever changes it
    /// tells only those that it sees open; but both write, fence, then read, so that one sees the other.
    fn catch_up(&self, id: EndpointId, mut set: Arc<EndpointSet<T::Handle>>, mut policy: Arc<ClusterPolicy>) {
        loop {
            let (last_set, last_policy) = (set, policy);
            (set, policy) = (self.set.load_full(), self.policy.load_full());
            if Arc::ptr_eq(&set.roster, &last_set.roster) && Arc::ptr_eq(&policy, &last_policy) {
                return;
            }
            // One that has left is retired, and not changed.
            let Some(member) = set.roster.members.iter().find(|member| member.seat.id() == id) else { return };
            self.tell_changed(member, &policy);
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the set that everybody reads from now on.
    fn publish(&self, writer: &mut Writer, roster: Arc<Roster<T::Handle>>, rules: Rules) {
        writer.generation += 1;
        let turn = mix(writer.seed.wrapping_add(writer.generation));
        self.set.store(Arc::new(EndpointSet::new(roster, rules, turn)));
        self.home.news.notify_waiters();
    }

    fn update_outlier(&self, writer: &mut Writer, policy: &ClusterPolicy, members: &[Member<T::Handle>]) {
        match (&mut writer.outlier, &policy.outlier_detection) {
            (Some(outlier), Some(policy)) => outlier.update(policy.clone()),
            (outlier, None) => {
                *outlier = None;
                members.iter().for_each(|member| member.seat.live().set_ejected(false));
            }
            (outlier, Some(policy)) => {
                *outlier = Some(Outlier::new(policy.clone(), Instant::now(), writer.seed));
            }
        }
    }

    fn tell_changed(&self, member: &Member<T::Handle>, policy: &ClusterPolicy) {
        if let Some(handle) = member.seat.handle() {
            self.transport.update(handle, &self.info(member, policy));
        }
    }

    fn tell_changed_metadata(&self, before: &Roster<T::Handle>, after: &Roster<T::Handle>) {
        let known: HashMap<_, _> =
            before.members.iter().filter_map(|member| Some((member.seat.id(), member.metadata.as_ref()?))).collect();
        let is_open = after.members.iter().filter(|member| member.seat.handle().is_some());
        let has_changed =
            |member: &&Member<T::Handle>| known.get(&member.seat.id()).copied() != member.metadata.as_ref();
        let policy = self.policy.load();
        is_open.filter(has_changed).for_each(|member| self.tell_changed(member, &policy));
    }

    fn retire(&self, seat: &Seat<T::Handle>) {
        seat.leave(|handle| self.transport.retire(handle));
    }

    fn info<'a>(&'a self, member: &'a Member<T::Handle>, policy: &'a ClusterPolicy) -> EndpointInfo<'a> {
        EndpointInfo {
            cluster: &self.name,
            id: member.seat.id(),
            addresses: member.seat.addresses(),
            hostname: member.seat.hostname(),
            metadata: member.metadata.as_ref(),
            policy,
            limits: &self.home.limits,
        }
    }
}

impl<T: Transport> Drop for Cluster<T> {
    fn drop(&mut self) {
        let set = self.set.load_full();
        set.roster.members.iter().for_each(|member| self.retire(&member.seat));
        self.home.bell.notify_one();
        self.home.news.notify_waiters();
    }
}

impl<T: Transport> fmt::Debug for Cluster<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).finish_non_exhaustive()
    }
}
