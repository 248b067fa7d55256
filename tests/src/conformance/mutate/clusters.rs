//! Mutations of the cluster `a`.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy,
    LeastRequestLbConfig, RingHashLbConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, LoadBalancingPolicy, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ConfigSource, DataSource, HealthCheck, Http2ProtocolOptions, Metadata, PathConfigSource,
    SelfConfigSource, TransportSocket, TypedExtensionConfig, data_source::Specifier, transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::pick_first::v3::PickFirst;
use envoy_types::pb::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::SystemRootCerts;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, Duration, FloatValue, UInt64Value};
use envoy_types::util::pack_any;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::resource;

use super::{Change, Parts, garbage, resource_address, seconds, spoiled, truth, unknown};
use crate::conformance::generate::{AGGREGATE, regex, wrap};

/// The most entries that a ring may have.
const EIGHT_MILLION: u64 = 8 * 1024 * 1024;

pub(super) const MUTATIONS: &[Change] = &[
    ("cluster: bytes that are no cluster", |p| {
        let type_url = ResourceKind::Cluster.type_url().to_owned();
        p.raw = Some((ResourceKind::Cluster, Any { type_url, value: garbage() }));
    }),
    ("type: unset", |p| p.cluster().cluster_discovery_type = None),
    ("type: unknown", |p| p.cluster().cluster_discovery_type = Some(ClusterDiscoveryType::Type(99))),
    ("type: STATIC", |p| kind(p, DiscoveryType::Static)),
    ("type: STRICT_DNS", |p| kind(p, DiscoveryType::StrictDns)),
    ("type: ORIGINAL_DST", |p| kind(p, DiscoveryType::OriginalDst)),
    ("type: custom", |p| custom(p, "unknown", unknown())),
    ("aggregate: of nothing", |p| custom(p, AGGREGATE, pack_any(ClusterConfig::default()))),
    ("aggregate: bytes that are no aggregate", |p| custom(p, AGGREGATE, spoiled::<ClusterConfig>())),
    ("DNS: no host", |p| p.cluster().cluster_discovery_type = Some(ClusterDiscoveryType::Type(2))),
    ("DNS: two localities", |p| dns(p, |hosts| hosts.endpoints.push(hosts.endpoints[0].clone()))),
    ("DNS: two endpoints", |p| {
        dns(p, |hosts| {
            let again = hosts.endpoints[0].lb_endpoints[0].clone();
            hosts.endpoints[0].lb_endpoints.push(again);
        })
    }),
    ("DNS: no endpoint", |p| dns(p, |hosts| hosts.endpoints[0].lb_endpoints.clear())),
    ("DNS: no port", |p| dns_socket(p, |socket| socket.port_specifier = None)),
    ("DNS: port 70000", |p| dns_socket(p, |socket| socket.port_specifier = Some(PortSpecifier::PortValue(70_000)))),
    ("DNS: no name", |p| dns_socket(p, |socket| socket.address.clear())),
    ("DNS: resolver_name", |p| dns_socket(p, |socket| socket.resolver_name = "custom".to_owned())),
    ("EDS: no eds_cluster_config", |p| p.cluster().eds_cluster_config = None),
    ("EDS: no eds_config", |p| {
        p.cluster().eds_cluster_config = Some(EdsClusterConfig::default());
    }),
    ("EDS: eds_config without a specifier", |p| *p.eds_source() = ConfigSource::default()),
    ("EDS: eds_config of a path", |p| {
        let path = PathConfigSource { path: "/x".to_owned(), ..Default::default() };
        p.eds_source().config_source_specifier = Some(ConfigSourceSpecifier::PathConfigSource(path));
    }),
    ("EDS: eds_config of an API server", |p| {
        p.eds_source().config_source_specifier =
            Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource::default()));
    }),
    ("EDS: eds_config self", |p| {
        p.eds_source().config_source_specifier = Some(ConfigSourceSpecifier::Self_(SelfConfigSource::default()));
    }),
    ("policy: LEAST_REQUEST", |p| policy(p, LbPolicy::LeastRequest)),
    ("policy: RANDOM", |p| policy(p, LbPolicy::Random)),
    ("policy: MAGLEV", |p| policy(p, LbPolicy::Maglev)),
    ("policy: CLUSTER_PROVIDED", |p| policy(p, LbPolicy::ClusterProvided)),
    ("policy: elsewhere, and nothing there", |p| policy(p, LbPolicy::LoadBalancingPolicyConfig)),
    ("policy: unknown", |p| p.cluster().lb_policy = 99),
    ("policy: RING_HASH", |p| policy(p, LbPolicy::RingHash)),
    ("policy: LEAST_REQUEST of one choice", |p| {
        policy(p, LbPolicy::LeastRequest);
        let one = LeastRequestLbConfig { choice_count: wrap(1), ..Default::default() };
        p.cluster().lb_config = Some(LbConfig::LeastRequestLbConfig(one));
    }),
    ("ring: another hash", |p| ring(p, None, None, 1)),
    ("ring: an unknown hash", |p| ring(p, None, None, 9)),
    ("ring: minimum above maximum", |p| ring(p, Some(200), Some(100), 0)),
    ("ring: minimum 0", |p| ring(p, Some(0), None, 0)),
    ("ring: maximum 0", |p| ring(p, None, Some(0), 0)),
    ("ring: minimum above eight million", |p| ring(p, Some(EIGHT_MILLION + 1), None, 0)),
    ("ring: maximum above eight million", |p| ring(p, None, Some(EIGHT_MILLION + 1), 0)),
    ("policies: none", |p| policies(p, vec![])),
    ("policies: unknown alone", |p| policies(p, vec![unknown()])),
    ("policies: unknown before round robin", |p| policies(p, vec![unknown(), round_robin()])),
    ("policies: round robin without localities", |p| policies(p, vec![round_robin()])),
    ("policies: without a type", |p| policies(p, vec![Any::default()])),
    ("policies: localities around nothing", |p| policies(p, vec![pack_any(WrrLocality::default())])),
    ("policies: localities around round robin", |p| policies(p, vec![around(round_robin(), 1)])),
    ("policies: localities around unknown", |p| policies(p, vec![around(unknown(), 1)])),
    ("policies: seventeen deep", |p| policies(p, vec![around(round_robin(), 17)])),
    ("policies: bytes that are no ring hash", |p| policies(p, vec![spoiled::<RingHash>()])),
    ("policies: bytes that are no round robin", |p| policies(p, vec![spoiled::<RoundRobin>()])),
    ("policies: ring hash of another hash", |p| {
        policies(p, vec![pack_any(RingHash { hash_function: 2, ..Default::default() })]);
    }),
    ("policies: ring hash of the default hash", |p| policies(p, vec![pack_any(RingHash::default())])),
    ("policies: ring hash with minimum above maximum", |p| {
        policies(p, vec![typed_ring(Some(200), Some(100))]);
    }),
    ("policies: ring hash of more than eight million", |p| {
        policies(p, vec![typed_ring(None, Some(EIGHT_MILLION + 1))]);
    }),
    ("policies: ring hash with minimum 0", |p| policies(p, vec![typed_ring(Some(0), None)])),
    ("policies: least request of one choice", |p| {
        policies(p, vec![pack_any(LeastRequest { choice_count: wrap(1), ..Default::default() })]);
    }),
    ("policies: least request", |p| policies(p, vec![pack_any(LeastRequest::default())])),
    ("policies: pick first", |p| policies(p, vec![pack_any(PickFirst::default())])),
    ("policies: weighted by load, with a negative penalty", |p| {
        let error_utilization_penalty = Some(FloatValue { value: -1.0 });
        policies(p, vec![pack_any(ClientSideWeightedRoundRobin { error_utilization_penalty, ..Default::default() })]);
    }),
    ("policies: weighted by load, with a negative period", |p| {
        let blackout_period = seconds(-1);
        policies(p, vec![pack_any(ClientSideWeightedRoundRobin { blackout_period, ..Default::default() })]);
    }),
    ("lb: a panic threshold above 100", |p| {
        let healthy_panic_threshold = Some(Percent { value: 150.0 });
        p.cluster().common_lb_config = Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() });
    }),
    ("socket: matches", |p| {
        p.cluster().transport_socket_matches.push(TransportSocketMatch {
            name: "all".to_owned(),
            transport_socket: Some(socket(pack_any(RawBuffer {}))),
            ..Default::default()
        });
    }),
    ("socket: raw", |p| p.cluster().transport_socket = Some(socket(pack_any(RawBuffer {})))),
    ("socket: unknown", |p| p.cluster().transport_socket = Some(socket(unknown()))),
    ("socket: another name", |p| {
        tls(p, |_| {});
        p.cluster().transport_socket.as_mut().expect("just set").name = "other".to_owned();
    }),
    ("socket: without a configuration", |p| {
        p.cluster().transport_socket =
            Some(TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type: None });
    }),
    ("TLS: bytes that are no context", |p| {
        p.cluster().transport_socket = Some(socket(spoiled::<UpstreamTlsContext>()))
    }),
    ("TLS: no common context", |p| tls(p, |context| context.common_tls_context = None)),
    ("TLS: no validation", |p| common(p, |common| common.validation_context_type = None)),
    ("TLS: validation without roots", |p| validation(p, |v| v.ca_certificate_provider_instance = None)),
    ("TLS: roots of an unknown provider", |p| {
        validation(p, |v| v.ca_certificate_provider_instance = Some(provider("unknown")));
    }),
    ("TLS: an identity of an unknown provider", |p| {
        common(p, |common| common.tls_certificate_provider_instance = Some(provider("unknown")));
    }),
    ("TLS: tls_params", |p| common(p, |common| common.tls_params = Some(TlsParameters::default()))),
    ("TLS: custom_handshaker", |p| {
        common(p, |common| {
            common.custom_handshaker =
                Some(TypedExtensionConfig { name: "unknown".to_owned(), typed_config: Some(unknown()) });
        });
    }),
    ("TLS: certificates inline", |p| {
        common(p, |common| common.tls_certificates.push(TlsCertificate::default()));
    }),
    ("TLS: certificates by SDS", |p| {
        common(p, |common| common.tls_certificate_sds_secret_configs.push(sds()));
    }),
    ("TLS: validation by SDS", |p| {
        common(p, |common| {
            common.validation_context_type = Some(ValidationContextType::ValidationContextSdsSecretConfig(sds()));
        });
    }),
    ("TLS: roots inline", |p| {
        validation(p, |v| {
            v.ca_certificate_provider_instance = None;
            v.trusted_ca = Some(DataSource {
                specifier: Some(Specifier::InlineString("no certificate".to_owned())),
                ..Default::default()
            });
        });
    }),
    ("TLS: roots of the system", |p| {
        validation(p, |v| {
            v.ca_certificate_provider_instance = None;
            v.system_root_certs = Some(SystemRootCerts {});
        });
    }),
    ("TLS: verify_certificate_spki", |p| validation(p, |v| v.verify_certificate_spki.push(SPKI.to_owned()))),
    ("TLS: verify_certificate_hash", |p| validation(p, |v| v.verify_certificate_hash.push("00".repeat(32)))),
    ("TLS: require_signed_certificate_timestamp", |p| {
        validation(p, |v| v.require_signed_certificate_timestamp = truth(true));
    }),
    ("TLS: crl", |p| validation(p, |v| v.crl = Some(DataSource::default()))),
    ("TLS: custom_validator_config", |p| {
        validation(p, |v| {
            v.custom_validator_config =
                Some(TypedExtensionConfig { name: "unknown".to_owned(), typed_config: Some(unknown()) });
        });
    }),
    ("TLS: a name matched by a bad expression", |p| {
        name(p, 2, Some(MatchPattern::SafeRegex(regex("a)"))));
    }),
    ("TLS: a name matched by nothing", |p| name(p, 2, None)),
    ("TLS: a name matched by an empty prefix", |p| name(p, 2, Some(MatchPattern::Prefix(String::new())))),
    ("TLS: a name of an unspecified kind", |p| name(p, 0, Some(MatchPattern::Exact("x".to_owned())))),
    ("TLS: sni beyond 255 bytes", |p| tls(p, |context| context.sni = "a".repeat(256))),
    ("reports: to another server", |p| {
        p.cluster().lrs_server = Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        });
    }),
    ("reports: to the same server", |p| {
        p.cluster().lrs_server = Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Self_(SelfConfigSource::default())),
            ..Default::default()
        });
    }),
    ("outliers: interval negative", |p| outliers(p, |o| o.interval = seconds(-1))),
    ("outliers: interval 0", |p| outliers(p, |o| o.interval = seconds(0))),
    ("outliers: interval of too many nanoseconds", |p| {
        outliers(p, |o| o.interval = Some(Duration { seconds: 1, nanos: 2_000_000_000 }));
    }),
    ("outliers: interval of too many seconds", |p| outliers(p, |o| o.interval = seconds(400_000_000_000))),
    ("outliers: base_ejection_time negative", |p| outliers(p, |o| o.base_ejection_time = seconds(-1))),
    ("outliers: max_ejection_time negative", |p| outliers(p, |o| o.max_ejection_time = seconds(-1))),
    ("outliers: max_ejection_percent 101", |p| outliers(p, |o| o.max_ejection_percent = wrap(101))),
    ("outliers: enforcing_success_rate 101", |p| outliers(p, |o| o.enforcing_success_rate = wrap(101))),
    ("outliers: failure_percentage_threshold 101", |p| outliers(p, |o| o.failure_percentage_threshold = wrap(101))),
    ("outliers: enforcing_failure_percentage 101", |p| outliers(p, |o| o.enforcing_failure_percentage = wrap(101))),
    ("outliers: enforcing_consecutive_5xx 101", |p| outliers(p, |o| o.enforcing_consecutive_5xx = wrap(101))),
    ("breakers: max_requests 0", |p| breakers(p, &[(0, 0)], &[])),
    ("breakers: max_requests 0 of the other priority", |p| breakers(p, &[(1, 0)], &[])),
    ("breakers: one priority twice", |p| breakers(p, &[(0, 100), (0, 0)], &[])),
    ("breakers: an unknown priority", |p| breakers(p, &[(9, 0)], &[])),
    ("breakers: max_connections 0 per host", |p| breakers(p, &[], &[0])),
    ("cluster: connect_timeout 0", |p| p.cluster().connect_timeout = seconds(0)),
    ("cluster: connect_timeout negative", |p| p.cluster().connect_timeout = seconds(-1)),
    ("cluster: an unknown upstream_config", |p| {
        p.cluster().upstream_config =
            Some(TypedExtensionConfig { name: "unknown".to_owned(), typed_config: Some(unknown()) });
    }),
    ("cluster: metadata of an unknown type", |p| {
        let typed_filter_metadata = [("unknown".to_owned(), unknown())].into();
        p.cluster().metadata = Some(Metadata { typed_filter_metadata, ..Default::default() });
    }),
    ("cluster: unknown protocol options", |p| {
        p.cluster().typed_extension_protocol_options = [("unknown".to_owned(), unknown())].into();
    }),
    ("cluster: an HTTP/2 window of one byte", |p| http2_window(p)),
    ("cluster: a health check without anything", |p| p.cluster().health_checks.push(HealthCheck::default())),
];

