//! Endpoints by locality and priority (`ClusterLoadAssignment`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
    google::protobuf::{Struct, Value, value::Kind},
};
use mesh_core::config::{
    Address, ConfigError, DropOverload, Endpoint, Endpoints, HealthStatus, Locality, LocalityEndpoints, Metadata,
    MetadataValue, Weight,
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

/// Values that many endpoints share, kept once.
#[derive(Default)]
struct Interner {
    localities: HashMap<Locality, Arc<Locality>>,
    /// By hash, since metadata holds floating-point numbers and cannot be a key itself.
    metadata: HashMap<u64, Vec<Arc<Metadata>>>,
}

/// An endpoint resource: the cluster that it is for, and its endpoints.
pub(super) fn decode(
    message: pb::ClusterLoadAssignment,
    notes: &mut Notes,
) -> Result<(Arc<str>, Endpoints), ConfigError> {
    let cluster = filled("cluster_name", message.cluster_name.clone(), "name the cluster")?;
    Ok((cluster.into(), assignment(message, Place::Required, notes)?))
}

/// The endpoints of an assignment, wherever it stands.
pub(super) fn assignment(
    message: pb::ClusterLoadAssignment,
    place: Place,
    notes: &mut Notes,
) -> Result<Endpoints, ConfigError> {
    let mut interner = Interner::default();
    let mut groups =
        notes.each("endpoints", message.endpoints, |message, notes| group(message, place, &mut interner, notes))?;
    leave_out_repeated(&mut groups, notes);
    let endpoints = Endpoints::new(groups)?;
    match message.policy {
        Some(message) => notes.at("policy", message, |message, notes| with_policy(endpoints, message, notes)),
        None => Ok(endpoints),
    }
}

fn with_policy(endpoints: Endpoints, message: Policy, notes: &mut Notes) -> Result<Endpoints, ConfigError> {
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

/// Leaves out endpoints that stand in an earlier group already, as Envoy does: Istio lists the gateway of a remote network
/// in each locality behind it. Within one group a repetition is a mistake, and refused.
fn leave_out_repeated(groups: &mut [LocalityEndpoints], notes: &mut Notes) {
    let mut first = HashMap::new();
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
        return;
    }
    for (g, group) in groups.iter_mut().enumerate() {
        let mut places = 0..;
        group.endpoints.retain(|_| places.next().is_some_and(|e| !repeated.contains(&(g, e))));
    }
}

fn drop_overload(message: policy::DropOverload, _: &mut Notes) -> Result<DropOverload, ConfigError> {
    let category = filled("category", message.category, "name the category")?;
    let Some(share) = message.drop_percentage else {
        return Err(ConfigError::new("drop_percentage", "", "set this field"));
    };
    Ok(DropOverload { category: category.into(), share: fraction("drop_percentage", share)? })
}

#[expect(deprecated, reason = "a list of its own came for the endpoints and went, and is still read")]
fn group(
    message: pb::LocalityLbEndpoints,
    place: Place,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Result<LocalityEndpoints, ConfigError> {
    warn_if_set!(notes, message, "it is not known here", [metadata]);
    if message.locality.is_none() && place == Place::Required {
        return Err(ConfigError::new("locality", "", "set this field; it may be empty"));
    }
    let endpoints = match message.lb_config {
        Some(LbConfig::LoadBalancerEndpoints(list)) => list.lb_endpoints,
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(ConfigError::new("leds_cluster_locality_config", "", "list the endpoints in lb_endpoints"));
        }
        None => message.lb_endpoints,
    };
    Ok(LocalityEndpoints {
        locality: interner.locality(message.locality.unwrap_or_default()),
        weight: number(message.load_balancing_weight).and_then(|weight| Weight::new(weight).ok()),
        priority: message.priority,
        endpoints: notes.each("lb_endpoints", endpoints, |message, notes| endpoint(message, interner, notes))?,
    })
}

fn endpoint(message: pb::LbEndpoint, interner: &mut Interner, notes: &mut Notes) -> Result<Endpoint, ConfigError> {
    let (first, further, hostname) = match message.host_identifier {
        Some(HostIdentifier::Endpoint(message)) => notes.at("endpoint", message, addresses)?,
        Some(HostIdentifier::EndpointName(name)) => {
            return Err(ConfigError::new("endpoint_name", name, "set `endpoint`"));
        }
        None => return Err(ConfigError::new("endpoint", "", "set this field")),
    };
    let mut endpoint = Endpoint::new(first).with_additional(further).with_health(health(message.health_status, notes));
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
fn addresses(message: pb::Endpoint, notes: &mut Notes) -> Result<(Address, Vec<Address>, String), ConfigError> {
    let first = notes.required("address", message.address, address)?;
    let further = notes.each("additional_addresses", message.additional_addresses, |further, notes| {
        notes.required("address", further.address, address)
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

/// The port of an address over TCP.
pub(super) fn port(message: &core::SocketAddress) -> Result<u16, ConfigError> {
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

fn metadata(message: core::Metadata, notes: &mut Notes) -> Metadata {
    warn_if_set!(notes, message, "only filter_metadata is read", [typed_filter_metadata]);
    let facts = message.filter_metadata.into_iter();
    Metadata(facts.map(|(namespace, facts)| (namespace.into(), map(facts))).collect())
}

fn map(message: Struct) -> BTreeMap<Arc<str>, MetadataValue> {
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

// === impl Interner ===

impl Interner {
    fn locality(&mut self, message: core::Locality) -> Arc<Locality> {
        let core::Locality { region, zone, sub_zone } = message;
        let locality = Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() };
        let shared = self.localities.entry(locality).or_insert_with_key(|locality| Arc::new(locality.clone()));
        Arc::clone(shared)
    }

    fn metadata(&mut self, metadata: Metadata) -> Arc<Metadata> {
        let mut hasher = DefaultHasher::new();
        for (namespace, facts) in &metadata.0 {
            namespace.hash(&mut hasher);
            hash_map(facts, &mut hasher);
        }
        let alike = self.metadata.entry(hasher.finish()).or_default();
        if let Some(equal) = alike.iter().find(|earlier| ***earlier == metadata) {
            return Arc::clone(equal);
        }
        let shared = Arc::new(metadata);
        alike.push(Arc::clone(&shared));
        shared
    }
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
