//! A cluster over HTTP: mesh-core's cluster, whose endpoints are reached through connection pools.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mesh_core::{
    cluster::{self as core, EndpointInfo},
    config::{self, Address, ClusterPolicy, ConnectionPolicy, HttpProtocol, Security, Semantics, UpstreamTls},
    endpoint::EndpointId,
    identity::IdentityError,
    limit::Limits,
    outcome::BoxError,
};
use pin_project::pin_project;

mod aggregate;

pub(crate) use self::aggregate::{Itinerary, Leaves};
use crate::{
    connect::Connect,
    outgoing::Outgoing,
    pool::{Gauge, Pool, PoolBody, PoolContext, PoolFigures},
    tasks::Tasks,
    telemetry::ClusterMetrics,
    tls::{Connector, TlsClient, TlsError},
};

/// A cluster over HTTP.
pub(crate) struct Cluster {
    balanced: Arc<core::Cluster<Transport>>,
    metrics: Arc<ClusterMetrics>,
    /// Where it is made of other clusters, and has no endpoints of its own.
    leaves: Option<Leaves>,
}

/// How the connections to an endpoint stand.
///
/// An endpoint has none of these before it is picked for the first time (or connected to ahead), nor once it has left its
/// cluster; what it still has under way then is finished by connections that are not shown. Reading them takes the lock of
/// each pool for a moment; requests pay nothing for them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The name of its cluster.
    pub cluster: Arc<str>,
    /// Its number, as in [`EndpointStatus`](mesh_core::cluster::EndpointStatus).
    pub endpoint: EndpointId,
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// What there is.
    pub figures: PoolFigures,
}

/// A cluster that was looked for: it, or why there is none that requests could go to.
pub(crate) type Found = Result<Arc<Cluster>, Arc<str>>;

/// What every cluster of a mesh opens its connections with.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) connector: Arc<dyn Connect>,
    /// None when no cryptography is at hand; clusters that ask for TLS fail then.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) tasks: Tasks,
}

/// Opens a pool for each endpoint that is used.
pub(crate) struct Transport {
    environment: Environment,
    seed: u64,
    /// What pools are made with. Looked at when an endpoint is opened or told of a change, never by requests.
    contexts: Mutex<Contexts>,
    /// Of the endpoints that were opened and have not left. Only for the status: requests have the pool itself.
    gauges: Mutex<BTreeMap<EndpointId, Gauge<Outgoing>>>,
}

/// What the pools of a cluster are made with: a context for each way in which its endpoints are reached, of which there are
/// one or two.
#[derive(Default)]
struct Contexts {
    known: Vec<KnownContext>,
    /// The generation that was given last.
    last_generation: u64,
}

/// What pools are made with, and what it was made from.
struct KnownContext {
    connections: ConnectionPolicy,
    connect_timeout: Option<Duration>,
    security: Security,
    generation: u64,
    context: Arc<PoolContext>,
}

/// The pool of an endpoint.
pub(crate) struct Handle {
    id: EndpointId,
    pool: Pool<Outgoing>,
}

/// The body of a response, and which endpoint it came from.
#[pin_project]
pub(crate) struct EndpointBody {
    #[pin]
    body: PoolBody,
    endpoint: EndpointId,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster without endpoints.
    pub(crate) fn new(
        environment: &Environment,
        config: &Arc<config::Cluster>,
        policy: ClusterPolicy,
        semantics: Semantics,
        seed: u64,
    ) -> Arc<Self> {
        let transport = Transport::new(environment.clone(), seed);
        let balanced = core::Cluster::new(config, policy, semantics, transport, seed);
        let leaves = config.aggregate().map(|_| Leaves::new());
        Arc::new(Self { balanced, metrics: Arc::new(ClusterMetrics::of(config.name())), leaves })
    }

    /// The name.
    pub(crate) fn name(&self) -> &Arc<str> {
        self.balanced.name()
    }

