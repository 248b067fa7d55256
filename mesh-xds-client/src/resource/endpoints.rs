//! Endpoints by locality and priority (`ClusterLoadAssignment`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use envoy_types::pb::{
    envoy::config::{
        core::v3::{self as core, address::Address as WireAddress, socket_address},
        endpoint::v3::{
            self as pb,
            cluster_load_assignment::{Policy, policy},
            lb_endpoint::HostIdentifier,
            locality_lb_endpoints::LbConfig,
        },
    },
    google::protobuf::{Struct, UInt32Value, Value, value::Kind},
};
use mesh_core::config::{
    Address, ConfigError, DnsName, DropOverload, Endpoint, Endpoints, HealthStatus, Host, Locality, LocalityEndpoints,
    Metadata, MetadataValue, Weight,
};

use super::{
    common::{filled, fraction, number, told_as},
    notes::{IsSet, Notes, warn_if_set},
};

/// Whether a group of endpoints has to say where it is: in EDS it does (gRFC A27), inside a cluster it need not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Required,
    Optional,
}

/// A group of endpoints that are messages already, or still bytes.
pub(super) struct Group<M> {
    pub(super) locality: Option<core::Locality>,
    pub(super) endpoints: Vec<M>,
    pub(super) load_balancing_weight: Option<UInt32Value>,
    pub(super) priority: u32,
    pub(super) metadata: Option<core::Metadata>,
    /// Whether the endpoints are said to be found elsewhere.
    pub(super) is_referred: bool,
}

/// Metadata that many endpoints share, kept once.
#[derive(Default)]
pub(super) struct Interner<'a> {
    /// By hash, since metadata holds floating-point numbers and cannot be a key itself.
    metadata: HashMap<u64, Vec<Arc<Metadata>>>,
    /// What endpoints of the version before share. Taken by the first endpoint that has metadata.
    former: Option<&'a Endpoints>,
}

/// The endpoints of an assignment that stands in a cluster.
pub(super) fn inline(message: pb::ClusterLoadAssignment, notes: &mut Notes) -> Result<Endpoints, ConfigError> {
    let groups = message.endpoints.into_iter().map(Group::from).collect();
    let mut interner = Interner::default();
    let read = |message, notes: &mut Notes| endpoint(message, &mut interner, notes);
    let (endpoints, _) = assignment(groups, message.policy, Place::Optional, read, notes)?;
    Ok(endpoints)
}

/// The endpoints of an assignment that stands in a cluster, which may be given by name.
pub(super) fn by_name(message: pb::ClusterLoadAssignment, notes: &mut Notes) -> Result<Endpoints<Host>, ConfigError> {
    let groups = message.endpoints.into_iter().map(Group::from).collect();
    let mut interner = Interner::default();
    let read = |message, notes: &mut Notes| endpoint_at(message, host, &mut interner, notes);
    let (endpoints, _) = assignment(groups, message.policy, Place::Optional, read, notes)?;
    Ok(endpoints)
}

/// The endpoints of these groups, and whether each of them is there: what was listed before is left out.
pub(super) fn assignment<M, A: Eq + Hash + Display>(
    groups: Vec<Group<M>>,
    policy: Option<Policy>,
    place: Place,
    mut read: impl FnMut(M, &mut Notes) -> Result<Endpoint<A>, ConfigError>,
    notes: &mut Notes,
) -> Result<(Endpoints<A>, IsWhole), ConfigError> {
    let mut groups = notes.each("endpoints", groups, |message, notes| group(message, place, &mut read, notes))?;
    share_localities(&mut groups);
    let is_whole = !leave_out_repeated(&mut groups, notes);
    let endpoints = Endpoints::new(groups)?;
    let endpoints = match policy {
        Some(message) => notes.at("policy", message, |message, notes| with_policy(endpoints, message, notes))?,
        None => endpoints,
    };
    Ok((endpoints, is_whole))
}

/// Whether nothing was left out.
pub(super) type IsWhole = bool;

fn with_policy<A>(endpoints: Endpoints<A>, message: Policy, notes: &mut Notes) -> Result<Endpoints<A>, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "endpoints are treated as without it",
        [endpoint_stale_after, weighted_priority_health]
    );
    let endpoints = endpoints.with_drops(notes.each("drop_overloads", message.drop_overloads, drop_overload)?);
    match number(message.overprovisioning_factor) {
        Some(factor) => {
            endpoints.with_overprovisioning(factor).map_err(|error| told_as("overprovisioning_factor", &error))
        }
        None => Ok(endpoints),
    }
}

