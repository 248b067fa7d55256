//! Endpoint assignments.

use std::path::Path;

use envoy_types::pb::{
    envoy::config::{
        core::v3::{self as core, Locality},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, cluster_load_assignment::policy::DropOverload,
            endpoint::AdditionalAddress, lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf as wire,
};
use mesh_core::config::{Address, HealthStatus};

use super::{
    samples::{address, any, group, lb_endpoint, share, wrap},
    *,
};

fn decoded(message: &ClusterLoadAssignment) -> Decoded<Endpoints> {
    let Decoded { value, warnings } = decode_endpoints(&message.encode_to_vec()).expect("good endpoints");
    Decoded { value: value.1, warnings }
}

fn inner(message: &mut LbEndpoint) -> &mut Endpoint {
    match &mut message.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        _ => panic!("the sample has an endpoint"),
    }
}

fn socket(message: &mut ClusterLoadAssignment) -> &mut core::SocketAddress {
    let address = inner(&mut message.endpoints[0].lb_endpoints[0]).address.as_mut();
    match address.and_then(|address| address.address.as_mut()) {
        Some(core::address::Address::SocketAddress(socket)) => socket,
        _ => panic!("the sample has a socket address"),
    }
}

fn set_address(message: &mut ClusterLoadAssignment, address: core::address::Address) {
    let address = core::Address { address: Some(address) };
    inner(&mut message.endpoints[0].lb_endpoints[0]).address = Some(address);
}

#[test]
fn endpoints_keep_what_their_source_says() {
    let endpoints = decoded(&samples::endpoints()).value;
    assert_eq!((endpoints.len(), endpoints.overprovisioning(), endpoints.drops().len()), (3, 200, 1));
    let group = &endpoints.groups()[1];
    assert_eq!((group.priority, group.weight.map(|weight| weight.get())), (1, Some(1)));
    let endpoint = &group.endpoints[0];
    assert_eq!((endpoint.address().to_string().as_str(), endpoint.weight().get()), ("10.0.0.2:80", 2));
    assert_eq!(endpoint.metadata().and_then(|facts| facts.text("istio", "workload")), Some("cart;shop"));
}

