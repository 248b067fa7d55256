//! From a few lines of code to a client.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use mesh_core::config::{
    CircuitBreakers, Cluster, ConfigError, Endpoints, HttpProtocol, LoadBalancing, OutlierDetection, Policy,
    RetryPolicy, RouteConfig, Semantics, TimeLimit, UpstreamTls,
};

use super::{Client, IntoEndpoint, inline::Inline};
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
    inline: Inline,
    code: Policy,
    pins: Policy,
    preset: Policy,
    ready_timeout: Duration,
    mistake: Option<ConfigError>,
    protocol: PhantomData<fn() -> P>,
}

// === impl ClientBuilder ===

impl<P: Protocol> ClientBuilder<P> {
    /// How long a call waits for the first configuration unless told otherwise.
    pub const READY_TIMEOUT: Duration = Duration::from_secs(5);

    /// A client of `target`: the authority that requests name, `host` or `host:port`. `xds:///host:port`, as gRPC writes it
    /// (gRFC A27), is the same target; a name of another scheme is refused.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            mesh: None,
            inline: Inline::default(),
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

    /// Sends requests to these: `ip:port`, a `SocketAddr`, an [`Endpoint`](mesh_core::config::Endpoint), `unix:/path`, or
    /// `name:port`, which is resolved by DNS.
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: IntoEndpoint,
    {
        self.inline.endpoints.extend(endpoints.into_iter().map(IntoEndpoint::into_endpoint));
        self
    }

    /// Routes requests by these rules among the clusters that [`cluster`](Self::cluster) adds.
    pub fn routes(mut self, routes: RouteConfig) -> Self {
        self.inline.routes = Some(routes);
        self
    }

    /// Adds a cluster for [`routes`](Self::routes). Its endpoints are left out where its
    /// [`discovery`](Cluster::discovery) finds them: by DNS, or `Static`.
    pub fn cluster(mut self, cluster: Cluster, endpoints: impl Into<Option<Endpoints>>) -> Self {
        self.inline.clusters.push((cluster, endpoints.into()));
        self
    }

    /// Takes requests of every authority, not only of the target's; all go to the same endpoints. Default: others fail with
    /// NR.
    pub fn any_authority(mut self) -> Self {
        self.inline.any_authority = true;
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
        self.code.cluster.load_balancing = Some(policy);
        self
    }

    /// Limits what may be under way.
    pub fn circuit_breakers(mut self, breakers: CircuitBreakers) -> Self {
        self.code.cluster.circuit_breakers = breakers;
        self
    }

    /// Leaves failing endpoints out for a while, by these rules.
    pub fn outlier_detection(mut self, rules: OutlierDetection) -> Self {
        self.code.cluster.outlier_detection = Some(Arc::new(rules));
        self
    }

    /// Connects to an endpoint when it becomes known, as long as its cluster has at most `most`, so that the first request
    /// there does not wait for a handshake. Default 0: the first request to an endpoint connects.
    ///
    /// Meant for the few services that a process is sure to call. Each endpoint gets one connection and one attempt, within
    /// the circuit breaker's limit of connections and the connect timeout; where that fails, or the connection ends unused,
    /// the first request connects as it would have. Where TLS has the peer prove the authority of a request (without a fixed
    /// SNI), there is nothing to ask for before a request, and this does nothing.
    pub fn connect_ahead(mut self, most: u32) -> Self {
        self.code.cluster.connections.connect_ahead = Some(most);
        self
    }

    /// Gives up connecting after `limit`. Default: 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.code.cluster.connect_timeout = Some(limit);
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
    /// A [`ConfigError`] for a value that is refused, an identity that the mesh does not have, or a target without
    /// endpoints, routes or source; and when there is no mesh given and no tokio runtime to make one in. Fields are named
    /// as they are said: `policy.cluster.connect_timeout`, `clusters[reviews].policy.tls.identity`.
    pub fn build(self) -> Result<P::Client, Error>
    where
        P::Client: From<Client<P>>,
    {
        let Self { target, mesh, inline, code, pins, mut preset, ready_timeout, mistake, .. } = self;
        if let Some(mistake) = mistake {
            return Err(mistake.into());
        }
        if ready_timeout.is_zero() {
            return Err(ConfigError::new("ready_timeout", "0s", "give a time above zero").into());
        }
        let (name, authority) = target_name(&target)?;
        preset.cluster.connections.protocol.get_or_insert(P::HTTP);
        let mesh = match mesh {
            Some(mesh) => mesh,
            None => Mesh::builder().build()?,
        };
        let checked = |field, policy: Policy| {
            let policy = policy.validated().map_err(|error| error.within(field))?;
            mesh.check_identities(&policy.cluster).map_err(|error| error.within("cluster").within(field))?;
            Ok::<_, ConfigError>(policy)
        };
        let mut profile = Profile {
            semantics: P::SEMANTICS,
            rules: Semantics::Envoy,
            pins: checked("pin", pins)?,
            code: checked("policy", code)?,
            preset: checked("preset", preset)?,
        };
        let target = match inline.snapshot(&mesh, &name, &authority)? {
            Some(snapshot) => mesh.add_code(name, profile, snapshot),
            None => {
                profile.rules = mesh.semantics().unwrap_or(P::SEMANTICS);
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
                self.mistake.get_or_insert(error.named(field));
                None
            }
        }
    }
}

/// What the source knows a target by, and the authority that it stands for: of `xds://authority/…`, which the source has to see
/// whole, the last part (gRFC A47).
fn target_name(target: &str) -> Result<(Arc<str>, String), ConfigError> {
    let refuse = || {
        let remedy = "give an authority, `host` or `host:port`, `xds:///` and one, or `xds://` with an authority of the bootstrap \
                      and one";
        ConfigError::new("target", target, remedy)
    };
    let (name, service) = match target.strip_prefix("xds://").map(|rest| rest.split_once('/')) {
        None => (target, target),
        Some(Some(("", service))) => (service, service),
        Some(Some((_, path))) => (target, path.rsplit('/').next().unwrap_or(path)),
        Some(None) => return Err(refuse()),
    };
    let authority: http::uri::Authority = service.parse().map_err(|_| refuse())?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(refuse());
    }
    Ok((name.into(), authority.as_str().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_stands_for_its_last_part_and_the_source_sees_whose_it_is() {
        for (target, name, authority) in [
            ("Reviews:9080", "Reviews:9080", "reviews:9080"),
            ("xds:///reviews:9080", "reviews:9080", "reviews:9080"),
            ("xds://partner.test/reviews:9080", "xds://partner.test/reviews:9080", "reviews:9080"),
            ("xds://partner.test/shop/reviews", "xds://partner.test/shop/reviews", "reviews"),
        ] {
            assert_eq!(target_name(target).expect(target), (name.into(), authority.to_owned()));
        }
        for target in ["", "xds://", "xds:///", "xds://partner.test", "xds://partner.test/", "user@host", "a/b"] {
            assert_eq!(target_name(target).expect_err(target).field(), "target");
        }
    }
}
