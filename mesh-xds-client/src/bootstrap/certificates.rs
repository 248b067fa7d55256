//! Certificates that a bootstrap names: those of connections to control planes, and those that resources refer to.

use std::{path::PathBuf, time::Duration};

use mesh_core::config::ConfigError;

/// Where certificates come from, by the name that resources call it (`certificate_providers`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateProvider {
    /// `file_watcher`: files that are read again from time to time.
    FileWatcher(CertificateFiles),
    /// A plugin that this client does not have. It is in nobody's way until a resource refers to it.
    Unknown {
        /// The plugin's name.
        plugin: String,
    },
}

/// Certificates in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificates to trust.
    pub ca: Option<PathBuf>,
    /// What to present to the other side.
    pub identity: Option<IdentityFiles>,
    /// How often the files are read again. Default 600 s. A shorter time notices rotation sooner, at a read of each
    /// file.
    pub refresh_interval: Duration,
}

/// A certificate chain and its key, which are no use without each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub private_key: PathBuf,
}

/// gRFC A29's default for `file_watcher`.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(600);

// === impl CertificateFiles ===

impl Default for CertificateFiles {
    fn default() -> Self {
        Self { ca: None, identity: None, refresh_interval: REFRESH_INTERVAL }
    }
}

impl CertificateFiles {
    pub(super) fn check_interval(&self) -> Result<(), ConfigError> {
        if self.refresh_interval.is_zero() {
            return Err(ConfigError::new(
                "refresh_interval",
                "0s",
                "give a time longer than zero, or leave it out for 600s",
            ));
        }
        Ok(())
    }

    pub(super) fn check_provider(&self) -> Result<(), ConfigError> {
        if self.ca.is_none() && self.identity.is_none() {
            let remedy = "give ca_certificate_file, or certificate_file and private_key_file, or all three";
            return Err(ConfigError::new("ca_certificate_file", "unset", remedy));
        }
        self.check_interval()
    }
}
