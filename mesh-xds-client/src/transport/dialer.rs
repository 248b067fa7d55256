//! How to reach a control plane: its addresses, what secures the connection, and what is shown on it.

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Uri};
use mesh_core::{
    config::{Address, IdentityName, Trust, UpstreamTls},
    identity::{Identities, IdentityError, IdentitySource, Work},
};
use mesh_http::{
    conn::{Http2Options, KeepAlive, h2},
    connect::{Connect, connect_any},
    resolve::Resolve,
    tls::{Connector, FileIdentity, PeerName, Provider, TlsClient, TlsError},
};
use tokio::time::timeout;
use tonic::body::Body;

use super::{
    portions::Portions,
    stream::{AdsStream, Channel, Driver, StreamError},
};
use crate::{
    bootstrap::{CallCredentials, CertificateFiles, ChannelCredentials, Server, ServerUri},
    session::Variant,
    token::TokenFile,
};

/// How to reach one control plane.
pub(crate) struct Dialer {
    connector: Arc<dyn Connect>,
    resolver: Arc<dyn Resolve>,
    uri: ServerUri,
    variant: Variant,
    origin: Uri,
    tls: Option<Tls>,
    /// Shown by each stream, over TLS only.
    tokens: Arc<[TokenFile]>,
    limits: Limits,
}

/// What a stream may cost and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// For everything up to the connection's readiness for a request.
    pub(crate) connect_timeout: Duration,
    /// Bytes of one response.
    pub(crate) message: usize,
    pub(crate) http2: Http2Options,
}

/// The parts that are put in from outside.
pub(crate) struct Parts {
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) provider: Option<Provider>,
    pub(crate) limits: Limits,
}

/// What secures the connection.
struct Tls {
    connector: Connector,
    name: PeerName,
    files: Option<Arc<FileIdentity>>,
}

/// The parts of a client cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// TLS is asked for, and there is no cryptography: neither a feature `tls-…` nor a provider.
    NoCryptography,
    /// The certificates cannot be had.
    Identity(IdentityError),
    /// The name of the control plane is none that a certificate could bear, or roots cannot be used.
    Tls(TlsError),
}

/// By this name the identity of the control plane's credentials is known, in a registry of its own.
const OWN_IDENTITY: &str = "control plane credentials";

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        let mut http2 = Http2Options::default();
        let (interval, timeout) = (Duration::from_secs(5 * 60), Duration::from_secs(20));
        http2.keep_alive = Some(KeepAlive { interval, timeout, while_idle: false });
        Self { connect_timeout: Duration::from_secs(20), message: 128 * 1024 * 1024, http2 }
    }
}

// === impl Dialer ===

impl Dialer {
    /// Reads certificates with blocking I/O.
    pub(crate) fn new(server: &Server, parts: &Parts) -> Result<Self, SetupError> {
        let tls = match server.credentials() {
            ChannelCredentials::Insecure => None,
            ChannelCredentials::Tls(files) => {
                let provider = parts.provider.as_ref().ok_or(SetupError::NoCryptography)?;
                let name = server.tls_name().map_or_else(|| host(server.uri()), str::to_owned);
                Some(Tls::new(files, &name, provider)?)
            }
        };
        Ok(Self {
            connector: parts.connector.clone(),
            resolver: parts.resolver.clone(),
            uri: server.uri().clone(),
            variant: server.variant(),
            origin: origin(server.uri(), tls.is_some()),
            tls,
            tokens: server
                .call_credentials()
                .iter()
                .map(|CallCredentials::JwtTokenFile(path)| TokenFile::new(path))
                .collect(),
            limits: parts.limits.clone(),
        })
    }

    /// Keeps the certificates current, where there are any.
    pub(crate) fn background(&self) -> Option<Work> {
        let files = self.tls.as_ref()?.files.clone()?;
        Some(files.work())
    }

    /// Opens a stream. It is there when requests can be given to it, which may be before the control plane has said a word.
    pub(crate) async fn open(&self) -> Result<Box<AdsStream>, StreamError> {
        let (time_limit, limit) = (self.limits.connect_timeout, self.limits.message);
        let connected = timeout(time_limit, async { Ok((self.authorizations().await?, self.connect().await?)) }).await;
        let (authorizations, (sender, driver)) = connected.unwrap_or(Err(StreamError::ConnectTimeout(time_limit)))?;
        let channel = Channel { sender, authorizations, origin: self.origin.clone() };
        Ok(Box::new(AdsStream::new(channel, driver, self.variant, limit, self.tokens.clone())))
    }

