//! Clusters: where endpoints come from, how they are picked, protected and reached.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                self as pb, Cluster as Wire, LoadBalancingPolicy, OutlierDetection as OutlierMessage, circuit_breakers,
                cluster as parts, load_balancing_policy::Policy as LbPolicyMessage,
            },
            core::v3 as core,
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, lb_endpoint::HostIdentifier},
        },
        extensions::{
            clusters::{
                aggregate::v3::ClusterConfig,
                common::dns::v3::DnsLookupFamily,
                dns::v3::{DnsCluster, dns_cluster},
            },
            load_balancing_policies::{
                client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin, least_request::v3::LeastRequest,
                random::v3::Random, ring_hash::v3::RingHash, round_robin::v3::RoundRobin,
                wrr_locality::v3::WrrLocality,
            },
            transport_sockets::raw_buffer::v3::RawBuffer,
            upstreams::http::v3::{
                HttpProtocolOptions, http_protocol_options as http_parts,
                http_protocol_options::UpstreamProtocolOptions,
            },
        },
        r#type::v3::Percent as PercentMessage,
    },
    google::protobuf::{self as wire, Any, BoolValue, Struct, Value, value},
};
use mesh_core::config::{
    AddressFamily, Backoff, Discovery, DnsEndpoints, DnsName, Endpoints, HttpProtocol, LoadBalancing, LookUp, Percent,
    Security, SecurityMatch, TimeLimit,
};

use super::{
    samples::{HTTP_OPTIONS, address, any, file, group, http_options, lb_endpoint, seconds, unknown, wrap},
    *,
};

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

fn dns(kind: parts::DiscoveryType) -> Wire {
    Wire { load_assignment: assignment(vec![named("cart.example", 443)]), ..of_type(kind) }
}

fn socket(message: &mut Wire) -> &mut core::SocketAddress {
    let endpoint = &mut message.load_assignment.as_mut().expect("set").endpoints[0].lb_endpoints[0];
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else { panic!("set") };
    match endpoint.address.as_mut().and_then(|address| address.address.as_mut()) {
        Some(core::address::Address::SocketAddress(socket)) => socket,
        _ => panic!("the sample has a socket address"),
    }
}

fn dns_name(host: &str) -> DnsName {
    DnsName::new(host, 443).expect("legal")
}

// --- where endpoints come from ---

#[test]
fn endpoints_are_asked_for_under_the_service_name_or_that_of_the_cluster() {
    let mut message = samples::cluster();
    let name = |message: &Wire| decoded(message).value.endpoints_name().map(ToString::to_string);
    assert_eq!(name(&message).as_deref(), Some("service"));
    message.eds_cluster_config.as_mut().expect("set").service_name.clear();
    assert_eq!(name(&message).as_deref(), Some("cluster"));
}

