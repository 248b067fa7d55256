//! Whether the server at the other end is who it should be: the chain first, by the right roots, then the names.

use std::{fmt, sync::Arc};

use mesh_core::config::{Pattern, SanMatcher, SpiffeId};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{PeerError, certificate::Leaf, roots::Trust};

/// Verifies servers for one [`UpstreamTls`](mesh_core::config::UpstreamTls), with one generation of trust.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    trust: Trust,
    sans: Box<[SanMatcher]>,
    provider: Arc<CryptoProvider>,
}

// === impl ServerVerifier ===

impl ServerVerifier {
    pub(crate) fn new(trust: Trust, sans: &[SanMatcher], provider: Arc<CryptoProvider>) -> Self {
        Self { trust, sans: sans.into(), provider }
    }

    fn roots_for(&self, id: Option<&SpiffeId>) -> Result<&RootCertStore, PeerError> {
        let domains = match &self.trust {
            Trust::Roots(roots) => return Ok(roots),
            Trust::Domains(domains) => domains,
        };
        let domain = id.map(SpiffeId::trust_domain);
        domains.roots_for(domain).ok_or_else(|| PeerError::WrongTrustDomain {
            presented: domain.map(str::to_owned),
            trusted: domains.names().map(str::to_owned).collect(),
        })
    }

    fn check_names(&self, leaf: &Leaf, parsed: &ParsedCertificate<'_>, asked: &ServerName<'_>) -> Result<(), Error> {
        let is_expected = if self.sans.is_empty() {
            match verify_server_name(parsed, asked) {
                Ok(()) => true,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => false,
                Err(other) => return Err(other),
            }
        } else {
            self.sans.iter().any(|matcher| leaf.names.iter().any(|name| name.passes(matcher)))
        };
        if is_expected {
            return Ok(());
        }
        let expected = Expected { sans: &self.sans, asked }.to_string();
        Err(PeerError::WrongName { expected, presented: leaf.presented() }.into())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let leaf = Leaf::parse(end_entity)?;
        leaf.check_is_leaf()?;
        // The id picks the roots before anyone has vouched for it: a lie picks roots that do not vouch for the liar.
        let roots = self.roots_for(leaf.spiffe_id()?.as_ref())?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        self.check_names(&leaf, &parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What was expected of the names, in words.
struct Expected<'a> {
    sans: &'a [SanMatcher],
    asked: &'a ServerName<'a>,
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sans.is_empty() {
            return write!(f, "`{}`", self.asked.to_str());
        }
        for (at, san) in self.sans.iter().enumerate() {
            let separator = if at == 0 { "" } else { " or " };
            f.write_str(separator)?;
            match san.matcher.pattern() {
                Pattern::Exact(name) => write!(f, "`{name}`")?,
                Pattern::Prefix(start) => write!(f, "`{start}…`")?,
                Pattern::Suffix(end) => write!(f, "`…{end}`")?,
                Pattern::Contains(part) => write!(f, "`…{part}…`")?,
                Pattern::Regex(regex) => write!(f, "what matches `{}`", regex.as_str())?,
            }
        }
        Ok(())
    }
}

#[cfg(all(test, any(feature = "tls-aws-lc", feature = "tls-ring")))]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;
    use crate::tls::roots::root_store;

    #[cfg(feature = "tls-aws-lc")]
    fn provider() -> CryptoProvider {
        rustls::crypto::aws_lc_rs::default_provider()
    }

    #[cfg(not(feature = "tls-aws-lc"))]
    fn provider() -> CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    /// A verifier and a certificate that it accepts.
    fn accepted() -> (ServerVerifier, Vec<u8>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let root = params.self_signed(&key).expect("root").der().to_vec();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(vec!["reviews".to_owned(), "10.0.0.5".to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::URI("spiffe://td/a".try_into().expect("ascii")));
        let key = KeyPair::generate().expect("key");
        let leaf = params.signed_by(&key, &issuer).expect("leaf").der().to_vec();

        let roots = root_store(&[root.into()], "roots").expect("legal");
        let sans = [SanMatcher::dns("reviews")];
        (ServerVerifier::new(Trust::Roots(roots), &sans, Arc::new(provider())), leaf)
    }

    fn verify(verifier: &ServerVerifier, leaf: &[u8]) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from("reviews").expect("name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_735_689_600));
        verifier.verify_server_cert(&CertificateDer::from(leaf), &[], &name, &[], now)
    }

    #[test]
    fn no_flipped_bit_is_accepted_and_none_panics() {
        let (verifier, leaf) = accepted();
        verify(&verifier, &leaf).expect("whole");
        for at in 0..leaf.len() {
            for bit in 0..8 {
                let mut hostile = leaf.clone();
                hostile[at] ^= 1 << bit;
                verify(&verifier, &hostile).expect_err("one bit differs");
            }
        }
    }

    #[test]
    fn nothing_cut_short_or_drawn_out_is_accepted() {
        let (verifier, leaf) = accepted();
        for end in 0..leaf.len() {
            verify(&verifier, &leaf[..end]).expect_err("cut short");
        }
        let longer = [&leaf[..], b"\0"].concat();
        verify(&verifier, &longer).expect_err("drawn out");
    }
}
