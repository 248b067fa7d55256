//! Good messages, each with most of what the model can hold, for tests to spoil and fuzzers to begin with: here as a control
//! plane of gRPC's clients has them, in [`sidecar`] what is said in another way to a sidecar.

pub(crate) mod sidecar;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{self as cluster, circuit_breakers, cluster as parts},
            core::v3 as core,
            endpoint::v3 as endpoint,
            listener::v3 as listener,
            route::v3 as route,
        },
        extensions::{
            filters::{
                common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
                http::{
                    fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
                    router::v3::Router,
                },
                network::http_connection_manager::v3 as manager,
            },
            retry::host::previous_hosts::v3::PreviousHostsPredicate,
            transport_sockets::tls::v3 as tls,
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
                },
            },
        },
        r#type::{matcher::v3 as matcher, v3 as types},
    },
    google::protobuf::{self as wire, Any},
};
use prost::{Message, Name};

use crate::resource::Context;

pub(super) const FAULT: &str = "envoy.filters.http.fault";
pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(super) fn seconds(seconds: i64) -> Option<wire::Duration> {
    Some(wire::Duration { seconds, nanos: 0 })
}

pub(super) fn wrap(value: u32) -> Option<wire::UInt32Value> {
    Some(wire::UInt32Value { value })
}

pub(super) fn share(numerator: u32) -> Option<types::FractionalPercent> {
    Some(types::FractionalPercent { numerator, denominator: 0 })
}

pub(super) fn exact(text: &str) -> matcher::StringMatcher {
    let match_pattern = Some(matcher::string_matcher::MatchPattern::Exact(text.to_owned()));
    matcher::StringMatcher { match_pattern, ignore_case: false }
}

pub(super) fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/test.Unknown".to_owned(), value: Vec::new() }
}

pub(super) fn ads() -> Option<core::ConfigSource> {
    let config_source_specifier = Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default()));
    Some(core::ConfigSource { config_source_specifier, ..Default::default() })
}

pub(super) fn file() -> Option<core::ConfigSource> {
    let config_source_specifier =
        Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(Default::default()));
    Some(core::ConfigSource { config_source_specifier, ..Default::default() })
}

pub(crate) fn context() -> Context {
    Context::new().trusting().with_identity("default").with_secret("ROOTCA", "default")
}

pub(crate) fn all() -> [Any; 4] {
    [any(&listener()), any(&routes()), any(&cluster()), any(&endpoints())]
}

// --- Listener ---

pub(super) fn faults(percent: u32) -> HttpFault {
    HttpFault {
        delay: Some(FaultDelay {
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(seconds(2).expect("set"))),
            percentage: share(percent),
        }),
        abort: Some(FaultAbort {
            error_type: Some(ErrorType::HttpStatus(503)),
            percentage: share(percent),
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    }
}

pub(super) fn filter(name: &str, config: Any) -> manager::HttpFilter {
    manager::HttpFilter {
        name: name.to_owned(),
        config_type: Some(manager::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub(super) fn router() -> manager::HttpFilter {
    filter("router", any(&Router::default()))
}

pub(super) fn rds() -> manager::Rds {
    manager::Rds { config_source: ads(), route_config_name: "routes".to_owned() }
}

pub(super) fn connection_manager() -> manager::HttpConnectionManager {
    manager::HttpConnectionManager {
        http_filters: vec![filter(FAULT, any(&faults(1))), router()],
        stream_idle_timeout: seconds(0),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_stream_duration: seconds(9),
            ..Default::default()
        }),
        route_specifier: Some(manager::http_connection_manager::RouteSpecifier::Rds(rds())),
        ..Default::default()
    }
}

pub(super) fn listener_of(manager: &manager::HttpConnectionManager) -> listener::Listener {
    listener::Listener {
        name: "listener".to_owned(),
        // Istio sends proxyless clients the address too.
        address: Some(core::Address::default()),
        api_listener: Some(listener::ApiListener { api_listener: Some(any(manager)) }),
        ..Default::default()
    }
}

pub(super) fn listener() -> listener::Listener {
    listener_of(&connection_manager())
}

// --- RouteConfiguration ---

pub(super) fn add(key: &str, value: &str) -> core::HeaderValueOption {
    let header = core::HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    core::HeaderValueOption { header: Some(header), ..Default::default() }
}

pub(super) fn header_test(name: &str) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(exact("x"))),
        ..Default::default()
    }
}

