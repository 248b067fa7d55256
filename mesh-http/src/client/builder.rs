//! From a few lines of code to a client.

use std::{marker::PhantomData, net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::config::{
    CircuitBreakers, Cluster, ClusterEntry, ConfigError, Discovery, DnsName, Domain, Endpoint, Endpoints, HttpProtocol,
    Listener, LoadBalancing, OutlierDetection, Policy, RetryPolicy, Route, RouteConfig, RouteMatch, Snapshot,
    TargetState, TimeLimit, UpstreamTls, VirtualHost,
};

use super::Client;
use crate::{Error, Mesh, call::Caller, plan::Profile, protocol::Protocol};

/// Builds a [`Client`].
///
/// What is set here counts where the control plane is silent; what is set by [`pin`](Self::pin) counts always; where both are
/// silent, the preset does. Mistakes are collected, and [`build`](Self::build) tells the first.
#[derive(Debug)]
#[must_use]
pub struct ClientBuilder<P> {
    target: String,
    mesh: Option<Mesh>,
    endpoints: Vec<Result<EndpointSpec, ConfigError>>,
    routes: Option<RouteConfig>,
    clusters: Vec<(Cluster, Option<Endpoints>)>,
    any_authority: bool,
    code: Policy,
    pins: Policy,
    preset: Policy,
    ready_timeout: Duration,
    mistake: Option<ConfigError>,
    protocol: PhantomData<fn() -> P>,
}

/// Where a client of one's own code finds a service: an address, or a name to be resolved.
#[derive(Clone, Debug)]
pub enum EndpointSpec {
    /// An endpoint with its address.
    Endpoint(Endpoint),
    /// Every address of this name is an endpoint; looked up again by its time to live.
    Name(DnsName),
}

// === impl ClientBuilder ===

impl<P: Protocol> ClientBuilder<P> {
    /// How long a call waits for the first configuration unless told otherwise.
    pub const READY_TIMEOUT: Duration = Duration::from_secs(5);

    /// A client of `target`: the authority that requests name, `host` or `host:port`.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            mesh: None,
            endpoints: Vec::new(),
            routes: None,
            clusters: Vec::new(),
            any_authority: false,
            code: Policy::default(),
            pins: Policy::default(),
            preset: P::preset(),
            ready_timeout: Self::READY_TIMEOUT,
            mistake: None,
            protocol: PhantomData,
        }
    }

    /// Belongs to `mesh`, whose source steers the target unless endpoints or routes are given here. Default: a mesh of its
    /// own.
    pub fn mesh(mut self, mesh: &Mesh) -> Self {
        self.mesh = Some(mesh.clone());
        self
    }

    /// Sends requests to these: `ip:port`, a `SocketAddr`, an [`Endpoint`], or `name:port`, which is resolved by DNS.
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: IntoEndpoint,
    {
        self.endpoints.extend(endpoints.into_iter().map(IntoEndpoint::into_endpoint));
        self
    }

    /// Routes requests by these rules among the clusters that [`cluster`](Self::cluster) adds.
    pub fn routes(mut self, routes: RouteConfig) -> Self {
        self.routes = Some(routes);
        self
    }

    /// Adds a cluster for [`routes`](Self::routes). Its endpoints may be left out where they come by DNS.
    pub fn cluster(mut self, cluster: Cluster, endpoints: impl Into<Option<Endpoints>>) -> Self {
        self.clusters.push((cluster, endpoints.into()));
        self
    }

    /// Takes requests of every authority, not only of the target's; all go to the same endpoints. Default: others fail with
    /// NR.
    pub fn any_authority(mut self) -> Self {
        self.any_authority = true;
        self
    }

    /// Starts from another preset; see [`preset`](mesh_core::config::preset).
    pub fn preset(mut self, preset: Policy) -> Self {
        self.preset = preset;
        self
    }

    /// Says something of the policy that has no method here. It counts where the control plane is silent.
    pub fn policy(mut self, say: impl FnOnce(&mut Policy)) -> Self {
        say(&mut self.code);
        self
    }

    /// Says something of the policy that no control plane may change.
    pub fn pin(mut self, say: impl FnOnce(&mut Policy)) -> Self {
        say(&mut self.pins);
        self
    }

    /// Ends a request after `limit`, all attempts included. The preset says the default: 15 s for HTTP, none for gRPC.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.code.route.timeouts.request = self.limit("timeout", limit);
        self
    }

    /// Sets no limit to requests.
    pub fn no_timeout(mut self) -> Self {
        self.code.route.timeouts.request = Some(TimeLimit::OFF);
        self
    }

    /// Gives an attempt up, and retries it where the policy allows, when it has no response after `limit`. Default: never.
    pub fn per_try_timeout(mut self, limit: Duration) -> Self {
        self.code.route.timeouts.per_try = self.limit("per_try_timeout", limit);
        self
    }

    /// Retries by this policy instead of the preset's.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.code.route.retry = Some(Arc::new(policy));
        self
    }

    /// Does not retry, but for what was not processed by anyone.
    pub fn no_retries(self) -> Self {
        self.retry(RetryPolicy::never())
    }

    /// Picks endpoints in this way.
    pub fn load_balancing(mut self, policy: LoadBalancing) -> Self {
        match policy.validated() {
            Ok(policy) => self.code.cluster.load_balancing = Some(policy),
            Err(error) => self.note(error),
        }
        self
    }

    /// Limits what may be under way.
    pub fn circuit_breakers(mut self, breakers: CircuitBreakers) -> Self {
        self.code.cluster.circuit_breakers = breakers;
        self
    }

    /// Leaves failing endpoints out for a while, by these rules.
    pub fn outlier_detection(mut self, rules: OutlierDetection) -> Self {
        match rules.validated() {
            Ok(rules) => self.code.cluster.outlier_detection = Some(Arc::new(rules)),
            Err(error) => self.note(error),
        }
        self
    }

    /// Gives up connecting after `limit`. Default: 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.code.cluster.connect_timeout = self.limit("connect_timeout", limit).and_then(TimeLimit::duration);
        self
    }

    /// Speaks this HTTP. Default: HTTP/1.1, or HTTP/2 for gRPC.
    pub fn protocol(mut self, protocol: HttpProtocol) -> Self {
        self.code.cluster.connections.protocol = Some(protocol);
        self
    }

    /// Speaks TLS. A demand for TLS made here is never weakened: where a control plane says less, this holds.
    pub fn tls(mut self, tls: UpstreamTls) -> Self {
        self.pins.cluster.tls = Some(Arc::new(tls));
        self
    }

    /// How long a call waits for the first configuration before it says why there is none. Default: 5 s.
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready_timeout = limit;
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for a value that is refused, or a target without endpoints, routes or source; and when there is no
    /// mesh given and no tokio runtime to make one in.
    pub fn build(mut self) -> Result<P::Client, Error>
    where
        P::Client: From<Client<P>>,
    {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake.into());
        }
        let authority = authority(&self.target)?;
        self.preset.cluster.connections.protocol.get_or_insert(P::HTTP);
        let mesh = match self.mesh.take() {
            Some(mesh) => mesh,
            None => Mesh::builder().build()?,
        };
        let mut profile = Profile {
            semantics: P::SEMANTICS,
            steered: false,
            pins: std::mem::take(&mut self.pins),
            code: std::mem::take(&mut self.code),
            preset: std::mem::take(&mut self.preset),
        };
        mesh.check_identities(&profile)?;
        let name: Arc<str> = self.target.as_str().into();
        let ready_timeout = self.ready_timeout;
        let target = match self.snapshot(&name, &authority)? {
            Some(snapshot) => mesh.add_code(name, profile, snapshot),
            None => {
                profile.steered = true;
                profile.check()?;
                mesh.add_steered(name, profile)?
            }
        };
        Ok(Client::new(Caller::new(mesh, target, ready_timeout)).into())
    }

    fn limit(&mut self, field: &'static str, limit: Duration) -> Option<TimeLimit> {
        match TimeLimit::after(limit) {
            Ok(limit) => Some(limit),
            Err(error) => {
                self.note(error.within(field));
                None
            }
        }
    }

    fn note(&mut self, error: ConfigError) {
        self.mistake.get_or_insert(error);
    }

    /// The configuration that stands in code; none where the source of the mesh has it.
    fn snapshot(self, name: &Arc<str>, authority: &str) -> Result<Option<Snapshot>, ConfigError> {
        let Self { endpoints, routes, mut clusters, any_authority, .. } = self;
        let routes = match (routes, endpoints.is_empty()) {
            (Some(_), false) => {
                let remedy = "give the endpoints to a cluster of the routes, by `cluster`";
                return Err(ConfigError::new("endpoints", "set beside routes", remedy));
            }
            (None, true) if clusters.is_empty() => return Ok(None),
            (None, true) => {
                return Err(ConfigError::new(
                    "routes",
                    "unset beside clusters",
                    "say which requests go to which cluster",
                ));
            }
            (Some(routes), true) => routes,
            (None, false) => {
                clusters.push(discovered(name, endpoints)?);
                simple_routes(name, authority, any_authority)?
            }
        };
        check_clusters(&routes, &clusters)?;
        let listener = Listener::new(name.clone(), Arc::new(routes));
        let entries = clusters.into_iter().map(|(cluster, endpoints)| {
            let entry = ClusterEntry { cluster: Arc::new(cluster), endpoints: endpoints.map(Arc::new) };
            (entry.cluster.name().clone(), entry)
        });
        Ok(Some(Snapshot {
            generation: 1,
            targets: [(name.clone(), TargetState::Ready(Arc::new(listener)))].into(),
            clusters: entries.collect(),
        }))
    }
}

