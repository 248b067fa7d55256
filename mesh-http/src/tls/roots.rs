//! Roots as the verifier wants them: from DER that somebody configured, and from the operating system.

use std::sync::Arc;

use mesh_core::identity::{Der, Identity, IdentityError, IdentityErrorKind};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::{sync::OnceCell, task};

/// Which roots judge a peer.
#[derive(Debug)]
pub(crate) enum Trust {
    /// These, whoever the peer is.
    Roots(Arc<RootCertStore>),
    /// Those of its trust domain.
    Domains(Domains),
}

/// The bundles of an [`Identity`], ready to verify with.
#[derive(Debug)]
pub(crate) struct Domains {
    identity: Arc<Identity>,
    default: Option<Arc<RootCertStore>>,
    /// In the order of the names, which is that of [`Identity::bundles`].
    named: Vec<(Box<str>, Arc<RootCertStore>)>,
}

/// The roots of the operating system, read once, at the first handshake that needs them.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(OnceCell<Arc<RootCertStore>>);

/// Roots out of `certificates`, all of which must be usable; `origin` is the file or field that errors name.
pub(crate) fn root_store(certificates: &[Der], origin: &str) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for (at, der) in certificates.iter().enumerate() {
        store.add(CertificateDer::from(&der[..])).map_err(|error| {
            let subject = format!("{origin}, certificate {at}");
            IdentityError::invalid(subject, "it cannot serve as a root", "give root certificates in DER or PEM")
                .with_source(error)
        })?;
    }
    Ok(Arc::new(store))
}

// === impl Domains ===

impl Domains {
    pub(crate) fn new(identity: Arc<Identity>, origin: &str) -> Result<Self, IdentityError> {
        let default = identity.default_bundle().map(|bundle| root_store(bundle.roots(), origin)).transpose()?;
        let named = identity
            .bundles()
            .map(|(domain, bundle)| {
                root_store(bundle.roots(), &format!("{origin}, trust domain {domain}"))
                    .map(|store| (domain.into(), store))
            })
            .collect::<Result<Vec<_>, IdentityError>>()?;
        if default.is_none() && named.is_empty() {
            return Err(IdentityError::absent(origin, "it has no trust bundle", "give it one, or trust other roots"));
        }
        Ok(Self { identity, default, named })
    }

    /// The roots for a peer of this trust domain, or for one without a SPIFFE id.
    ///
    /// The rule is [`Identity::bundle_for`]'s; this only finds the store that was made of the bundle.
    pub(crate) fn roots_for(&self, trust_domain: Option<&str>) -> Option<&RootCertStore> {
        self.identity.bundle_for(trust_domain)?;
        let named = trust_domain.and_then(|domain| self.named.binary_search_by(|(name, _)| (**name).cmp(domain)).ok());
        match named {
            Some(at) => Some(&self.named[at].1),
            None => self.default.as_deref(),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(domain, _)| &**domain)
    }
}

// === impl SystemRoots ===

impl SystemRoots {
    /// The roots. Reading them takes tens of milliseconds and blocks, so a blocking thread does it; a failure is not kept.
    pub(crate) async fn get(&self) -> Result<Arc<RootCertStore>, IdentityError> {
        let load = async || match task::spawn_blocking(load_system_roots).await {
            Ok(loaded) => loaded,
            Err(error) => Err(no_system_roots("reading them was interrupted").with_source(error)),
        };
        self.0.get_or_try_init(load).await.cloned()
    }
}

fn load_system_roots() -> Result<Arc<RootCertStore>, IdentityError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (usable, unusable) = store.add_parsable_certificates(found.certs);
    if usable > 0 {
        tracing::debug!(roots.usable = usable, roots.unusable = unusable, "system roots loaded");
        return Ok(Arc::new(store));
    }
    let error = no_system_roots("there is no usable certificate");
    Err(match found.errors.into_iter().next() {
        Some(cause) => error.with_source(cause),
        None => error,
    })
}

fn no_system_roots(problem: &str) -> IdentityError {
    const REMEDY: &str = "install the system's CA certificates, set SSL_CERT_FILE, or name the roots to trust";
    IdentityError::new(IdentityErrorKind::Unreadable, "the operating system's roots", problem, REMEDY)
}
