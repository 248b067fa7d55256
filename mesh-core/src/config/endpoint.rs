//! Endpoints as a source gives them: grouped by locality and priority (`ClusterLoadAssignment`).

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    hash::Hash,
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use super::{ConfigError, Fraction, Weight};

/// All endpoints of a cluster at one moment; `A` says where each is: an [`Address`], or a [`Host`](super::Host) while names
/// are to be resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints<A = Address> {
    groups: Vec<LocalityEndpoints<A>>,
    overprovisioning: u32,
    drops: Vec<DropOverload>,
}

/// The endpoints of one locality at one priority (`LocalityLbEndpoints`).
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityEndpoints<A = Address> {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// The share of the locality among those of its priority; unset takes none where localities are weighted.
    pub weight: Option<Weight>,
    /// 0 is preferred; higher numbers are for when lower ones are not available.
    pub priority: u32,
    /// The endpoints.
    pub endpoints: Vec<Endpoint<A>>,
}

/// A place: region, zone within it, sub-zone within that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone of the region.
    pub zone: Arc<str>,
    /// Part of the zone.
    pub sub_zone: Arc<str>,
}

/// One instance of a service (`LbEndpoint`).
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint<A = Address> {
    addresses: Addresses<A>,
    hostname: Option<Arc<str>>,
    weight: Weight,
    health: HealthStatus,
    metadata: Option<Arc<Metadata>>,
}

/// Where an endpoint listens. That is nearly always one address, which takes no second allocation.
#[derive(Clone, Debug, PartialEq)]
enum Addresses<A> {
    One(A),
    /// Two or more.
    Several(Box<[A]>),
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A unix domain socket.
    Unix(Arc<Path>),
}

/// What the source says of an endpoint's health (`envoy.config.core.v3.HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// Nothing; taken for healthy.
    #[default]
    Unknown,
    /// Fit for traffic.
    Healthy,
    /// Not fit for traffic; also Envoy's `TIMEOUT`.
    Unhealthy,
    /// On its way out: nothing new, and not counted among the endpoints of its priority.
    Draining,
    /// Fit, but to be used after the healthy ones.
    Degraded,
}

/// Facts about an endpoint, by the namespace of who reads them (`envoy.config.core.v3.Metadata`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<Arc<str>, BTreeMap<Arc<str>, MetadataValue>>);

/// One fact (`google.protobuf.Value`).
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    String(Arc<str>),
    /// Several.
    List(Vec<MetadataValue>),
    /// Several by name.
    Map(BTreeMap<Arc<str>, MetadataValue>),
}

/// A share of requests that is refused before balancing (`ClusterLoadAssignment.Policy.DropOverload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropOverload {
    /// Whose decision it is, for reports.
    pub category: Arc<str>,
    /// How many.
    pub share: Fraction,
}

// === impl Endpoints ===

impl Endpoints {
    /// How far healthy endpoints stretch before traffic spills to the next priority, in percent (Envoy's default).
    pub const OVERPROVISIONING: u32 = 140;
    /// The highest priority number.
    pub const LOWEST_PRIORITY: u32 = 128;

    /// None at all: requests fail with UH.
    pub fn none() -> Self {
        Self { groups: Vec::new(), overprovisioning: Self::OVERPROVISIONING, drops: Vec::new() }
    }
}

impl<A: Eq + Hash + fmt::Display> Endpoints<A> {
    /// The endpoints of `groups`.
    ///
    /// # Errors
    ///
    /// Refuses a priority past 128 or one that leaves a gap below it, the same locality twice at one priority, an
    /// address twice, and weights that add up past 2^32-1 (per priority for localities, per locality for endpoints).
    pub fn new(groups: Vec<LocalityEndpoints<A>>) -> Result<Self, ConfigError> {
        check_priorities(&groups)?;
        check_localities(&groups)?;
        check_addresses(&groups)?;
        Ok(Self { groups, overprovisioning: Endpoints::OVERPROVISIONING, drops: Vec::new() })
    }

    /// One group of unweighted endpoints, without locality.
    ///
    /// # Errors
    ///
    /// Refuses an empty list and an address twice.
    pub fn flat(endpoints: Vec<Endpoint<A>>) -> Result<Self, ConfigError> {
        if endpoints.is_empty() {
            return Err(ConfigError::new("endpoints", "[]", "give at least one address, or a DNS name"));
        }
        Self::new(vec![LocalityEndpoints {
            locality: Arc::default(),
            weight: Some(Weight::ONE),
            priority: 0,
            endpoints,
        }])
    }
}

