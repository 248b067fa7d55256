//! The client: a cheap handle that is a [`ConfigSource`], and the builder that puts its parts together.

use std::{error::Error as StdError, fmt, path::PathBuf, sync::Arc, time::Duration};

use mesh_core::{
    Dice,
    config::{ConfigError, IdentityName, Semantics, Snapshot},
    identity::{Identities, IdentitySource},
    source::{ConfigSource, Interest, SourceStatus, Work},
};
use mesh_http::{
    conn::KeepAlive,
    connect::{Connect, SocketConnector},
    resolve::{Resolve, SystemResolver},
    tls::{FileIdentity, Provider},
};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{
    Dialect,
    bootstrap::{Bootstrap, BootstrapError, CertificateProvider, Server},
    cache::{CacheStatus, Keeper, Scope},
    istio::{InboundListener, names},
    name,
    resource::Context,
    session,
    status::Shared,
    transport::{self, Dialer, Limits, Parts, SetupError},
    worker::{self, Cache, Command, Upstream, Worker},
};

/// A client of an xDS control plane, and the source of configuration for a mesh.
///
/// A handle: clones share one stream and all that it brought, however many targets are watched. It does nothing by itself:
/// whoever owns it, usually a mesh, spawns [`work`](ConfigSource::work). Where two do, the second waits its turn. The
/// handles may be dropped while the work goes on, and the work may be dropped and begun again: the stream is opened anew
/// then, and what was held is held.
///
/// ```
/// use mesh_core::source::ConfigSource;
/// use mesh_xds_client::XdsClient;
/// use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bootstrap = Bootstrap::builder()
///     .server("istiod.istio-system.svc:15010", ChannelCredentials::Insecure)
///     .node(Node::new("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local").metadata("GENERATOR", "grpc"))
///     .build()?;
/// let client = XdsClient::new(bootstrap)?;
/// let work = tokio::spawn(client.work());
/// let interest = client.watch("reviews.shop:9080");
/// assert!(!client.status().connected);
/// # drop(interest);
/// # work.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct XdsClient {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    engine: Arc<Engine>,
}

/// Puts an [`XdsClient`] together. Every part has a default.
#[must_use = "a builder does nothing until it builds"]
pub struct XdsClientBuilder {
    bootstrap: Bootstrap,
    dialect: Dialect,
    connector: Arc<dyn Connect>,
    resolver: Arc<dyn Resolve>,
    provider: Option<Provider>,
    identities: Identities,
    context: Context,
    seed: u64,
    session: session::Config,
    limits: Limits,
    keeps_contents: bool,
    cache: Option<PathBuf>,
    cache_interval: Duration,
}

/// An [`XdsClient`] cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no bootstrap, or none that is valid.
    Bootstrap(BootstrapError),
    /// The bootstrap lacks what the [`Dialect`] needs.
    Dialect(ConfigError),
    /// The control plane cannot be spoken to as the bootstrap says.
    Server {
        /// The control plane.
        server: String,
        /// Why.
        source: SetupError,
    },
    /// A certificate provider of the bootstrap cannot provide.
    CertificateProvider {
        /// Its name.
        name: String,
        /// Why.
        source: SetupError,
    },
}

/// What works. Locked by whoever polls the work.
struct Engine {
    worker: Mutex<Worker>,
    dialect: Dialect,
    dialers: Vec<Arc<Dialer>>,
    certificates: Vec<Arc<FileIdentity>>,
    identities: Identities,
    keeper: Option<Arc<Keeper>>,
}

// === impl XdsClient ===

