//! A certificate authority in memory, which signs SPIFFE identities.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

/// Signs certificates of one trust domain.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate, its key, and the authority that signed it.
pub struct Signed {
    certificate: rcgen::Certificate,
    key: KeyPair,
    authority: CertificateDer<'static>,
    authority_pem: String,
}

/// Where [`Signed::write_to`] put an identity.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authority's certificate.
    pub authority: PathBuf,
}

impl Authority {
    /// A new authority with a key of its own.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "example authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Signs an identity for the SPIFFE id and, if given, a DNS name.
    pub fn sign(&self, spiffe_id: &str, dns_name: Option<&str>) -> Result<Signed, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(spiffe_id.try_into()?));
        if let Some(name) = dns_name {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed {
            certificate,
            key,
            authority: self.certificate.der().clone(),
            authority_pem: self.certificate.pem(),
        })
    }
}

impl Signed {
    /// Writes the identity as PEM files into `folder`.
    pub fn write_to(&self, folder: &Path) -> io::Result<Files> {
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        Ok(Files {
            certificate: file("cert-chain.pem", self.certificate.pem())?,
            key: file("key.pem", self.key.serialize_pem())?,
            authority: file("root-cert.pem", self.authority_pem.clone())?,
        })
    }

    /// TLS for a server with this identity, which demands a certificate of the same authority from its clients.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![self.certificate.der().clone()], key)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
