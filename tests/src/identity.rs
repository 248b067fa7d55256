//! Certificates made on the spot: an authority, and SPIFFE identities that it signs, as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: Arc<TempDir>,
}

/// Who a process is, as PEM files, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, in the form that servers and clients both present.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate of the authority.
    pub roots: PathBuf,
    /// The files of an authority stay until it and all its identities are gone.
    directory: Arc<TempDir>,
}

// === impl Authority ===

impl Authority {
    /// An authority that nobody else trusts.
    #[expect(clippy::new_without_default, reason = "each is different from every other")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no name is a valid list of names");
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key can be generated");
        let certificate = params.self_signed(&key).expect("the parameters are complete");
        let directory = TempDir::with_prefix("mesh-authority-").expect("a temporary directory can be made");
        write(&directory.path().join("ca.pem"), &certificate.pem());
        Self { issuer: Issuer::new(params, key), directory: Arc::new(directory) }
    }

    /// Signs an identity for `spiffe://mesh.test/{workload}`, which is also `localhost` and `127.0.0.1`.
    pub fn identify(&self, workload: &str) -> Identity {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("names and addresses are valid");
        // OpenSSL takes a certificate with the name of its issuer for self-signed.
        params.distinguished_name.push(DnType::CommonName, workload);
        let id = format!("spiffe://mesh.test/{workload}");
        params.subject_alt_names.push(SanType::URI(id.try_into().expect("a workload is named in ASCII")));
        let key = KeyPair::generate().expect("a key can be generated");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        let file = |kind| self.directory.path().join(format!("{}.{kind}.pem", workload.replace('/', "-")));
        let identity = Identity {
            certificate: file("cert"),
            key: file("key"),
            roots: self.directory.path().join("ca.pem"),
            directory: Arc::clone(&self.directory),
        };
        write(&identity.certificate, &certificate.pem());
        write(&identity.key, &key.serialize_pem());
        identity
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the authority's directory can be written to");
}

fn cryptography() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

// === impl Identity ===

impl Identity {
    /// The same identity, which believes what the authority of `other` signed, and is not believed there.
    #[must_use]
    pub fn trusting(mut self, other: &Self) -> Self {
        let roots = self.directory.path().join("others.pem");
        fs::copy(&other.roots, &roots).expect("the authority's directory can be written to");
        self.roots = roots;
        self
    }

    /// The same identity, which believes what the authority of `other` signed besides.
    #[must_use]
    pub fn trusting_too(mut self, other: &Self) -> Self {
        let roots = self.directory.path().join("both.pem");
        let [own, theirs] =
            [&self.roots, &other.roots].map(|file| fs::read_to_string(file).expect("an authority's file"));
        write(&roots, &(own + &theirs));
        self.roots = roots;
        self
    }

    /// A client that shows this identity and believes only what the roots vouch for.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(cryptography())
            .with_safe_default_protocol_versions()
            .expect("the provider has every version")
            .with_root_certificates(self.trusted())
            .with_client_auth_cert(vec![self.shown()], self.private_key())
            .expect("the key fits the certificate");
        config.alpn_protocols = names(alpn);
        Arc::new(config)
    }

    /// A server that shows this identity, and demands a certificate that the roots vouch for.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.trusted()), cryptography());
        let mut config = ServerConfig::builder_with_provider(cryptography())
            .with_safe_default_protocol_versions()
            .expect("the provider has every version")
            .with_client_cert_verifier(verifier.build().expect("there is a root"))
            .with_single_cert(vec![self.shown()], self.private_key())
            .expect("the key fits the certificate");
        config.alpn_protocols = names(alpn);
        Arc::new(config)
    }

    /// A server that shows this identity to anybody.
    pub fn public_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(cryptography())
            .with_safe_default_protocol_versions()
            .expect("the provider has every version")
            .with_no_client_auth()
            .with_single_cert(vec![self.shown()], self.private_key())
            .expect("the key fits the certificate");
        config.alpn_protocols = names(alpn);
        Arc::new(config)
    }

    /// The certificate that it shows.
    pub fn shown(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("the certificate is a file of PEM")
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("the key is a file of PEM")
    }

    fn trusted(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.roots).expect("the roots are a file of PEM") {
            roots.add(root.expect("the roots are a file of PEM")).expect("an authority signed itself");
        }
        roots
    }
}