impl XdsClient {
    /// A client by the bootstrap that the environment names. See [`Bootstrap::from_env`]. Reads files with blocking I/O.
    ///
    /// # Errors
    ///
    /// When there is no valid bootstrap, or certificates that it names cannot be had.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::new(Bootstrap::from_env().map_err(BuildError::Bootstrap)?)
    }

    /// A client by this bootstrap, with the default of everything else. Reads certificates with blocking I/O.
    ///
    /// # Errors
    ///
    /// When certificates that the bootstrap names cannot be had.
    pub fn new(bootstrap: Bootstrap) -> Result<Self, BuildError> {
        Self::builder(bootstrap).build()
    }

    /// A client by this bootstrap, part by part.
    pub fn builder(bootstrap: Bootstrap) -> XdsClientBuilder {
        XdsClientBuilder {
            bootstrap,
            dialect: Dialect::default(),
            connector: Arc::new(SocketConnector),
            resolver: Arc::new(SystemResolver::default()),
            provider: Provider::compiled_in(),
            identities: Identities::new(),
            context: Context::new(),
            seed: Dice::random_seed(),
            session: session::Config::default(),
            limits: Limits::default(),
            keeps_contents: false,
            cache: None,
            cache_interval: Duration::from_secs(5),
        }
    }

    /// The last good listener through which requests come in to this workload (`virtualInbound`), which a client in the
    /// dialect of sidecars is sent and keeps. None before it has come, and in gRPC's dialect. How it stands is in the
    /// status.
    pub fn inbound_listener(&self) -> Option<Arc<InboundListener>> {
        self.shared.held().store.inbound(names::INBOUND).cloned()
    }

    /// How its cache file stands, if it has [one](XdsClientBuilder::cache_file).
    pub fn cache_status(&self) -> Option<CacheStatus> {
        self.engine.keeper.as_ref().map(|keeper| keeper.status())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl ConfigSource for XdsClient {
    fn watch(&self, target: &str) -> Interest {
        let target: Arc<str> = target.into();
        // The worker, which holds the other end, lives as long as any handle.
        let _ = self.commands.send(Command::Watch(target.clone()));
        let commands = self.commands.clone();
        Interest::new(move || {
            // After the last handle there is nobody whom it could concern.
            let _ = commands.send(Command::Release(target));
        })
    }

    /// A name of `xdstp:` says who is to be asked, and that is for configuration to say: where a request comes up with one that
    /// its routes do not name, nobody is asked. Nor is anybody for everything.
    fn demand(&self, cluster: &str) -> Option<Interest> {
        if !name::is_of_one(cluster) || name::is_xdstp(cluster) {
            return None;
        }
        let cluster: Arc<str> = cluster.into();
        let _ = self.commands.send(Command::Demand(cluster.clone()));
        let commands = self.commands.clone();
        Some(Interest::new(move || {
            let _ = commands.send(Command::Waive(cluster));
        }))
    }

    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshots.subscribe()
    }

    fn work(&self) -> Work {
        let (engine, shared) = (self.engine.clone(), self.shared.clone());
        Box::pin(async move {
            let mut worker = engine.worker.lock().await;
            tokio::select! {
                biased;
                () = worker.run() => {}
                () = all(engine.backgrounds(&shared)) => {}
            }
        })
    }

    fn status(&self) -> SourceStatus {
        self.shared.status()
    }

    fn identities(&self) -> Option<Identities> {
        Some(self.engine.identities.clone())
    }

    fn semantics(&self) -> Option<Semantics> {
        self.engine.dialect.semantics()
    }
}

impl fmt::Debug for XdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClient").finish_non_exhaustive()
    }
}

/// Runs all of these, for ever.
async fn all(mut running: Vec<Work>) {
    std::future::poll_fn(|cx| {
        running.retain_mut(|background| background.as_mut().poll(cx).is_pending());
        std::task::Poll::Pending
    })
    .await
}

// === impl XdsClientBuilder ===

