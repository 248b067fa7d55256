//! Authorities, certificates and servers made for one test each; the server is rustls's own, not ours.

// Each test program uses its part.
#![allow(dead_code)]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    config::{IdentityName, Trust, UpstreamTls},
    identity::{Der, FixedIdentity, Identities, Identity, IdentitySource},
};
use mesh_http::tls::{Connector, Provider, TlsClient, TlsError, TlsStream};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, server};

pub(crate) const SHOP: &str = "spiffe://shop.example/ns/a/sa/cart";

/// Years in which certificates made with [`Authority::issue`] start and end: whoever runs the tests, by whatever clock, does
/// so between them.
const VALID: (i32, i32) = (2020, 4000);

/// Seconds from 1970 to the start of 2030, for certificates that end then.
pub(crate) const YEAR_2030: u64 = 1_893_456_000;

/// A time within the validity of any certificate of [`Authority::issue`].
pub(crate) const YEAR_2025: u64 = 1_735_689_600;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
    /// For an intermediate authority, itself; what it issues is shown with it.
    above: Option<CertificateDer<'static>>,
}

pub(crate) struct Issued {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
    /// What leads from the certificate towards a root, shown with it.
    above: Option<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

pub(crate) type ServerStream = server::TlsStream<DuplexStream>;

// === impl Authority ===

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = authority_params(name);
        let key = KeyPair::generate().expect("key");
        let root = params.self_signed(&key).expect("root");
        Self { issuer: Issuer::new(params, key), root, above: None }
    }

    /// An authority that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let params = authority_params(name);
        let key = KeyPair::generate().expect("key");
        let root = params.signed_by(&key, &self.issuer).expect("intermediate");
        let above = Some(root.der().clone());
        Self { issuer: Issuer::new(params, key), root, above }
    }

    pub(crate) fn issue<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Issued {
        self.issue_valid(names, VALID)
    }

    /// Years of the first of January on which it starts and ends.
    pub(crate) fn issue_valid<'a>(&self, names: impl IntoIterator<Item = &'a str>, years: (i32, i32)) -> Issued {
        let mut params = leaf_params(names);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        self.issue_params(params)
    }

    pub(crate) fn issue_params(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        Issued { certificate, key, above: self.above.clone() }
    }

    pub(crate) fn root(&self) -> Der {
        self.root.der().to_vec().into()
    }

    pub(crate) fn pem(&self) -> String {
        self.root.pem()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Roots(vec![self.root()].into())
    }

    fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(self.root.der().clone()).expect("root");
        store.into()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A leaf's; a name is taken for what it looks like: a URI has `://`, an e-mail address an `@`, an address parses.
pub(crate) fn leaf_params<'a>(names: impl IntoIterator<Item = &'a str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.into_iter().map(san).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn san(name: &str) -> SanType {
    let text = || name.try_into().expect("ascii");
    if name.contains("://") {
        return SanType::URI(text());
    }
    if name.contains('@') {
        return SanType::Rfc822Name(text());
    }
    name.parse().map_or_else(|_| SanType::DnsName(text()), SanType::IpAddress)
}

// === impl Issued ===

impl Issued {
    /// A certificate that vouches for itself.
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        Self { certificate: leaf_params([name]).self_signed(&key).expect("certificate"), key, above: None }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        [self.certificate.der().clone()].into_iter().chain(self.above.clone()).collect()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.chain().iter().map(|der| der.to_vec()), self.key.serialize_der()).expect("legal")
    }

    pub(crate) fn server(&self) -> ServerConfig {
        self.configure(rustls::ALL_VERSIONS, None)
    }

    pub(crate) fn server_of_version(&self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        self.configure(&[version], None)
    }

    /// Demands a certificate that `authority` vouches for.
    pub(crate) fn server_demanding(&self, authority: &Authority) -> ServerConfig {
        self.configure(rustls::ALL_VERSIONS, Some(authority))
    }

    pub(crate) fn configure(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> ServerConfig {
        let builder =
            ServerConfig::builder_with_provider(rustls_provider()).with_protocol_versions(versions).expect("versions");
        let builder = match clients {
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.store(), rustls_provider())
                    .build()
                    .expect("roots"),
            ),
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("key");
        builder.with_single_cert(self.chain(), key).expect("certificate")
    }
}

// === impl Clock ===

impl Clock {
    pub(crate) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

// === shaking hands ===

pub(crate) fn provider() -> Provider {
    Provider::from_rustls(rustls_provider())
}

#[cfg(feature = "tls-aws-lc")]
fn rustls_provider() -> Arc<CryptoProvider> {
    rustls::crypto::aws_lc_rs::default_provider().into()
}

#[cfg(not(feature = "tls-aws-lc"))]
fn rustls_provider() -> Arc<CryptoProvider> {
    rustls::crypto::ring::default_provider().into()
}

/// A registry that knows one source, as `default`.
pub(crate) fn identities(source: Arc<dyn IdentitySource>) -> Identities {
    let identities = Identities::new();
    identities.insert("default", source);
    identities
}

pub(crate) fn fixed(identity: Identity) -> Identities {
    identities(Arc::new(FixedIdentity::new(identity)))
}

pub(crate) fn default_identity() -> IdentityName {
    "default".into()
}

/// A client in the year 2025.
pub(crate) fn client(identities: Identities) -> TlsClient {
    TlsClient::with_clock(provider(), identities, Clock::at(YEAR_2025))
}

/// A connector without identities that offers no protocol.
pub(crate) fn connector(tls: &UpstreamTls) -> Connector {
    client(Identities::new()).connector(tls, &[]).expect("legal")
}

/// Both sides of one handshake for `authority`, over a pipe.
pub(crate) async fn shake(
    connector: &Connector,
    authority: &str,
    config: &Arc<ServerConfig>,
) -> (Result<TlsStream<DuplexStream>, TlsError>, io::Result<ServerStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = connector.peer_name(authority, None).expect("name");
    tokio::join!(connector.connect(near, &name), TlsAcceptor::from(config.clone()).accept(far))
}

/// The handshake that must be refused by us, as an error and its cause in words.
pub(crate) async fn refusal(tls: &UpstreamTls, authority: &str, config: ServerConfig) -> (TlsError, String) {
    refusal_by(&connector(tls), authority, config).await
}

pub(crate) async fn refusal_by(connector: &Connector, authority: &str, config: ServerConfig) -> (TlsError, String) {
    let (ours, theirs) = shake(connector, authority, &Arc::new(config)).await;
    assert!(theirs.is_err(), "the server must be told");
    let error = ours.expect_err("refused");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    (error, cause)
}

/// Sends a byte each way. The client's read also takes in the session tickets, which come before it.
pub(crate) async fn exchange(ours: &mut TlsStream<DuplexStream>, theirs: &mut ServerStream) {
    let mut byte = [0];
    ours.write_all(b"a").await.expect("write");
    ours.flush().await.expect("flush");
    theirs.read_exact(&mut byte).await.expect("read");
    theirs.write_all(b"b").await.expect("write");
    theirs.flush().await.expect("flush");
    ours.read_exact(&mut byte).await.expect("read");
    assert_eq!(&byte, b"b");
}