pub(super) fn route_match() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        headers: vec![header_test("x-user")],
        query_parameters: vec![route::QueryParameterMatcher { name: "debug".to_owned(), ..Default::default() }],
        runtime_fraction: Some(core::RuntimeFractionalPercent { default_value: share(5), ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn retry_policy() -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: "connect-failure, UNAVAILABLE,retriable-status-codes".to_owned(),
        num_retries: wrap(2),
        per_try_timeout: seconds(1),
        retriable_status_codes: vec![429],
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
            name: "previous".to_owned(),
            config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate::default(),
            ))),
        }],
        retry_back_off: Some(route::retry_policy::RetryBackOff { base_interval: seconds(1), max_interval: seconds(3) }),
        ..Default::default()
    }
}

pub(super) fn weighted(name: &str, weight: u32) -> route::weighted_cluster::ClusterWeight {
    route::weighted_cluster::ClusterWeight { name: name.to_owned(), weight: wrap(weight), ..Default::default() }
}

pub(super) fn weighted_clusters() -> route::WeightedCluster {
    route::WeightedCluster { clusters: vec![weighted("a", 0), weighted("b", 3)], ..Default::default() }
}

pub(super) fn forward() -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::WeightedClusters(weighted_clusters())),
        timeout: seconds(0),
        retry_policy: Some(retry_policy()),
        prefix_rewrite: "/v2".to_owned(),
        host_rewrite_specifier: Some(route::route_action::HostRewriteSpecifier::HostRewriteLiteral("h".to_owned())),
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: seconds(4),
            grpc_timeout_header_max: seconds(0),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn redirect() -> route::RedirectAction {
    route::RedirectAction {
        scheme_rewrite_specifier: Some(route::redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)),
        port_redirect: 8443,
        response_code: 3,
        ..Default::default()
    }
}

pub(super) fn direct_response(body: &str) -> route::DirectResponseAction {
    let specifier = Some(core::data_source::Specifier::InlineString(body.to_owned()));
    route::DirectResponseAction {
        status: 404,
        body: Some(core::DataSource { specifier, ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn route(action: route::route::Action) -> route::Route {
    route::Route { r#match: Some(route_match()), action: Some(action), ..Default::default() }
}

/// One host with three routes: to clusters, to elsewhere, to an answer.
pub(super) fn routes() -> route::RouteConfiguration {
    let host = route::VirtualHost {
        name: "host".to_owned(),
        domains: vec!["shop.example".to_owned(), "*.shop.example".to_owned()],
        routes: vec![
            route(route::route::Action::Route(forward())),
            route(route::route::Action::Redirect(redirect())),
            route(route::route::Action::DirectResponse(direct_response("gone"))),
        ],
        request_headers_to_add: vec![add("x-a", "%REQ(x-b)%")],
        response_headers_to_remove: vec!["server".to_owned()],
        ..Default::default()
    };
    route::RouteConfiguration { name: "routes".to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

// --- Cluster ---

pub(super) fn http_options() -> HttpProtocolOptions {
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: wrap(50),
        connection_keepalive: Some(core::KeepaliveSettings {
            interval: seconds(30),
            timeout: seconds(5),
            ..Default::default()
        }),
        ..Default::default()
    };
    let explicit = ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)) };
    HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: seconds(0),
            max_connection_duration: seconds(60),
            max_requests_per_connection: wrap(100),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

/// TLS as Istio sends it to proxyless clients: by the fields that others have replaced.
#[expect(deprecated, reason = "Istio sends it so")]
pub(super) fn tls_context() -> tls::UpstreamTlsContext {
    use tls::common_tls_context as common;
    let combined = common::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_subject_alt_names: vec![exact("spiffe://cluster.local/ns/shop/sa/cart")],
            ..Default::default()
        }),
        validation_context_certificate_provider_instance: Some(common::CertificateProviderInstance {
            instance_name: "default".to_owned(),
            certificate_name: "ROOTCA".to_owned(),
        }),
        ..Default::default()
    };
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_certificate_provider_instance: Some(common::CertificateProviderInstance {
                instance_name: "default".to_owned(),
                certificate_name: "default".to_owned(),
            }),
            validation_context_type: Some(common::ValidationContextType::CombinedValidationContext(combined)),
            ..Default::default()
        }),
        sni: "outbound_.80_._.cart.shop.svc.cluster.local".to_owned(),
        ..Default::default()
    }
}

