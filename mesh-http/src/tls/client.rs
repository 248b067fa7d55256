//! The client's side of a handshake: from an [`UpstreamTls`] and the identities of the process to an encrypted connection.

use std::{fmt, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use http::uri::Authority;
use mesh_core::{
    config::{IdentityName, Sni, Trust as TrustConfig, UpstreamTls},
    identity::{Credential, Identities, Identity, IdentityError, IdentityErrorKind},
};
use rustls::{
    ClientConfig, RootCertStore,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    PeerError, Provider, TlsError, TlsStream,
    certificate::Leaf,
    roots::{Domains, SystemRoots, Trust, root_store},
    verify::ServerVerifier,
};

/// What the TLS connections of a process share; a cheap handle.
#[derive(Clone, Debug)]
pub struct TlsClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    provider: Provider,
    identities: Identities,
    clock: Arc<dyn TimeProvider>,
    system_roots: SystemRoots,
}

/// Shakes hands for one [`UpstreamTls`]; a cheap handle.
///
/// Keep one for as long as the configuration lasts: clones share a cache of sessions, two connectors do not. A session is
/// resumed only under the identity and the trust that it was made with. As soon as either changes, handshakes start from
/// nothing, so no resumption outlives a root that has been taken away.
#[derive(Clone, Debug)]
pub struct Connector {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    tls: UpstreamTls,
    alpn: Vec<Vec<u8>>,
    /// The roots that came with the configuration, if they did.
    configured_roots: Option<Arc<RootCertStore>>,
    /// What the last handshake used; the next one uses it too unless an identity has changed since.
    generation: ArcSwapOption<Generation>,
}

/// One state of the identities that a connector reads, and what rustls needs to shake hands in it.
#[derive(Debug)]
struct Generation {
    identities: Read,
    config: Arc<ClientConfig>,
}

/// The identities that a connector depends on, as they were read for one handshake.
#[derive(Debug)]
struct Read {
    shown: Option<Arc<Identity>>,
    trusted: Option<Arc<Identity>>,
}

/// The name that a peer is asked for, and proves where no SAN matcher says otherwise.
///
/// Connections to one endpoint are interchangeable only if they were made with the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerName(ServerName<'static>);

/// Tickets that a connector keeps, eight for each name. Most clusters are asked for by one name; the memory is taken at
/// the first handshake, used or not, and a process may have thousands of clusters.
const SESSIONS: usize = 8 * 8;

// === impl TlsClient ===

impl TlsClient {
    /// Shakes hands with this cryptography and these identities, by the system's clock.
    pub fn new(provider: Provider, identities: Identities) -> Self {
        Self::with_clock(provider, identities, Arc::new(DefaultTimeProvider))
    }

    /// As [`new`](Self::new), by another clock: it judges whether certificates are valid and how old a session may be.
    pub fn with_clock(provider: Provider, identities: Identities, clock: Arc<dyn TimeProvider>) -> Self {
        let system_roots = SystemRoots::default();
        Self { shared: Arc::new(Shared { provider, identities, clock, system_roots }) }
    }

    /// A connector for `tls`, which offers `alpn` unless `tls` names protocols itself.
    ///
    /// Identities are looked up by name at each handshake, so they may be registered later than this.
    ///
    /// # Errors
    ///
    /// Refuses roots in the configuration that cannot serve as roots.
    pub fn connector(&self, tls: &UpstreamTls, alpn: &[&str]) -> Result<Connector, TlsError> {
        let configured_roots = match tls.trust() {
            TrustConfig::Roots(roots) => Some(root_store(roots, "trusted roots")?),
            _ => None,
        };
        let alpn = match tls.alpn() {
            [] => alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            named => named.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
        };
        let generation = ArcSwapOption::empty();
        let (shared, tls) = (self.shared.clone(), tls.clone());
        Ok(Connector { inner: Arc::new(Inner { shared, tls, alpn, configured_roots, generation }) })
    }
}

// === impl Connector ===

