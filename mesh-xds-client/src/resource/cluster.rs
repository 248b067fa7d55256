//! A cluster: where its endpoints come from, and how they are treated (`Cluster`).

use std::{net::IpAddr, sync::Arc};

use envoy_types::pb::envoy::config::{
    cluster::v3::{
        self as pb,
        cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
    },
    core::v3::{self as core, address::Address as WireAddress},
    endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
};
use mesh_core::config::{Cluster, ClusterPolicy, ConfigError, Discovery, DnsName, Endpoints};

use super::{
    Context, balance,
    common::{filled, positive, same_source, told_as},
    connection, endpoints,
    notes::{IsSet, Notes, warn_if_set},
    protection, transport,
};

/// A cluster.
pub(super) fn decode(mut message: pb::Cluster, context: &Context, notes: &mut Notes) -> Result<Cluster, ConfigError> {
    warn_of_unread(&message, notes);
    refuse_foreign_reports(message.lrs_server.as_ref(), notes)?;
    let name = filled("name", std::mem::take(&mut message.name), "name the cluster")?;
    let mut cluster = Cluster::new(name)?;
    let names = transport::Names::of(&message);
    cluster.discovery = discovery(cluster.name(), &mut message, notes)?;
    cluster.policy = policy(message, names, context, notes)?;
    Ok(cluster)
}

#[expect(deprecated, reason = "what is not honoured is warned of, deprecated or not")]
fn warn_of_unread(message: &pb::Cluster, notes: &mut Notes) {
    warn_if_set!(notes, message, "endpoints are judged by the answers to requests alone", [health_checks]);
    warn_if_set!(
        notes,
        message,
        "names are resolved as the process is set up to",
        [
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            dns_lookup_family,
            dns_resolvers,
            dns_resolution_config,
            typed_dns_resolver_config,
        ]
    );
    warn_if_set!(notes, message, "requests may go to any endpoint of the cluster", [lb_subset_config]);
    warn_if_set!(
        notes,
        message,
        "connections are made and kept as without it",
        [
            per_connection_buffer_limit_bytes,
            upstream_bind_config,
            upstream_connection_options,
            upstream_config,
            filters,
            close_connections_on_host_health_failure,
            ignore_health_on_host_removal,
            connection_pool_per_downstream_connection,
            preconnect_policy,
            queuing_policies,
            http_protocol_options,
            upstream_http_protocol_options,
        ]
    );
}

/// Load is not reported. What must not be asked for is still refused (gRFC A27).
fn refuse_foreign_reports(server: Option<&core::ConfigSource>, notes: &mut Notes) -> Result<(), ConfigError> {
    let Some(server) = server else {
        return Ok(());
    };
    match server.config_source_specifier {
        Some(core::config_source::ConfigSourceSpecifier::Self_(_)) => {
            notes.warn("lrs_server", "load is not reported");
            Ok(())
        }
        _ => Err(ConfigError::new("lrs_server", "another source", "use `self`")),
    }
}

fn policy(
    mut message: pb::Cluster,
    names: transport::Names,
    context: &Context,
    notes: &mut Notes,
) -> Result<ClusterPolicy, ConfigError> {
    let transports = transport::Transports::take(&mut message, names);
    let balance = balance::decode(&message, notes)?;
    let breakers = notes.opt("circuit_breakers", message.circuit_breakers, protection::breakers)?.unwrap_or_default();
    let outlier_detection = notes.opt("outlier_detection", message.outlier_detection, protection::outliers)?;
    let connect_timeout = positive("connect_timeout", message.connect_timeout)?;
    let options = connection::Options {
        typed: message.typed_extension_protocol_options,
        #[expect(deprecated, reason = "these came before the typed options and are still sent")]
        common: message.common_http_protocol_options,
        #[expect(deprecated, reason = "these came before the typed options and are still sent")]
        http2: message.http2_protocol_options,
        #[expect(deprecated, reason = "this came before the common options and is still sent")]
        max_requests: message.max_requests_per_connection,
    };
    let (mut connections, auto) = connection::decode(options, notes)?;
    connections.max_per_endpoint = breakers.max_per_endpoint;
    let secured = transport::decode(transports, auto, context, notes)?;
    Ok(ClusterPolicy {
        load_balancing: Some(balance.policy),
        locality_weighted: balance.locality_weighted,
        panic_threshold: balance.panic_threshold,
        circuit_breakers: breakers.limits,
        outlier_detection: outlier_detection.map(Arc::new),
        connect_timeout,
        connections,
        tls: secured.tls,
        security: secured.by_endpoint,
    })
}

// --- where endpoints come from ---

