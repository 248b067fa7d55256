//! TLS towards endpoints, as data: whom to trust, who to be, which name the peer must prove (`UpstreamTlsContext`).

use std::{net::IpAddr, sync::Arc};

use super::{ConfigError, StringMatcher};

/// TLS towards the endpoints of a cluster.
///
/// The peer is always verified: a context without trust cannot be made here (Envoy would verify nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    trust: Trust,
    identity: Option<IdentityName>,
    sans: Vec<SanMatcher>,
    sni: Sni,
    alpn: Vec<Box<str>>,
}

/// The name under which the process's identities are registered, such as `default`.
pub type IdentityName = Arc<str>;

/// Whose signature on the peer's certificate is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The bundles that come with this identity; with several trust domains, the one of the peer's SPIFFE id.
    Identity(IdentityName),
    /// The roots of the operating system.
    System,
    /// These certificates, in DER.
    Roots(Arc<[Box<[u8]>]>),
}

/// The name that is sent to the peer (`UpstreamTlsContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sni {
    /// The host of the request's authority, unless it is an IP address (`auto_sni`).
    #[default]
    Authority,
    /// The hostname of the endpoint (`auto_host_sni`).
    EndpointHostname {
        /// What is sent to an endpoint without one (`sni`); unset, what [`Authority`](Self::Authority) would be.
        otherwise: Option<Arc<str>>,
    },
    /// This one (`sni`).
    Name(Arc<str>),
    /// None.
    Off,
}

/// A test of the subject alternative names of a peer; one name that passes one matcher suffices
/// (`SubjectAltNameMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanMatcher {
    /// Which names are looked at; any kind when unset.
    pub kind: Option<SanKind>,
    /// The test. An exact test of a DNS name honours a wildcard in the certificate.
    pub matcher: StringMatcher,
}

/// A kind of subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanKind {
    /// A DNS name.
    Dns,
    /// A URI, such as a SPIFFE id.
    Uri,
    /// An e-mail address.
    Email,
    /// An IP address.
    Ip,
}

/// A SPIFFE id: `spiffe://trust-domain/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: usize,
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// Trusts `trust`, shows no certificate, sends the authority's host as SNI, and, until told otherwise, asks that the
    /// certificate is for that name.
    pub fn new(trust: Trust) -> Self {
        Self { trust, identity: None, sans: Vec::new(), sni: Sni::default(), alpn: Vec::new() }
    }

    /// Shows the certificate of this identity: mutual TLS.
    #[must_use]
    pub fn with_identity(mut self, name: impl Into<IdentityName>) -> Self {
        self.identity = Some(name.into());
        self
    }

    /// Sends this name.
    #[must_use]
    pub fn with_sni(mut self, sni: Sni) -> Self {
        self.sni = sni;
        self
    }

    /// Asks for a name that passes one of these, instead of the name that was sent. An empty list keeps the default.
    #[must_use]
    pub fn with_sans(mut self, sans: impl IntoIterator<Item = SanMatcher>) -> Self {
        self.sans = sans.into_iter().collect();
        self
    }

    /// Asks for this SPIFFE id.
    #[must_use]
    pub fn with_spiffe_id(self, id: &SpiffeId) -> Self {
        self.with_sans([SanMatcher { kind: Some(SanKind::Uri), matcher: StringMatcher::exact(id.as_str()) }])
    }

    /// Asks for any SPIFFE id of this trust domain.
    ///
    /// # Errors
    ///
    /// Refuses what is not a trust domain.
    pub fn with_trust_domain(self, domain: &str) -> Result<Self, ConfigError> {
        let prefix = SpiffeId::parse(&format!("spiffe://{domain}/-"))?.trust_domain_uri();
        let matcher = StringMatcher::prefix(prefix)?;
        Ok(self.with_sans([SanMatcher { kind: Some(SanKind::Uri), matcher }]))
    }

    /// Offers these protocols by ALPN instead of those that the cluster's HTTP implies.
    #[must_use]
    pub fn with_alpn<P: Into<Box<str>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whom to trust.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Who to be.
    pub fn identity(&self) -> Option<&IdentityName> {
        self.identity.as_ref()
    }

    /// Which names are accepted; empty: the one that was sent.
    pub fn sans(&self) -> &[SanMatcher] {
        &self.sans
    }

    /// The name to send.
    pub fn sni(&self) -> &Sni {
        &self.sni
    }

    /// The protocols to offer; empty: those of the cluster's HTTP.
    pub fn alpn(&self) -> &[Box<str>] {
        &self.alpn
    }
}

