//! Mutations of the listener and its connection manager.

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ConfigSource, HttpProtocolOptions, PathConfigSource, SelfConfigSource,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType, fault_abort::HeaderAbort,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use mesh_xds_client::ResourceKind;

use super::{Change, Parts, garbage, resource_address, seconds, spoiled, truth, unknown};
use crate::conformance::generate::{filter, hundredths};

const FAULT: &str = "envoy.filters.http.fault";

pub(super) const MUTATIONS: &[Change] = &[
    ("api: bytes that are no listener", |p| {
        let type_url = ResourceKind::Listener.type_url().to_owned();
        p.raw = Some((ResourceKind::Listener, Any { type_url, value: garbage() }));
    }),
    ("api: no api_listener and no address", |p| p.api = Some(None)),
    ("api: no api_listener, an address", |p| {
        p.api = Some(None);
        p.listener.address = Some(resource_address("127.0.0.1", 7070));
    }),
    ("api: an address beside the api_listener", |p| {
        p.listener.address = Some(resource_address("127.0.0.1", 7070));
    }),
    ("api: nothing in it", |p| p.api = Some(Some(Any::default()))),
    ("api: a router in place of the manager", |p| p.api = Some(Some(pack_any(Router::default())))),
    ("api: a TCP proxy in place of the manager", |p| p.api = Some(Some(pack_any(TcpProxy::default())))),
    ("api: bytes that are no manager", |p| p.api = Some(Some(spoiled::<HttpConnectionManager>()))),
    ("api: use_original_dst", |p| p.listener.use_original_dst = truth(true)),
    ("manager: xff_num_trusted_hops 1", |p| p.manager.xff_num_trusted_hops = 1),
    ("manager: an original_ip_detection extension", |p| {
        p.manager.original_ip_detection_extensions.push(Default::default());
    }),
    ("manager: no source of routes", |p| p.manager.route_specifier = None),
    ("manager: scoped_routes", |p| {
        p.manager.route_specifier = Some(RouteSpecifier::ScopedRoutes(Default::default()));
    }),
    ("manager: routes inline", |p| inline(p, |_| {})),
    ("manager: routes inline, without domains", |p| inline(p, |p| p.host().domains.clear())),
    ("rds: no config_source", |p| rds(p).config_source = None),
    ("rds: config_source without a specifier", |p| rds(p).config_source = Some(ConfigSource::default())),
    ("rds: config_source of a path", |p| {
        source(
            p,
            ConfigSourceSpecifier::PathConfigSource(PathConfigSource { path: "/x".to_owned(), ..Default::default() }),
        )
    }),
    ("rds: config_source of an API server", |p| {
        source(p, ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource::default()));
    }),
    ("rds: config_source self", |p| source(p, ConfigSourceSpecifier::Self_(SelfConfigSource::default()))),
    ("rds: no name", |p| rds(p).route_config_name.clear()),
    ("filters: none", |p| p.manager.http_filters.clear()),
    ("filters: no router", |p| p.manager.http_filters = vec![fault()]),
    ("filters: router not last", |p| p.manager.http_filters.push(fault())),
    ("filters: two routers", |p| p.manager.http_filters.push(filter("second", pack_any(Router::default())))),
    ("filters: one name twice", |p| {
        p.manager.http_filters.insert(0, fault());
        p.manager.http_filters.insert(0, fault());
    }),
    ("filters: no name", |p| p.manager.http_filters.insert(0, HttpFilter { name: String::new(), ..fault() })),
    ("filters: router without a name", |p| p.manager.http_filters[0].name.clear()),
    ("filters: unknown", |p| add(p, filter("unknown", unknown()))),
    ("filters: unknown, optional", |p| add(p, optional(filter("unknown", unknown())))),
    ("filters: unknown, optional, after the router", |p| {
        p.manager.http_filters.push(optional(filter("unknown", unknown())));
    }),
    ("filters: unknown, after the router", |p| p.manager.http_filters.push(filter("unknown", unknown()))),
    ("filters: no configuration", |p| add(p, HttpFilter { name: "empty".to_owned(), ..Default::default() })),
    ("filters: no configuration, optional", |p| {
        add(p, optional(HttpFilter { name: "empty".to_owned(), ..Default::default() }));
    }),
    ("filters: configuration by discovery", |p| add(p, discovered())),
    ("filters: configuration by discovery, optional", |p| add(p, optional(discovered()))),
    ("filters: bytes that are no router", |p| p.manager.http_filters[0] = filter("router", spoiled::<Router>())),
    ("filters: router disabled", |p| p.manager.http_filters[0].disabled = true),
    ("filters: router optional", |p| p.manager.http_filters[0].is_optional = true),
    ("filters: a type without a name", |p| add(p, filter("typeless", Any::default()))),
    ("filters: RBAC of a server", |p| add(p, filter("rbac", pack_any(Rbac::default())))),
    ("filters: RBAC of a server, optional", |p| add(p, optional(filter("rbac", pack_any(Rbac::default()))))),
    ("filters: CORS", |p| add(p, filter("envoy.filters.http.cors", pack_any(Cors::default())))),
    ("fault: bytes that are no fault", |p| add(p, filter(FAULT, spoiled::<HttpFault>()))),
    ("fault: disabled", |p| {
        let all = FaultAbort {
            error_type: Some(ErrorType::HttpStatus(503)),
            percentage: Some(hundredths(100)),
            ..Default::default()
        };
        let config = HttpFault { abort: Some(all), ..Default::default() };
        add(p, HttpFilter { disabled: true, ..filter(FAULT, pack_any(config)) });
    }),
    ("fault: abort without a status", |p| abort(p, None, 100, 0)),
    ("fault: abort with HTTP status 100", |p| abort(p, Some(ErrorType::HttpStatus(100)), 100, 0)),
    ("fault: abort with HTTP status 700", |p| abort(p, Some(ErrorType::HttpStatus(700)), 100, 0)),
    ("fault: abort with gRPC status 99", |p| abort(p, Some(ErrorType::GrpcStatus(99)), 100, 0)),
    ("fault: abort as a header says", |p| abort(p, Some(ErrorType::HeaderAbort(HeaderAbort {})), 100, 0)),
    ("fault: abort of 150 per cent", |p| abort(p, Some(ErrorType::HttpStatus(503)), 150, 0)),
    ("fault: abort of an unknown denominator", |p| abort(p, Some(ErrorType::HttpStatus(503)), 0, 9)),
    ("fault: delay without a time", |p| delay(p, None, 100, 0)),
    ("fault: delay of a negative time", |p| {
        delay(p, Some(FaultDelaySecifier::FixedDelay(Duration { seconds: -1, nanos: 0 })), 100, 0)
    }),
    ("fault: delay of an unknown denominator", |p| {
        delay(p, Some(FaultDelaySecifier::FixedDelay(Duration { seconds: 1, nanos: 0 })), 0, 9);
    }),
    ("manager: max_stream_duration negative", |p| max_stream_duration(p, -1, 0)),
    ("manager: max_stream_duration of too many nanoseconds", |p| max_stream_duration(p, 1, 2_000_000_000)),
    ("manager: max_stream_duration of too many seconds", |p| max_stream_duration(p, 400_000_000_000, 0)),
    ("manager: stream_idle_timeout negative", |p| p.manager.stream_idle_timeout = seconds(-1)),
    ("manager: request_timeout negative", |p| p.manager.request_timeout = seconds(-1)),
    ("manager: stat_prefix empty", |p| p.manager.stat_prefix.clear()),
    ("manager: codec_type unknown", |p| p.manager.codec_type = 9),
    ("manager: use_remote_address", |p| p.manager.use_remote_address = truth(true)),
];