/// Every request of the target's own authority, with any port unless it names one, to the cluster of the same name.
fn simple_routes(name: &Arc<str>, authority: &str, any_authority: bool) -> Result<RouteConfig, ConfigError> {
    let forward = mesh_core::config::Forward::to(mesh_core::config::ClusterChoice::One(name.clone()));
    let route = Route::new(RouteMatch::any(), mesh_core::config::Action::Forward(forward)).named(name.clone());
    let domains = match (any_authority, authority.contains(':')) {
        (true, _) => vec![Domain::Any],
        (false, true) => vec![Domain::parse(authority)?],
        (false, false) => vec![Domain::parse(authority)?, Domain::parse(&format!("{authority}:*"))?],
    };
    RouteConfig::new(name.clone(), vec![VirtualHost::new(name.clone(), domains, vec![Arc::new(route)])?])
}

/// The cluster of endpoints given in code: all by address, or all by name.
fn discovered(
    name: &Arc<str>,
    endpoints: Vec<Result<EndpointSpec, ConfigError>>,
) -> Result<(Cluster, Option<Endpoints>), ConfigError> {
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        match endpoint.map_err(|error| error.within(format!("endpoints[{index}]")))? {
            EndpointSpec::Endpoint(endpoint) => addresses.push(endpoint),
            EndpointSpec::Name(name) => names.push(name),
        }
    }
    let mut cluster = Cluster::new(name.clone())?;
    match (addresses.is_empty(), names.is_empty()) {
        (false, true) => Ok((cluster, Some(Endpoints::flat(addresses)?))),
        (true, false) => {
            cluster.discovery = Discovery::StrictDns(names);
            Ok((cluster, None))
        }
        _ => {
            Err(ConfigError::new("endpoints", "addresses and names mixed", "give one kind, or two clusters and routes"))
        }
    }
}

