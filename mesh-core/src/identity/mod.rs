//! Who this process is and whom it believes, as data: an [`Identity`], and the [`IdentitySource`] that keeps one current.
//!
//! A certificate lives for hours, a process for weeks, so an identity is a watched value: whoever shakes hands asks its
//! source for the [current](IdentitySource::current) one each time, and a rotation needs no restart and touches no
//! connection. Here is the data and the contract only. Nothing in this crate parses a certificate, opens a file or spawns a
//! task; sources that do live in the crates above.
//!
//! # Trust domains
//!
//! Roots come in bundles: one per SPIFFE trust domain, and at most one without a name. A peer that shows a SPIFFE id is
//! judged by the bundle of *its* trust domain alone, so the authority of one domain cannot vouch for another
//! ([`Identity::bundle_for`] holds the rule).

use std::{collections::BTreeMap, fmt, future, sync::Arc, time::SystemTime};

use crate::config::SpiffeId;

mod error;
mod registry;
mod utc;

pub use self::{
    error::{IdentityError, IdentityErrorKind},
    registry::Identities,
    utc::Utc,
};
pub use crate::Work;

/// One certificate or key in DER.
pub type Der = Box<[u8]>;

/// A certificate to show, and the roots to believe; either may be missing, but not both.
///
/// The data is complete and non-empty. Whether it parses, fits together or is still valid is for the TLS stack to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    credential: Option<Credential>,
    default_bundle: Option<Bundle>,
    bundles: BTreeMap<Box<str>, Bundle>,
}

/// A certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    chain: Box<[Der]>,
    key: PrivateKey,
}

/// A private key in DER: PKCS #8, PKCS #1 or SEC 1. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Der);

/// Root certificates; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Arc<[Der]>);

/// Where a current [`Identity`] comes from: files, the SPIFFE Workload API, SDS, an authority, or memory.
pub trait IdentitySource: fmt::Debug + Send + Sync + 'static {
    /// The identity to shake hands with now.
    ///
    /// Called at every handshake, so it costs one atomic load. While nothing has changed the same `Arc` is returned: it is
    /// what TLS sessions are cached by.
    ///
    /// # Errors
    ///
    /// Says why there is none yet. A source that has had one keeps it when a renewal fails, and says so in its
    /// [`status`](Self::status).
    fn current(&self) -> Result<Arc<Identity>, IdentityError>;

    /// How the source is doing, for people.
    fn status(&self) -> IdentityStatus;

    /// The work that keeps the source current, to be spawned once; empty unless the source says otherwise.
    fn work(self: Arc<Self>) -> Work {
        Box::pin(future::ready(()))
    }
}

/// An identity that never changes.
#[derive(Clone, Debug)]
pub struct FixedIdentity {
    identity: Arc<Identity>,
    since: SystemTime,
}

/// How a source is doing.
#[derive(Clone, Debug, Default)]
pub struct IdentityStatus {
    /// When the current identity came; unset while there is none.
    pub since: Option<SystemTime>,
    /// When its certificate expires, where there is one and the source has read it.
    pub expires: Option<SystemTime>,
    /// Why the last attempt to renew it failed; unset once one has succeeded.
    pub last_error: Option<IdentityError>,
}

// === impl Identity ===

impl Identity {
    /// Shows `chain`, whose first certificate is that of `key`; trusts nobody until bundles are added.
    ///
    /// # Errors
    ///
    /// Refuses an empty chain, certificate or key.
    pub fn new<C: Into<Der>>(
        chain: impl IntoIterator<Item = C>,
        key: impl Into<PrivateKey>,
    ) -> Result<Self, IdentityError> {
        let chain = non_empty("certificate_chain", chain)?;
        let key = key.into();
        if key.0.is_empty() {
            return Err(IdentityError::invalid(
                "private_key",
                "it is empty",
                "give the certificate's private key in DER",
            ));
        }
        let credential = Some(Credential { chain, key });
        Ok(Self { credential, default_bundle: None, bundles: BTreeMap::new() })
    }

    /// Shows no certificate and trusts `roots`.
    ///
    /// # Errors
    ///
    /// Refuses an empty list or certificate.
    pub fn roots<C: Into<Der>>(roots: impl IntoIterator<Item = C>) -> Result<Self, IdentityError> {
        let default_bundle = Some(Bundle::new("trust_bundle", roots)?);
        Ok(Self { credential: None, default_bundle, bundles: BTreeMap::new() })
    }

    /// Shows no certificate and trusts `roots` for peers of this trust domain, and nobody else until bundles are added.
    ///
    /// # Errors
    ///
    /// Refuses what is not a trust domain, and an empty list or certificate.
    pub fn domain_roots<C: Into<Der>>(
        trust_domain: &str,
        roots: impl IntoIterator<Item = C>,
    ) -> Result<Self, IdentityError> {
        let nothing = Self { credential: None, default_bundle: None, bundles: BTreeMap::new() };
        nothing.with_bundle(trust_domain, roots)
    }

    /// Trusts `roots` for peers without a SPIFFE id, and, while no bundle has a name, for all peers.
    ///
    /// # Errors
    ///
    /// Refuses an empty list or certificate.
    pub fn with_default_bundle<C: Into<Der>>(
        mut self,
        roots: impl IntoIterator<Item = C>,
    ) -> Result<Self, IdentityError> {
        self.default_bundle = Some(Bundle::new("trust_bundle", roots)?);
        Ok(self)
    }

