//! How a control plane is reached: over sockets and by name, and over TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_core::config::Address;
use mesh_core::identity::Identities;
use mesh_core::source::ConfigSource;
use mesh_http::connect::{Connect, Connecting, SocketConnector, Stream};
use mesh_http::resolve::{Resolve, Resolved, Resolving};
use mesh_xds_client::bootstrap::{
    Bootstrap, CallCredentials, CertificateFiles, CertificateProvider, ChannelCredentials, IdentityFiles, Node, Server,
};
use mesh_xds_client::testkit::resource::endpoints;
use mesh_xds_client::testkit::{ControlPlane, Event, Place};
use mesh_xds_client::{XdsClient, XdsClientBuilder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use tonic::{Status, metadata::MetadataMap};

use crate::support::{address, offer, reached, run};

const SECOND: Duration = Duration::from_secs(1);

fn client_of(uri: &str, credentials: ChannelCredentials) -> XdsClientBuilder {
    let bootstrap = Bootstrap::builder().server(uri, credentials).node(Node::new("test-node")).build();
    XdsClient::builder(bootstrap.expect("a valid bootstrap"))
}

/// Knows one name, at an address where nobody listens and at another.
#[derive(Clone, Copy)]
struct Names;

impl Resolve for Names {
    fn resolve(&self, host: &str) -> Resolving {
        let is_known = host == "plane.test";
        Box::pin(async move {
            if !is_known {
                return Err("no such name".into());
            }
            let addresses = vec![[0, 0, 0, 0, 0, 0, 0, 1].into(), [127, 0, 0, 1].into()];
            Ok(Resolved { addresses, valid_for: SECOND })
        })
    }
}

#[tokio::test]
async fn plane_is_reached_by_name_over_tcp() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let place = Place::new([127, 0, 0, 1]).expect("a free port");
    tokio::spawn(plane.serve(place.listen().expect("nobody else listens")));
    let uri = format!("plane.test:{}", place.address().port());
    let mut running = run(client_of(&uri, ChannelCredentials::Insecure).connector(SocketConnector).resolver(Names));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    assert_eq!(running.client.status().server, uri);

    // It restarts on the same port, with something new.
    plane.stop().await;
    offer(&plane, "echo", &["v2"]);
    tokio::spawn(plane.serve(place.listen().expect("it is kept")));
    running.until_routed("echo", &["v2"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn plane_is_reached_over_a_unix_socket() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("xds.sock");
    tokio::spawn(plane.serve(tokio::net::UnixListener::bind(&path).expect("a free path")));
    let mut running = run(client_of(&format!("unix://{}", path.display()), ChannelCredentials::Insecure));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn name_that_cannot_be_resolved_is_told() {
    let running = run(client_of("other.test:15010", ChannelCredentials::Insecure).resolver(Names));
    let _interest = running.client.watch("echo");
    running.settle(SECOND).await;
    let error = running.client.status().last_error.expect("an attempt failed");
    assert!(error.contains("cannot be resolved: no such name"), "{error}");
}

// --- TLS ---

/// An authority of its own, and what it has signed, in files.
struct Certificates {
    directory: tempfile::TempDir,
    roots: RootCertStore,
    server: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let sign = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
            (params.signed_by(&key, &authority).expect("a certificate"), key)
        };
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).expect("written");
        let (client, client_key) = sign("client.test");
        write("ca.pem", authority.pem());
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a root");
        let (server, server_key) = sign("plane.test");
        let key = PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key in PKCS #8");
        Self { roots, server: (server.der().clone(), key), directory }
    }

    fn files(&self) -> CertificateFiles {
        let at = |name: &str| self.directory.path().join(Path::new(name));
        let identity = IdentityFiles { certificate: at("client.pem"), private_key: at("client.key") };
        CertificateFiles { ca: Some(at("ca.pem")), identity: Some(identity), ..CertificateFiles::default() }
    }

    /// Asks for a certificate that the authority has signed.
    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(self.roots.clone());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().expect("a verifier");
        let (certificate, key) = &self.server;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("known versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .expect("a valid certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config).into()
    }
}

/// Opens pipes to a control plane behind TLS.
struct SecurePipes(ControlPlane, TlsAcceptor);

