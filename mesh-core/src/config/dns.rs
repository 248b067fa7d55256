//! Endpoints that are given by name, and how their names are looked up (`STRICT_DNS`, `LOGICAL_DNS`,
//! `envoy.extensions.clusters.dns.v3.DnsCluster`).

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{Address, Backoff, ConfigError, Endpoint, Endpoints, LocalityEndpoints};

/// Endpoints of which some, or all, are given by name.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsEndpoints {
    hosts: Endpoints<Host>,
    is_logical: bool,
    look_up: LookUp,
}

/// Where an endpoint is, as far as that is known before names are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Wherever this name leads.
    Name(DnsName),
    /// Here; there is nothing to look up.
    Address(Address),
}

/// A name that is resolved to addresses, and their port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName {
    host: Arc<str>,
    port: u16,
}

/// How the names of a cluster are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct LookUp {
    /// How often (`dns_refresh_rate`, at least 1 ms). Unset: whenever the records are no longer valid, which is not Envoy's
    /// default of 5 s.
    pub refresh: Option<Duration>,
    /// Whether the records' time to live counts, and `refresh` only where that is zero (`respect_dns_ttl`; default yes).
    pub follows_records: bool,
    /// The least that is taken for a time to live (`dns_min_refresh_rate`, default and at least 1 s).
    pub least_validity: Duration,
    /// The wait after a failure, which doubles up to a maximum (`dns_failure_refresh_rate`; default 1 s up to 60 s).
    pub failure: Backoff,
    /// Added to each wait, uniformly up to this (`dns_jitter`, default 0).
    pub jitter: Duration,
    /// Which of the addresses count (`dns_lookup_family`).
    pub family: AddressFamily,
}

/// Which of a name's addresses count (`DnsLookupFamily`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressFamily {
    /// All (`ALL`); gRPC's rule whatever a control plane says.
    #[default]
    All,
    /// Those of IPv6, or where there is none those of IPv4 (`AUTO`, which is Envoy's default).
    V6Preferred,
    /// Those of IPv4, or where there is none those of IPv6 (`V4_PREFERRED`).
    V4Preferred,
    /// Those of IPv4 (`V4_ONLY`).
    V4Only,
    /// Those of IPv6 (`V6_ONLY`).
    V6Only,
}

// === impl DnsEndpoints ===

impl DnsEndpoints {
    /// Every address of every name is an endpoint, with the weight, health, metadata, locality and priority of its name
    /// (`STRICT_DNS`).
    pub fn strict(hosts: Endpoints<Host>) -> Self {
        Self { hosts, is_logical: false, look_up: LookUp::default() }
    }

    /// The addresses of one name are one endpoint, tried in order (`LOGICAL_DNS`).
    ///
    /// # Errors
    ///
    /// Refuses other than one endpoint in one locality (gRFC A37).
    pub fn logical(hosts: Endpoints<Host>) -> Result<Self, ConfigError> {
        match hosts.groups() {
            [only] if only.endpoints.len() == 1 => Ok(Self { hosts, is_logical: true, look_up: LookUp::default() }),
            groups => {
                let value = format!("{} endpoints in {} localities", hosts.len(), groups.len());
                Err(ConfigError::new("endpoints", value, "name exactly one host"))
            }
        }
    }

    /// Looks names up in this way.
    ///
    /// # Errors
    ///
    /// Refuses what [`LookUp::validated`] does.
    pub fn looked_up(mut self, look_up: LookUp) -> Result<Self, ConfigError> {
        self.look_up = look_up.validated()?;
        Ok(self)
    }

    /// The endpoints, some by name.
    pub fn hosts(&self) -> &Endpoints<Host> {
        &self.hosts
    }

    /// Whether the addresses of a name are one endpoint.
    pub fn is_logical(&self) -> bool {
        self.is_logical
    }

    /// How names are looked up.
    pub fn look_up(&self) -> &LookUp {
        &self.look_up
    }

