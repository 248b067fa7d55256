//! One good configuration, and mutations that break one field of it each, or use one that some client does not know.
//!
//! The good one sends the method `First` to a cluster `a` with the backend `a`, and everything else to a cluster `b` with the
//! backend `b`. A mutation is applied to the messages before they are packed, so that the same one reaches gRPC's clients as an
//! API listener and Envoy as a listener with a filter chain.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{ConfigSource, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration};
use envoy_types::util::pack_any;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::resource;

use super::generate::offered;
use super::{Addresses, Case, Probe, Shares, unpacked};

mod clusters;
mod endpoints;
mod listeners;
mod routes;

/// The method that goes to the cluster `a`.
const FIRST: &str = "/conformance.Echo/First";
/// One that goes to the cluster `b`.
const SECOND: &str = "/conformance.Echo/Second";

/// One change to a good configuration.
#[derive(Clone, Copy)]
pub struct Mutation {
    /// What is changed, in words: the key under which it is listed.
    pub name: &'static str,
    /// The kind of the resource that is changed.
    pub kind: ResourceKind,
    /// Whether it makes sense where there is no API listener.
    pub is_for_envoy: bool,
    apply: fn(&mut Parts),
}

/// The messages of the good configuration.
pub struct Parts {
    listener: Listener,
    manager: HttpConnectionManager,
    /// In place of the manager.
    api: Option<Option<Any>>,
    routes: RouteConfiguration,
    /// `a`, which mutations are about, and `b`.
    clusters: [Cluster; 2],
    endpoints: [ClusterLoadAssignment; 2],
    /// In place of the resource of that kind; of clusters and endpoints, of `a`.
    raw: Option<(ResourceKind, Any)>,
    addresses: Addresses,
    /// Headers of the calls of `First`.
    metadata: Vec<(&'static str, &'static str)>,
}

/// Every mutation.
pub fn all() -> Vec<Mutation> {
    let kinds = [
        (ResourceKind::Listener, listeners::MUTATIONS),
        (ResourceKind::RouteConfiguration, routes::MUTATIONS),
        (ResourceKind::Cluster, clusters::MUTATIONS),
        (ResourceKind::ClusterLoadAssignment, endpoints::MUTATIONS),
    ];
    let with_kind = |(kind, mutations): (ResourceKind, &[Change])| {
        let change = move |change: &Change| {
            // The API listener itself is not what a sidecar is sent.
            let is_for_envoy = !change.0.starts_with("api: ");
            Mutation { name: change.0, kind, is_for_envoy, apply: change.1 }
        };
        mutations.iter().map(change).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(with_kind).collect()
}

type Change = (&'static str, fn(&mut Parts));

// --- what mutations are written with ---

fn garbage() -> Vec<u8> {
    vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]
}

fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/conformance.Unknown".to_owned(), value: Vec::new() }
}