impl Connector {
    /// The name to ask for, of a request's authority (host and perhaps port) and an endpoint's hostname, if it has one.
    ///
    /// With [`Sni::Off`], and for an endpoint without a hostname where [`Sni::EndpointHostname`] has no other, it is the authority's
    /// host. With [`Sni::Off`], and where it is an IP address (RFC 6066, section 3), it is not sent.
    ///
    /// # Errors
    ///
    /// Refuses what is neither a DNS name nor an IP address.
    pub fn peer_name(&self, authority: &str, endpoint_hostname: Option<&str>) -> Result<PeerName, TlsError> {
        match self.inner.tls.sni() {
            Sni::Name(name) => PeerName::parse(name),
            Sni::EndpointHostname { otherwise } => match endpoint_hostname.or(otherwise.as_deref()) {
                Some(name) => PeerName::parse(name),
                None => PeerName::of_authority(authority),
            },
            _ => PeerName::of_authority(authority),
        }
    }

    /// Whether the name to ask for depends on the request's authority.
    pub(crate) fn asks_for_authority(&self, endpoint_hostname: Option<&str>) -> bool {
        match self.inner.tls.sni() {
            Sni::Name(_) => false,
            Sni::EndpointHostname { otherwise } => endpoint_hostname.is_none() && otherwise.is_none(),
            _ => true,
        }
    }

    /// Whether there is anything to shake hands with at this moment.
    pub(crate) async fn check(&self) -> Result<(), TlsError> {
        self.inner.generation().await.map(drop)
    }

    /// Shakes hands over `io` and returns once the peer has proven who it is.
    ///
    /// The identity and the trust are those of this moment. There is no time limit; whoever calls sets one. Verifying takes
    /// a fraction of a millisecond of computing, so this belongs in a task of its own. Dropping the future drops `io`.
    ///
    /// # Errors
    ///
    /// See [`TlsError`]. Nothing is retried, and nothing falls back. That the *peer* refuses our certificate may show only
    /// when the stream is read.
    pub async fn connect<IO>(&self, io: IO, name: &PeerName) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let generation = self.inner.generation().await?;
        let connecting = tokio_rustls::TlsConnector::from(generation.config.clone()).connect(name.0.clone(), io);
        let stream = TlsStream::new(connecting.await.map_err(TlsError::from_io)?);
        self.inner.check_resumed(&stream)?;
        Ok(stream)
    }
}

// === impl Inner ===

impl Inner {
    /// The cached generation if the identities are what they were, else a new one.
    ///
    /// Handshakes that find a change at the same time each build one, and the last stays: wasteful, and harmless.
    async fn generation(&self) -> Result<Arc<Generation>, TlsError> {
        let identities = self.read()?;
        if let Some(cached) = self.generation.load_full().filter(|cached| cached.identities == identities) {
            return Ok(cached);
        }
        let trust = self.trust(identities.trusted.as_ref()).await?;
        let config = Arc::new(self.config(identities.shown.as_deref(), trust)?);
        let generation = Arc::new(Generation { identities, config });
        self.generation.store(Some(generation.clone()));
        Ok(generation)
    }

    /// One name is read once: between two reads it might be renewed, and a certificate meet roots that it never came with.
    fn read(&self) -> Result<Read, IdentityError> {
        let current = |name: &IdentityName| self.shared.identities.current(name);
        let shown = self.tls.identity().map(current).transpose()?;
        let trusted = match self.tls.trust() {
            TrustConfig::Identity(name) if Some(name) == self.tls.identity() => shown.clone(),
            TrustConfig::Identity(name) => Some(current(name)?),
            _ => None,
        };
        Ok(Read { shown, trusted })
    }

    async fn trust(&self, trusted: Option<&Arc<Identity>>) -> Result<Trust, IdentityError> {
        match (self.tls.trust(), trusted, &self.configured_roots) {
            (TrustConfig::Identity(name), Some(identity), _) => {
                Domains::new(identity.clone(), &in_words(name)).map(Trust::Domains)
            }
            (TrustConfig::Roots(_), _, Some(roots)) => Ok(Trust::Roots(roots.clone())),
            (TrustConfig::System, ..) => self.shared.system_roots.get().await.map(Trust::Roots),
            // A kind of trust that is added one day must not mean another kind until this knows it.
            _ => Err(IdentityError::absent(
                "trust",
                "its kind is not supported",
                "trust an identity, roots or the system",
            )),
        }
    }