impl<A> Endpoints<A> {
    /// Another overprovisioning factor, in percent (`overprovisioning_factor`). Below 100, a priority or locality shares its
    /// load with others while it is in full health.
    ///
    /// # Errors
    ///
    /// Refuses zero.
    pub fn with_overprovisioning(mut self, percent: u32) -> Result<Self, ConfigError> {
        if percent == 0 {
            return Err(ConfigError::new("policy.overprovisioning_factor", percent, "give at least 1"));
        }
        self.overprovisioning = percent;
        Ok(self)
    }

    /// Requests to refuse before balancing; each category draws for itself, in order, once a request.
    ///
    /// Clients draw before they count or balance a request; who uses the layers one by one does, by
    /// [`Cluster::drop_overload`](crate::cluster::Cluster::drop_overload).
    #[must_use]
    pub fn with_drops(mut self, drops: Vec<DropOverload>) -> Self {
        self.drops = drops;
        self
    }

    /// The groups, in the order of their source.
    pub fn groups(&self) -> &[LocalityEndpoints<A>] {
        &self.groups
    }

    /// The overprovisioning factor in percent.
    pub fn overprovisioning(&self) -> u32 {
        self.overprovisioning
    }

    /// What is refused before balancing.
    pub fn drops(&self) -> &[DropOverload] {
        &self.drops
    }

    /// How many endpoints there are, whatever their health.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.endpoints.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check_priorities<A>(groups: &[LocalityEndpoints<A>]) -> Result<(), ConfigError> {
    let highest = groups.iter().map(|group| group.priority).max().unwrap_or(0);
    if highest > Endpoints::LOWEST_PRIORITY {
        return Err(ConfigError::new("endpoints.priority", highest, "give at most 128"));
    }
    let missing = (0..highest).find(|wanted| groups.iter().all(|group| group.priority != *wanted));
    match missing {
        Some(gap) => {
            Err(ConfigError::new("endpoints.priority", highest, format!("leave no gap; nothing has priority {gap}")))
        }
        None => Ok(()),
    }
}

fn check_localities<A>(groups: &[LocalityEndpoints<A>]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    let mut weights = BTreeMap::<u32, u64>::new();
    for (index, group) in groups.iter().enumerate() {
        let field = |name: &str| format!("endpoints[{index}].{name}");
        if !seen.insert((group.priority, &group.locality)) {
            return Err(ConfigError::new(field("locality"), &group.locality, "name a locality once per priority"));
        }
        let sum = weights.entry(group.priority).or_default();
        *sum += group.weight.map_or(0, |weight| u64::from(weight.get()));
        within_u32(*sum).map_err(|error| error.within(field("load_balancing_weight")))?;
        let of_endpoints = group.endpoints.iter().map(|endpoint| u64::from(endpoint.weight.get())).sum();
        within_u32(of_endpoints).map_err(|error| error.within(field("lb_endpoints")))?;
    }
    Ok(())
}

fn within_u32(sum: u64) -> Result<(), ConfigError> {
    match u32::try_from(sum) {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::new("sum", sum, "let the weights add up to at most 4294967295")),
    }
}

fn check_addresses<A: Eq + Hash + fmt::Display>(groups: &[LocalityEndpoints<A>]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for (g, group) in groups.iter().enumerate() {
        for (e, endpoint) in group.endpoints.iter().enumerate() {
            if !seen.insert((endpoint.addresses(), endpoint.hostname.as_deref())) {
                let field = format!("endpoints[{g}].lb_endpoints[{e}].address");
                return Err(ConfigError::new(field, endpoint.address(), "list an endpoint once"));
            }
        }
    }
    Ok(())
}

// === impl Locality ===

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.sub_zone)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The endpoint at `address`, of weight one and unknown health.
    pub fn new(address: impl Into<Address>) -> Self {
        Self::at(address.into())
    }
}

impl<A> Endpoint<A> {
    /// The endpoint at `place`, of weight one and unknown health.
    pub fn at(place: A) -> Self {
        Self {
            addresses: Addresses::One(place),
            hostname: None,
            weight: Weight::ONE,
            health: HealthStatus::Unknown,
            metadata: None,
        }
    }

    /// The same endpoint elsewhere, if there is any place.
    pub fn moved_to<B>(&self, places: impl IntoIterator<Item = B>) -> Option<Endpoint<B>> {
        Some(Endpoint {
            addresses: Addresses::of(places)?,
            hostname: self.hostname.clone(),
            weight: self.weight,
            health: self.health,
            metadata: self.metadata.clone(),
        })
    }