    /// The names to look up, each once.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let hosts = self.hosts.groups().iter().flat_map(|group| &group.endpoints).flat_map(Endpoint::addresses);
        let names = hosts.filter_map(Host::name).map(|name| name.host().clone());
        names.filter(|name| seen.insert(name.clone())).collect()
    }

    /// The endpoints where the names mean what `addresses` says. An address that two names share is the first one's.
    ///
    /// # Errors
    ///
    /// When the names have become so many addresses that weights add up past 2^32-1.
    pub fn resolved<'a>(&self, addresses: impl Fn(&str) -> &'a [IpAddr]) -> Result<Endpoints, ConfigError> {
        let mut seen = HashSet::new();
        let groups = self.hosts.groups().iter().map(|group| LocalityEndpoints {
            locality: group.locality.clone(),
            weight: group.weight,
            priority: group.priority,
            endpoints: group
                .endpoints
                .iter()
                .flat_map(|host| self.at(host, &addresses))
                .filter(|endpoint| seen.insert(endpoint.address().clone()))
                .collect(),
        });
        let endpoints = Endpoints::new(groups.collect())?.with_drops(self.hosts.drops().to_vec());
        endpoints.with_overprovisioning(self.hosts.overprovisioning())
    }

    fn at<'a>(&self, host: &Endpoint<Host>, addresses: &impl Fn(&str) -> &'a [IpAddr]) -> Vec<Endpoint> {
        let places = host.addresses().iter().flat_map(|place| match place {
            Host::Address(address) => vec![address.clone()],
            Host::Name(DnsName { host, port }) => {
                addresses(host).iter().map(|ip| SocketAddr::new(*ip, *port).into()).collect()
            }
        });
        let name = host.addresses().iter().find_map(Host::name);
        let found: Vec<_> = match name {
            Some(_) if !self.is_logical => places.filter_map(|place| host.moved_to([place])).collect(),
            _ => host.moved_to(places).into_iter().collect(),
        };
        let named = |endpoint: Endpoint| match name {
            Some(name) if endpoint.hostname().is_none() => endpoint.with_hostname(name.host().clone()),
            _ => endpoint,
        };
        found.into_iter().map(named).collect()
    }
}

// === impl Host ===

