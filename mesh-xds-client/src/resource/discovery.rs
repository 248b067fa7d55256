//! Where the endpoints of a cluster come from (`Cluster.cluster_discovery_type`).
//!
//! EDS, DNS, endpoints in the cluster itself and other clusters are honoured; DNS both as `type` and as the newer
//! `envoy.extensions.clusters.dns.v3.DnsCluster`. Of any other way the cluster says itself that it is
//! [not honoured](Discovery::Unsupported): whether that is refused or kept depends on who asked for it. What Istio's
//! sidecars find in that way is found here as the application would have.

use std::sync::Arc;

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            self as pb,
            cluster::{
                ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily as LegacyFamily,
                EdsClusterConfig, LbPolicy,
            },
        },
        endpoint::v3::ClusterLoadAssignment,
    },
    extensions::clusters::{
        aggregate::v3::ClusterConfig,
        common::dns::v3::DnsLookupFamily,
        dns::v3::{DnsCluster, dns_cluster},
    },
};
use mesh_core::config::{
    AddressFamily, Aggregate, Backoff, ConfigError, Discovery, DnsEndpoints, DnsName, Endpoints, Host, LookUp,
};

use super::{
    Context,
    common::{duration, is, message_name, positive, same_source, told_as, unpack},
    endpoints,
    notes::{IsSet, Notes, warn_if_set},
};
use crate::istio::names::OutboundService;

/// What is said of a cluster whose endpoints are found in another way.
pub(super) const REMEDY: &str = "use EDS, STRICT_DNS, LOGICAL_DNS, STATIC, a DnsCluster or an aggregate cluster";

/// A way to find endpoints, with all that is said of it but the endpoints.
enum Way {
    Eds,
    Static,
    Dns {
        is_logical: bool,
        look_up: LookUp,
    },
    /// There is no more to say.
    Told(Discovery),
}

/// Takes out of `message` where the endpoints of the cluster `name` come from.
pub(super) fn take(
    name: &Arc<str>,
    message: &mut pb::Cluster,
    context: &Context,
    notes: &mut Notes,
) -> Result<Discovery, ConfigError> {
    let way = match message.cluster_discovery_type.take() {
        None => Way::Static,
        Some(ClusterDiscoveryType::Type(number)) => {
            let kind = DiscoveryType::try_from(number).map_err(|_| ConfigError::new("type", number, REMEDY))?;
            let service = context.service(name).filter(|_| kind == DiscoveryType::OriginalDst);
            match service.and_then(callers_own) {
                Some(discovery) => unintercepted(discovery, message, notes),
                None => built_in(kind, message, notes)?,
            }
        }
        Some(ClusterDiscoveryType::ClusterType(message)) => notes.at("cluster_type", message, custom)?,
    };
    if message.eds_cluster_config.is_some() && !matches!(way, Way::Eds | Way::Told(Discovery::Unsupported(_))) {
        // Envoy's rule: whoever says how endpoints are asked for means a cluster that asks for them. What is not known here
        // is refused by its name.
        return Err(ConfigError::new("eds_cluster_config", "set", "set it in clusters of type EDS only"));
    }
    let assigned = message.load_assignment.take();
    match way {
        Way::Told(discovery) => Ok(discovery),
        Way::Eds => {
            let eds = message.eds_cluster_config.take();
            notes
                .required("eds_cluster_config", eds, |eds, notes| service_name(name, eds, notes))
                .map(Discovery::Endpoints)
        }
        Way::Static => {
            let endpoints = notes.opt("load_assignment", assigned, endpoints::inline)?;
            Ok(Discovery::Static(Arc::new(endpoints.unwrap_or_else(Endpoints::none))))
        }
        Way::Dns { is_logical, look_up } => {
            notes.required("load_assignment", assigned, |message, notes| dns(message, is_logical, look_up, notes))
        }
    }
}