fn discovery(name: &Arc<str>, message: &mut pb::Cluster, notes: &mut Notes) -> Result<Discovery, ConfigError> {
    let assigned = message.load_assignment.take();
    match discovery_type(message.cluster_discovery_type.as_ref())? {
        DiscoveryType::Eds => {
            let eds = message.eds_cluster_config.take();
            notes.required("eds_cluster_config", eds, |eds, _| service_name(name, eds)).map(Discovery::Endpoints)
        }
        DiscoveryType::StrictDns => notes.required("load_assignment", assigned, strict_dns),
        DiscoveryType::LogicalDns => {
            notes.required("load_assignment", assigned, logical_dns).map(Discovery::LogicalDns)
        }
        DiscoveryType::Static => {
            let endpoints = notes.opt("load_assignment", assigned, endpoints::inline)?;
            Ok(Discovery::Static(Arc::new(endpoints.unwrap_or_else(Endpoints::none))))
        }
        // Every sidecar of Istio is sent one. To refuse it would refuse every update.
        DiscoveryType::OriginalDst => {
            notes.warn("type", "no connection is intercepted here; the cluster has no endpoints");
            Ok(Discovery::Static(Arc::new(Endpoints::none())))
        }
    }
}

fn discovery_type(wire: Option<&ClusterDiscoveryType>) -> Result<DiscoveryType, ConfigError> {
    const REMEDY: &str = "use EDS, STRICT_DNS, LOGICAL_DNS or STATIC";
    match wire {
        Some(ClusterDiscoveryType::Type(number)) => {
            DiscoveryType::try_from(*number).map_err(|_| ConfigError::new("type", number, REMEDY))
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => Err(ConfigError::new("cluster_type", &custom.name, REMEDY)),
        None => Ok(DiscoveryType::Static),
    }
}

fn service_name(cluster: &Arc<str>, message: EdsClusterConfig) -> Result<Arc<str>, ConfigError> {
    same_source("eds_config", message.eds_config.as_ref())?;
    if message.service_name.is_set() {
        return Ok(message.service_name.into());
    }
    if cluster.starts_with("xdstp:") {
        return Err(ConfigError::new("service_name", "", "name the endpoints of a cluster that has an xdstp name"));
    }
    Ok(cluster.clone())
}

fn strict_dns(message: ClusterLoadAssignment, notes: &mut Notes) -> Result<Discovery, ConfigError> {
    // An IP address needs no resolver, and as endpoints they keep their weights and localities.
    if all_are_addresses(&message) {
        let endpoints = endpoints::inline(message, notes)?;
        return Ok(Discovery::Static(Arc::new(endpoints)));
    }
    let groups = notes.each("endpoints", message.endpoints, |group, notes| {
        warn_if_set!(notes, group, "names resolve to equal endpoints", [load_balancing_weight, metadata]);
        if group.priority != 0 {
            notes.warn("priority", "all names have priority 0");
        }
        notes.each("lb_endpoints", group.lb_endpoints, dns_name)
    })?;
    let names = groups.concat();
    if names.is_empty() {
        return Err(ConfigError::new("endpoints", "[]", "name at least one host"));
    }
    Ok(Discovery::StrictDns(names))
}

fn logical_dns(message: ClusterLoadAssignment, notes: &mut Notes) -> Result<DnsName, ConfigError> {
    let names = notes.each("endpoints", message.endpoints, |group, notes| {
        notes.each("lb_endpoints", group.lb_endpoints, dns_name)
    })?;
    match <[DnsName; 1]>::try_from(names.concat()) {
        Ok([name]) if names.len() == 1 => Ok(name),
        _ => Err(ConfigError::new("endpoints", format!("{} localities", names.len()), "name exactly one host")),
    }
}

fn all_are_addresses(message: &ClusterLoadAssignment) -> bool {
    let mut endpoints = message.endpoints.iter().flat_map(|group| &group.lb_endpoints).peekable();
    let is_address =
        |endpoint: &LbEndpoint| socket_address(endpoint).is_some_and(|socket| socket.address.parse::<IpAddr>().is_ok());
    endpoints.peek().is_some() && endpoints.all(is_address)
}

fn dns_name(message: LbEndpoint, notes: &mut Notes) -> Result<DnsName, ConfigError> {
    warn_if_set!(notes, message, "names resolve to equal endpoints", [load_balancing_weight, metadata]);
    let refused = |error: ConfigError| error.within("endpoint.address.socket_address");
    let Some(socket) = socket_address(&message) else {
        return Err(refused(ConfigError::new("", "", "set this field")));
    };
    if socket.resolver_name.is_set() {
        let error = ConfigError::new("resolver_name", &socket.resolver_name, "leave it empty, for DNS");
        return Err(refused(error));
    }
    let port = endpoints::port(socket).map_err(refused)?;
    DnsName::new(socket.address.as_str(), port).map_err(|error| {
        let field = if error.field() == "port" { "port_value" } else { "address" };
        refused(told_as(field, &error))
    })
}

fn socket_address(message: &LbEndpoint) -> Option<&core::SocketAddress> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return None;
    };
    match &endpoint.address.as_ref()?.address {
        Some(WireAddress::SocketAddress(socket)) => Some(socket),
        _ => None,
    }
}