    /// Further addresses of the same endpoint, tried after the first (`additional_addresses`, gRFC A61).
    #[must_use]
    pub fn with_additional(mut self, further: impl IntoIterator<Item = A>) -> Self {
        self.addresses = self.addresses.and(further);
        self
    }

    /// The name of the endpoint, for SNI and host rewrite.
    #[must_use]
    pub fn with_hostname(mut self, hostname: impl Into<Arc<str>>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Its share among the endpoints of its locality.
    #[must_use]
    pub fn with_weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// What is known of its health.
    #[must_use]
    pub fn with_health(mut self, health: HealthStatus) -> Self {
        self.health = health;
        self
    }

    /// Facts about it.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Arc<Metadata>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// The first address.
    pub fn address(&self) -> &A {
        &self.addresses()[0]
    }

    /// All addresses, in order; at least one.
    pub fn addresses(&self) -> &[A] {
        self.addresses.as_slice()
    }

    /// Its name, if it has one.
    pub fn hostname(&self) -> Option<&Arc<str>> {
        self.hostname.as_ref()
    }

    /// Its weight.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// What is known of its health.
    pub fn health(&self) -> HealthStatus {
        self.health
    }

    /// Facts about it.
    pub fn metadata(&self) -> Option<&Arc<Metadata>> {
        self.metadata.as_ref()
    }
}

// === impl Addresses ===

impl<A> Addresses<A> {
    fn of(places: impl IntoIterator<Item = A>) -> Option<Self> {
        let mut places = places.into_iter();
        places.next().map(|first| Self::One(first).and(places))
    }

    fn and(self, further: impl IntoIterator<Item = A>) -> Self {
        let mut all = match self {
            Self::One(address) => vec![address],
            Self::Several(addresses) => addresses.into_vec(),
        };
        all.extend(further);
        match <[A; 1]>::try_from(all) {
            Ok([address]) => Self::One(address),
            Err(several) => Self::Several(several.into()),
        }
    }

    fn as_slice(&self) -> &[A] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
        }
    }
}

// === impl Address ===

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Metadata ===

impl Metadata {
    /// The text at `key` of `namespace`.
    pub fn text(&self, namespace: &str, key: &str) -> Option<&str> {
        match self.0.get(namespace)?.get(key)? {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn group(priority: u32, zone: &str, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
        let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
        LocalityEndpoints { locality, weight: Some(Weight::ONE), priority, endpoints }
    }

    #[test]
    fn gap_in_priorities_is_refused() {
        let error = Endpoints::new(vec![group(2, "a", vec![]), group(0, "a", vec![])]).expect_err("1 is missing");
        assert!(error.remedy().contains("priority 1"), "{error}");
    }

    #[test]
    fn locality_may_stand_at_two_priorities_but_not_twice_at_one() {
        assert!(Endpoints::new(vec![group(0, "a", vec![]), group(1, "a", vec![])]).is_ok());
        assert!(Endpoints::new(vec![group(0, "a", vec![]), group(0, "a", vec![])]).is_err());
    }

    #[test]
    fn address_listed_twice_is_refused_by_its_place() {
        let groups = vec![group(0, "a", vec![endpoint(1)]), group(0, "b", vec![endpoint(2), endpoint(1)])];
        let error = Endpoints::new(groups).expect_err("127.0.0.1:1 twice");
        assert_eq!(error.field(), "endpoints[1].lb_endpoints[1].address");
    }

    #[test]
    fn endpoint_of_one_address_is_a_small_record() {
        assert!(size_of::<Endpoint>() <= 64);
    }

    #[test]
    fn further_addresses_follow_the_first() {
        let places = |endpoint: &Endpoint| endpoint.addresses().to_vec();
        let one = endpoint(1).with_additional([]);
        assert_eq!((places(&one), &one), (places(&endpoint(1)), &endpoint(1)));
        let three = one.with_additional(places(&endpoint(2))).with_additional(places(&endpoint(3)));
        assert_eq!(places(&three), [places(&endpoint(1)), places(&endpoint(2)), places(&endpoint(3))].concat());
        assert_eq!(three.moved_to(places(&endpoint(1))), Some(endpoint(1)));
        assert_eq!(three.moved_to::<Address>([]), None);
    }

    #[test]
    fn weights_past_32_bits_are_refused() {
        let heavy = |port| endpoint(port).with_weight(Weight::new(u32::MAX).expect("not zero"));
        assert!(Endpoints::flat(vec![heavy(1)]).is_ok());
        assert!(Endpoints::flat(vec![heavy(1), heavy(2)]).is_err());
    }
}