/// A place that is named at several priorities is kept once.
fn share_localities<A>(groups: &mut [LocalityEndpoints<A>]) {
    let mut known = HashSet::new();
    for group in groups {
        match known.get(&group.locality) {
            Some(shared) => group.locality = Arc::clone(shared),
            None => drop(known.insert(Arc::clone(&group.locality))),
        }
    }
}

/// Leaves out endpoints that stand in an earlier group already, as Envoy does: Istio lists the gateway of a remote network
/// in each locality behind it. Within one group a repetition is a mistake, and refused. Returns whether there were any.
fn leave_out_repeated<A: Eq + Hash>(groups: &mut [LocalityEndpoints<A>], notes: &mut Notes) -> bool {
    if groups.len() < 2 {
        return false;
    }
    let mut first = HashMap::with_capacity(groups.iter().map(|group| group.endpoints.len()).sum());
    let mut repeated = HashSet::new();
    for (g, group) in groups.iter().enumerate() {
        for (e, endpoint) in group.endpoints.iter().enumerate() {
            let earliest = *first.entry((endpoint.addresses(), endpoint.hostname())).or_insert(g);
            if earliest != g {
                notes.warn(format!("endpoints[{g}].lb_endpoints[{e}]"), "listed before, and left out here");
                repeated.insert((g, e));
            }
        }
    }
    if repeated.is_empty() {
        return false;
    }
    for (g, group) in groups.iter_mut().enumerate() {
        let mut places = 0..;
        group.endpoints.retain(|_| places.next().is_some_and(|e| !repeated.contains(&(g, e))));
    }
    true
}

fn drop_overload(message: policy::DropOverload, _: &mut Notes) -> Result<DropOverload, ConfigError> {
    let category = filled("category", message.category, "name the category")?;
    let Some(share) = message.drop_percentage else {
        return Err(ConfigError::new("drop_percentage", "", "set this field"));
    };
    Ok(DropOverload { category: category.into(), share: fraction("drop_percentage", share)? })
}

fn group<M, A>(
    message: Group<M>,
    place: Place,
    read: impl FnMut(M, &mut Notes) -> Result<Endpoint<A>, ConfigError>,
    notes: &mut Notes,
) -> Result<LocalityEndpoints<A>, ConfigError> {
    warn_if_set!(notes, message, "it is not known here", [metadata]);
    if message.locality.is_none() && place == Place::Required {
        return Err(ConfigError::new("locality", "", "set this field; it may be empty"));
    }
    if message.is_referred {
        return Err(ConfigError::new("leds_cluster_locality_config", "", "list the endpoints in lb_endpoints"));
    }
    Ok(LocalityEndpoints {
        locality: Arc::new(locality(message.locality.unwrap_or_default())),
        weight: number(message.load_balancing_weight).and_then(|weight| Weight::new(weight).ok()),
        priority: message.priority,
        endpoints: notes.each("lb_endpoints", message.endpoints, read)?,
    })
}

fn locality(message: core::Locality) -> Locality {
    let core::Locality { region, zone, sub_zone } = message;
    Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() }
}

/// One endpoint.
pub(super) fn endpoint(
    message: pb::LbEndpoint,
    interner: &mut Interner<'_>,
    notes: &mut Notes,
) -> Result<Endpoint, ConfigError> {
    endpoint_at(message, address, interner, notes)
}