// === impl SanMatcher ===

impl SanMatcher {
    /// Accepts this DNS name.
    pub fn dns(name: &str) -> Self {
        Self { kind: Some(SanKind::Dns), matcher: StringMatcher::exact(name) }
    }

    /// Whether a DNS name of a certificate passes; it may start with `*.`, which stands for one label.
    pub fn matches_dns(&self, name: &str) -> bool {
        if !self.looks_at(SanKind::Dns) {
            return false;
        }
        match self.matcher.pattern() {
            super::Pattern::Exact(wanted) => dns_eq(name, wanted),
            _ => self.matcher.matches(name),
        }
    }

    /// Whether a URI of a certificate passes.
    pub fn matches_uri(&self, uri: &str) -> bool {
        self.looks_at(SanKind::Uri) && self.matcher.matches(uri)
    }

    /// Whether an e-mail address of a certificate passes.
    pub fn matches_email(&self, email: &str) -> bool {
        self.looks_at(SanKind::Email) && self.matcher.matches(email)
    }

    /// Whether an IP address of a certificate passes.
    pub fn matches_ip(&self, address: IpAddr) -> bool {
        self.looks_at(SanKind::Ip) && self.matcher.matches(&address.to_string())
    }

    fn looks_at(&self, kind: SanKind) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
    }
}

/// Whether a certificate's name, perhaps with a wildcard as its whole first label, is for `wanted` (RFC 6125 6.4).
fn dns_eq(name: &str, wanted: &str) -> bool {
    if let Some(parent) = name.strip_prefix("*.") {
        return wanted
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent));
    }
    name.eq_ignore_ascii_case(wanted)
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Reads an id.
    ///
    /// # Errors
    ///
    /// Refuses what does not obey the SPIFFE-ID specification, section 2: scheme, trust domain of lower-case letters,
    /// digits, `.`, `-` and `_`, a path of non-empty segments that are not `.` or `..`, at most 2048 bytes.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let refuse = |remedy: &'static str| ConfigError::new("spiffe id", text, remedy);
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| refuse("start with spiffe://"))?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let domain_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(domain_byte) {
            return Err(refuse("name a trust domain in lower-case letters, digits, `.`, `-` and `_`"));
        }
        let segment_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(segment_byte);
        if text.len() > 2048 || !path.split('/').skip(1).all(segment) {
            return Err(refuse("give a path of letters, digits, `.`, `-` and `_`, at most 2048 bytes in all"));
        }
        Ok(Self { text: text.into(), trust_domain: domain.len() })
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        let start = "spiffe://".len();
        &self.text[start..start + self.trust_domain]
    }

    fn trust_domain_uri(&self) -> String {
        format!("spiffe://{}/", self.trust_domain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_in_a_certificate_stands_for_one_label() {
        for (name, wanted, expected) in [
            ("*.lyft.com", "a.lyft.com", true),
            ("*.LYFT.com", "a.lyft.com", true),
            ("*.lyft.com", "lyft.com", false),
            ("*.lyft.com", "a.b.lyft.com", false),
            ("*.lyft.com", ".lyft.com", false),
            ("Lyft.com", "lyft.com", true),
        ] {
            assert_eq!(SanMatcher::dns(wanted).matches_dns(name), expected, "{name} for {wanted}");
        }
    }

    #[test]
    fn spiffe_id_knows_its_trust_domain() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("legal");
        assert_eq!(id.trust_domain(), "cluster.local");
    }

    #[test]
    fn malformed_spiffe_ids_are_refused() {
        for bad in [
            "",
            "http://a/b",
            "spiffe://",
            "spiffe:///a",
            "spiffe://A/b",
            "spiffe://a//b",
            "spiffe://a/..",
            "spiffe://a/b/",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn trust_domain_is_not_matched_by_a_longer_name() {
        let tls = UpstreamTls::new(Trust::System).with_trust_domain("a.b").expect("legal");
        assert!(tls.sans()[0].matches_uri("spiffe://a.b/x"));
        assert!(!tls.sans()[0].matches_uri("spiffe://a.bc/x"));
    }
}