#[test]
fn discovery_is_refused_for_each_field_that_breaks_a_rule() {
    fn eds(message: &mut Wire) -> &mut parts::EdsClusterConfig {
        message.eds_cluster_config.as_mut().expect("the sample is of EDS")
    }
    assert_refused(
        samples::cluster(),
        &samples::context(),
        &[
            ("eds_cluster_config", |m: &mut Wire| m.eds_cluster_config = None),
            ("eds_cluster_config.eds_config", |m| eds(m).eds_config = None),
            ("eds_cluster_config.eds_config", |m| eds(m).eds_config = file()),
            ("eds_cluster_config", |m| m.cluster_discovery_type = None),
            ("eds_cluster_config", |m| {
                let aggregate = custom(&ClusterConfig { clusters: vec!["a".to_owned()] });
                m.cluster_discovery_type = aggregate.cluster_discovery_type;
            }),
            ("eds_cluster_config.service_name", |m| {
                m.name = "xdstp://authority/envoy.config.cluster.v3.Cluster/a".to_owned();
                eds(m).service_name.clear();
            }),
            ("cluster_type.typed_config", |m| {
                m.cluster_discovery_type = Some(parts::ClusterDiscoveryType::ClusterType(Default::default()));
            }),
            ("type", |m| m.cluster_discovery_type = Some(parts::ClusterDiscoveryType::Type(77))),
            ("lrs_server", |m| m.lrs_server = file()),
        ],
    );
    for kind in [parts::DiscoveryType::StrictDns, parts::DiscoveryType::LogicalDns] {
        assert_refused(
            dns(kind),
            &samples::context(),
            &[
                ("load_assignment", |m: &mut Wire| m.load_assignment = None),
                ("load_assignment.endpoints", |m| m.load_assignment = assignment(Vec::new())),
                ("load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address", |m| {
                    socket(m).address = "not a name".to_owned()
                }),
                ("load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value", |m| {
                    socket(m).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(0));
                }),
                ("load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value", |m| {
                    socket(m).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(99_999));
                }),
                ("load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name", |m| {
                    socket(m).resolver_name = "custom".to_owned()
                }),
            ],
        );
    }
    assert_refused(
        dns(parts::DiscoveryType::LogicalDns),
        &samples::context(),
        &[
            ("load_assignment.endpoints", |m: &mut Wire| {
                m.load_assignment = assignment(vec![named("a.example", 443), named("b.example", 443)]);
            }),
            ("load_assignment.endpoints", |m| {
                m.load_assignment.as_mut().expect("set").endpoints.push(group(1, Vec::new()));
            }),
        ],
    );
}

#[test]
fn names_are_left_to_be_resolved() {
    let hosts = Endpoints::by_name([dns_name("cart.example")]).expect("one name");
    for (kind, is_logical) in [(parts::DiscoveryType::StrictDns, false), (parts::DiscoveryType::LogicalDns, true)] {
        let found = dns_of(&dns(kind));
        assert_eq!(found.is_logical(), is_logical);
        assert_eq!(found.hosts().groups()[0].endpoints, hosts.groups()[0].endpoints);
        assert_eq!(found.look_up().family, AddressFamily::V6Preferred, "Envoy's AUTO");
    }
}

/// What a message says of DNS, without a warning.
fn dns_of(message: &Wire) -> Arc<DnsEndpoints> {
    let Decoded { value, warnings } = decoded(message);
    assert!(warnings.is_empty(), "{warnings:?}");
    let Discovery::Dns(dns) = value.discovery else { panic!("{:?}", value.discovery) };
    dns
}

/// A cluster of an extension with this configuration.
fn custom<M: Message + prost::Name>(config: &M) -> Wire {
    let custom = parts::CustomClusterType { name: "custom".to_owned(), typed_config: Some(any(config)) };
    Wire {
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::ClusterType(custom)),
        lb_policy: parts::LbPolicy::ClusterProvided as i32,
        load_assignment: assignment(vec![named("cart.example", 443)]),
        ..Wire { name: "cluster".to_owned(), ..Wire::default() }
    }
}

#[test]
fn what_is_said_of_a_name_is_kept_with_it() {
    let mut weighed = named("a.example", 443);
    weighed.load_balancing_weight = wrap(3);
    let mut assignment = ClusterLoadAssignment {
        endpoints: vec![group(0, vec![weighed]), group(1, vec![named("b.example", 443), named("10.0.0.1", 80)])],
        ..Default::default()
    };
    assignment.endpoints[1].locality = Some(core::Locality { zone: "far".to_owned(), ..Default::default() });
    let mut message = of_type(parts::DiscoveryType::StrictDns);
    message.load_assignment = Some(assignment);
    let found = dns_of(&message);
    let [near, far] = found.hosts().groups() else { panic!("{found:?}") };
    assert_eq!(near.endpoints[0].weight().get(), 3);
    assert_eq!((far.priority, &*far.locality.zone, far.endpoints.len()), (1, "far", 2));
    assert_eq!(found.names(), ["a.example", "b.example"].map(Arc::from));
}