impl Host {
    fn name(&self) -> Option<&DnsName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Endpoints<Host> {
    /// One group of these names, all alike.
    ///
    /// # Errors
    ///
    /// Refuses an empty list and a name twice.
    pub fn by_name(names: impl IntoIterator<Item = DnsName>) -> Result<Self, ConfigError> {
        Self::flat(names.into_iter().map(|name| Endpoint::at(Host::Name(name))).collect())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

// === impl DnsName ===

impl DnsName {
    /// The name `host` with `port`.
    ///
    /// # Errors
    ///
    /// Refuses what cannot be a DNS name, and port 0.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Result<Self, ConfigError> {
        let host = host.into();
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let absolute = host.strip_suffix('.').unwrap_or(&host);
        if absolute.len() > 253 || !absolute.split('.').all(label) {
            return Err(ConfigError::new("host", &host, "give a DNS name of letters, digits, hyphens and dots"));
        }
        if port == 0 {
            return Err(ConfigError::new("port", 0, "give a port between 1 and 65535"));
        }
        Ok(Self { host, port })
    }

    /// The name.
    pub fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

// === impl LookUp ===

impl LookUp {
    /// The least time between look-ups, unless a shorter one is asked for by name: a time to live of zero is common and means
    /// "do not cache".
    pub const LEAST: Duration = Duration::from_secs(1);

    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// Refuses a refresh rate below 1 ms and a least validity below 1 s.
    pub fn validated(self) -> Result<Self, ConfigError> {
        if let Some(rate) = self.refresh.filter(|rate| *rate < Duration::from_millis(1)) {
            return Err(ConfigError::new("dns_refresh_rate", format!("{rate:?}"), "give at least 1 ms"));
        }
        if self.least_validity < Self::LEAST {
            let value = format!("{:?}", self.least_validity);
            return Err(ConfigError::new("dns_min_refresh_rate", value, "give at least 1 s"));
        }
        Ok(self)
    }
}

impl Default for LookUp {
    fn default() -> Self {
        Self {
            refresh: None,
            follows_records: true,
            least_validity: Self::LEAST,
            failure: Backoff::new(Self::LEAST, Duration::from_secs(60)).expect("1 s is below 60 s"),
            jitter: Duration::ZERO,
            family: AddressFamily::All,
        }
    }
}

// === impl AddressFamily ===

impl AddressFamily {
    /// Those of `addresses` that count, in their order.
    pub fn of(self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let keeps_v4 = match self {
            Self::All => return addresses,
            Self::V4Only => true,
            Self::V6Only => false,
            Self::V4Preferred => addresses.iter().any(IpAddr::is_ipv4),
            Self::V6Preferred => !addresses.iter().any(IpAddr::is_ipv6),
        };
        addresses.retain(|address| address.is_ipv4() == keeps_v4);
        addresses
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::Weight;

    fn name(host: &str) -> DnsName {
        DnsName::new(host, 80).expect("a legal name")
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn dns_name_refuses_what_no_resolver_takes() {
        for bad in ["", "a..b", "a b", &"x".repeat(64), "ü.example"] {
            assert!(DnsName::new(bad, 80).is_err(), "{bad}");
        }
        assert!(DnsName::new("a_b.example.", 80).is_ok());
        assert_eq!(DnsName::new("a", 0).expect_err("port").field(), "port");
    }
    #[test]
    fn every_address_of_a_strict_name_is_an_endpoint_and_a_logical_name_is_one() {
        let hosts = Endpoints::by_name([name("reviews.example")]).expect("one name");
        let addresses = [ip(1), ip(2)];
        let strict = DnsEndpoints::strict(hosts.clone()).resolved(|_| &addresses).expect("small");
        let logical = DnsEndpoints::logical(hosts).expect("one name").resolved(|_| &addresses).expect("small");
        let counts = |endpoints: &Endpoints| -> Vec<_> {
            endpoints.groups()[0].endpoints.iter().map(|endpoint| endpoint.addresses().len()).collect()
        };
        assert_eq!((counts(&strict), counts(&logical)), (vec![1, 1], vec![2]));
        let hostname = |endpoints: &Endpoints| endpoints.groups()[0].endpoints[0].hostname().cloned();
        assert_eq!(hostname(&strict).as_deref(), Some("reviews.example"));
        assert_eq!(hostname(&logical).as_deref(), Some("reviews.example"));
    }

    #[test]
    fn what_is_said_of_a_name_holds_for_its_addresses_and_a_named_address_stays() {
        let weight = Weight::new(7).expect("not zero");
        let by_name = Endpoint::at(Host::Name(name("a"))).with_weight(weight).with_hostname("other");
        let fixed = Endpoint::at(Host::Address(SocketAddr::new(ip(9), 80).into()));
        let group = |priority, endpoints| LocalityEndpoints {
            locality: Arc::default(),
            weight: Some(Weight::ONE),
            priority,
            endpoints,
        };
        let hosts = Endpoints::new(vec![group(0, vec![by_name]), group(1, vec![fixed])]).expect("no gap");
        let endpoints = DnsEndpoints::strict(hosts);
        assert_eq!(endpoints.names(), [Arc::from("a")]);
        let addresses = [ip(1), ip(9)];
        let found = endpoints.resolved(|_| &addresses).expect("small");
        let [first, second] = found.groups() else { panic!("{found:?}") };
        assert_eq!(first.endpoints.len(), 2);
        assert!(first.endpoints.iter().all(|endpoint| endpoint.weight() == weight));
        assert_eq!(first.endpoints[0].hostname().map(|name| &**name), Some("other"));
        assert_eq!((second.priority, second.endpoints.len()), (1, 0), "the first to have an address keeps it");
        assert_eq!(endpoints.resolved(|_| &[]).expect("small").len(), 1);
    }

    #[test]
    fn logical_endpoint_is_one() {
        let two = Endpoints::by_name([name("a"), name("b")]).expect("two names");
        assert_eq!(DnsEndpoints::logical(two).expect_err("two").field(), "endpoints");
    }

    #[test]
    fn family_leaves_the_addresses_that_it_names() {
        let (four, six) = (ip(1), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        for (family, of_both, of_four) in [
            (AddressFamily::All, vec![four, six], vec![four]),
            (AddressFamily::V6Preferred, vec![six], vec![four]),
            (AddressFamily::V4Preferred, vec![four], vec![four]),
            (AddressFamily::V4Only, vec![four], vec![four]),
            (AddressFamily::V6Only, vec![six], vec![]),
        ] {
            assert_eq!(family.of(vec![four, six]), of_both, "{family:?}");
            assert_eq!(family.of(vec![four]), of_four, "{family:?}");
        }
    }

    #[test]
    fn rates_that_would_flood_a_resolver_are_refused() {
        let refused = |look_up: LookUp| look_up.validated().expect_err("too fast").field().to_owned();
        let fast = Duration::from_micros(1);
        assert_eq!(refused(LookUp { refresh: Some(fast), ..LookUp::default() }), "dns_refresh_rate");
        assert_eq!(refused(LookUp { least_validity: fast, ..LookUp::default() }), "dns_min_refresh_rate");
    }
}
