//! Mutations of the endpoints of the cluster `a`.

use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, HealthStatus, Locality, Metadata, Pipe, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::{Policy, policy::DropOverload};
use envoy_types::pb::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::locality_lb_endpoints::LbConfig;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::Any;
use mesh_xds_client::ResourceKind;

use super::{Change, Parts, garbage, resource_address, seconds, unknown};
use crate::conformance::generate::{hundredths, wrap};

pub(super) const MUTATIONS: &[Change] = &[
    ("endpoints: bytes that are no assignment", |p| {
        let type_url = ResourceKind::ClusterLoadAssignment.type_url().to_owned();
        p.raw = Some((ResourceKind::ClusterLoadAssignment, Any { type_url, value: garbage() }));
    }),
    ("endpoints: none", |p| p.assignment().endpoints.clear()),
    ("locality: missing", |p| p.locality().locality = None),
    ("locality: missing, without a weight", |p| {
        let group = p.locality();
        (group.locality, group.load_balancing_weight) = (None, None);
    }),
    ("locality: empty", |p| p.locality().locality = Some(Locality::default())),
    ("locality: without endpoints", |p| p.locality().lb_endpoints.clear()),
    ("locality: without endpoints, beside another", |p| {
        p.locality().lb_endpoints.clear();
        p.add_locality("other", "c");
    }),
    ("locality: priority 1 alone", |p| p.locality().priority = 1),
    ("locality: priorities 0 and 2", |p| p.add_locality("other", "c").priority = 2),
    ("locality: priority 200 alone", |p| p.locality().priority = 200),
    ("locality: twice at one priority", |p| {
        p.add_locality("", "c");
    }),
    ("locality: at two priorities", |p| p.add_locality("", "c").priority = 1),
    ("locality: weights beyond 32 bits", |p| {
        p.locality().load_balancing_weight = wrap(u32::MAX);
        p.add_locality("other", "a").load_balancing_weight = wrap(1);
    }),
    ("locality: weights beyond 32 bits at two priorities", |p| {
        p.locality().load_balancing_weight = wrap(u32::MAX);
        let other = p.add_locality("other", "c");
        (other.load_balancing_weight, other.priority) = (wrap(u32::MAX), 1);
    }),
    ("locality: weight 0", |p| p.locality().load_balancing_weight = wrap(0)),
    ("locality: weight 0, beside another", |p| {
        p.locality().load_balancing_weight = wrap(0);
        p.add_locality("other", "c");
    }),
    ("locality: no weight", |p| p.locality().load_balancing_weight = None),
    ("locality: endpoints to be found by LEDS", |p| {
        p.locality().lb_config = Some(LbConfig::LedsClusterLocalityConfig(Default::default()));
    }),
    ("endpoint: weight 0", |p| p.lb_endpoint().load_balancing_weight = wrap(0)),
    ("endpoint: weights beyond 32 bits", |p| {
        p.lb_endpoint().load_balancing_weight = wrap(u32::MAX);
        p.add_endpoint("c").load_balancing_weight = wrap(u32::MAX);
    }),
    ("endpoint: no weight", |p| p.lb_endpoint().load_balancing_weight = None),
    ("endpoint: nothing in it", |p| p.lb_endpoint().host_identifier = None),
    ("endpoint: a name in place of an address", |p| {
        p.lb_endpoint().host_identifier = Some(HostIdentifier::EndpointName("name".to_owned()));
    }),
    ("endpoint: no address", |p| p.endpoint().address = None),
    ("endpoint: an address of no kind", |p| p.endpoint().address = Some(Address::default())),
    ("endpoint: a host name as address", |p| p.socket().address = "localhost".to_owned()),
    ("endpoint: an empty address", |p| p.socket().address.clear()),
    ("endpoint: no port", |p| p.socket().port_specifier = None),
    ("endpoint: port 0", |p| p.socket().port_specifier = Some(PortSpecifier::PortValue(0))),
    ("endpoint: port 70000", |p| p.socket().port_specifier = Some(PortSpecifier::PortValue(70_000))),
    ("endpoint: a port by name", |p| p.socket().port_specifier = Some(PortSpecifier::NamedPort("http".to_owned()))),
    ("endpoint: UDP", |p| p.socket().protocol = 1),
    ("endpoint: resolver_name", |p| p.socket().resolver_name = "custom".to_owned()),
    ("endpoint: a pipe without a path", |p| set_address(p, address::Address::Pipe(Pipe::default()))),
    ("endpoint: an internal listener", |p| {
        set_address(p, address::Address::EnvoyInternalAddress(EnvoyInternalAddress::default()));
    }),
    ("endpoint: twice in one locality", |p| {
        p.add_endpoint("a");
    }),
    ("endpoint: in two localities", |p| {
        p.add_locality("other", "a");
    }),
    ("endpoint: at two priorities", |p| p.add_locality("other", "a").priority = 1),
    ("endpoint: an additional address without a port", |p| {
        p.endpoint().additional_addresses.push(AdditionalAddress { address: None });
    }),
    ("endpoint: an additional address that is a host name", |p| {
        let address = Some(resource_address("localhost", 1));
        p.endpoint().additional_addresses.push(AdditionalAddress { address });
    }),
    ("endpoint: an additional address that is the first one", |p| {
        let address = p.endpoint().address.clone();
        p.endpoint().additional_addresses.push(AdditionalAddress { address });
    }),
    ("endpoint: unknown health", |p| p.lb_endpoint().health_status = 99),
    ("endpoint: unhealthy", |p| p.lb_endpoint().health_status = HealthStatus::Unhealthy.into()),
    ("endpoint: draining", |p| p.lb_endpoint().health_status = HealthStatus::Draining.into()),
    ("endpoint: degraded", |p| p.lb_endpoint().health_status = HealthStatus::Degraded.into()),
    ("endpoint: metadata of an unknown type", |p| {
        let typed_filter_metadata = [("unknown".to_owned(), unknown())].into();
        p.lb_endpoint().metadata = Some(Metadata { typed_filter_metadata, ..Default::default() });
    }),
    ("endpoint: health check port 70000", |p| {
        p.endpoint().health_check_config =
            Some(envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig {
                port_value: 70_000,
                ..Default::default()
            });
    }),
    ("drops: no category", |p| drops(p, "", Some(hundredths(0)))),
    ("drops: no percentage", |p| drops(p, "lb", None)),
    ("drops: an unknown denominator", |p| drops(p, "lb", Some(FractionalPercent { numerator: 0, denominator: 9 }))),
    ("drops: 150 per cent", |p| drops(p, "lb", Some(hundredths(150)))),
    ("drops: everything", |p| drops(p, "lb", Some(hundredths(100)))),
    ("policy: overprovisioning_factor 0", |p| {
        p.assignment().policy = Some(Policy { overprovisioning_factor: wrap(0), ..Default::default() });
    }),
    ("policy: endpoint_stale_after 0", |p| {
        p.assignment().policy = Some(Policy { endpoint_stale_after: seconds(0), ..Default::default() });
    }),
    ("policy: endpoint_stale_after negative", |p| {
        p.assignment().policy = Some(Policy { endpoint_stale_after: seconds(-1), ..Default::default() });
    }),
];

fn set_address(p: &mut Parts, address: address::Address) {
    p.endpoint().address = Some(Address { address: Some(address) });
}

fn drops(p: &mut Parts, category: &str, drop_percentage: Option<FractionalPercent>) {
    let drop_overloads = vec![DropOverload { category: category.to_owned(), drop_percentage }];
    p.assignment().policy = Some(Policy { drop_overloads, ..Default::default() });
}
