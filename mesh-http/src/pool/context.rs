//! What all pools of a cluster share: how connections are opened, limited and kept.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use mesh_core::{
    Dice,
    config::{ConnectionPolicy, HttpProtocol, TimeLimit},
    limit::Limits,
};

use super::version::Version;
use crate::{
    conn::{Http1Options, Http2Options, KeepAlive},
    connect::Connect,
    tls::{Connector, TlsError},
};

/// How the pools of a cluster open, limit and keep connections; immutable, and replaced whole by
/// [`Pool::update`](super::Pool::update).
#[derive(Clone)]
pub struct PoolContext {
    pub(super) connector: Arc<dyn Connect>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) limits: Arc<Limits>,
    /// None is plaintext; an error is TLS that was asked for and cannot be had.
    pub(super) tls: Option<Result<Connector, TlsError>>,
    pub(super) connect_timeout: Duration,
    pub(super) protocol: HttpProtocol,
    pub(super) max_per_endpoint: Option<u32>,
    pub(super) max_requests: Option<u32>,
    pub(super) http1: Http1Options,
    pub(super) http2: Http2Options,
    pub(super) generation: u64,
    idle_timeout: Option<Duration>,
    max_age: Option<Duration>,
    seed: u64,
}

/// Spawns the tasks that open and drive connections. Implemented by closures.
///
/// Dropping a task closes its connection; requests on it fail, and those that wait for it are told.
pub trait Spawn: Send + Sync + 'static {
    /// Runs `task` to its end, on a task of its own.
    fn spawn(&self, task: Task);
}

/// What opens a connection and then drives it.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long a connection may live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) idle: Option<Duration>,
    pub(super) age: Option<Duration>,
}

// === impl PoolContext ===

impl PoolContext {
    /// How long a connection may take to be ready.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long a connection is kept without a request.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
    /// How long an HTTP/2 ping may stay unanswered.
    pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

    /// HTTP/1.1 without TLS, under the default [`ConnectionPolicy`].
    pub fn new(connector: Arc<dyn Connect>, spawn: Arc<dyn Spawn>, limits: Arc<Limits>) -> Self {
        Self {
            connector,
            spawn,
            limits,
            tls: None,
            connect_timeout: Self::CONNECT_TIMEOUT,
            protocol: HttpProtocol::default(),
            max_per_endpoint: None,
            max_requests: None,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            generation: 0,
            idle_timeout: Some(Self::IDLE_TIMEOUT),
            max_age: None,
            seed: 0,
        }
    }

    /// Follows `policy`, and the defaults where it is silent.
    #[must_use]
    pub fn policy(mut self, policy: &ConnectionPolicy) -> Self {
        self.protocol = policy.protocol.unwrap_or_default();
        self.max_per_endpoint = policy.max_per_endpoint;
        self.max_requests = policy.max_requests.filter(|max| *max > 0);
        self.idle_timeout = policy.idle_timeout.map_or(Some(Self::IDLE_TIMEOUT), TimeLimit::duration);
        self.max_age = policy.max_age.and_then(TimeLimit::duration);
        self.http2.max_streams = policy.max_streams.map_or(usize::MAX, |most| most as usize);
        self.http2.keep_alive = policy.keep_alive_interval.and_then(TimeLimit::duration).map(|interval| KeepAlive {
            interval,
            timeout: policy.keep_alive_timeout.unwrap_or(Self::KEEP_ALIVE_TIMEOUT),
            while_idle: policy.keep_alive_while_idle.unwrap_or(false),
        });
        self
    }

    /// Gives up connecting after this long, TLS and the peer's first HTTP/2 frame included. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Encrypts every connection, never less. The connector should offer [`alpn`](Self::alpn).
    #[must_use]
    pub fn tls(mut self, connector: Connector) -> Self {
        self.tls = Some(Ok(connector));
        self
    }

    /// Opens no connection, and fails every request with `error`: for TLS that is asked for and cannot be had.
    #[must_use]
    pub fn no_tls(mut self, error: TlsError) -> Self {
        self.tls = Some(Err(error));
        self
    }

    /// Distinguishes transports: a pool whose context changes to another generation drains the connections that it has.
    /// To be changed whenever TLS or the protocol changes. Default 0.
    #[must_use]
    pub fn generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// Decides by how much the ages of connections differ. Default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What a TLS connector should offer for `protocol`.
    #[must_use]
    pub fn alpn(protocol: HttpProtocol) -> &'static [&'static str] {
        match protocol {
            HttpProtocol::Http2 => &["h2"],
            HttpProtocol::Auto => &["h2", "http/1.1"],
            _ => &["http/1.1"],
        }
    }

    /// Whether an ALPN name says which HTTP is spoken.
    #[must_use]
    pub(crate) fn is_http(name: &str) -> bool {
        Version::of_alpn(name.as_bytes()).is_some()
    }

    /// How long connection number `id` may live: up to a tenth less than the maximum age, so that connections which were
    /// opened together are not all replaced together.
    pub(super) fn span(&self, id: u64) -> Span {
        let early = Dice::of_call(self.seed, self.generation, id).share() / 10.0;
        Span { idle: self.idle_timeout, age: self.max_age.map(|age| age.mul_f64(1.0 - early)) }
    }
}

impl fmt::Debug for PoolContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolContext")
            .field("protocol", &self.protocol)
            .field("tls", &self.tls.is_some())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

// === impl Spawn ===

impl<F: Fn(Task) + Send + Sync + 'static> Spawn for F {
    fn spawn(&self, task: Task) {
        self(task);
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::config::CircuitBreakers;

    use super::*;
    use crate::connect::SocketConnector;

    #[test]
    fn ages_differ_by_up_to_a_tenth_and_follow_the_seed() {
        let spawn = Arc::new(|_: Task| {});
        let limits = Limits::new(&CircuitBreakers::default());
        let age = TimeLimit::zero_is_off(Duration::from_secs(1000));
        let policy = ConnectionPolicy { max_age: Some(age), ..ConnectionPolicy::default() };
        let context = PoolContext::new(Arc::new(SocketConnector), spawn, limits).policy(&policy);
        let ages = |seed| -> Vec<_> {
            let context = context.clone().seed(seed);
            (0..100).filter_map(|id| context.span(id).age).map(|age| age.as_secs()).collect()
        };
        assert_eq!(ages(1), ages(1));
        assert_ne!(ages(1), ages(2));
        assert!(ages(1).iter().all(|age| (900..=1000).contains(age)));
        assert!(ages(1).iter().max() > ages(1).iter().min());
    }
}