impl XdsClientBuilder {
    /// How the control plane is asked for routes. Default: as gRPC asks. In the dialect of sidecars the SDS secrets `default`
    /// and `ROOTCA` mean the identity `default`, which may be registered later: until it is, connections that need it fail.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Opens connections to the control plane. Default: sockets.
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// Looks the control plane's name up. Default: as the operating system does.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// The cryptography for TLS. Default: AWS-LC with the feature `tls-aws-lc`, else ring with `tls-ring`, else none, and a
    /// bootstrap that asks for TLS is refused.
    pub fn crypto(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Where the certificate providers of the bootstrap are registered, under their names, for clusters that refer to them.
    /// The mesh takes this registry for its own. Their files are watched by the client's work.
    ///
    /// Resources may refer to whatever is in it when they come, such as what a mesh registers when it is built; one that
    /// named an identity too early stays refused until it comes again, be it in the same bytes. Default: a registry of its own.
    pub fn identities(mut self, identities: Identities) -> Self {
        self.identities = identities;
        self
    }

    /// Also honours the SDS secret `secret` in resources, with the identity `name` of the registry.
    /// Istio calls the roots of the identity `default` `ROOTCA`.
    pub fn secret(mut self, secret: impl Into<Arc<str>>, name: impl Into<IdentityName>) -> Self {
        self.context = self.context.with_secret(secret, name);
        self
    }

    /// Decides the jitter of reconnects. Default: chance.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Keeps the bytes of resources as they came, so that [CSDS](crate::csds) shows what they hold. Default: they are let go
    /// of, and CSDS shows everything else.
    ///
    /// It costs their length, which for a cluster of Istio's is some kilobytes, and 100 to 500 B for each endpoint.
    pub fn keep_contents(mut self) -> Self {
        self.keeps_contents = true;
        self
    }

    /// Keeps the last good configuration in this file, and begins with it where no control plane is in reach. See
    /// [`cache`](crate::cache). Default: none.
    ///
    /// The file is read when the client is built, with blocking I/O, and written by its work, where blocking is allowed. Its
    /// directory must be there, be this process's to write, and outlast the process: in Kubernetes an `emptyDir` outlasts a
    /// container, and not a pod. Each client needs a file of its own. It costs what [`keep_contents`](Self::keep_contents) does,
    /// which it implies.
    pub fn cache_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// How long after a change the cache file is written, with all that has changed by then. Default 5 s. A shorter time loses
    /// less when the process is killed, and writes more often; what ends in order writes once more at the end.
    pub fn cache_interval(mut self, interval: Duration) -> Self {
        self.cache_interval = interval;
        self
    }

    /// How long a resource may stay unanswered before it counts as absent, and holds up nothing any longer. Default 15 s, as in
    /// Envoy and gRPC, or 30 s where a server has the feature `resource_timer_is_transient_error` (gRFC A88). In the dialect of
    /// sidecars routes that would replace others wait longer: see [`Dialect::Sidecar`].
    pub fn absence_timeout(mut self, timeout: Duration) -> Self {
        self.session.absence_timeout = timeout;
        self
    }

    /// The longest waits before the first attempt to reconnect and before any. Default 1 s and 120 s.
    pub fn reconnect(mut self, initial: Duration, max: Duration) -> Self {
        (self.session.reconnect_initial, self.session.reconnect_max) = (initial, max);
        self
    }

    /// How long a connection may take, from the look-up of the name to the end of the TLS handshake. Default 20 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.limits.connect_timeout = timeout;
        self
    }

    /// The largest response that is taken, in bytes. Default 128 MiB: the state of some 100,000 clusters comes in one message,
    /// and a limit that it passes means that no update ever arrives. It bounds the memory that a server can make this process
    /// use at once.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.message = bytes;
        self
    }

    /// When a quiet connection is pinged, and how long the answer may take. Default 5 minutes and 20 s, as gRPC does with
    /// control planes: servers of gRPC take more frequent pings for abuse unless told otherwise. Shorter finds a
    /// connection sooner that died without a word; Istio permits 15 s.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.limits.http2.keep_alive = Some(keep_alive);
        self
    }

    /// Checks everything and makes the client. Reads certificates with blocking I/O.
    ///
    /// # Errors
    ///
    /// When certificates that the bootstrap names cannot be had, or there is no cryptography to use them.
    pub fn build(self) -> Result<XdsClient, BuildError> {
        let Self { bootstrap, dialect, connector, resolver, provider, identities, mut context, seed, session, .. } =
            self;
        let limits = self.limits;
        dialect.check(&bootstrap).map_err(BuildError::Dialect)?;
        if dialect == Dialect::Sidecar {
            context = context.for_sidecars();
        }
        let (context, certificates) = certificates(&bootstrap, provider.as_ref(), &identities, context)?;
        let parts = Parts { connector, resolver, provider, limits };
        let node = dialect.introduce(bootstrap.node());
        let (mut upstreams, mut dialers) = (Vec::new(), Vec::new());
        let servers = distinct_servers(&bootstrap);
        for (place, (server, name)) in (0..).zip(servers.iter().zip(worker::names(&servers))) {
            let failed = |source| BuildError::Server { server: name.clone(), source };
            let dialer = Dialer::new(server, &parts).map(Arc::new).map_err(failed)?;
            dialers.push(dialer.clone());
            let seed = seed.wrapping_add(place * SEEDS);
            upstreams.push(Upstream::new((*server).clone(), name, dialer, session.clone(), node.clone(), seed));
        }
        let names = upstreams.iter().map(|upstream| upstream.name().to_owned());
        let shared = Arc::new(Shared::new(node, names));
        if self.keeps_contents || self.cache.is_some() {
            shared.held().store.keep_contents();
        }
        let cache = self.cache.map(|path| Keeper::open(path, cache_scope(&bootstrap), self.cache_interval));
        let keeper = cache.as_ref().map(|(keeper, _)| keeper.clone());
        let (commands, orders) = mpsc::unbounded_channel();
        let cache = Cache::new(cache);
        let worker = Worker::new(shared.clone(), orders, bootstrap, dialect, context, upstreams, cache);
        let engine = Engine { worker: Mutex::new(worker), dialect, dialers, certificates, identities, keeper };
        let engine = Arc::new(engine);
        Ok(XdsClient { shared, commands, engine })
    }
}

