//! What a certificate says of itself: its names, its SPIFFE id, its end; read from DER that nobody has vouched for yet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use mesh_core::config::{SanMatcher, SpiffeId};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, x509::X509Version};

use super::PeerError;

/// The parts of a leaf certificate that decide whether its bearer is who was asked for.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<Name>,
    pub(crate) not_after: SystemTime,
    is_authority: bool,
    /// Whether its key may sign certificates or revocation lists.
    may_sign: bool,
}

/// One subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Dns(String),
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

// === impl Leaf ===

impl Leaf {
    /// Reads one certificate. Hostile DER is an error, and so is what follows the certificate.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, PeerError> {
        let (rest, certificate) = parse_x509_certificate(der).map_err(|_| malformed("it is not a certificate"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the certificate"));
        }
        if certificate.version() != X509Version::V3 {
            return Err(malformed("it is not of version 3"));
        }
        let constraints =
            certificate.basic_constraints().map_err(|_| malformed("its basic constraints cannot be read"))?;
        let usage = certificate.key_usage().map_err(|_| malformed("its key usage cannot be read"))?;
        Ok(Self {
            names: names(&certificate)?,
            not_after: system_time(certificate.validity().not_after.timestamp()),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            may_sign: usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
        })
    }

    /// Refuses an authority's certificate where a peer's is due.
    pub(crate) fn check_is_leaf(&self) -> Result<(), PeerError> {
        if self.is_authority { Err(PeerError::Authority) } else { Ok(()) }
    }

    /// The SPIFFE id, if the certificate claims to have one.
    ///
    /// Then it must obey the X509-SVID specification: one URI and no other (section 2), a key that signs no certificates,
    /// and an id with a path (section 5.2).
    pub(crate) fn spiffe_id(&self) -> Result<Option<SpiffeId>, PeerError> {
        let uris = || self.names.iter().filter_map(Name::as_uri);
        let Some(id) = uris().find(|uri| claims_spiffe(uri)) else {
            return Ok(None);
        };
        let refuse = |reason| PeerError::InvalidSpiffeId { presented: shortened(id), reason };
        if uris().count() > 1 {
            return Err(refuse("it has another URI beside it"));
        }
        if self.may_sign {
            return Err(refuse("its key may sign certificates or revocation lists"));
        }
        let parsed = SpiffeId::parse(id).map_err(|_| refuse("it does not obey the SPIFFE-ID specification"))?;
        if !has_path(&parsed) {
            return Err(refuse("it names a trust domain, not a workload in it"));
        }
        Ok(Some(parsed))
    }

    /// The names for an error message; a certificate may have any number of them, of any length.
    pub(crate) fn presented(&self) -> Vec<String> {
        const MOST: usize = 8;
        self.names.iter().take(MOST).map(Name::to_text).collect()
    }
}

fn malformed(reason: &'static str) -> PeerError {
    PeerError::Malformed { reason }
}

/// The scheme of a URI does not depend on case (RFC 3986, 3.1), so `SPIFFE:` claims an id as well, if a malformed one.
fn claims_spiffe(uri: &str) -> bool {
    uri.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
}

fn has_path(id: &SpiffeId) -> bool {
    id.as_str().strip_prefix("spiffe://") != Some(id.trust_domain())
}

fn names(certificate: &X509Certificate<'_>) -> Result<Vec<Name>, PeerError> {
    match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(|name| Name::read(name).transpose()).collect(),
        Ok(None) => Ok(Vec::new()),
        Err(_) => Err(malformed("its subject alternative names cannot be read")),
    }
}

/// Times before 1970 are as expired as 1970 is.
fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

// === impl Name ===

impl Name {
    /// Whether it passes `matcher`.
    pub(crate) fn passes(&self, matcher: &SanMatcher) -> bool {
        match self {
            Self::Dns(name) => matcher.matches_dns(name),
            Self::Uri(uri) => matcher.matches_uri(uri),
            Self::Email(email) => matcher.matches_email(email),
            Self::Ip(address) => matcher.matches_ip(*address),
        }
    }

    /// A name of a kind that is matched; other kinds are `None`, and a name that cannot be read condemns the certificate.
    fn read(name: &GeneralName<'_>) -> Result<Option<Self>, PeerError> {
        Ok(Some(match name {
            GeneralName::DNSName(name) => Self::Dns((*name).to_owned()),
            GeneralName::URI(uri) => Self::Uri((*uri).to_owned()),
            GeneralName::RFC822Name(email) => Self::Email((*email).to_owned()),
            GeneralName::IPAddress(octets) => {
                Self::Ip(address(octets).ok_or_else(|| malformed("one of its addresses has neither 4 nor 16 bytes"))?)
            }
            GeneralName::Invalid(..) => return Err(malformed("one of its names cannot be read")),
            _ => return Ok(None),
        }))
    }

    fn as_uri(&self) -> Option<&str> {
        match self {
            Self::Uri(uri) => Some(uri),
            _ => None,
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => shortened(text),
            Self::Ip(address) => address.to_string(),
        }
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// Text that a peer chose, fit for one line of a log.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 128;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: impl IntoIterator<Item = SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.into_iter().collect();
        params.self_signed(&KeyPair::generate().expect("key")).expect("certificate").der().to_vec()
    }

    #[test]
    fn names_of_every_kind_are_read() {
        let address = IpAddr::from([10, 0, 0, 5]);
        let text = |text: &str| text.try_into().expect("ascii");
        let leaf = Leaf::parse(&certificate([
            SanType::DnsName(text("a.shop")),
            SanType::URI(text("spiffe://td/a")),
            SanType::Rfc822Name(text("a@b")),
            SanType::IpAddress(address),
        ]))
        .expect("legal");
        let owned = str::to_owned;
        let expected = [
            Name::Dns(owned("a.shop")),
            Name::Uri(owned("spiffe://td/a")),
            Name::Email(owned("a@b")),
            Name::Ip(address),
        ];
        assert_eq!(leaf.names, expected);
        assert_eq!(leaf.spiffe_id().expect("legal").expect("claimed").trust_domain(), "td");
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let longer = [certificate([]), vec![0]].concat();
        assert!(matches!(Leaf::parse(&longer), Err(PeerError::Malformed { .. })));
    }

    #[test]
    fn error_messages_stay_short_and_on_one_line() {
        let hostile = "x\n".repeat(1000);
        let names = (0..100).map(|_| SanType::DnsName(hostile.as_str().try_into().expect("ascii")));
        let presented = Leaf::parse(&certificate(names)).expect("legal").presented();
        assert!(presented.len() < 10);
        assert!(presented.iter().all(|name| name.len() < 300 && !name.contains('\n')));
    }
}