/// One endpoint, whose place `read` reads.
fn endpoint_at<A>(
    message: pb::LbEndpoint,
    read: fn(core::Address, &mut Notes) -> Result<A, ConfigError>,
    interner: &mut Interner<'_>,
    notes: &mut Notes,
) -> Result<Endpoint<A>, ConfigError> {
    let (first, further, hostname) = match message.host_identifier {
        Some(HostIdentifier::Endpoint(message)) => {
            notes.at("endpoint", message, |message, notes| addresses(message, read, notes))?
        }
        Some(HostIdentifier::EndpointName(name)) => {
            return Err(ConfigError::new("endpoint_name", name, "set `endpoint`"));
        }
        None => return Err(ConfigError::new("endpoint", "", "set this field")),
    };
    let mut endpoint = Endpoint::at(first).with_health(health(message.health_status, notes));
    if !further.is_empty() {
        endpoint = endpoint.with_additional(further);
    }
    if hostname.is_set() {
        endpoint = endpoint.with_hostname(hostname);
    }
    if let Some(weight) = number(message.load_balancing_weight) {
        let weight = Weight::new(weight).map_err(|error| told_as("load_balancing_weight", &error))?;
        endpoint = endpoint.with_weight(weight);
    }
    if let Some(message) = message.metadata {
        endpoint = endpoint.with_metadata(interner.metadata(metadata(message, notes)));
    }
    Ok(endpoint)
}

/// The address of an endpoint, its further ones, and its hostname.
fn addresses<A>(
    message: pb::Endpoint,
    read: fn(core::Address, &mut Notes) -> Result<A, ConfigError>,
    notes: &mut Notes,
) -> Result<(A, Vec<A>, String), ConfigError> {
    let first = notes.required("address", message.address, read)?;
    let further = notes.each("additional_addresses", message.additional_addresses, |further, notes| {
        notes.required("address", further.address, read)
    })?;
    Ok((first, further, message.hostname))
}

fn address(message: core::Address, notes: &mut Notes) -> Result<Address, ConfigError> {
    match message.address {
        Some(WireAddress::SocketAddress(message)) => notes.at("socket_address", message, |message, _| {
            let port = port(&message)?;
            match message.address.parse::<IpAddr>() {
                Ok(ip) => Ok(Address::Socket(SocketAddr::new(ip, port))),
                Err(_) => Err(ConfigError::new("address", message.address, "give an IP address")),
            }
        }),
        Some(WireAddress::Pipe(pipe)) => {
            let path = filled("pipe.path", pipe.path, "give the path of a socket")?;
            Ok(Address::Unix(Path::new(&path).into()))
        }
        Some(WireAddress::EnvoyInternalAddress(_)) => {
            Err(ConfigError::new("envoy_internal_address", "", "set socket_address or pipe"))
        }
        None => Err(ConfigError::new("address", "", "set socket_address or pipe")),
    }
}

/// Where an endpoint is that may be given by name; without a resolver of its own, since DNS is all there is here.
fn host(message: core::Address, notes: &mut Notes) -> Result<Host, ConfigError> {
    let Some(WireAddress::SocketAddress(message)) = message.address else {
        return Err(ConfigError::new("socket_address", "", "set this field"));
    };
    notes.at("socket_address", message, |message, _| {
        if message.resolver_name.is_set() {
            return Err(ConfigError::new("resolver_name", &message.resolver_name, "leave it empty, for DNS"));
        }
        let port = port(&message)?;
        if let Ok(ip) = message.address.parse::<IpAddr>() {
            return Ok(Host::Address(SocketAddr::new(ip, port).into()));
        }
        DnsName::new(message.address, port).map(Host::Name).map_err(|error| {
            let field = if error.field() == "port" { "port_value" } else { "address" };
            told_as(field, &error)
        })
    })
}

/// The port of an address over TCP.
fn port(message: &core::SocketAddress) -> Result<u16, ConfigError> {
    if message.protocol != socket_address::Protocol::Tcp as i32 {
        return Err(ConfigError::new("protocol", message.protocol, "use TCP"));
    }
    match &message.port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| ConfigError::new("port_value", port, "give a port up to 65535"))
        }
        Some(socket_address::PortSpecifier::NamedPort(name)) => {
            Err(ConfigError::new("named_port", name, "give port_value"))
        }
        None => Err(ConfigError::new("port_value", "", "set this field")),
    }
}

fn health(number: i32, notes: &mut Notes) -> HealthStatus {
    match core::HealthStatus::try_from(number) {
        Ok(core::HealthStatus::Unknown) => HealthStatus::Unknown,
        Ok(core::HealthStatus::Healthy) => HealthStatus::Healthy,
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => HealthStatus::Unhealthy,
        Ok(core::HealthStatus::Draining) => HealthStatus::Draining,
        Ok(core::HealthStatus::Degraded) => HealthStatus::Degraded,
        Err(_) => {
            notes.warn("health_status", "this status is not known here and taken for unhealthy");
            HealthStatus::Unhealthy
        }
    }
}