#[test]
#[expect(deprecated, reason = "these came before the extension and are still sent")]
fn look_ups_follow_what_the_cluster_or_its_extension_says() {
    let mut old = dns(parts::DiscoveryType::LogicalDns);
    (old.dns_refresh_rate, old.dns_jitter, old.respect_dns_ttl) = (seconds(60), seconds(2), true);
    old.dns_lookup_family = parts::DnsLookupFamily::V4Preferred as i32;
    old.dns_failure_refresh_rate = Some(parts::RefreshRate { base_interval: seconds(3), max_interval: seconds(9) });
    let new = custom(&DnsCluster {
        dns_refresh_rate: seconds(60),
        dns_jitter: seconds(2),
        respect_dns_ttl: true,
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        dns_failure_refresh_rate: Some(dns_cluster::RefreshRate {
            base_interval: seconds(3),
            max_interval: seconds(9),
        }),
        all_addresses_in_single_endpoint: true,
        ..DnsCluster::default()
    });
    let new = Wire { lb_policy: 0, ..new };
    let expected = LookUp {
        refresh: Some(Duration::from_secs(60)),
        follows_records: true,
        failure: Backoff::new(Duration::from_secs(3), Duration::from_secs(9)).expect("3 s is below 9 s"),
        jitter: Duration::from_secs(2),
        family: AddressFamily::V4Preferred,
        ..LookUp::default()
    };
    for message in [old.clone(), new] {
        let found = dns_of(&message);
        assert_eq!((found.look_up(), found.is_logical()), (&expected, true));
    }
    old.respect_dns_ttl = false;
    assert!(!dns_of(&old).look_up().follows_records, "the rate alone counts");
    old.dns_refresh_rate = None;
    assert!(dns_of(&old).look_up().follows_records, "there is no rate");
    assert_refused(
        dns(parts::DiscoveryType::StrictDns),
        &samples::context(),
        &[
            ("dns_refresh_rate", |m: &mut Wire| m.dns_refresh_rate = seconds(0)),
            ("dns_jitter", |m| m.dns_jitter = seconds(-1)),
            ("dns_lookup_family", |m| m.dns_lookup_family = 77),
            ("dns_failure_refresh_rate.base_interval", |m| {
                m.dns_failure_refresh_rate = Some(parts::RefreshRate::default());
            }),
            ("dns_failure_refresh_rate.max_interval", |m| {
                m.dns_failure_refresh_rate =
                    Some(parts::RefreshRate { base_interval: seconds(3), max_interval: seconds(2) });
            }),
        ],
    );
    assert_warned(
        dns(parts::DiscoveryType::StrictDns),
        &samples::context(),
        &[
            ("typed_dns_resolver_config", |m: &mut Wire| m.typed_dns_resolver_config = Some(Default::default())),
            ("dns_resolution_config", |m| m.dns_resolution_config = Some(Default::default())),
            ("use_tcp_for_dns_lookups", |m| m.use_tcp_for_dns_lookups = true),
        ],
    );
}

#[test]
fn aggregate_names_its_clusters_in_order() {
    let message = custom(&ClusterConfig { clusters: ["b", "a", "b"].map(str::to_owned).into() });
    let Decoded { value, warnings } = decoded(&message);
    assert_eq!(value.aggregate().expect("it is one").clusters(), ["b", "a"].map(Arc::from));
    assert!(warnings.is_empty(), "{warnings:?}");
    let none = custom(&ClusterConfig::default());
    let bad = decode_message(&none, &samples::context()).expect_err("of nothing");
    assert_eq!(bad.blamed(), "cluster_type.typed_config.clusters");
}

#[test]
fn ways_that_are_not_honoured_are_told_by_their_name() {
    // Any message that is no cluster type will do.
    let custom = decoded(&custom(&RawBuffer::default()));
    let Discovery::Unsupported(why) = &custom.value.discovery else { panic!("{custom:?}") };
    assert!(why.contains("`custom`") && why.contains("RawBuffer"), "{why}");
    assert_eq!(fields(&custom.warnings), ["cluster_type.typed_config.type_url"]);
    let error = Resource::Cluster(Arc::new(custom.value)).useless().expect("nobody can use it");
    assert_eq!((error.name.as_deref(), error.blamed()), (Some("cluster"), "cluster_discovery_type"));
}