    /// Its endpoints, and how one is picked.
    pub(crate) fn balanced(&self) -> &Arc<core::Cluster<Transport>> {
        &self.balanced
    }

    /// What it is made of, where that is other clusters.
    pub(crate) fn leaves(&self) -> Option<&Leaves> {
        self.leaves.as_ref()
    }

    /// Is made of these clusters from now on, which have endpoints of their own.
    pub(crate) fn update_leaves(&self, leaves: Vec<Arc<Self>>) {
        if let Some(made_of) = &self.leaves {
            made_of.replace(leaves);
        }
    }

    /// What may be under way.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        self.balanced.limits()
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<ClusterMetrics> {
        &self.metrics
    }

    /// Is treated by `policy` from now on. Counters stay; connections stay unless they are of another kind now.
    pub(crate) fn update_policy(&self, policy: ClusterPolicy) {
        self.balanced.update_policy(policy);
        self.connect_ahead();
    }

    /// Takes `endpoints` for its own.
    pub(crate) fn update_endpoints(&self, endpoints: &config::Endpoints) {
        self.balanced.update_endpoints(endpoints);
        self.connect_ahead();
    }

    /// The connections to each endpoint that was used, by its number.
    pub(crate) fn pools(&self) -> Vec<PoolStatus> {
        let gauges = self.balanced.transport().gauges().clone();
        let statuses = gauges.into_iter().filter_map(|(endpoint, gauge)| {
            let (addresses, figures) = gauge.read()?;
            Some(PoolStatus { cluster: self.name().clone(), endpoint, addresses: addresses.into(), figures })
        });
        statuses.collect()
    }