#[test]
fn endpoints_are_refused_for_each_field_that_breaks_a_rule() {
    assert_refused(
        samples::endpoints(),
        &Context::new(),
        &[
            ("endpoints[0].locality", |m: &mut ClusterLoadAssignment| m.endpoints[0].locality = None),
            ("endpoints.priority", |m| m.endpoints[1].priority = 2),
            ("endpoints.priority", |m| m.endpoints[1].priority = u32::MAX),
            ("endpoints[1].locality", |m| m.endpoints[1].priority = 0),
            ("endpoints[1].load_balancing_weight.sum", |m| {
                m.endpoints[1].priority = 0;
                m.endpoints[1].locality = Some(Locality::default());
                m.endpoints[1].load_balancing_weight = wrap(u32::MAX);
            }),
            ("endpoints[0].lb_endpoints.sum", |m| {
                m.endpoints[0].lb_endpoints[0].load_balancing_weight = wrap(u32::MAX);
            }),
            ("endpoints[0].lb_endpoints[0].load_balancing_weight", |m| {
                m.endpoints[0].lb_endpoints[0].load_balancing_weight = wrap(0);
            }),
            ("endpoints[0].lb_endpoints[0].endpoint", |m| m.endpoints[0].lb_endpoints[0].host_identifier = None),
            ("endpoints[0].lb_endpoints[0].endpoint_name", |m| {
                m.endpoints[0].lb_endpoints[0].host_identifier = Some(HostIdentifier::EndpointName("x".to_owned()));
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address", |m| {
                inner(&mut m.endpoints[0].lb_endpoints[0]).address = None;
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address", |m| {
                socket(m).address = "cart.shop".to_owned();
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.socket_address.protocol", |m| socket(m).protocol = 1),
            ("endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value", |m| {
                socket(m).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(65_536));
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value", |m| {
                socket(m).port_specifier = None;
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.socket_address.named_port", |m| {
                socket(m).port_specifier = Some(core::socket_address::PortSpecifier::NamedPort("http".to_owned()));
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.pipe.path", |m| {
                set_address(m, core::address::Address::Pipe(core::Pipe::default()));
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.address.envoy_internal_address", |m| {
                set_address(m, core::address::Address::EnvoyInternalAddress(Default::default()));
            }),
            ("endpoints[0].lb_endpoints[0].endpoint.additional_addresses[0].address", |m| {
                inner(&mut m.endpoints[0].lb_endpoints[0]).additional_addresses = vec![AdditionalAddress::default()];
            }),
            ("endpoints[0].lb_endpoints[1].address", |m| {
                m.endpoints[0].lb_endpoints[1] = lb_endpoint("10.0.0.1", 80);
            }),
            ("policy.drop_overloads[0].category", |m| drops(m)[0].category.clear()),
            ("policy.drop_overloads[0].drop_percentage", |m| drops(m)[0].drop_percentage = None),
            ("policy.drop_overloads[0].drop_percentage.denominator", |m| {
                let mut odd = share(1);
                odd.as_mut().expect("set").denominator = 7;
                drops(m)[0].drop_percentage = odd;
            }),
            ("policy.overprovisioning_factor", |m| {
                m.policy.as_mut().expect("set").overprovisioning_factor = wrap(99);
            }),
        ],
    );
}

fn drops(message: &mut ClusterLoadAssignment) -> &mut [DropOverload] {
    &mut message.policy.as_mut().expect("the sample has a policy").drop_overloads
}

#[test]
fn what_is_not_known_of_endpoints_is_warned_of() {
    assert_warned(
        samples::endpoints(),
        &Context::new(),
        &[
            ("policy.endpoint_stale_after", |m: &mut ClusterLoadAssignment| {
                m.policy.as_mut().expect("set").endpoint_stale_after = samples::seconds(1);
            }),
            ("policy.weighted_priority_health", |m| m.policy.as_mut().expect("set").weighted_priority_health = true),
            ("endpoints[1].metadata", |m| m.endpoints[1].metadata = Some(Default::default())),
            ("endpoints[1].lb_endpoints[0].health_status", |m| m.endpoints[1].lb_endpoints[0].health_status = 99),
            ("endpoints[1].lb_endpoints[0].typed_filter_metadata", |m| {
                let metadata = m.endpoints[1].lb_endpoints[0].metadata.as_mut().expect("set");
                metadata.typed_filter_metadata = [("x".to_owned(), samples::unknown())].into();
            }),
        ],
    );
}

#[test]
fn same_locality_may_stand_at_two_priorities_and_is_kept_once() {
    let endpoints = decoded(&samples::endpoints()).value;
    let [first, second] = endpoints.groups() else { panic!("two groups") };
    assert!(Arc::ptr_eq(&first.locality, &second.locality));
}

#[test]
fn endpoint_listed_again_in_another_locality_is_left_out_there() {
    let mut message = samples::endpoints();
    message.endpoints[1].lb_endpoints.insert(0, lb_endpoint("10.0.0.1", 80));
    let Decoded { value, warnings } = decoded(&message);
    let addresses = |group: usize| {
        let endpoints = value.groups()[group].endpoints.iter();
        endpoints.map(|endpoint| endpoint.address().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (addresses(0), addresses(1)),
        (vec!["10.0.0.1:80".into(), "[::1]:80".into()], vec!["10.0.0.2:80".into()])
    );
    assert_eq!(fields(&warnings), ["endpoints[1].lb_endpoints[0]"]);
}

#[test]
fn equal_metadata_is_kept_once_and_different_apart() {
    let mut message = samples::endpoints();
    let facts = message.endpoints[0].lb_endpoints[1].metadata.as_mut().expect("set");
    let number = wire::Value { kind: Some(wire::value::Kind::NumberValue(1.5)) };
    facts.filter_metadata.get_mut("istio").expect("set").fields.insert("more".to_owned(), number);
    let endpoints = decoded(&message).value;
    let all: Vec<_> = endpoints.groups().iter().flat_map(|group| &group.endpoints).collect();
    let facts = |index: usize| all[index].metadata().expect("set");
    assert!(Arc::ptr_eq(facts(0), facts(2)));
    assert!(!Arc::ptr_eq(facts(0), facts(1)));
    assert_eq!(facts(0).text("istio", "more"), None);
}

#[test]
fn locality_without_weight_takes_none() {
    for weight in [None, wrap(0)] {
        let mut message = samples::endpoints();
        message.endpoints[0].load_balancing_weight = weight;
        assert_eq!(decoded(&message).value.groups()[0].weight, None);
    }
}

#[test]
fn endpoints_may_be_none_and_huge_lists_are_read() {
    let none = ClusterLoadAssignment { cluster_name: "none".to_owned(), ..Default::default() };
    assert!(decoded(&none).value.is_empty());
    let many = (0..20_000_u32).map(|n| lb_endpoint(&format!("10.1.{}.{}", n >> 8, n & 255), 80)).collect();
    let message = ClusterLoadAssignment { endpoints: vec![group(0, many)], ..samples::endpoints() };
    assert_eq!(decoded(&message).value.len(), 20_000);
}

#[test]
fn health_pipes_and_further_addresses_are_kept() {
    let mut message = samples::endpoints();
    set_address(&mut message, core::address::Address::Pipe(core::Pipe { path: "/run/x".to_owned(), mode: 0 }));
    let further = AdditionalAddress { address: address("10.9.9.9", 1) };
    inner(&mut message.endpoints[0].lb_endpoints[0]).additional_addresses = vec![further];
    let statuses = [
        (0, HealthStatus::Unknown),
        (1, HealthStatus::Healthy),
        (2, HealthStatus::Unhealthy),
        (3, HealthStatus::Draining),
        (4, HealthStatus::Unhealthy),
        (5, HealthStatus::Degraded),
        (-1, HealthStatus::Unhealthy),
    ];
    for (number, expected) in statuses {
        message.endpoints[0].lb_endpoints[0].health_status = number;
        let endpoints = decoded(&message).value;
        let endpoint = &endpoints.groups()[0].endpoints[0];
        assert_eq!(endpoint.health(), expected);
        assert_eq!(endpoint.addresses().len(), 2);
        assert_eq!(*endpoint.address(), Address::Unix(Path::new("/run/x").into()));
    }
}

#[test]
fn endpoint_resource_is_named_by_its_cluster() {
    let decoded = decode(&any(&samples::endpoints()), &Context::new()).expect("good");
    assert_eq!(&**decoded.value.name(), "service");
}