/// A hash of the right length in base64.
const SPKI: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn kind(p: &mut Parts, kind: DiscoveryType) {
    p.cluster().cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    p.cluster().eds_cluster_config = None;
    if kind != DiscoveryType::OriginalDst {
        p.cluster().load_assignment = Some(p.endpoints[0].clone());
    }
}

fn custom(p: &mut Parts, name: &str, config: Any) {
    let custom = CustomClusterType { name: name.to_owned(), typed_config: Some(config) };
    p.cluster().cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
    p.cluster().eds_cluster_config = None;
    p.cluster().lb_policy = LbPolicy::ClusterProvided.into();
}

/// One host, `localhost`, and then the change.
fn dns(p: &mut Parts, change: fn(&mut ClusterLoadAssignment)) {
    p.cluster().cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into()));
    p.cluster().eds_cluster_config = None;
    let mut hosts = resource::endpoints(&p.cluster().name.clone(), [p.addresses["a"]]);
    change(&mut hosts);
    p.cluster().load_assignment = Some(hosts);
}

fn dns_socket(p: &mut Parts, change: fn(&mut envoy_types::pb::envoy::config::core::v3::SocketAddress)) {
    p.endpoint().address = Some(resource_address("localhost", 7070));
    change(p.socket());
    dns(p, |_| {});
    p.cluster().load_assignment = Some(p.endpoints[0].clone());
}

