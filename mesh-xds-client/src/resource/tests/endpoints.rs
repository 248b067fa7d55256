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
use mesh_core::config::{Address, Endpoints, HealthStatus};
use proptest::prelude::*;

use super::{
    samples::{address, any, group, lb_endpoint, share, wrap},
    *,
};

fn decoded(message: &ClusterLoadAssignment) -> Decoded<Endpoints> {
    let Decoded { value, warnings } = read(message, None);
    Decoded { value: Arc::unwrap_or_clone(value.endpoints), warnings }
}

fn read(message: &ClusterLoadAssignment, former: Option<&Assignment>) -> Decoded<Assignment> {
    decode_endpoints(message.encode_to_vec().into(), former).expect("good endpoints")
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
            ("endpoints[0].locality", |m| {
                (m.endpoints[0].locality, m.endpoints[0].load_balancing_weight) = (None, None);
            }),
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
                m.policy.as_mut().expect("set").overprovisioning_factor = wrap(0);
            }),
        ],
    );
}

#[test]
fn factor_that_leaves_room_in_full_health_is_legal() {
    let mut message = samples::endpoints();
    message.policy.as_mut().expect("the sample has a policy").overprovisioning_factor = wrap(1);
    assert_eq!(decoded(&message).value.overprovisioning(), 1);
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
    let Resource::Endpoints(assignment) = &decoded.value else { panic!("endpoints") };
    assert_eq!(&*assignment.cluster, "service");
}

#[test]
fn endpoints_that_did_not_change_are_those_of_the_version_before() {
    let mut message = samples::endpoints();
    let facts = message.endpoints[0].lb_endpoints[1].metadata.as_mut().expect("set");
    facts.filter_metadata.insert("other".to_owned(), wire::Struct::default());
    let before = read(&message, None).value;
    let facts = |assignment: &Assignment, group: usize, endpoint: usize| {
        let endpoint = &assignment.endpoints.groups()[group].endpoints[endpoint];
        endpoint.metadata().expect("set").clone()
    };

    // One comes first, one changes its weight, and the others are the same in other places.
    message.endpoints[0].lb_endpoints.insert(0, lb_endpoint("10.0.0.3", 80));
    message.endpoints[1].lb_endpoints[0].load_balancing_weight = wrap(7);
    let after = read(&message, Some(&before)).value;
    assert!(Arc::ptr_eq(&facts(&before, 0, 1), &facts(&after, 0, 2)), "used again");
    assert!(Arc::ptr_eq(&facts(&before, 0, 0), &facts(&after, 0, 0)), "new, with metadata that was known");
    assert_eq!(after.endpoints.groups()[1].endpoints[0].weight().get(), 7);
    assert_eq!(after, read(&message, None).value);
}

#[test]
fn an_endpoint_that_was_warned_of_is_warned_of_again_at_its_present_place() {
    let mut message = samples::endpoints();
    message.endpoints[0].lb_endpoints[1].health_status = 77;
    let before = read(&message, None);
    message.endpoints[0].lb_endpoints.remove(0);
    let after = read(&message, Some(&before.value));
    assert_eq!(fields(&before.warnings), ["endpoints[0].lb_endpoints[1].health_status"]);
    assert_eq!(fields(&after.warnings), ["endpoints[0].lb_endpoints[0].health_status"]);
}

#[test]
fn an_endpoint_that_is_no_protobuf_is_refused_by_its_place() {
    // A group of one endpoint, whose bytes end in the middle of a field.
    let bytes = [0x0a, 1, b'a', 0x12, 6, 0x0a, 0, 0x12, 2, 0x0a, 9];
    let bad = decode_endpoints(bytes.to_vec().into(), None).expect_err("cut off");
    assert_eq!((bad.name.as_deref(), bad.blamed()), (Some("a"), "endpoints[0].lb_endpoints[0].value"));
}

proptest! {
    /// Each number of a version is an endpoint: its port, and whether its health is one that is not known here.
    #[test]
    fn a_version_reads_the_same_whatever_came_before(
        versions in proptest::collection::vec(proptest::collection::vec((1..8_u32, 0..9_u32), 0..8), 1..6),
    ) {
        let mut former: Option<Assignment> = None;
        for version in versions {
            let endpoint = |(port, odd): (u32, u32)| {
                let health_status = if odd == 0 { 77 } else { 0 };
                LbEndpoint { health_status, ..lb_endpoint("10.0.0.1", port) }
            };
            let (near, far) = version.split_at(version.len() / 2);
            let groups = [near, far].map(|group| group.iter().copied().map(endpoint).collect());
            let [near, far] = groups;
            let message = ClusterLoadAssignment { endpoints: vec![group(0, near), group(1, far)], ..samples::endpoints() };
            let bytes = Bytes::from(message.encode_to_vec());
            let parts = |decoded: Decoded<Assignment>| (decoded.value, decoded.warnings);
            let fresh = decode_endpoints(bytes.clone(), None).map(parts);
            let after = decode_endpoints(bytes, former.as_ref()).map(parts);
            prop_assert_eq!(&fresh, &after);
            former = after.ok().map(|(value, _)| value).or(former);
        }
    }
}
