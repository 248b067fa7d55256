//! The cryptography behind TLS, as a value.

use std::{fmt, sync::Arc};

use rustls::crypto::CryptoProvider;

/// An implementation of the cryptography that TLS needs; a cheap handle.
#[derive(Clone)]
pub struct Provider(Arc<CryptoProvider>);

impl Provider {
    /// AWS-LC: the widest choice of algorithms, post-quantum key exchange among them.
    #[cfg(feature = "tls-aws-lc")]
    pub fn aws_lc() -> Self {
        Self(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
    }

    /// ring: fewer algorithms, and quick to build.
    #[cfg(feature = "tls-ring")]
    pub fn ring() -> Self {
        Self(Arc::new(rustls::crypto::ring::default_provider()))
    }

    /// Any provider of rustls: a certified one, an adjusted list of cipher suites, a simulation's.
    pub fn from_rustls(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }

    /// The provider that is compiled in: AWS-LC, or ring where only that is.
    pub fn compiled_in() -> Option<Self> {
        #[cfg(feature = "tls-aws-lc")]
        return Some(Self::aws_lc());
        #[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc")))]
        return Some(Self::ring());
        #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
        return None;
    }

    pub(crate) fn rustls(&self) -> &Arc<CryptoProvider> {
        &self.0
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("cipher_suites", &self.0.cipher_suites.len()).finish_non_exhaustive()
    }
}
