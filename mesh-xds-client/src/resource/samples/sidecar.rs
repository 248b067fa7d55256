//! What istiod says to a sidecar in its own way: everything about TLS by endpoint and by SDS secrets, all clusters with those
//! that nobody can use here, a route configuration for a port with every service that has it, and what comes in.

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{self as cluster, cluster as parts},
            endpoint::v3 as endpoint,
            listener::v3 as listener,
            route::v3 as route,
        },
        extensions::{
            transport_sockets::{raw_buffer::v3::RawBuffer, tls::v3 as tls},
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
                },
            },
        },
    },
    google::protobuf::{self as wire, Any},
};

use super::{
    HTTP_OPTIONS, address, ads, any, exact, forward, group, lb_endpoint, retry_policy, seconds, socket_of, wrap,
};
use crate::resource::Context;

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// What a sidecar honours: an identity by its secrets, and the listener for what comes in.
pub(crate) fn context() -> Context {
    Context::new().for_sidecars()
}

/// `virtualInbound`, the routes of a port, a service with automatic mutual TLS, one from outside that DNS finds, one without an
/// address of its own, the cluster for what is none of these, and endpoints.
pub(crate) fn all() -> [Any; 7] {
    let clusters = [
        cluster(),
        outside(),
        unaddressed("outbound|9080||db.shop.svc.cluster.local"),
        unaddressed("PassthroughCluster"),
    ];
    let [cluster, outside, headless, passthrough] = clusters.each_ref().map(any);
    [any(&inbound()), any(&routes()), cluster, outside, headless, passthrough, any(&endpoints())]
}

fn text(text: &str) -> wire::Value {
    wire::Value { kind: Some(wire::value::Kind::StringValue(text.to_owned())) }
}

fn tls_mode(mode: &str) -> wire::Struct {
    wire::Struct { fields: [("tlsMode".to_owned(), text(mode))].into() }
}

// --- what comes in ---

fn chain(name: &str, port: Option<u32>) -> listener::FilterChain {
    let fits = listener::FilterChainMatch {
        destination_port: port.and_then(wrap),
        transport_protocol: "tls".to_owned(),
        application_protocols: vec!["istio-peer-exchange".to_owned(), "istio".to_owned()],
        ..Default::default()
    };
    let context =
        tls::DownstreamTlsContext { common_tls_context: Some(secrets(&["h2"], "spiffe://a")), ..Default::default() };
    listener::FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(fits),
        transport_socket: socket_of(any(&context)),
        ..Default::default()
    }
}

fn inbound() -> listener::Listener {
    listener::Listener {
        name: "virtualInbound".to_owned(),
        address: address("0.0.0.0", 15006),
        filter_chains: vec![chain("0.0.0.0_9080", Some(9080)), chain("virtualInbound", None)],
        ..Default::default()
    }
}

// --- routes of a port ---

fn to(cluster: &str) -> route::Route {
    use route::route_match::PathSpecifier;
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: seconds(0),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes".to_owned(),
            ..retry_policy()
        }),
        ..Default::default()
    };
    route::Route {
        name: "default".to_owned(),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        decorator: Some(route::Decorator { operation: "reviews:9080/*".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<route::Route>) -> route::VirtualHost {
    route::VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(ToString::to_string).collect(),
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// As a sidecar asks for it by a port: a host for each service, and one for everything else.
fn routes() -> route::RouteConfiguration {
    let canary = super::route(route::route::Action::Route(forward()));
    let domains =
        ["reviews.shop.svc.cluster.local", "reviews", "reviews.shop.svc", "reviews.shop", "10.96.0.7", "[fd00::7]"];
    route::RouteConfiguration {
        name: "9080".to_owned(),
        virtual_hosts: vec![
            host("reviews.shop.svc.cluster.local:9080", &domains, vec![canary, to(REVIEWS)]),
            host("allow_any", &["*"], vec![to("PassthroughCluster")]),
        ],
        validate_clusters: Some(wire::BoolValue { value: false }),
        max_direct_response_body_size_bytes: wrap(1 << 20),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

// --- clusters ---

fn secrets(protocols: &[&str], peer: &str) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let secret = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), sds_config: ads() };
    let san = tls::SubjectAltNameMatcher { san_type: 3, matcher: Some(exact(peer)), ..Default::default() };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![san],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    tls::CommonTlsContext {
        alpn_protocols: protocols.iter().map(ToString::to_string).collect(),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}

fn socket_match(name: &str, facts: wire::Struct, transport: Any) -> parts::TransportSocketMatch {
    parts::TransportSocketMatch { name: name.to_owned(), r#match: Some(facts), transport_socket: socket_of(transport) }
}

fn protocol() -> HttpProtocolOptions {
    let explicit =
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())) };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

fn of_kind(name: &str, kind: parts::DiscoveryType) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: seconds(10),
        lb_policy: parts::LbPolicy::LeastRequest as i32,
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&protocol()))].into(),
        ..Default::default()
    }
}

fn cluster() -> cluster::Cluster {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(secrets(
            &["istio-peer-exchange", "istio", "h2"],
            "spiffe://cluster.local/ns/shop/sa/r",
        )),
        sni: "outbound_.9080_._.reviews.shop.svc.cluster.local".to_owned(),
        ..Default::default()
    };
    cluster::Cluster {
        eds_cluster_config: Some(parts::EdsClusterConfig { eds_config: ads(), service_name: REVIEWS.to_owned() }),
        transport_socket_matches: vec![
            socket_match("tlsMode-istio", tls_mode("istio"), any(&context)),
            socket_match("tlsMode-disabled", wire::Struct::default(), any(&RawBuffer::default())),
        ],
        ..of_kind(REVIEWS, parts::DiscoveryType::Eds)
    }
}

#[expect(deprecated, reason = "Istio sends it so")]
fn outside() -> cluster::Cluster {
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: "outbound|443||api.example.com".to_owned(),
        endpoints: vec![group(0, vec![lb_endpoint("api.example.com", 443)])],
        ..Default::default()
    };
    cluster::Cluster {
        load_assignment: Some(assignment),
        dns_refresh_rate: seconds(60),
        respect_dns_ttl: true,
        ..of_kind("outbound|443||api.example.com", parts::DiscoveryType::StrictDns)
    }
}

/// To wherever a connection was meant to go.
fn unaddressed(name: &str) -> cluster::Cluster {
    let provided = parts::LbPolicy::ClusterProvided as i32;
    cluster::Cluster { lb_policy: provided, ..of_kind(name, parts::DiscoveryType::OriginalDst) }
}

// --- endpoints ---

fn endpoints() -> endpoint::ClusterLoadAssignment {
    let mut secured = lb_endpoint("10.0.0.1", 9080);
    let facts = secured.metadata.get_or_insert_default();
    facts.filter_metadata.insert("envoy.transport_socket_match".to_owned(), tls_mode("istio"));
    endpoint::ClusterLoadAssignment {
        cluster_name: REVIEWS.to_owned(),
        endpoints: vec![group(0, vec![secured, lb_endpoint("10.0.0.2", 9080)])],
        ..Default::default()
    }
}