fn policy(p: &mut Parts, policy: LbPolicy) {
    p.cluster().lb_policy = policy.into();
}

fn ring(p: &mut Parts, minimum: Option<u64>, maximum: Option<u64>, hash_function: i32) {
    policy(p, LbPolicy::RingHash);
    let size = |value: Option<u64>| value.map(|value| UInt64Value { value });
    let (minimum_ring_size, maximum_ring_size) = (size(minimum), size(maximum));
    p.cluster().lb_config =
        Some(LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size, maximum_ring_size, hash_function }));
}

fn typed_ring(minimum: Option<u64>, maximum: Option<u64>) -> Any {
    let size = |value: Option<u64>| value.map(|value| UInt64Value { value });
    let (minimum_ring_size, maximum_ring_size) = (size(minimum), size(maximum));
    pack_any(RingHash { hash_function: 1, minimum_ring_size, maximum_ring_size, ..Default::default() })
}

fn round_robin() -> Any {
    pack_any(RoundRobin::default())
}

fn list(configs: Vec<Any>) -> LoadBalancingPolicy {
    let policy = |config| Policy {
        typed_extension_config: Some(TypedExtensionConfig { name: "policy".to_owned(), typed_config: Some(config) }),
    };
    LoadBalancingPolicy { policies: configs.into_iter().map(policy).collect() }
}

