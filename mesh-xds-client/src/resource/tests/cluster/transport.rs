//! How endpoints are reached: all in one way, or each as its metadata says.

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster as Wire, cluster as parts},
            core::v3 as core,
            endpoint::v3::LbEndpoint,
        },
        extensions::{clusters::dns::v3::DnsCluster, transport_sockets::raw_buffer::v3::RawBuffer},
    },
    google::protobuf::{Any, Struct, Value, value},
};
use mesh_core::config::{Discovery, Security, SecurityMatch};

use super::*;
use crate::resource::samples::{any, unknown};

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