pub(super) fn socket_of(config: Any) -> Option<core::TransportSocket> {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(config));
    Some(core::TransportSocket { name: "socket".to_owned(), config_type })
}

pub(super) fn thresholds(priority: i32, requests: u32) -> circuit_breakers::Thresholds {
    circuit_breakers::Thresholds { priority, max_requests: wrap(requests), ..Default::default() }
}

pub(super) fn cluster() -> cluster::Cluster {
    cluster::Cluster {
        name: "cluster".to_owned(),
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::Type(parts::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(parts::EdsClusterConfig { eds_config: ads(), service_name: "service".to_owned() }),
        connect_timeout: seconds(3),
        lb_policy: parts::LbPolicy::LeastRequest as i32,
        common_lb_config: Some(parts::CommonLbConfig {
            healthy_panic_threshold: Some(types::Percent { value: 0.0 }),
            locality_config_specifier: Some(
                parts::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default()),
            ),
            ..Default::default()
        }),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![thresholds(0, 10), thresholds(1, 20)],
            per_host_thresholds: vec![circuit_breakers::Thresholds { max_connections: wrap(4), ..Default::default() }],
        }),
        outlier_detection: Some(cluster::OutlierDetection {
            consecutive_5xx: wrap(7),
            enforcing_success_rate: wrap(0),
            max_ejection_percent: wrap(50),
            ..Default::default()
        }),
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&http_options()))].into(),
        transport_socket: socket_of(any(&tls_context())),
        ..Default::default()
    }
}

// --- ClusterLoadAssignment ---

pub(super) fn address(host: &str, port: u32) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

pub(super) fn lb_endpoint(host: &str, port: u32) -> endpoint::LbEndpoint {
    let at = endpoint::Endpoint { address: address(host, port), ..Default::default() };
    let workload = wire::Value { kind: Some(wire::value::Kind::StringValue("cart;shop".to_owned())) };
    let facts = wire::Struct { fields: [("workload".to_owned(), workload)].into() };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(at)),
        load_balancing_weight: wrap(2),
        metadata: Some(core::Metadata { filter_metadata: [("istio".to_owned(), facts)].into(), ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn group(priority: u32, endpoints: Vec<endpoint::LbEndpoint>) -> endpoint::LocalityLbEndpoints {
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality { region: "r".to_owned(), zone: "z".to_owned(), sub_zone: String::new() }),
        lb_endpoints: endpoints,
        load_balancing_weight: wrap(1),
        priority,
        ..Default::default()
    }
}

pub(super) fn endpoints() -> endpoint::ClusterLoadAssignment {
    use endpoint::cluster_load_assignment::{Policy, policy::DropOverload};
    endpoint::ClusterLoadAssignment {
        cluster_name: "service".to_owned(),
        endpoints: vec![
            group(0, vec![lb_endpoint("10.0.0.1", 80), lb_endpoint("::1", 80)]),
            group(1, vec![lb_endpoint("10.0.0.2", 80)]),
        ],
        policy: Some(Policy {
            drop_overloads: vec![DropOverload { category: "spill".to_owned(), drop_percentage: share(5) }],
            overprovisioning_factor: wrap(200),
            ..Default::default()
        }),
        ..Default::default()
    }
}