#[test]
fn addresses_and_static_endpoints_are_kept_in_the_cluster() {
    for kind in [parts::DiscoveryType::StrictDns, parts::DiscoveryType::Static] {
        let hosts = vec![lb_endpoint("10.0.0.1", 80), lb_endpoint("::1", 80)];
        let message = Wire { load_assignment: assignment(hosts), ..of_type(kind) };
        let Decoded { value, warnings } = decoded(&message);
        let Discovery::Static(endpoints) = &value.discovery else { panic!("{:?}", value.discovery) };
        assert_eq!((endpoints.len(), endpoints.groups()[0].endpoints[0].weight().get()), (2, 2));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn clusters_of_a_sidecar_that_reach_nothing_here_are_understood() {
    // BlackHoleCluster and PassthroughCluster, which Istio sends to everyone.
    let black_hole = decoded(&of_type(parts::DiscoveryType::Static));
    let passthrough = decoded(&Wire {
        lb_policy: parts::LbPolicy::ClusterProvided as i32,
        ..of_type(parts::DiscoveryType::OriginalDst)
    });
    assert_eq!(black_hole.value.discovery, Discovery::Static(Arc::new(Endpoints::none())));
    assert!(black_hole.warnings.is_empty());
    assert!(matches!(passthrough.value.discovery, Discovery::Unsupported(_)));
    assert_eq!(fields(&passthrough.warnings), ["type"]);
}

// --- how they are treated ---

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

// --- how they are reached ---

/// A cluster that chooses by endpoint, as Istio's sidecars are sent it: these transports for these values of `tlsMode`, or for
/// everybody, and another for all who fit none.
fn by_endpoint(transports: &[(Option<&str>, Any)], all: Option<Any>) -> Wire {
    let one = |(mode, socket): &(Option<&str>, Any)| parts::TransportSocketMatch {
        name: format!("tlsMode-{}", mode.unwrap_or("disabled")),
        r#match: Some(mode.map(tls_mode).unwrap_or_default()),
        transport_socket: samples::socket_of(socket.clone()),
    };
    Wire {
        transport_socket: all.and_then(samples::socket_of),
        transport_socket_matches: transports.iter().map(one).collect(),
        ..samples::cluster()
    }
}

fn tls_mode(mode: &str) -> Struct {
    let value = Value { kind: Some(value::Kind::StringValue(mode.to_owned())) };
    Struct { fields: [("tlsMode".to_owned(), value)].into() }
}

fn raw() -> Any {
    any(&RawBuffer::default())
}

fn secured() -> Any {
    any(&samples::tls_context())
}

/// How endpoints of these values of `tlsMode` are reached: one that has a sidecar, one that has none, and one of another mode.
fn ways(message: &Wire) -> [&'static str; 3] {
    let policy = decoded(message).value.policy;
    let of = |mode: Option<&str>| {
        let namespaces = mode.map(|mode| (SecurityMatch::NAMESPACE.to_owned(), tls_mode(mode)));
        let said = core::Metadata { filter_metadata: namespaces.into_iter().collect(), ..Default::default() };
        let metadata = crate::resource::endpoints::metadata(said, &mut Notes::default());
        match policy.security_of(Some(&metadata)) {
            Security::Plaintext => "plaintext",
            Security::Tls(_) => "tls",
            Security::Unavailable(_) => "not at all",
        }
    };
    [of(Some("istio")), of(None), of(Some("other"))]
}

#[test]
fn endpoints_with_a_sidecar_are_reached_by_tls_and_others_as_the_cluster_says() {
    let istio = || (Some("istio"), secured());
    for (message, expected, warned) in [
        (by_endpoint(&[istio(), (None, raw())], None), ["tls", "plaintext", "plaintext"], &[][..]),
        (by_endpoint(&[istio()], Some(raw())), ["tls", "plaintext", "plaintext"], &[]),
        (by_endpoint(&[istio()], None), ["tls", "not at all", "not at all"], &["transport_socket"]),
        (by_endpoint(&[(Some("other"), raw())], Some(secured())), ["tls", "tls", "plaintext"], &[]),
        (
            by_endpoint(&[istio(), (Some("other"), unknown()), (None, raw())], None),
            ["tls", "plaintext", "not at all"],
            &["transport_socket_matches[1].transport_socket"],
        ),
        (by_endpoint(&[(None, raw()), istio()], None), ["plaintext"; 3], &[]),
        (by_endpoint(&[], Some(raw())), ["plaintext"; 3], &[]),
    ] {
        assert_eq!(ways(&message), expected, "{message:?}");
        assert_eq!(fields(&decoded(&message).warnings), warned);
    }
}

#[test]
fn tls_of_a_match_is_read_as_that_of_a_cluster() {
    let message = by_endpoint(&[(Some("istio"), secured()), (None, raw())], None);
    let policy = decoded(&message).value.policy;
    assert_eq!(policy.tls, None);
    assert_eq!((&*policy.security[0].name, &*policy.security[1].name), ("tlsMode-istio", "tlsMode-disabled"));
    let Security::Tls(tls) = &policy.security[0].security else { panic!("TLS") };
    assert_eq!(Some(tls), decoded(&samples::cluster()).value.policy.tls.as_ref());

    let refused = decode_message(&message, &Context::new()).expect_err("nobody to be, and nobody to trust");
    assert!(refused.blamed().starts_with("transport_socket_matches[0].transport_socket."), "{}", refused);
    let matcher = Wire { transport_socket_matcher: Some(Default::default()), ..by_endpoint(&[], Some(raw())) };
    let refused = decode_message(&matcher, &samples::context()).expect_err("it may ask for TLS");
    assert_eq!(refused.blamed(), "transport_socket_matcher");
}

#[test]
fn what_dns_finds_is_reached_as_what_stands_beside_its_name_says() {
    let host = |name: &str, mode: Option<&str>| {
        let facts = mode.map(|mode| (SecurityMatch::NAMESPACE.to_owned(), tls_mode(mode)));
        let metadata = core::Metadata { filter_metadata: facts.into_iter().collect(), ..Default::default() };
        LbEndpoint { metadata: Some(metadata), ..named(name, 80) }
    };
    let sockets = by_endpoint(&[(Some("istio"), secured()), (None, raw())], None);
    let by_name = |kind| Wire {
        load_assignment: assignment(vec![host("plain.example", None), host("meshed.example", Some("istio"))]),
        eds_cluster_config: None,
        transport_socket: None,
        transport_socket_matches: sockets.transport_socket_matches.clone(),
        cluster_discovery_type: Some(kind),
        ..samples::cluster()
    };
    let built_in = by_name(parts::ClusterDiscoveryType::Type(parts::DiscoveryType::StrictDns as i32));
    let extension = by_name(parts::ClusterDiscoveryType::ClusterType(parts::CustomClusterType {
        name: "dns".to_owned(),
        typed_config: Some(any(&DnsCluster::default())),
    }));
    for message in [built_in, extension] {
        let cluster = decoded(&message).value;
        let Discovery::Dns(names) = &cluster.discovery else { panic!("names") };
        let (plain, meshed) = ([[10, 0, 0, 1].into()], [[10, 0, 0, 2].into()]);
        let found = names.resolved(|name| if name == "plain.example" { &plain } else { &meshed }).expect("two");
        let ways = found.groups()[0].endpoints.iter().map(|endpoint| {
            let metadata = endpoint.metadata().map(|metadata| &**metadata);
            (endpoint.address().to_string(), matches!(cluster.policy.security_of(metadata), Security::Tls(_)))
        });
        let expected = [("10.0.0.1:80".to_owned(), false), ("10.0.0.2:80".to_owned(), true)];
        assert_eq!(ways.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn first_thresholds_of_a_priority_count() {
    let mut message = samples::cluster();
    let breakers = message.circuit_breakers.as_mut().expect("set");
    breakers.thresholds.push(samples::thresholds(0, 99));
    assert_eq!(decoded(&message).value.policy.circuit_breakers.default.max_requests, Some(10));
}

#[test]
fn retry_budget_has_its_defaults() {
    let mut message = samples::cluster();
    thresholds(&mut message).retry_budget = Some(Default::default());
    let budget = decoded(&message).value.policy.circuit_breakers.default.retry_budget;
    assert_eq!(budget, Some(mesh_core::config::RetryBudget::default()));
}

// --- how one is picked ---

fn policies(list: Vec<Any>) -> LoadBalancingPolicy {
    let policy = |config| LbPolicyMessage { typed_extension_config: Some(extension(config)) };
    LoadBalancingPolicy { policies: list.into_iter().map(policy).collect() }
}

fn extension(config: Any) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: "policy".to_owned(), typed_config: Some(config) }
}

fn balanced_by(list: Vec<Any>) -> Wire {
    Wire { load_balancing_policy: Some(policies(list)), common_lb_config: None, ..samples::cluster() }
}

fn ring_hash() -> Any {
    any(&RingHash::default())
}

fn wrr_locality(within: Any) -> Any {
    any(&WrrLocality { endpoint_picking_policy: Some(policies(vec![within])) })
}

#[test]
fn lb_policy_is_read_with_its_choices() {
    use parts::LbPolicy;
    let mut message = samples::cluster();
    for (wire, expected) in
        [(LbPolicy::RoundRobin, LoadBalancing::RoundRobin), (LbPolicy::Random, LoadBalancing::Random)]
    {
        message.lb_policy = wire as i32;
        assert_eq!(decoded(&message).value.policy.load_balancing, Some(expected));
    }
    message.lb_policy = LbPolicy::LeastRequest as i32;
    let choices = |count| {
        let config = parts::LeastRequestLbConfig { choice_count: wrap(count), ..Default::default() };
        Some(parts::LbConfig::LeastRequestLbConfig(config))
    };
    message.lb_config = choices(5);
    assert_eq!(decoded(&message).value.policy.load_balancing, Some(LoadBalancing::LeastRequest { choices: 5 }));
    message.lb_config = choices(1);
    let bad = decode_message(&message, &samples::context()).expect_err("one is no choice");
    assert_eq!(bad.blamed(), "least_request_lb_config.choice_count");
    for wire in [LbPolicy::LoadBalancingPolicyConfig as i32, LbPolicy::ClusterProvided as i32, 99] {
        message.lb_policy = wire;
        assert_eq!(decode_message(&message, &samples::context()).expect_err("bad").blamed(), "lb_policy");
    }
}

#[test]
fn first_known_policy_of_the_list_counts() {
    let least = any(&LeastRequest { choice_count: wrap(3), ..Default::default() });
    let Decoded { value, warnings } =
        decoded(&balanced_by(vec![unknown(), ring_hash(), least, any(&Random::default())]));
    assert_eq!(value.policy.load_balancing, Some(LoadBalancing::LeastRequest { choices: 3 }));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn what_takes_turns_in_place_of_hashing_is_refused_where_nobody_would_take_it() {
    let ring = |minimum, maximum, hash_function| {
        let size = |value: u64| Some(wire::UInt64Value { value });
        let (minimum_ring_size, maximum_ring_size) = (size(minimum), size(maximum));
        let legacy = parts::RingHashLbConfig { minimum_ring_size, maximum_ring_size, hash_function };
        let lb_config = Some(parts::LbConfig::RingHashLbConfig(legacy));
        let lb_policy = parts::LbPolicy::RingHash.into();
        let typed = RingHash { hash_function, minimum_ring_size, maximum_ring_size, ..Default::default() };
        [Wire { lb_policy, lb_config, ..samples::cluster() }, balanced_by(vec![any(&typed)])]
    };
    for good in [ring(1, 1, 0), ring(1024, 8 << 20, 1)].concat() {
        decoded(&good);
    }
    let bad = [
        (ring(0, 1, 0), "minimum_ring_size"),
        (ring(1, 0, 0), "maximum_ring_size"),
        (ring(2, 1, 0), "minimum_ring_size"),
        (ring(1, (8 << 20) + 1, 0), "maximum_ring_size"),
        (ring(1, 1, 9), "hash_function"),
    ];
    for (messages, field) in bad {
        for message in messages {
            let bad = decode_message(&message, &samples::context()).expect_err(field);
            assert!(bad.blamed().ends_with(field), "{bad}");
        }
    }
    for (config, field) in [
        (
            ClientSideWeightedRoundRobin {
                error_utilization_penalty: Some(wire::FloatValue { value: -1.0 }),
                ..Default::default()
            },
            "error_utilization_penalty",
        ),
        (ClientSideWeightedRoundRobin { blackout_period: seconds(-1), ..Default::default() }, "blackout_period"),
    ] {
        let bad = decode_message(&balanced_by(vec![any(&config)]), &samples::context()).expect_err(field);
        assert!(bad.blamed().ends_with(field), "{bad}");
    }
}

#[test]
fn hashing_cluster_takes_turns_rather_than_being_lost() {
    let Decoded { value, warnings } = decoded(&balanced_by(vec![ring_hash()]));
    assert_eq!(value.policy.load_balancing, Some(LoadBalancing::RoundRobin));
    assert_eq!(fields(&warnings), ["load_balancing_policy.policies[0].typed_extension_config.typed_config"]);
}

#[test]
fn wrr_locality_weighs_localities() {
    let policy = decoded(&balanced_by(vec![wrr_locality(any(&RoundRobin::default()))])).value.policy;
    assert_eq!((policy.load_balancing, policy.locality_weighted), (Some(LoadBalancing::RoundRobin), Some(true)));
}

#[test]
fn policy_lists_are_refused_when_nothing_is_known_or_they_nest_too_deep() {
    let refused = |message: Wire| decode_message(&message, &samples::context()).expect_err("bad").blamed().to_owned();
    assert_eq!(refused(balanced_by(Vec::new())), "load_balancing_policy.policies");
    assert_eq!(refused(balanced_by(vec![unknown()])), "load_balancing_policy.policies");
    let one_choice = any(&LeastRequest { choice_count: wrap(1), ..Default::default() });
    let within = "policies[0].typed_extension_config.typed_config";
    assert_eq!(refused(balanced_by(vec![one_choice])), format!("load_balancing_policy.{within}.choice_count"));
    let mut garbled = any(&RoundRobin::default());
    garbled.value = vec![0xff];
    assert_eq!(refused(balanced_by(vec![garbled])), format!("load_balancing_policy.{within}.value"));
    let nested = |depth| (0..depth).fold(any(&RoundRobin::default()), |within, _| wrr_locality(within));
    decoded(&balanced_by(vec![nested(16)]));
    assert!(refused(balanced_by(vec![nested(17)])).ends_with("endpoint_picking_policy.policies"));
}

// --- how they are reached ---

fn with_options(change: impl FnOnce(&mut HttpProtocolOptions)) -> Wire {
    let mut options = http_options();
    change(&mut options);
    Wire { typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&options))].into(), ..samples::cluster() }
}

#[test]
fn each_choice_of_protocol_is_kept() {
    use http_parts::{ExplicitHttpConfig, explicit_http_config::ProtocolConfig};
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    for (wire, expected) in [
        (explicit(ProtocolConfig::HttpProtocolOptions(Default::default())), Some(HttpProtocol::Http1)),
        (explicit(ProtocolConfig::Http2ProtocolOptions(Default::default())), Some(HttpProtocol::Http2)),
        (explicit(ProtocolConfig::Http3ProtocolOptions(Default::default())), Some(HttpProtocol::Auto)),
        (UpstreamProtocolOptions::AutoConfig(Default::default()), Some(HttpProtocol::Auto)),
        (UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default()), None),
    ] {
        let message = with_options(|options| options.upstream_protocol_options = Some(wire));
        assert_eq!(decoded(&message).value.policy.connections.protocol, expected);
    }
}