fn inline(p: &mut Parts, change: fn(&mut Parts)) {
    change(p);
    p.manager.route_specifier = Some(RouteSpecifier::RouteConfig(p.routes.clone()));
}

fn rds(p: &mut Parts) -> &mut Rds {
    match &mut p.manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => rds,
        other => panic!("{other:?} names no routes"),
    }
}

fn source(p: &mut Parts, specifier: ConfigSourceSpecifier) {
    let source = rds(p).config_source.as_mut().expect("the kit sets it");
    source.config_source_specifier = Some(specifier);
}

/// Before the router.
fn add(p: &mut Parts, filter: HttpFilter) {
    p.manager.http_filters.insert(0, filter);
}

fn fault() -> HttpFilter {
    filter(FAULT, pack_any(HttpFault::default()))
}

fn optional(filter: HttpFilter) -> HttpFilter {
    HttpFilter { is_optional: true, ..filter }
}

fn discovered() -> HttpFilter {
    HttpFilter {
        name: "discovered".to_owned(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(Default::default())),
        ..Default::default()
    }
}

fn abort(p: &mut Parts, error_type: Option<ErrorType>, numerator: u32, denominator: i32) {
    let percentage = Some(FractionalPercent { numerator, denominator });
    let abort = FaultAbort { error_type, percentage, ..Default::default() };
    add(p, filter(FAULT, pack_any(HttpFault { abort: Some(abort), ..Default::default() })));
}

fn delay(p: &mut Parts, fault_delay_secifier: Option<FaultDelaySecifier>, numerator: u32, denominator: i32) {
    let percentage = Some(FractionalPercent { numerator, denominator });
    let delay = FaultDelay { fault_delay_secifier, percentage };
    add(p, filter(FAULT, pack_any(HttpFault { delay: Some(delay), ..Default::default() })));
}

fn max_stream_duration(p: &mut Parts, seconds: i64, nanos: i32) {
    let max_stream_duration = Some(Duration { seconds, nanos });
    p.manager.common_http_protocol_options = Some(HttpProtocolOptions { max_stream_duration, ..Default::default() });
}