fn check_clusters(routes: &RouteConfig, clusters: &[(Cluster, Option<Endpoints>)]) -> Result<(), ConfigError> {
    let mut seen = std::collections::HashSet::new();
    for (cluster, endpoints) in clusters {
        if !seen.insert(cluster.name()) {
            return Err(ConfigError::new("clusters", cluster.name(), "name each cluster once"));
        }
        if cluster.endpoints_name().is_some() && endpoints.as_ref().is_none_or(Endpoints::is_empty) {
            let field = format!("clusters[{}].endpoints", cluster.name());
            return Err(ConfigError::new(field, "none", "give at least one endpoint, or discover them by DNS"));
        }
    }
    match routes.clusters().into_iter().find(|name| !seen.contains(name)) {
        Some(missing) => Err(ConfigError::new("routes.cluster", missing, "add the cluster, by `cluster`")),
        None => Ok(()),
    }
}

/// The authority that a target stands for.
fn authority(target: &str) -> Result<String, ConfigError> {
    let refuse = || ConfigError::new("target", target, "give an authority: `host` or `host:port`");
    let parsed: http::uri::Authority = target.parse().map_err(|_| refuse())?;
    if parsed.as_str().contains('@') || parsed.host().is_empty() {
        return Err(refuse());
    }
    Ok(parsed.as_str().to_ascii_lowercase())
}

/// What [`ClientBuilder::endpoints`] takes.
pub trait IntoEndpoint {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is neither an address nor a name with a port.
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError>;
}

impl IntoEndpoint for &str {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return address.into_endpoint();
        }
        let refuse = || ConfigError::new("address", self, "give `ip:port` or `name:port`");
        let (host, port) = self.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        DnsName::new(host, port).map(EndpointSpec::Name)
    }
}

impl IntoEndpoint for String {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        self.as_str().into_endpoint()
    }
}

impl IntoEndpoint for SocketAddr {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        Endpoint::new(self).into_endpoint()
    }
}

impl IntoEndpoint for Endpoint {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        match self.address() {
            mesh_core::config::Address::Socket(address) if address.port() == 0 => {
                Err(ConfigError::new("port", 0, "give a port between 1 and 65535"))
            }
            _ => Ok(EndpointSpec::Endpoint(self)),
        }
    }
}

impl IntoEndpoint for EndpointSpec {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        Ok(self)
    }
}