#[test]
#[expect(deprecated, reason = "what is tested")]
fn options_of_the_cluster_itself_count_where_typed_ones_are_absent() {
    let mut message = samples::cluster();
    message.http2_protocol_options = Some(Default::default());
    message.max_requests_per_connection = wrap(7);
    assert_eq!(decoded(&message).value.policy.connections.max_requests, Some(100));
    message.typed_extension_protocol_options.clear();
    let connections = decoded(&message).value.policy.connections;
    assert_eq!((connections.protocol, connections.max_requests), (Some(HttpProtocol::Http2), Some(7)));
}

#[test]
fn zero_requests_per_connection_are_no_limit() {
    let message = with_options(|options| {
        let common = options.common_http_protocol_options.as_mut().expect("set");
        common.max_requests_per_connection = wrap(0);
    });
    assert_eq!(decoded(&message).value.policy.connections.max_requests, None);
}

#[test]
fn http_options_are_refused_for_each_field_that_breaks_a_rule() {
    use http_parts::{ExplicitHttpConfig, explicit_http_config::ProtocolConfig};
    let cases: [Case<HttpProtocolOptions>; 6] = [
        ("upstream_protocol_options", |o| o.upstream_protocol_options = None),
        ("explicit_http_config.protocol_config", |o| {
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig::default()));
        }),
        ("explicit_http_config.http2_protocol_options.connection_keepalive.timeout", |o| {
            let http2 =
                core::Http2ProtocolOptions { connection_keepalive: Some(Default::default()), ..Default::default() };
            let protocol_config = Some(ProtocolConfig::Http2ProtocolOptions(http2));
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }));
        }),
        ("explicit_http_config.http2_protocol_options.max_concurrent_streams", |o| {
            let http2 = core::Http2ProtocolOptions { max_concurrent_streams: wrap(0), ..Default::default() };
            let protocol_config = Some(ProtocolConfig::Http2ProtocolOptions(http2));
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }));
        }),
        ("common_http_protocol_options.idle_timeout", |o| {
            o.common_http_protocol_options.as_mut().expect("set").idle_timeout = seconds(-1);
        }),
        ("common_http_protocol_options.max_connection_duration", |o| {
            o.common_http_protocol_options.as_mut().expect("set").max_connection_duration = seconds(-1);
        }),
    ];
    for (path, spoil) in cases {
        let bad = decode_message(&with_options(spoil), &samples::context()).expect_err(path);
        assert_eq!(bad.blamed(), format!("typed_extension_protocol_options[{HTTP_OPTIONS}].{path}"));
    }
    let mut message = samples::cluster();
    message.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), unknown());
    let bad = decode_message(&message, &samples::context()).expect_err("wrong type");
    assert_eq!(bad.blamed(), format!("typed_extension_protocol_options[{HTTP_OPTIONS}].type_url"));
}

#[test]
fn always_ejecting_one_is_kept() {
    let mut message = samples::cluster();
    outliers(&mut message).always_eject_one_host = Some(BoolValue { value: true });
    let policy = decoded(&message).value.policy;
    assert!(policy.outlier_detection.expect("set").always_eject_one);
}

#[test]
fn empty_outlier_detection_has_envoys_defaults() {
    let message = Wire { outlier_detection: Some(pb::OutlierDetection::default()), ..samples::cluster() };
    let policy = decoded(&message).value.policy;
    assert_eq!(policy.outlier_detection.as_deref(), Some(&Default::default()));
}
