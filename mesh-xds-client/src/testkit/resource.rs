//! The four resources of a mesh in a line each, as the messages a control plane would send.
//!
//! What they return are plain `envoy-types` messages: set any other field before handing them to
//! [`ControlPlane::set`](super::ControlPlane::set). They are written so that Envoy's and gRPC's own clients accept them: routes
//! end in the router filter, clusters take their endpoints over the same stream, every locality has a name and a weight.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Locality, SocketAddress, TransportSocket, address,
    config_source, socket_address, transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster, route, route_action, route_match,
    weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher,
    UpstreamTlsContext, common_tls_context, subject_alt_name_matcher,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use envoy_types::util::pack_any;

use crate::resource::{Context, decode};
use crate::session::ResourceError;

/// Where a listener's routes are: a name to ask for by RDS, or the routes themselves.
#[derive(Debug, Clone)]
pub struct Routes(RouteSpecifier);

/// An address and its weight among its neighbours, 1 unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Weighted {
    address: SocketAddr,
    weight: u32,
}

/// A client's listener, with an API listener that takes its routes from `routes`.
///
/// ```
/// use mesh_xds_client::testkit::resource::{listener, route_config};
///
/// let by_name = listener("echo", "echo-routes");
/// let inline = listener("echo", route_config("echo-routes", [("v1", 1)]));
/// # assert_ne!(by_name, inline);
/// ```
pub fn listener(name: &str, routes: impl Into<Routes>) -> Listener {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![router],
        route_specifier: Some(routes.into().0),
        ..Default::default()
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(pack_any(manager)) }),
        ..Default::default()
    }
}

/// Routes that send every request of every host to `clusters`, by weight.
///
/// A weight of 0 keeps a cluster known and gives it nothing.
///
/// ```
/// # use mesh_xds_client::testkit::resource::route_config;
/// let canary = route_config("echo-routes", [("v1", 95), ("v2", 5)]);
/// # assert_eq!(canary.virtual_hosts.len(), 1);
/// ```
pub fn route_config<N: Into<String>>(name: &str, clusters: impl IntoIterator<Item = (N, u32)>) -> RouteConfiguration {
    let weight = |(name, weight): (N, u32)| ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    };
    let clusters = WeightedCluster { clusters: clusters.into_iter().map(weight).collect(), ..Default::default() };
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::WeightedClusters(clusters)),
        ..Default::default()
    };
    let everything =
        RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())), ..Default::default() };
    let route = Route { r#match: Some(everything), action: Some(route::Action::Route(action)), ..Default::default() };
    let host =
        VirtualHost { name: name.to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

/// A cluster that balances round robin over the endpoints named like it.
pub fn cluster(name: &str) -> Cluster {
    let endpoints = EdsClusterConfig { eds_config: Some(over_ads()), service_name: String::new() };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(endpoints),
        ..Default::default()
    }
}

/// The same cluster, reached by mutual TLS: the process shows the certificate of its identity `identity`, trusts the roots
/// that come with it, and takes only peers that prove one of `names`, such as SPIFFE ids.
///
/// ```
/// use mesh_xds_client::testkit::resource::{cluster, mutual_tls};
///
/// let secured = mutual_tls(cluster("v1"), "default", ["spiffe://cluster.local/ns/shop/sa/echo"]);
/// # assert!(secured.transport_socket.is_some());
/// ```
pub fn mutual_tls<N: Into<String>>(cluster: Cluster, identity: &str, names: impl IntoIterator<Item = N>) -> Cluster {
    let provider =
        || CertificateProviderPluginInstance { instance_name: identity.to_owned(), certificate_name: String::new() };
    let exactly = |name: N| StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(name.into())),
        ..Default::default()
    };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_typed_subject_alt_names: names
            .into_iter()
            .map(|name| SubjectAltNameMatcher {
                san_type: subject_alt_name_matcher::SanType::Uri.into(),
                matcher: Some(exactly(name)),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let common = CommonTlsContext {
        tls_certificate_provider_instance: Some(provider()),
        validation_context_type: Some(common_tls_context::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let socket = TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
    };
    Cluster { transport_socket: Some(socket), ..cluster }
}

/// The endpoints of `cluster`, in one locality of priority 0: addresses, or pairs of address and weight.
///
/// ```
/// # use std::net::SocketAddr;
/// # use mesh_xds_client::testkit::resource::endpoints;
/// # let (one, two) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
/// let equal = endpoints("v1", [one, two]);
/// let weighted = endpoints("v1", [(one, 3), (two, 1)]);
/// # assert_ne!(equal, weighted);
/// ```
pub fn endpoints<A: Into<Weighted>>(cluster: &str, addresses: impl IntoIterator<Item = A>) -> ClusterLoadAssignment {
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { region: "test".to_owned(), ..Default::default() }),
        lb_endpoints: addresses.into_iter().map(|address| endpoint(address.into())).collect(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..Default::default()
    };
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints: vec![locality], ..Default::default() }
}

/// Why this crate's client refuses a resource, or none where it takes it: what [`wait_acked`](super::ControlPlane::wait_acked)
/// says, without a control plane. The client is one without identities.
///
/// ```
/// use envoy_types::util::pack_any;
/// use mesh_xds_client::testkit::resource::{refusal, route_config};
///
/// let mut routes = route_config("echo-routes", [("v1", 1)]);
/// assert_eq!(refusal(&pack_any(routes.clone())), None);
/// routes.virtual_hosts[0].domains.clear();
/// assert_eq!(refusal(&pack_any(routes)).expect("refused").field.as_deref(), Some("virtual_hosts[0].domains"));
/// ```
pub fn refusal(resource: &Any) -> Option<ResourceError> {
    decode(resource, &Context::new()).err()
}

fn endpoint(Weighted { address, weight }: Weighted) -> LbEndpoint {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    let address = Address { address: Some(address::Address::SocketAddress(socket)) };
    LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    }
}

fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

// === impl Routes ===

/// By name, over RDS.
impl From<&str> for Routes {
    fn from(name: &str) -> Self {
        let rds = Rds { config_source: Some(over_ads()), route_config_name: name.to_owned() };
        Self(RouteSpecifier::Rds(rds))
    }
}

/// Inline.
impl From<RouteConfiguration> for Routes {
    fn from(routes: RouteConfiguration) -> Self {
        Self(RouteSpecifier::RouteConfig(routes))
    }
}

// === impl Weighted ===

impl From<SocketAddr> for Weighted {
    fn from(address: SocketAddr) -> Self {
        Self { address, weight: 1 }
    }
}

impl From<(SocketAddr, u32)> for Weighted {
    fn from((address, weight): (SocketAddr, u32)) -> Self {
        Self { address, weight }
    }
}