impl Connect for SecurePipes {
    fn connect(&self, _: &Address) -> Connecting {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (plane, acceptor) = (self.0.clone(), self.1.clone());
        tokio::spawn(async move {
            if let Ok(io) = acceptor.accept(theirs).await {
                plane.serve_connection(io).await;
            }
        });
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

#[tokio::test]
async fn plane_is_reached_over_mutual_tls() {
    let certificates = Certificates::new();
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let connector = SecurePipes(plane.clone(), certificates.acceptor());
    let credentials = ChannelCredentials::Tls(certificates.files());
    let mut running = run(client_of("plane.test:443", credentials).resolver(Names).connector(connector));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test]
async fn plane_at_an_address_is_known_by_the_name_in_its_certificate() {
    let certificates = Certificates::new();
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let server = Server::builder("10.0.0.1:443", ChannelCredentials::Tls(certificates.files())).tls_name("plane.test");
    let bootstrap = Bootstrap::builder().add_server(server).build().expect("a valid bootstrap");
    let connector = SecurePipes(plane.clone(), certificates.acceptor());
    let mut running = run(XdsClient::builder(bootstrap).connector(connector));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
}

// --- tokens ---

/// A token that is called so, and ends in so many seconds from now.
fn token(name: &str, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub": "{name}", "exp": {}}}"#, now + seconds));
    format!("e30.{payload}.c2ln")
}

/// What the streams to a control plane have shown.
fn shown(plane: &ControlPlane) -> Vec<String> {
    let events = plane.events();
    let metadata = events.iter().filter_map(|event| match event {
        Event::StreamOpened { metadata, .. } => Some(metadata),
        _ => None,
    });
    let text =
        |metadata: &MetadataMap| metadata.get("authorization").expect("shown").to_str().expect("text").to_owned();
    metadata.map(text).collect()
}

#[tokio::test]
async fn token_in_a_file_is_shown_by_every_stream_and_a_renewed_one_by_the_next() {
    let certificates = Certificates::new();
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let file = certificates.directory.path().join("token");
    let server = Server::builder("plane.test:443", ChannelCredentials::Tls(certificates.files()))
        .call_credentials(CallCredentials::JwtTokenFile(file.clone()));
    let bootstrap = Bootstrap::builder().add_server(server).build().expect("a valid bootstrap");
    let connector = SecurePipes(plane.clone(), certificates.acceptor());
    let client = XdsClient::builder(bootstrap).resolver(Names).connector(connector);
    let mut running = run(client.reconnect(SECOND / 100, SECOND / 20));

    // 1. There is no token yet, and no stream without one.
    let _interest = running.client.watch("echo");
    let error = running.until_trouble().await;
    assert!(error.contains("no token to show") && error.contains("cannot be read"), "{error}");
    assert!(plane.events().is_empty());

    // 2. One that is about to end is shown, and the file is looked at again for the next stream.
    let (first, second, third) = (token("first", 60), token("second", 3600), token("third", 3600));
    std::fs::write(&file, format!("{first}\n")).expect("written");
    running.until_routed("echo", &["v1"]).await;
    std::fs::write(&file, &second).expect("written");
    plane.abort_connections();
    let mut opened = 0;
    let is_second = |event: &Event| {
        opened += usize::from(matches!(event, Event::StreamOpened { .. }));
        opened == 2
    };
    plane.wait_for(is_second).await;

    // 3. One that lasts is shown for as long as it does.
    std::fs::write(&file, &third).expect("written");
    plane.set(endpoints("v1", [address(2)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
    plane.abort_connections();
    plane.set(endpoints("v1", [address(3)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.3:80"]).await;

    // 4. Unless the control plane does not believe it any longer.
    plane.end_streams(Status::unauthenticated("who is that?"));
    plane.set(endpoints("v1", [address(4)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.4:80"]).await;
    let expected = [&first, &second, &second, &third].map(|token| format!("Bearer {token}"));
    assert_eq!(shown(&plane), expected);
}

#[tokio::test]
async fn plane_of_another_name_is_refused() {
    let certificates = Certificates::new();
    let connector = SecurePipes(ControlPlane::new(), certificates.acceptor());
    let credentials = ChannelCredentials::Tls(certificates.files());
    let running = run(client_of("10.0.0.1:443", credentials).connector(connector));
    let _interest = running.client.watch("echo");
    let error = running.until_trouble().await;
    assert!(error.contains("TLS handshake") && error.contains("plane.test"), "{error}");
}

#[test]
fn certificates_that_cannot_be_had_are_refused_when_the_client_is_built() {
    let files = CertificateFiles { ca: Some("/nowhere/ca.pem".into()), ..CertificateFiles::default() };
    let error = client_of("plane.test:443", ChannelCredentials::Tls(files.clone())).build().expect_err("no such file");
    assert_eq!(error.to_string(), "the control plane plane.test:443 cannot be spoken to");
    let bootstrap = Bootstrap::builder()
        .server("plane.test:80", ChannelCredentials::Insecure)
        .certificate_provider("default", CertificateProvider::FileWatcher(files))
        .build()
        .expect("a valid bootstrap");
    let error = XdsClient::new(bootstrap).expect_err("no such file");
    assert_eq!(error.to_string(), "the certificate provider `default` cannot provide");
}

#[test]
fn certificate_providers_of_the_bootstrap_are_registered_under_their_names() {
    let certificates = Certificates::new();
    let bootstrap = Bootstrap::builder()
        .server("plane.test:80", ChannelCredentials::Insecure)
        .certificate_provider("default", CertificateProvider::FileWatcher(certificates.files()))
        .build()
        .expect("a valid bootstrap");
    let identities = Identities::new();
    let _client = XdsClient::builder(bootstrap).identities(identities.clone()).build().expect("a valid client");
    assert!(identities.current("default").is_ok());
}
