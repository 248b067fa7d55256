//! A cluster: where its endpoints come from, and how they are treated (`Cluster`).

use std::sync::Arc;

use envoy_types::pb::envoy::config::{cluster::v3 as pb, core::v3 as core};
use mesh_core::config::{Cluster, ClusterPolicy, ConfigError, Discovery};

use super::{
    Context, balance,
    common::{filled, positive},
    connection, discovery,
    notes::{Notes, warn_if_set},
    protection, transport,
};

/// A cluster.
pub(super) fn decode(mut message: pb::Cluster, context: &Context, notes: &mut Notes) -> Result<Cluster, ConfigError> {
    warn_of_unread(&message, notes);
    refuse_foreign_reports(message.lrs_server.as_ref(), notes)?;
    let name = filled("name", std::mem::take(&mut message.name), "name the cluster")?;
    let mut cluster = Cluster::new(name)?;
    cluster.discovery = discovery::take(cluster.name(), &mut message, context, notes)?;
    if matches!(cluster.discovery, Discovery::Aggregate(_) | Discovery::Unsupported(_)) {
        // `CLUSTER_PROVIDED`: which endpoint is picked is the affair of other clusters, or nobody's.
        message.lb_policy = 0;
    }
    cluster.policy = policy(message, context, notes)?;
    Ok(cluster)
}

#[expect(deprecated, reason = "what is not honoured is warned of, deprecated or not")]
fn warn_of_unread(message: &pb::Cluster, notes: &mut Notes) {
    warn_if_set!(notes, message, "endpoints are judged by the answers to requests alone", [health_checks]);
    warn_if_set!(
        notes,
        message,
        "names are looked up with the resolver of the process",
        [dns_resolvers, dns_resolution_config, use_tcp_for_dns_lookups]
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

fn policy(mut message: pb::Cluster, context: &Context, notes: &mut Notes) -> Result<ClusterPolicy, ConfigError> {
    let transports = transport::Transports::take(&mut message);
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