fn policies(p: &mut Parts, configs: Vec<Any>) {
    p.cluster().load_balancing_policy = Some(list(configs));
}

/// The policy within so many that split by locality.
fn around(policy: Any, depth: u32) -> Any {
    (0..depth).fold(policy, |inner, _| pack_any(WrrLocality { endpoint_picking_policy: Some(list(vec![inner])) }))
}

fn socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

fn provider(name: &str) -> CertificateProviderPluginInstance {
    CertificateProviderPluginInstance { instance_name: name.to_owned(), ..Default::default() }
}

/// TLS with roots of the provider `default`, and then the change.
fn tls(p: &mut Parts, change: impl FnOnce(&mut UpstreamTlsContext)) {
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider("default")),
        ..Default::default()
    };
    let common = CommonTlsContext {
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    let mut context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    change(&mut context);
    p.cluster().transport_socket = Some(socket(pack_any(context)));
}

fn common(p: &mut Parts, change: impl FnOnce(&mut CommonTlsContext)) {
    tls(p, |context| change(context.common_tls_context.as_mut().expect("just set")));
}

fn validation(p: &mut Parts, change: impl FnOnce(&mut CertificateValidationContext)) {
    common(p, |common| match &mut common.validation_context_type {
        Some(ValidationContextType::ValidationContext(validation)) => change(validation),
        other => panic!("{other:?} validates elsewhere"),
    });
}