fn built_in(kind: DiscoveryType, message: &mut pb::Cluster, notes: &mut Notes) -> Result<Way, ConfigError> {
    Ok(match kind {
        DiscoveryType::Eds => Way::Eds,
        DiscoveryType::Static => Way::Static,
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let look_up = look_up(dns_fields(message)?, notes)?;
            Way::Dns { is_logical: kind == DiscoveryType::LogicalDns, look_up }
        }
        DiscoveryType::OriginalDst => {
            notes.warn("type", "no connection is intercepted here; requests to the cluster fail");
            Way::Told(Discovery::Unsupported("original destination is not supported".into()))
        }
    })
}

/// Where whoever calls a service would have looked for it, had a sidecar intercepted the connection: at the endpoints of a
/// Kubernetes service without an address of its own (`clusterIP: None`), which istiod tells to whoever asks for them, and for a
/// `ServiceEntry` with `resolution: NONE` in DNS.
fn callers_own(service: OutboundService<'_>) -> Option<Discovery> {
    if service.is_of_kubernetes() {
        return Some(Discovery::Endpoints(service.cluster.into()));
    }
    let host = DnsName::new(service.host, service.port).ok()?;
    Some(Discovery::Dns(Arc::new(DnsEndpoints::strict(Endpoints::by_name([host]).ok()?))))
}

fn unintercepted(discovery: Discovery, message: &mut pb::Cluster, notes: &mut Notes) -> Way {
    notes.warn("type", "no connection is intercepted here; requests go where their sender would look for the service");
    // It has no word for who is picked. This is what Istio says where nobody says anything.
    message.lb_policy = LbPolicy::LeastRequest.into();
    Way::Told(discovery)
}

/// Whether the endpoints are waited for however long they take, as Istio says of each cluster.
pub(super) fn is_patient(message: &pb::Cluster) -> bool {
    let source = message.eds_cluster_config.as_ref().and_then(|eds| eds.eds_config.as_ref());
    source.and_then(|source| source.initial_fetch_timeout).is_some_and(|patience| patience == Default::default())
}

fn service_name(cluster: &Arc<str>, message: EdsClusterConfig, notes: &mut Notes) -> Result<Arc<str>, ConfigError> {
    same_source("eds_config", message.eds_config.as_ref(), notes)?;
    if message.service_name.is_set() {
        return Ok(message.service_name.into());
    }
    if cluster.starts_with("xdstp:") {
        return Err(ConfigError::new("service_name", "", "name the endpoints of a cluster that has an xdstp name"));
    }
    Ok(cluster.clone())
}

// --- extensions ---

fn custom(message: CustomClusterType, notes: &mut Notes) -> Result<Way, ConfigError> {
    let name = message.name;
    notes.required("typed_config", message.typed_config, |config, notes| {
        if is::<ClusterConfig>(&config) {
            let aggregate = Aggregate::of(unpack::<ClusterConfig>(&config)?.clusters)?;
            return Ok(Way::Told(Discovery::Aggregate(Arc::new(aggregate))));
        }
        if is::<DnsCluster>(&config) {
            let message = unpack::<DnsCluster>(&config)?;
            let is_logical = message.all_addresses_in_single_endpoint;
            return Ok(Way::Dns { is_logical, look_up: look_up(message, notes)? });
        }
        let what = message_name(&config.type_url);
        notes.warn("type_url", format!("{what} is not known here; requests to the cluster fail"));
        Ok(Way::Told(Discovery::Unsupported(format!("cluster type `{name}` ({what}) is not supported").into())))
    })
}

// --- DNS ---

fn dns(
    message: ClusterLoadAssignment,
    is_logical: bool,
    look_up: LookUp,
    notes: &mut Notes,
) -> Result<Discovery, ConfigError> {
    let hosts = endpoints::by_name(message, notes)?;
    if is_logical {
        let dns = DnsEndpoints::logical(hosts)?.looked_up(look_up)?;
        return Ok(Discovery::Dns(Arc::new(dns)));
    }
    if hosts.is_empty() {
        return Err(ConfigError::new("endpoints", "[]", "name at least one host"));
    }
    if let Some(endpoints) = all_addresses(&hosts) {
        // An IP address needs no resolver.
        return Ok(Discovery::Static(Arc::new(endpoints?)));
    }
    Ok(Discovery::Dns(Arc::new(DnsEndpoints::strict(hosts).looked_up(look_up)?)))
}