    fn config(&self, shown: Option<&Identity>, trust: Trust) -> Result<ClientConfig, TlsError> {
        let provider = self.shared.provider.rustls();
        let verifier = ServerVerifier::new(trust, self.tls.sans(), provider.clone());
        let builder = ClientConfig::builder_with_details(provider.clone(), self.shared.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match shown {
            Some(identity) => builder.with_client_cert_resolver(self.client_certificate(identity, provider)?),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.enable_sni = *self.tls.sni() != Sni::Off;
        Ok(config)
    }

    fn client_certificate(
        &self,
        identity: &Identity,
        provider: &CryptoProvider,
    ) -> Result<Arc<dyn ResolvesClientCert>, IdentityError> {
        let origin = self.tls.identity().map(in_words).unwrap_or_default();
        let credential = identity.credential().ok_or_else(|| {
            IdentityError::absent(&*origin, "it has no certificate to show", "give it one, or show no identity")
        })?;
        let key = certified_key(credential, provider, &origin, &origin)?;
        Ok(Arc::new(SingleCertAndKey::from(key)))
    }

    /// Refuses a resumed session whose peer has expired since: certificates are verified in full handshakes only.
    ///
    /// All sessions go with it, or the next handshake might resume the same one.
    fn check_resumed<IO>(&self, stream: &TlsStream<IO>) -> Result<(), TlsError> {
        let Some(leaf) = stream.peer_certificates().next().filter(|_| stream.is_resumed()) else {
            return Ok(());
        };
        let expires = Leaf::parse(leaf).map_err(TlsError::Refused)?.not_after;
        let now = self.shared.clock.current_time().map(|now| now.as_secs());
        if now.is_some_and(|now| now <= seconds(expires)) {
            return Ok(());
        }
        self.generation.store(None);
        Err(TlsError::Refused(PeerError::Expired { not_after: Some(expires) }))
    }
}

fn in_words(name: &IdentityName) -> String {
    format!("identity `{name}`")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The chain and its key, checked against each other, as rustls wants them; errors name the origin of the one or the other.
pub(crate) fn certified_key(
    credential: &Credential,
    provider: &CryptoProvider,
    chain_origin: &str,
    key_origin: &str,
) -> Result<CertifiedKey, IdentityError> {
    const KEY: &str = "give an unencrypted RSA, ECDSA or Ed25519 key: PKCS #8, PKCS #1 or SEC 1";
    let chain = credential.chain().iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::try_from(credential.key().secret_der().to_vec())
        .map_err(|_| IdentityError::invalid(key_origin, "it is not a private key", KEY))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => IdentityError::new(
            IdentityErrorKind::Mismatched,
            key_origin,
            format!("this private key is not that of the certificate in {chain_origin}"),
            "give the key that the certificate was issued for",
        ),
        rustls::Error::InvalidCertificate(_) => IdentityError::invalid(
            chain_origin,
            "its first certificate cannot be read",
            "give a certificate of version 3",
        )
        .with_source(error),
        _ => IdentityError::invalid(key_origin, "its private key cannot be used", KEY).with_source(error),
    })
}

// === impl Read ===

/// By address first: a source returns the same `Arc` while nothing changes.
impl PartialEq for Read {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Identity>>, b: &Option<Arc<Identity>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (a, b) => a.is_none() && b.is_none(),
        };
        same(&self.shown, &other.shown) && same(&self.trusted, &other.trusted)
    }
}

// === impl PeerName ===

impl PeerName {
    fn of_authority(authority: &str) -> Result<Self, TlsError> {
        match Authority::try_from(authority) {
            Ok(authority) => Self::parse(authority.host()),
            Err(_) => Err(TlsError::Name { name: authority.to_owned() }),
        }
    }

    /// A DNS name or an IP address; one of version 6 may have the brackets of a URI.
    fn parse(name: &str) -> Result<Self, TlsError> {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match ServerName::try_from(bare) {
            Ok(name) => Ok(Self(name.to_owned())),
            Err(_) => Err(TlsError::Name { name: name.to_owned() }),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}