    /// Read before the connection is made, so that a client without a token bothers nobody.
    async fn authorizations(&self) -> Result<Vec<HeaderValue>, StreamError> {
        let mut headers = Vec::with_capacity(self.tokens.len());
        for token in &*self.tokens {
            headers.push(token.header().await.map_err(StreamError::Token)?);
        }
        Ok(headers)
    }

    async fn connect(&self) -> Result<(h2::Sender<Body>, Driver), StreamError> {
        let addresses = self.addresses().await?;
        let socket = connect_any(&self.connector, &addresses).await.map_err(StreamError::Connect)?;
        let stream = match &self.tls {
            None => socket,
            Some(tls) => Box::new(tls.connector.connect(socket, &tls.name).await.map_err(StreamError::Tls)?),
        };
        h2::handshake(Portions(stream), &self.limits.http2).await.map_err(StreamError::Connection)
    }

    async fn addresses(&self) -> Result<Vec<Address>, StreamError> {
        let (host, port) = match &self.uri {
            ServerUri::Unix(path) => return Ok(vec![Address::Unix(path.as_path().into())]),
            ServerUri::Tcp { host, port, .. } => (host, *port),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port).into()]);
        }
        let resolved = self.resolver.resolve(host).await.map_err(StreamError::Resolve)?;
        Ok(resolved.addresses.into_iter().map(|ip| SocketAddr::new(ip, port).into()).collect())
    }
}

fn host(uri: &ServerUri) -> String {
    match uri {
        ServerUri::Tcp { host, .. } => host.clone(),
        // A socket has no name of its own; this is what gRPC takes for it.
        ServerUri::Unix(_) => "localhost".to_owned(),
    }
}

fn origin(uri: &ServerUri, is_secure: bool) -> Uri {
    let authority = match uri {
        ServerUri::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        ServerUri::Tcp { host, port, .. } => format!("{host}:{port}"),
        ServerUri::Unix(_) => host(uri),
    };
    let scheme = if is_secure { "https" } else { "http" };
    let parts = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
    parts.expect("a server address holds letters, digits, `-`, `.` and `_`, or is an IP address")
}

// === impl Tls ===

impl Tls {
    fn new(files: &CertificateFiles, peer: &str, provider: &Provider) -> Result<Self, SetupError> {
        let name = || IdentityName::from(OWN_IDENTITY);
        let source = identity(files, provider).map_err(SetupError::Identity)?;
        let trust = if files.ca.is_some() { Trust::Identity(name()) } else { Trust::System };
        let mut tls = UpstreamTls::new(trust);
        if files.identity.is_some() {
            tls = tls.with_identity(name());
        }
        let identities = Identities::new();
        if let Some(source) = &source {
            identities.insert(name(), source.clone());
        }
        let connector = TlsClient::new(provider.clone(), identities).connector(&tls, &["h2"]);
        let connector = connector.map_err(SetupError::Tls)?;
        let name = connector.peer_name(peer, None).map_err(SetupError::Tls)?;
        Ok(Self { connector, name, files: source })
    }
}

/// The identity in these files, if any are named. Reads them, with blocking I/O.
pub(crate) fn identity(
    files: &CertificateFiles,
    provider: &Provider,
) -> Result<Option<Arc<FileIdentity>>, IdentityError> {
    let builder = match (&files.identity, &files.ca) {
        (Some(own), Some(ca)) => FileIdentity::builder(&own.certificate, &own.private_key).ca(ca),
        (Some(own), None) => FileIdentity::builder(&own.certificate, &own.private_key),
        (None, Some(ca)) => FileIdentity::roots(ca),
        (None, None) => return Ok(None),
    };
    builder.interval(files.refresh_interval).build(provider).map(|source| Some(Arc::new(source)))
}

// === impl SetupError ===

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCryptography => {
                "TLS is asked for and there is no cryptography: enable the feature `tls-aws-lc` or `tls-ring`, or give a \
                 provider"
            }
            Self::Identity(_) => "certificates that the bootstrap names cannot be had",
            Self::Tls(_) => "TLS cannot be set up as the bootstrap says",
        })
    }
}

impl StdError for SetupError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NoCryptography => None,
            Self::Identity(source) => Some(source),
            Self::Tls(source) => Some(source),
        }
    }
}