/// The endpoints, if none is given by name.
fn all_addresses(hosts: &Endpoints<Host>) -> Option<Result<Endpoints, ConfigError>> {
    let strict = DnsEndpoints::strict(hosts.clone());
    strict.names().is_empty().then(|| strict.resolved(|_| &[]))
}

/// What a cluster says of DNS in its own fields, which [`DnsCluster`] took over.
#[expect(deprecated, reason = "these came before the extension and are still sent")]
fn dns_fields(message: &mut pb::Cluster) -> Result<DnsCluster, ConfigError> {
    let family = LegacyFamily::try_from(message.dns_lookup_family)
        .map_err(|_| ConfigError::new("dns_lookup_family", message.dns_lookup_family, "use a family that there is"));
    let rate = message.dns_failure_refresh_rate.take();
    let resolver = message.typed_dns_resolver_config.take();
    Ok(DnsCluster {
        dns_refresh_rate: message.dns_refresh_rate.take(),
        dns_failure_refresh_rate: rate.map(|rate| dns_cluster::RefreshRate {
            base_interval: rate.base_interval,
            max_interval: rate.max_interval,
        }),
        respect_dns_ttl: message.respect_dns_ttl,
        dns_jitter: message.dns_jitter.take(),
        typed_dns_resolver_config: resolver,
        dns_lookup_family: match family? {
            LegacyFamily::Auto => DnsLookupFamily::Auto,
            LegacyFamily::V4Only => DnsLookupFamily::V4Only,
            LegacyFamily::V6Only => DnsLookupFamily::V6Only,
            LegacyFamily::V4Preferred => DnsLookupFamily::V4Preferred,
            LegacyFamily::All => DnsLookupFamily::All,
        } as i32,
        ..DnsCluster::default()
    })
}

/// How names are looked up. Where neither a rate nor the records are to count the records do: Envoy's default of every five
/// seconds is for a resolver that knows nothing of them.
fn look_up(message: DnsCluster, notes: &mut Notes) -> Result<LookUp, ConfigError> {
    warn_if_set!(notes, message, "names are looked up with the resolver of the process", [typed_dns_resolver_config]);
    let refresh = duration("dns_refresh_rate", message.dns_refresh_rate)?;
    let least = duration("dns_min_refresh_rate", message.dns_min_refresh_rate)?;
    let silent = LookUp::default();
    LookUp {
        refresh,
        follows_records: message.respect_dns_ttl || refresh.is_none(),
        least_validity: least.unwrap_or(silent.least_validity),
        failure: notes
            .opt("dns_failure_refresh_rate", message.dns_failure_refresh_rate, failure_rate)?
            .unwrap_or(silent.failure),
        jitter: duration("dns_jitter", message.dns_jitter)?.unwrap_or_default(),
        family: family(message.dns_lookup_family)?,
    }
    .validated()
}

/// The wait after failures, which Envoy lets grow tenfold unless told otherwise.
fn failure_rate(message: dns_cluster::RefreshRate, _: &mut Notes) -> Result<Backoff, ConfigError> {
    let Some(base) = positive("base_interval", message.base_interval)? else {
        return Err(ConfigError::new("base_interval", "", "set this field"));
    };
    let max = positive("max_interval", message.max_interval)?.unwrap_or(base.saturating_mul(10));
    Backoff::new(base, max).map_err(|error| told_as("max_interval", &error))
}

fn family(number: i32) -> Result<AddressFamily, ConfigError> {
    match DnsLookupFamily::try_from(number) {
        Ok(DnsLookupFamily::Unspecified | DnsLookupFamily::Auto) => Ok(AddressFamily::V6Preferred),
        Ok(DnsLookupFamily::V4Only) => Ok(AddressFamily::V4Only),
        Ok(DnsLookupFamily::V6Only) => Ok(AddressFamily::V6Only),
        Ok(DnsLookupFamily::V4Preferred) => Ok(AddressFamily::V4Preferred),
        Ok(DnsLookupFamily::All) => Ok(AddressFamily::All),
        Err(_) => Err(ConfigError::new("dns_lookup_family", number, "use a family that there is")),
    }
}