/// Facts by namespace.
pub(super) fn metadata(message: core::Metadata, notes: &mut Notes) -> Metadata {
    warn_if_set!(notes, message, "only filter_metadata is read", [typed_filter_metadata]);
    let facts = message.filter_metadata.into_iter();
    Metadata(facts.map(|(namespace, facts)| (namespace.into(), map(facts))).collect())
}

/// Facts by name.
pub(super) fn map(message: Struct) -> BTreeMap<Arc<str>, MetadataValue> {
    message.fields.into_iter().map(|(key, fact)| (key.into(), value(fact))).collect()
}

/// Nesting is bounded: the protobuf decoder refuses more than a hundred levels.
fn value(message: Value) -> MetadataValue {
    match message.kind {
        Some(Kind::NullValue(_)) | None => MetadataValue::Null,
        Some(Kind::BoolValue(truth)) => MetadataValue::Bool(truth),
        Some(Kind::NumberValue(number)) => MetadataValue::Number(number),
        Some(Kind::StringValue(text)) => MetadataValue::String(text.into()),
        Some(Kind::ListValue(list)) => MetadataValue::List(list.values.into_iter().map(value).collect()),
        Some(Kind::StructValue(fields)) => MetadataValue::Map(map(fields)),
    }
}

// === impl Group ===

impl From<pb::LocalityLbEndpoints> for Group<pb::LbEndpoint> {
    #[expect(deprecated, reason = "a list of its own came for the endpoints and went, and is still read")]
    fn from(message: pb::LocalityLbEndpoints) -> Self {
        let (endpoints, is_referred) = match message.lb_config {
            Some(LbConfig::LoadBalancerEndpoints(list)) => (list.lb_endpoints, false),
            Some(LbConfig::LedsClusterLocalityConfig(_)) => (Vec::new(), true),
            None => (message.lb_endpoints, false),
        };
        Self {
            locality: message.locality,
            endpoints,
            load_balancing_weight: message.load_balancing_weight,
            priority: message.priority,
            metadata: message.metadata,
            is_referred,
        }
    }
}

// === impl Interner ===

impl<'a> Interner<'a> {
    /// Shares with the version before what is the same there.
    pub(super) fn after(former: Option<&'a Endpoints>) -> Self {
        Self { former, ..Self::default() }
    }

    fn metadata(&mut self, metadata: Metadata) -> Arc<Metadata> {
        if let Some(former) = self.former.take() {
            self.adopt(former);
        }
        let alike = self.metadata.entry(hash(&metadata)).or_default();
        if let Some(equal) = alike.iter().find(|earlier| ***earlier == metadata) {
            return Arc::clone(equal);
        }
        let shared = Arc::new(metadata);
        alike.push(Arc::clone(&shared));
        shared
    }

    fn adopt(&mut self, former: &Endpoints) {
        let mut seen = HashSet::new();
        for metadata in former.groups().iter().flat_map(|group| &group.endpoints).filter_map(Endpoint::metadata) {
            if seen.insert(Arc::as_ptr(metadata)) {
                self.metadata.entry(hash(metadata)).or_default().push(Arc::clone(metadata));
            }
        }
    }
}

fn hash(metadata: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (namespace, facts) in &metadata.0 {
        namespace.hash(&mut hasher);
        hash_map(facts, &mut hasher);
    }
    hasher.finish()
}

fn hash_map(facts: &BTreeMap<Arc<str>, MetadataValue>, hasher: &mut DefaultHasher) {
    for (key, fact) in facts {
        key.hash(hasher);
        hash_value(fact, hasher);
    }
}

fn hash_value(fact: &MetadataValue, hasher: &mut DefaultHasher) {
    std::mem::discriminant(fact).hash(hasher);
    match fact {
        MetadataValue::Bool(truth) => truth.hash(hasher),
        MetadataValue::Number(number) => number.to_bits().hash(hasher),
        MetadataValue::String(text) => text.hash(hasher),
        MetadataValue::List(list) => list.iter().for_each(|fact| hash_value(fact, hasher)),
        MetadataValue::Map(fields) => hash_map(fields, hasher),
        _ => {}
    }
}