fn spoiled<M: prost::Name>() -> Any {
    Any { type_url: M::type_url(), value: garbage() }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn truth(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

// === impl Mutation ===

impl Mutation {
    /// The mutation as a target, for gRPC's clients.
    pub fn proxyless(&self, number: usize, addresses: &Addresses) -> Case {
        self.parts(number, addresses).proxyless()
    }

    /// The mutation as what a sidecar is sent.
    pub fn sidecar(&self, number: usize, addresses: &Addresses) -> Case {
        self.parts(number, addresses).sidecar(number)
    }

    fn parts(&self, number: usize, addresses: &Addresses) -> Parts {
        let mut parts = Parts::good(&format!("mutation-{number:03}"), addresses);
        (self.apply)(&mut parts);
        parts
    }
}

/// The good configuration itself, as a sidecar is sent it.
pub fn good_sidecar(addresses: &Addresses) -> Case {
    Parts::good("good", addresses).sidecar(999)
}

/// The good configuration itself.
pub fn good(addresses: &Addresses) -> Case {
    Parts::good("good", addresses).proxyless()
}

// === impl Parts ===

impl Parts {
    fn good(name: &str, addresses: &Addresses) -> Self {
        let routes_name = format!("{name}/routes");
        let mut listener = resource::listener(name, &*routes_name);
        let api = listener.api_listener.take().and_then(|api| api.api_listener).expect("the kit makes one");
        let cluster = |letter: &str| format!("{name}/{letter}");
        let first = PathSpecifier::Path(FIRST.to_owned());
        let rest = PathSpecifier::Prefix("/".to_owned());
        let routes = vec![route(first, &cluster("a")), route(rest, &cluster("b"))];
        let host = VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..Default::default() };
        let assign = |letter: &str| resource::endpoints(&cluster(letter), [addresses[letter]]);
        Self {
            listener,
            manager: unpacked(&api),
            api: None,
            routes: RouteConfiguration { name: routes_name, virtual_hosts: vec![host], ..Default::default() },
            clusters: ["a", "b"].map(|letter| resource::cluster(&cluster(letter))),
            endpoints: ["a", "b"].map(assign),
            raw: None,
            addresses: addresses.clone(),
            metadata: Vec::new(),
        }
    }

    fn proxyless(mut self) -> Case {
        let api = self.api.take().unwrap_or_else(|| Some(pack_any(self.manager.clone())));
        // A mutation that takes the field away leaves `None` in it.
        self.listener.api_listener = api.map(|api| ApiListener { api_listener: Some(api) });
        let probes = self.probes();
        Case { name: self.listener.name.clone(), resources: self.resources(), probes }
    }

    /// The listener binds no port, and no source of endpoints is waited for longer than a moment.
    fn sidecar(mut self, number: usize) -> Case {
        let filter = Filter {
            name: "http".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(self.manager.clone()))),
        };
        let port = 20_000 + number as u32;
        self.listener.address = Some(resource_address("127.0.0.1", port));
        self.listener.filter_chains = vec![FilterChain { filters: vec![filter], ..Default::default() }];
        self.listener.bind_to_port = truth(false);
        for cluster in &mut self.clusters {
            let source = cluster.eds_cluster_config.as_mut().and_then(|eds| eds.eds_config.as_mut());
            if let Some(source) = source {
                source.initial_fetch_timeout = Some(Duration { seconds: 0, nanos: 200_000_000 });
            }
        }
        let probes = self.probes();
        Case { name: self.listener.name.clone(), resources: self.resources(), probes }
    }

    fn probes(&self) -> Vec<Probe> {
        let metadata = self.metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let probe = |path: &str, metadata, count| {
            let (path, expected) = (path.to_owned(), Shares::new());
            Probe { path, metadata, warm: Vec::new(), count, expected }
        };
        vec![probe(FIRST, metadata, 4), probe(SECOND, Vec::new(), 1)]
    }

    fn resources(self) -> Vec<(ResourceKind, String, Any)> {
        let mut resources = vec![offered(self.listener), offered(self.routes)];
        resources.extend(self.clusters.map(offered));
        resources.extend(self.endpoints.map(offered));
        if let Some((kind, any)) = self.raw
            && let Some(resource) = resources.iter_mut().find(|(other, _, _)| *other == kind)
        {
            resource.2 = any;
        }
        resources
    }

    // --- what mutations reach for ---

    fn host(&mut self) -> &mut VirtualHost {
        &mut self.routes.virtual_hosts[0]
    }

    fn route(&mut self) -> &mut Route {
        &mut self.host().routes[0]
    }

    fn matches(&mut self) -> &mut RouteMatch {
        self.route().r#match.get_or_insert_default()
    }

    fn action(&mut self) -> &mut RouteAction {
        match &mut self.route().action {
            Some(route::Action::Route(action)) => action,
            other => panic!("{other:?} does not forward"),
        }
    }

    fn cluster(&mut self) -> &mut Cluster {
        &mut self.clusters[0]
    }

    fn eds_source(&mut self) -> &mut ConfigSource {
        self.cluster().eds_cluster_config.as_mut().and_then(|eds| eds.eds_config.as_mut()).expect("the kit sets it")
    }

    fn assignment(&mut self) -> &mut ClusterLoadAssignment {
        &mut self.endpoints[0]
    }

    fn locality(&mut self) -> &mut LocalityLbEndpoints {
        &mut self.assignment().endpoints[0]
    }

    fn lb_endpoint(&mut self) -> &mut LbEndpoint {
        &mut self.locality().lb_endpoints[0]
    }

    fn endpoint(&mut self) -> &mut Endpoint {
        match &mut self.lb_endpoint().host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
            other => panic!("{other:?} has no address"),
        }
    }

    fn socket(&mut self) -> &mut SocketAddress {
        use envoy_types::pb::envoy::config::core::v3::address::Address;
        match self.endpoint().address.as_mut().and_then(|address| address.address.as_mut()) {
            Some(Address::SocketAddress(socket)) => socket,
            other => panic!("{other:?} has no port"),
        }
    }

    /// Another locality with this backend, weight 1.
    fn add_locality(&mut self, zone: &str, backend: &str) -> &mut LocalityLbEndpoints {
        let address = self.addresses[backend];
        let mut group = resource::endpoints("", [address]).endpoints.remove(0);
        group.locality.as_mut().expect("the kit sets it").zone = zone.to_owned();
        self.assignment().endpoints.push(group);
        self.assignment().endpoints.last_mut().expect("just pushed")
    }

    /// Another endpoint in the first locality.
    fn add_endpoint(&mut self, backend: &str) -> &mut LbEndpoint {
        let address = self.addresses[backend];
        let endpoint = resource::endpoints("", [address]).endpoints.remove(0).lb_endpoints.remove(0);
        self.locality().lb_endpoints.push(endpoint);
        self.locality().lb_endpoints.last_mut().expect("just pushed")
    }
}

fn route(path: PathSpecifier, cluster: &str) -> Route {
    let action =
        RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())), ..Default::default() };
    Route {
        r#match: Some(RouteMatch { path_specifier: Some(path), ..Default::default() }),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    }
}

fn resource_address(ip: &str, port: u32) -> envoy_types::pb::envoy::config::core::v3::Address {
    use envoy_types::pb::envoy::config::core::v3::{Address, address, socket_address::PortSpecifier};
    let port_specifier = Some(PortSpecifier::PortValue(port));
    let socket = SocketAddress { address: ip.to_owned(), port_specifier, ..Default::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_two_hundred_and_all_have_names_of_their_own() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|mutation| mutation.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.len() >= 200, "{}", all.len());
    }
}