    /// Trusts `roots` for peers of this trust domain.
    ///
    /// # Errors
    ///
    /// Refuses what is not a trust domain, and an empty list or certificate.
    pub fn with_bundle<C: Into<Der>>(
        mut self,
        trust_domain: &str,
        roots: impl IntoIterator<Item = C>,
    ) -> Result<Self, IdentityError> {
        let field = format!("trust_bundles[{trust_domain}]");
        let is_domain =
            SpiffeId::parse(&format!("spiffe://{trust_domain}")).is_ok_and(|id| id.trust_domain() == trust_domain);
        if !is_domain {
            return Err(IdentityError::invalid(
                field,
                "this is not a trust domain",
                "name it in lower-case letters, digits, `.`, `-` and `_`",
            ));
        }
        let bundle = Bundle::new(&field, roots)?;
        self.bundles.insert(trust_domain.into(), bundle);
        Ok(self)
    }

    /// The certificate to show, if there is one.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// The bundle without a name.
    pub fn default_bundle(&self) -> Option<&Bundle> {
        self.default_bundle.as_ref()
    }

    /// The bundles with a name, by trust domain.
    pub fn bundles(&self) -> impl Iterator<Item = (&str, &Bundle)> {
        self.bundles.iter().map(|(domain, bundle)| (&**domain, bundle))
    }

    /// The bundle that judges a peer whose SPIFFE id is of `trust_domain`, or one that has no SPIFFE id.
    ///
    /// The default bundle is for peers without an id. It serves those with one only where no bundle at all has a name:
    /// then whoever made the identity told no domains apart, as with Envoy's `trusted_ca`. Once one domain is named, a peer
    /// of another is nobody's.
    pub fn bundle_for(&self, trust_domain: Option<&str>) -> Option<&Bundle> {
        match trust_domain {
            Some(domain) if !self.bundles.is_empty() => self.bundles.get(domain),
            _ => self.default_bundle.as_ref(),
        }
    }
}

fn non_empty<C: Into<Der>>(
    field: &str,
    certificates: impl IntoIterator<Item = C>,
) -> Result<Box<[Der]>, IdentityError> {
    const REMEDY: &str = "give at least one certificate, each in DER";
    let certificates: Box<[Der]> = certificates.into_iter().map(Into::into).collect();
    if certificates.is_empty() {
        return Err(IdentityError::invalid(field, "it holds no certificate", REMEDY));
    }
    match certificates.iter().position(|der| der.is_empty()) {
        Some(at) => Err(IdentityError::invalid(format!("{field}[{at}]"), "it is empty", REMEDY)),
        None => Ok(certificates),
    }
}

// === impl Credential ===

impl Credential {
    /// The chain: the certificate of the key first, then what leads to a root.
    pub fn chain(&self) -> &[Der] {
        &self.chain
    }

    /// The key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// The key itself, for the TLS stack.
    pub fn secret_der(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Der>> From<T> for PrivateKey {
    fn from(der: T) -> Self {
        Self(der.into())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

// === impl Bundle ===

impl Bundle {
    fn new<C: Into<Der>>(field: &str, roots: impl IntoIterator<Item = C>) -> Result<Self, IdentityError> {
        non_empty(field, roots).map(|roots| Self(roots.into()))
    }

    /// The roots.
    pub fn roots(&self) -> &[Der] {
        &self.0
    }
}

// === impl FixedIdentity ===

impl FixedIdentity {
    /// Always `identity`.
    pub fn new(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), since: SystemTime::now() }
    }
}

impl IdentitySource for FixedIdentity {
    fn current(&self) -> Result<Arc<Identity>, IdentityError> {
        Ok(self.identity.clone())
    }

    fn status(&self) -> IdentityStatus {
        IdentityStatus { since: Some(self.since), ..IdentityStatus::default() }
    }
}

// === impl IdentityStatus ===

impl fmt::Display for IdentityStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.since {
            Some(since) => write!(f, "current since {}", Utc(since))?,
            None => f.write_str("none yet")?,
        }
        if let Some(expires) = self.expires {
            write!(f, ", expires {}", Utc(expires))?;
        }
        match &self.last_error {
            Some(error) => write!(f, ", last renewal failed: {error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DER: &[u8] = b"der";

    fn shown() -> Identity {
        Identity::new([DER], DER).expect("legal")
    }

    #[test]
    fn debug_never_prints_the_key() {
        let identity = Identity::new([DER], &b"secret"[..]).expect("legal");
        let text = format!("{identity:?}");
        assert!(text.contains("redacted"));
        assert!(!text.contains(&format!("{:?}", b"secret")), "{text}");
    }

    #[test]
    fn empty_parts_are_refused_by_name() {
        let none: [&[u8]; 0] = [];
        for (error, subject) in [
            (Identity::new(none, DER).expect_err("refused"), "certificate_chain"),
            (Identity::new([DER, b""], DER).expect_err("refused"), "certificate_chain[1]"),
            (Identity::new([DER], &b""[..]).expect_err("refused"), "private_key"),
            (Identity::roots(none).expect_err("refused"), "trust_bundle"),
            (shown().with_bundle("td", none).expect_err("refused"), "trust_bundles[td]"),
            (shown().with_bundle("td/path", [DER]).expect_err("refused"), "trust_bundles[td/path]"),
        ] {
            assert_eq!(error.subject(), subject);
            assert_eq!(error.kind(), IdentityErrorKind::Invalid);
        }
    }

    #[test]
    fn a_spiffe_peer_is_judged_by_the_bundle_of_its_own_domain() {
        let named = shown().with_default_bundle([&b"default"[..]]).expect("legal");
        assert_eq!(named.bundle_for(Some("td")), named.default_bundle(), "no domains are told apart");

        let named = named.with_bundle("td", [&b"td"[..]]).expect("legal");
        assert_eq!(named.bundle_for(Some("td")).map(Bundle::roots), Some(&[Der::from(&b"td"[..])][..]));
        assert_eq!(named.bundle_for(Some("other")), None);
        assert_eq!(named.bundle_for(None), named.default_bundle());
    }
}