/// The seeds that the session of one control plane derives from its own, and room to spare.
const SEEDS: u64 = 256;

/// Who a cache file is for: the node, and every control plane by whom it is told what to keep.
fn cache_scope(bootstrap: &Bootstrap) -> Scope {
    let node = bootstrap.node().to_proto();
    let servers = bootstrap.servers().iter().map(|server| server.uri().to_string());
    let of_authorities = bootstrap.authorities().flat_map(|(name, authority)| {
        authority.servers().iter().map(move |server| format!("xdstp://{name}: {}", server.uri()))
    });
    Scope { node_id: node.id, node_cluster: node.cluster, servers: servers.chain(of_authorities).collect() }
}

/// Every control plane of the bootstrap, whoever names it, once: what is equal shares a stream (gRFC A47).
fn distinct_servers(bootstrap: &Bootstrap) -> Vec<&Server> {
    let of_authorities = bootstrap.authorities().flat_map(|(_, authority)| authority.servers());
    let mut distinct: Vec<&Server> = Vec::new();
    for server in bootstrap.servers().iter().chain(of_authorities) {
        if !distinct.contains(&server) {
            distinct.push(server);
        }
    }
    distinct
}

/// Registers the certificate providers of the bootstrap, and tells the decoders what there is.
fn certificates(
    bootstrap: &Bootstrap,
    provider: Option<&Provider>,
    identities: &Identities,
    context: Context,
) -> Result<(Context, Vec<Arc<FileIdentity>>), BuildError> {
    let mut certificates = Vec::new();
    for (name, certificate_provider) in bootstrap.certificate_providers() {
        let CertificateProvider::FileWatcher(files) = certificate_provider else { continue };
        let failed = |source| BuildError::CertificateProvider { name: name.to_owned(), source };
        let provider = provider.ok_or(SetupError::NoCryptography).map_err(failed)?;
        let identity = transport::identity(files, provider).map_err(SetupError::Identity).map_err(failed)?;
        if let Some(identity) = identity {
            identities.insert(name, identity.clone());
            certificates.push(identity);
        }
    }
    Ok((context.with_registry(identities.clone()), certificates))
}

impl fmt::Debug for XdsClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClientBuilder").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

// === impl BuildError ===

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap(_) => f.write_str("there is no bootstrap to make an xDS client by"),
            Self::Dialect(_) => f.write_str("the bootstrap lacks what the dialect needs"),
            Self::Server { server, .. } => write!(f, "the control plane {server} cannot be spoken to"),
            Self::CertificateProvider { name, .. } => write!(f, "the certificate provider `{name}` cannot provide"),
        }
    }
}

impl StdError for BuildError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Bootstrap(source) => Some(source),
            Self::Dialect(source) => Some(source),
            Self::Server { source, .. } | Self::CertificateProvider { source, .. } => Some(source),
        }
    }
}

// === impl Engine ===

impl Engine {
    fn backgrounds(&self, shared: &Arc<Shared>) -> Vec<Work> {
        let dialers = self.dialers.iter().filter_map(|dialer| dialer.background());
        let certificates = self.certificates.iter().map(|identity| identity.clone().work());
        let keeper = self.keeper.iter().map(|keeper| Box::pin(keeper.clone().keep(shared.clone())) as Work);
        dialers.chain(certificates).chain(keeper).collect()
    }
}
