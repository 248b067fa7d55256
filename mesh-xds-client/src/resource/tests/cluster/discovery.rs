//! Where endpoints come from.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{Cluster as Wire, cluster as parts},
        core::v3 as core,
        endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
    },
    extensions::{
        clusters::{
            aggregate::v3::ClusterConfig,
            common::dns::v3::DnsLookupFamily,
            dns::v3::{DnsCluster, dns_cluster},
        },
        transport_sockets::raw_buffer::v3::RawBuffer,
    },
};
use mesh_core::config::{AddressFamily, Backoff, Discovery, DnsEndpoints, DnsName, Endpoints, LookUp};

use super::*;
use crate::resource::samples::{any, file, group, lb_endpoint, seconds, wrap};

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
    let error =
        Resource::Cluster { cluster: Arc::new(custom.value), is_patient: false }.useless().expect("nobody can use it");
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

#[test]
fn service_that_a_sidecar_would_reach_as_it_is_addressed_is_found_as_its_caller_would_have() {
    let of = |name: &str, context: &Context| {
        let message = Wire {
            name: name.to_owned(),
            lb_policy: parts::LbPolicy::ClusterProvided as i32,
            transport_socket: None,
            ..of_type(parts::DiscoveryType::OriginalDst)
        };
        let Decoded { value, warnings } = decode_cluster(&message.encode_to_vec(), context).expect("understood");
        assert_eq!(fields(&warnings), ["type"]);
        value
    };
    let context = samples::sidecar::context();
    let headless = "outbound|9080||reviews.shop.svc.cluster.local";
    let cluster = of(headless, &context);
    assert_eq!(cluster.endpoints_name().map(|name| &**name), Some(headless));
    assert_eq!(cluster.policy.load_balancing, Some(LoadBalancing::LEAST_REQUEST));
    let Discovery::Dns(dns) = of("outbound|443||api.example.com", &context).discovery else { panic!("by DNS") };
    assert_eq!(dns.names(), ["api.example.com"].map(Arc::from));

    let is_useless = |cluster: Cluster| matches!(cluster.discovery, Discovery::Unsupported(_));
    for name in ["outbound|443||*.example.com", "outbound|0||api.example.com", "outbound|443||a b"] {
        assert!(is_useless(of(name, &context)), "there is no name to look up in {name}");
    }
    assert!(is_useless(of(headless, &samples::context())), "gRPC has no such type");
}
