//! Clusters: what they say of themselves as a whole; each part beside this.

mod balance;
mod connection;
mod discovery;
mod protection;
mod transport;

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster as Wire, OutlierDetection as OutlierMessage, circuit_breakers, cluster as parts},
            core::v3 as core,
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, lb_endpoint::HostIdentifier},
        },
        r#type::v3::Percent as PercentMessage,
    },
    google::protobuf::{self as wire, Any},
};
use mesh_core::config::{HttpProtocol, LoadBalancing, Percent, TimeLimit};

use super::*;
use crate::resource::samples::{address, group, seconds, unknown, wrap};

fn decoded(message: &Wire) -> Decoded<Cluster> {
    decode_cluster(&message.encode_to_vec(), &samples::context()).expect("a good cluster")
}

fn of_type(kind: parts::DiscoveryType) -> Wire {
    Wire {
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::Type(kind as i32)),
        eds_cluster_config: None,
        ..samples::cluster()
    }
}

fn named(host: &str, port: u32) -> LbEndpoint {
    let endpoint = Endpoint { address: address(host, port), ..Default::default() };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
}

/// One group of these hosts, without locality, as inside a cluster.
fn assignment(hosts: Vec<LbEndpoint>) -> Option<ClusterLoadAssignment> {
    let mut group = group(0, hosts);
    (group.locality, group.load_balancing_weight) = (None, None);
    Some(ClusterLoadAssignment { endpoints: vec![group], ..Default::default() })
}

#[test]
fn policy_keeps_what_its_source_says() {
    let cluster = decoded(&samples::cluster()).value;
    let policy = &cluster.policy;
    assert_eq!(policy.load_balancing, Some(LoadBalancing::LEAST_REQUEST));
    assert_eq!((policy.locality_weighted, policy.panic_threshold), (Some(true), Some(Percent::ZERO)));
    assert_eq!(policy.circuit_breakers.default.max_requests, Some(10));
    assert_eq!(policy.circuit_breakers.high.max_requests, Some(20));
    assert_eq!(policy.circuit_breakers.default.max_connections, None, "unset stays unset");
    let ejection = policy.outlier_detection.as_ref().expect("set");
    assert_eq!((ejection.consecutive_errors, ejection.consecutive_gateway_errors), (7, 5));
    assert_eq!(policy.connect_timeout, Some(Duration::from_secs(3)));
    let connections = &policy.connections;
    assert_eq!(connections.protocol, Some(HttpProtocol::Http2));
    assert_eq!((connections.max_per_endpoint, connections.max_requests), (Some(4), Some(100)));
    assert_eq!(connections.idle_timeout, Some(TimeLimit::OFF));
    assert_eq!(connections.keep_alive_interval, TimeLimit::after(Duration::from_secs(30)).ok());
    assert_eq!(connections.keep_alive_timeout, Some(Duration::from_secs(5)));
    assert_eq!(connections.keep_alive_while_idle, Some(true), "as Envoy does");
    assert_eq!(connections.max_streams, Some(50));
    assert!(policy.tls.is_some());
}

#[test]
fn what_is_unset_stays_unset() {
    let message = Wire { name: "bare".to_owned(), ..Default::default() };
    let policy = decoded(&message).value.policy;
    let round_robin = mesh_core::config::ClusterPolicy {
        // The wire cannot tell the first value of an enumeration from silence.
        load_balancing: Some(LoadBalancing::RoundRobin),
        ..Default::default()
    };
    assert_eq!(policy, round_robin);
}

fn thresholds(message: &mut Wire) -> &mut circuit_breakers::Thresholds {
    &mut message.circuit_breakers.as_mut().expect("the sample has breakers").thresholds[0]
}

fn per_host(message: &mut Wire) -> &mut circuit_breakers::Thresholds {
    &mut message.circuit_breakers.as_mut().expect("the sample has breakers").per_host_thresholds[0]
}

fn outliers(message: &mut Wire) -> &mut OutlierMessage {
    message.outlier_detection.as_mut().expect("the sample detects outliers")
}