fn name(p: &mut Parts, san_type: i32, match_pattern: Option<MatchPattern>) {
    let matcher = Some(StringMatcher { match_pattern, ..Default::default() });
    validation(p, |v| {
        v.match_typed_subject_alt_names.push(SubjectAltNameMatcher { san_type, matcher, ..Default::default() });
    });
}

fn sds() -> SdsSecretConfig {
    let source = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        resource_api_version: 2,
        ..Default::default()
    };
    SdsSecretConfig { name: "secret".to_owned(), sds_config: Some(source) }
}

fn outliers(p: &mut Parts, change: fn(&mut OutlierDetection)) {
    let mut detection = OutlierDetection::default();
    change(&mut detection);
    p.cluster().outlier_detection = Some(detection);
}

/// `max_requests` by priority, and `max_connections` per host.
fn breakers(p: &mut Parts, requests: &[(i32, u32)], connections: &[u32]) {
    let thresholds = requests.iter().map(|(priority, most)| Thresholds {
        priority: *priority,
        max_requests: wrap(*most),
        ..Default::default()
    });
    let per_host = connections.iter().map(|most| Thresholds { max_connections: wrap(*most), ..Default::default() });
    p.cluster().circuit_breakers =
        Some(CircuitBreakers { thresholds: thresholds.collect(), per_host_thresholds: per_host.collect() });
}

#[expect(deprecated, reason = "control planes still send it")]
fn http2_window(p: &mut Parts) {
    p.cluster().http2_protocol_options =
        Some(Http2ProtocolOptions { initial_stream_window_size: wrap(1), ..Default::default() });
}