    /// Connects to endpoints that have joined, where the policy says so and they are few. Each gets one attempt: it is the
    /// requests that ask again.
    fn connect_ahead(&self) {
        let most = self.balanced.policy().connections.connect_ahead.unwrap_or_default();
        self.balanced.open_ahead(most as usize, |handle| handle.pool().connect_ahead());
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl Transport ===

impl Transport {
    fn new(environment: Environment, seed: u64) -> Self {
        Self { environment, seed, contexts: Mutex::default(), gauges: Mutex::default() }
    }

    fn gauges(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Gauge<Outgoing>>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pool of `endpoint` is made with: one context for all endpoints that are reached in the same way, made anew when
    /// the policy is another. Connections of another protocol or under other TLS are of another generation, and drain.
    fn context(&self, endpoint: &EndpointInfo<'_>) -> Arc<PoolContext> {
        let policy = endpoint.policy;
        let security = policy.security_of(endpoint.metadata.map(Arc::as_ref));
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = contexts.known.iter().find(|known| known.is_of(policy, &security)) {
            return known.context.clone();
        }
        let generation = contexts.generation_of(policy, &security);
        let context = Arc::new(self.new_context(endpoint, &security, generation));
        contexts.known.push(KnownContext {
            connections: policy.connections,
            connect_timeout: policy.connect_timeout,
            security,
            generation,
            context: context.clone(),
        });
        context
    }

    fn new_context(&self, endpoint: &EndpointInfo<'_>, security: &Security, generation: u64) -> PoolContext {
        let Environment { connector, tasks, .. } = &self.environment;
        let policy = endpoint.policy;
        let context = PoolContext::new(connector.clone(), Arc::new(tasks.clone()), endpoint.limits.clone())
            .policy(&policy.connections)
            .connect_timeout(policy.connect_timeout.unwrap_or(PoolContext::CONNECT_TIMEOUT))
            .generation(generation)
            .seed(self.seed);
        let connector = match security {
            Security::Plaintext => return context,
            Security::Tls(tls) => self.connector(tls, policy.connections.protocol),
            Security::Unavailable(reason) => Err(TlsError::Unavailable { reason: reason.clone() }),
        };
        match connector {
            Ok(connector) => context.tls(connector),
            // What there is finishes, and nothing goes out in plaintext in its place; until the policy is another.
            Err(error) => {
                tracing::warn!(%error, cluster = %endpoint.cluster, "no connections can be made as configured");
                context.no_tls(error)
            }
        }
    }

    /// What shakes hands as `tls` says. Identities are read at each handshake, so they may come later than this.
    fn connector(&self, tls: &UpstreamTls, protocol: Option<HttpProtocol>) -> Result<Connector, TlsError> {
        let client = self.environment.tls.as_ref().ok_or_else(no_provider)?;
        let own: Vec<&str> = tls.alpn().iter().map(|protocol| &**protocol).collect();
        let implied = PoolContext::alpn(protocol.unwrap_or_default());
        if own.iter().any(|name| PoolContext::is_http(name)) {
            return client.connector(tls, &own);
        }
        let tls = tls.clone().with_alpn(own.iter().chain(implied).copied());
        client.connector(&tls, implied)
    }
}

fn no_provider() -> TlsError {
    let remedy = "give the mesh a provider, by `crypto`, or turn on one of the tls features";
    TlsError::Identity(IdentityError::absent("cryptography", "none is compiled in", remedy))
}

impl core::Transport for Transport {
    type Handle = Handle;

    fn open(&self, endpoint: &EndpointInfo<'_>) -> Handle {
        let pool = Pool::new(self.context(endpoint), endpoint.addresses.to_vec(), endpoint.hostname.cloned());
        self.gauges().insert(endpoint.id, pool.gauge());
        Handle { id: endpoint.id, pool }
    }

    fn update(&self, handle: &Handle, endpoint: &EndpointInfo<'_>) {
        handle.pool.update(self.context(endpoint));
    }

    fn retire(&self, handle: &Handle) {
        self.gauges().remove(&handle.id);
        handle.pool.retire();
    }
}

// === impl Contexts ===

impl Contexts {
    /// The generation of connections under `security`: that of the context before, which is forgotten, where it differs in
    /// nothing that a connection shows.
    fn generation_of(&mut self, policy: &ClusterPolicy, security: &Security) -> u64 {
        let mut generation = None;
        self.known.retain(|known| {
            let is_same_kind = known.is_kind_of(policy, security);
            if is_same_kind {
                generation = Some(known.generation);
            }
            // What no endpoint can be told of any more goes as well.
            !is_same_kind && known.is_possible_in(policy)
        });
        generation.unwrap_or_else(|| {
            self.last_generation += 1;
            self.last_generation
        })
    }
}

// === impl KnownContext ===

impl KnownContext {
    fn is_of(&self, policy: &ClusterPolicy, security: &Security) -> bool {
        self.connections == policy.connections
            && self.connect_timeout == policy.connect_timeout
            && self.security == *security
    }

    fn is_kind_of(&self, policy: &ClusterPolicy, security: &Security) -> bool {
        self.security == *security && self.connections.protocol == policy.connections.protocol
    }

    fn is_possible_in(&self, policy: &ClusterPolicy) -> bool {
        let is_named = policy.security.iter().any(|one| one.security == self.security);
        let is_common = policy.security_of(None) == self.security;
        (is_named || is_common) && self.connections.protocol == policy.connections.protocol
    }
}

// === impl Handle ===

impl Handle {
    /// The endpoint's number.
    pub(crate) fn id(&self) -> EndpointId {
        self.id
    }

    /// The endpoint's name, if it has one.
    pub(crate) fn hostname(&self) -> Option<&Arc<str>> {
        self.pool.hostname()
    }

    /// The endpoint's connections.
    pub(crate) fn pool(&self) -> &Pool<Outgoing> {
        &self.pool
    }
}

// === impl EndpointBody ===

impl EndpointBody {
    /// The body of a response of `endpoint`.
    pub(crate) fn new(body: PoolBody, endpoint: EndpointId) -> Self {
        Self { body, endpoint }
    }

    /// The endpoint that sends it.
    pub(crate) fn endpoint(&self) -> EndpointId {
        self.endpoint
    }
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