#[test]
fn policy_is_refused_for_each_field_that_breaks_a_rule() {
    assert_refused(
        samples::cluster(),
        &samples::context(),
        &[
            ("connect_timeout", |m: &mut Wire| m.connect_timeout = seconds(0)),
            ("common_lb_config.healthy_panic_threshold", |m| {
                m.common_lb_config.as_mut().expect("set").healthy_panic_threshold =
                    Some(PercentMessage { value: f64::NAN });
            }),
            ("circuit_breakers.thresholds[0].priority", |m| thresholds(m).priority = 2),
            ("circuit_breakers.thresholds[0].retry_budget.budget_percent", |m| {
                thresholds(m).retry_budget = Some(circuit_breakers::thresholds::RetryBudget {
                    budget_percent: Some(PercentMessage { value: 101.0 }),
                    ..Default::default()
                });
            }),
            ("circuit_breakers.per_host_thresholds[0].max_connections", |m| per_host(m).max_connections = wrap(0)),
            ("circuit_breakers.per_host_thresholds[0].max_requests", |m| per_host(m).max_requests = wrap(1)),
            ("outlier_detection.interval", |m| outliers(m).interval = seconds(0)),
            ("outlier_detection.base_ejection_time", |m| outliers(m).base_ejection_time = seconds(-1)),
            ("outlier_detection.max_ejection_time", |m| outliers(m).max_ejection_time = seconds(i64::MAX)),
            ("outlier_detection.max_ejection_time_jitter", |m| outliers(m).max_ejection_time_jitter = seconds(-1)),
            ("outlier_detection.interval", |m| {
                outliers(m).interval = seconds(1).map(|second| wire::Duration { nanos: -1, ..second });
            }),
            ("outlier_detection.max_ejection_percent", |m| outliers(m).max_ejection_percent = wrap(101)),
            ("outlier_detection.enforcing_consecutive_5xx", |m| outliers(m).enforcing_consecutive_5xx = wrap(101)),
            ("outlier_detection.enforcing_success_rate", |m| outliers(m).enforcing_success_rate = wrap(101)),
            ("outlier_detection.failure_percentage_threshold", |m| {
                outliers(m).failure_percentage_threshold = wrap(101)
            }),
        ],
    );
}

#[test]
fn what_is_not_known_of_clusters_is_warned_of() {
    assert_warned(
        samples::cluster(),
        &samples::context(),
        &[
            ("transport_socket_matches[0].transport_socket", |m: &mut Wire| {
                m.transport_socket_matches = vec![Default::default()];
            }),
            ("transport_socket_matcher", |m| m.transport_socket_matcher = Some(Default::default())),
            ("health_checks", |m| m.health_checks = vec![Default::default()]),
            ("upstream_config", |m| m.upstream_config = Some(extension(unknown()))),
            ("lb_subset_config", |m| m.lb_subset_config = Some(Default::default())),
            ("lrs_server", |m| {
                let own = core::config_source::ConfigSourceSpecifier::Self_(Default::default());
                m.lrs_server = Some(core::ConfigSource { config_source_specifier: Some(own), ..Default::default() });
            }),
            ("common_lb_config.zone_aware_lb_config", |m| {
                use parts::common_lb_config::LocalityConfigSpecifier as Specifier;
                m.common_lb_config.as_mut().expect("set").locality_config_specifier =
                    Some(Specifier::ZoneAwareLbConfig(Default::default()));
            }),
            ("circuit_breakers.thresholds[0].max_connection_pools", |m| thresholds(m).max_connection_pools = wrap(1)),
            ("circuit_breakers.per_host_thresholds[0].priority", |m| per_host(m).priority = 1),
            ("outlier_detection.enforcing_success_rate", |m| outliers(m).enforcing_success_rate = None),
            ("outlier_detection.enforcing_failure_percentage", |m| outliers(m).enforcing_failure_percentage = wrap(1)),
            ("outlier_detection.split_external_local_origin_errors", |m| {
                outliers(m).split_external_local_origin_errors = true;
            }),
            ("typed_extension_protocol_options[other]", |m| {
                m.typed_extension_protocol_options.insert("other".to_owned(), unknown());
            }),
            ("lb_policy", |m| m.lb_policy = parts::LbPolicy::RingHash as i32),
            ("lb_policy", |m| m.lb_policy = parts::LbPolicy::Maglev as i32),
            ("least_request_lb_config.slow_start_config", |m| {
                m.lb_config = Some(parts::LbConfig::LeastRequestLbConfig(parts::LeastRequestLbConfig {
                    slow_start_config: Some(Default::default()),
                    ..Default::default()
                }));
            }),
        ],
    );
}

fn extension(config: Any) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: "policy".to_owned(), typed_config: Some(config) }
}
