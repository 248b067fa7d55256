//! How a handshake fails: what we lack, what we refuse in the peer, what the peer refuses in us.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::SystemTime};

use mesh_core::identity::{IdentityError, Utc};
use rustls::{AlertDescription, CertificateError, InvalidMessage, pki_types::UnixTime};

/// Why there is no TLS connection, or no longer.
///
/// With TLS 1.3 a client finishes its handshake before the server has judged its certificate, so a refusal by the peer may
/// arrive with the first read: [`TlsError::find`] gets it out of what hyper makes of that.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// We have no identity or no roots to shake hands with.
    Identity(IdentityError),
    /// The name to ask for is neither a DNS name nor an IP address.
    Name {
        /// The name.
        name: String,
    },
    /// The configuration has no way to reach this endpoint.
    Unavailable {
        /// Why.
        reason: Arc<str>,
    },
    /// We refuse the peer's certificate.
    Refused(PeerError),
    /// The peer refuses us, with this alert.
    Alert(AlertDescription),
    /// The peer does not speak TLS.
    Plaintext,
    /// The peer closed the connection during the handshake.
    Closed,
    /// The peers do not come to terms, or one of them errs.
    Protocol(rustls::Error),
    /// The connection beneath failed.
    Io(Arc<io::Error>),
}

/// Why a peer's certificate is refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PeerError {
    /// It, or one that it stands on, has expired.
    Expired {
        /// When; unset where the verifier does not tell.
        not_after: Option<SystemTime>,
    },
    /// It, or one that it stands on, is not valid yet.
    NotYetValid {
        /// From when on it is; unset where the verifier does not tell.
        not_before: Option<SystemTime>,
    },
    /// No root that is trusted vouches for it.
    Untrusted,
    /// None of its names is expected.
    WrongName {
        /// What was expected.
        expected: String,
        /// Its names, the first few.
        presented: Vec<String>,
    },
    /// There is no bundle for its trust domain.
    WrongTrustDomain {
        /// The trust domain of its SPIFFE id, or `None` where it has none and there is no bundle for such peers.
        presented: Option<String>,
        /// The domains that there are bundles for.
        trusted: Vec<String>,
    },
    /// It claims a SPIFFE id and breaks a rule of such certificates.
    InvalidSpiffeId {
        /// The id that it claims.
        presented: String,
        /// The rule.
        reason: &'static str,
    },
    /// It is the certificate of an authority, not of a peer.
    Authority,
    /// It cannot be read.
    Malformed {
        /// Which part of it.
        reason: &'static str,
    },
    /// Another reason.
    Other(CertificateError),
}

// === impl TlsError ===

impl TlsError {
    /// The TLS error among the causes of `error`, or `error` itself.
    ///
    /// Looks into `io::Error`s too, whose own `source` passes over the error that they hold.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(held) => Some(held as &'a (dyn StdError + 'static)),
                None => error.source(),
            };
        }
        None
    }

    /// What tokio-rustls says, which wraps rustls's errors in `io::Error`s.
    pub(crate) fn from_io(error: io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|held| held.downcast_ref::<rustls::Error>()) {
            return Self::from_rustls(error.clone());
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(Arc::new(error)),
        }
    }

    pub(crate) fn from_rustls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Refused(error.into()),
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            // The first byte of a record says what it is; the text and the frames of other protocols never look right.
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plaintext,
            other => Self::Protocol(other),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(_) => f.write_str("no identity or trust to shake hands with"),
            Self::Name { name } => {
                write!(f, "`{name}` is neither a DNS name nor an IP address that a peer could prove")
            }
            Self::Unavailable { reason } => write!(f, "no connection can be made as configured: {reason}"),
            Self::Refused(_) => f.write_str("the peer's certificate is refused"),
            Self::Alert(AlertDescription::CertificateRequired) => {
                f.write_str("the peer demands a client certificate; name an identity that has one")
            }
            Self::Alert(alert) => write!(f, "the peer refused us with alert {alert:?}"),
            Self::Plaintext => f.write_str("the peer does not speak TLS: its answer is no TLS record"),
            Self::Closed => f.write_str("the peer closed the connection during the TLS handshake"),
            Self::Protocol(_) => f.write_str("the TLS protocol failed"),
            Self::Io(_) => f.write_str("the connection failed beneath TLS"),
        }
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Identity(error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Io(error) => Some(&**error),
            Self::Name { .. } | Self::Unavailable { .. } | Self::Alert(_) | Self::Plaintext | Self::Closed => None,
        }
    }
}

impl From<IdentityError> for TlsError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

// === impl PeerError ===

impl From<CertificateError> for PeerError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired { not_after: None },
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired { not_after: Some(system_time(not_after)) }
            }
            CertificateError::NotValidYet => Self::NotYetValid { not_before: None },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { not_before: Some(system_time(not_before)) }
            }
            CertificateError::UnknownIssuer => Self::Untrusted,
            CertificateError::BadEncoding => Self::Malformed { reason: "it is not a certificate" },
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(ours) => ours.clone(),
                None => Self::Other(CertificateError::Other(other)),
            },
            other => Self::Other(other),
        }
    }
}

/// For rustls, which tells the peer `certificate_unknown` for all that it has no word for itself.
impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(match error {
            PeerError::Other(error) => error,
            ours => CertificateError::Other(rustls::OtherError(Arc::new(ours))),
        })
    }
}

/// A date that a certificate chose; the type of the platform may not reach as far.
fn system_time(time: UnixTime) -> SystemTime {
    const LATEST: u64 = 253_402_300_799;
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs().min(LATEST))
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { not_after: Some(at) } => write!(f, "it expired at {}", Utc(*at)),
            Self::Expired { not_after: None } => f.write_str("it has expired"),
            Self::NotYetValid { not_before: Some(at) } => write!(f, "it is not valid before {}", Utc(*at)),
            Self::NotYetValid { not_before: None } => f.write_str("it is not valid yet"),
            Self::Untrusted => f.write_str("no trusted root vouches for it"),
            Self::WrongName { expected, presented } => {
                write!(f, "it is not for {expected} but for {}", List(presented))
            }
            Self::WrongTrustDomain { presented: Some(domain), trusted } => {
                write!(f, "its trust domain `{domain}` is not trusted; those that are: {}", List(trusted))
            }
            Self::WrongTrustDomain { presented: None, trusted } => {
                write!(f, "it has no SPIFFE id, and only trust domains are trusted: {}", List(trusted))
            }
            Self::InvalidSpiffeId { presented, reason } => {
                write!(f, "its SPIFFE id `{presented}` is invalid: {reason}")
            }
            Self::Authority => f.write_str("it is the certificate of an authority, not of a peer"),
            Self::Malformed { reason } => write!(f, "it is malformed: {reason}"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl StdError for PeerError {}

/// Names in a sentence.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, name) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}`{name}`")?;
        }
        Ok(())
    }
}
