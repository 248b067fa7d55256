//! Listeners and their filters.

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::HttpProtocolOptions,
            listener::v3::{ApiListener, Listener},
        },
        extensions::filters::{
            common::fault::v3::FaultDelay,
            http::fault::v3::{FaultAbort, fault_abort::ErrorType},
            network::http_connection_manager::v3::{
                HttpConnectionManager, Rds, ScopedRoutes, http_connection_manager::RouteSpecifier,
            },
        },
    },
    google::protobuf::Duration,
};
use mesh_core::config::{AbortStatus, FilterKind, Fraction, TimeLimit};

use super::{
    samples::{any, file, filter, listener_of, router, seconds, unknown},
    *,
};

const HCM: &str = "api_listener.api_listener";

fn listener_resource(message: &HttpConnectionManager) -> Decoded<ListenerResource> {
    decode_listener(&listener_of(message).encode_to_vec(), &Context::new()).expect("a good listener")
}

#[track_caller]
fn assert_manager_refused(cases: &[Case<HttpConnectionManager>]) {
    for (path, spoil) in cases {
        let mut message = samples::connection_manager();
        spoil(&mut message);
        let bad = decode_message(&listener_of(&message), &Context::new()).expect_err(path);
        assert_eq!(bad.blamed(), format!("{HCM}.{path}"), "{}", bad);
    }
}

#[test]
fn listener_with_an_address_as_well_is_for_clients() {
    let listener =
        decode_listener(&samples::listener().encode_to_vec(), &Context::new()).expect("as Istio sends it").value;
    assert_eq!(&*listener.name, "listener");
    assert_eq!(listener.routes, RouteSource::Named("routes".into()));
    assert_eq!(listener.policy.timeouts.idle, Some(TimeLimit::OFF));
    assert_eq!(
        listener.policy.timeouts.max_stream_duration.and_then(TimeLimit::duration).map(|d| d.as_secs()),
        Some(9)
    );
    let [fault] = &listener.filters[..] else { panic!("one filter before the router") };
    let FilterKind::Faults(faults) = &fault.kind;
    assert_eq!(faults.delay.expect("delay").share, Fraction::new(1, 100).expect("legal"));
}

#[test]
fn listener_without_routes_for_clients_is_refused() {
    assert_refused(
        samples::listener(),
        &Context::new(),
        &[
            ("api_listener", |m: &mut Listener| m.api_listener = None),
            ("api_listener.api_listener", |m| m.api_listener = Some(ApiListener::default())),
            ("api_listener.api_listener.type_url", |m| {
                m.api_listener = Some(ApiListener { api_listener: Some(unknown()) });
            }),
            ("api_listener.api_listener.value", |m| {
                let manager = m.api_listener.as_mut().and_then(|api| api.api_listener.as_mut()).expect("set");
                manager.value.truncate(3);
            }),
        ],
    );
}

#[test]
fn connection_manager_is_refused_for_each_field_that_breaks_a_rule() {
    assert_manager_refused(&[
        ("xff_num_trusted_hops", |m| m.xff_num_trusted_hops = 1),
        ("original_ip_detection_extensions", |m| m.original_ip_detection_extensions = vec![Default::default()]),
        ("route_specifier", |m| m.route_specifier = None),
        ("scoped_routes", |m| m.route_specifier = Some(RouteSpecifier::ScopedRoutes(ScopedRoutes::default()))),
        ("rds.config_source", |m| m.route_specifier = Some(RouteSpecifier::Rds(Rds::default()))),
        ("rds.config_source", |m| {
            m.route_specifier = Some(RouteSpecifier::Rds(Rds { config_source: file(), ..samples::rds() }));
        }),
        ("rds.route_config_name", |m| {
            m.route_specifier = Some(RouteSpecifier::Rds(Rds { route_config_name: String::new(), ..samples::rds() }));
        }),
        ("route_config.virtual_hosts[0].routes[0].match", |m| {
            let mut routes = samples::routes();
            routes.virtual_hosts[0].routes[0].r#match = None;
            m.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
        }),
        ("common_http_protocol_options.max_stream_duration", |m| {
            m.common_http_protocol_options =
                Some(HttpProtocolOptions { max_stream_duration: seconds(-1), ..Default::default() });
        }),
        ("common_http_protocol_options.max_stream_duration", |m| {
            let max_stream_duration = seconds(1).map(|second| Duration { nanos: 1_000_000_000, ..second });
            m.common_http_protocol_options = Some(HttpProtocolOptions { max_stream_duration, ..Default::default() });
        }),
        ("stream_idle_timeout", |m| m.stream_idle_timeout = seconds(-1)),
    ]);
}

#[test]
fn filter_chain_is_refused_unless_the_router_stands_last_and_names_are_unique() {
    assert_manager_refused(&[
        ("http_filters", |m| m.http_filters.clear()),
        ("http_filters", |m| drop(m.http_filters.pop())),
        ("http_filters[1].name", |m| m.http_filters.reverse()),
        ("http_filters[2].name", |m| m.http_filters.push(router())),
        ("http_filters[2].name", |m| m.http_filters.push(filter("second", any(&samples::faults(1))))),
        ("http_filters[0].name", |m| m.http_filters[0].name.clear()),
        ("http_filters[1].disabled", |m| m.http_filters[1].disabled = true),
    ]);
}

#[test]
fn unknown_filter_is_refused_unless_optional_wherever_it_stands() {
    assert_manager_refused(&[
        ("http_filters[0].typed_config", |m| m.http_filters[0] = filter("new", unknown())),
        ("http_filters[0].typed_config", |m| m.http_filters[0].config_type = None),
    ]);
    // A filter of servers is on the wrong side.
    let rbac = || Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".to_owned(),
        ..Any::default()
    };
    let mut message = samples::connection_manager();
    message.http_filters[0] = filter("rbac", rbac());
    let bad = decode_message(&listener_of(&message), &Context::new()).expect_err("a filter of servers");
    assert_eq!(bad.blamed(), format!("{HCM}.http_filters[0].typed_config"));

    let mut message = samples::connection_manager();
    for name in ["before", "after"] {
        let mut optional = filter(name, unknown());
        optional.is_optional = true;
        let at = if name == "before" { 0 } else { message.http_filters.len() };
        message.http_filters.insert(at, optional);
    }
    let decoded = listener_resource(&message);
    assert_eq!(decoded.value.filters.len(), 1);
    let expected = [0, 3].map(|index| format!("{HCM}.http_filters[{index}].typed_config"));
    assert_eq!(fields(&decoded.warnings), expected);
}

#[test]
fn filters_that_istio_sends_and_that_allow_nothing_are_left_out() {
    let mut message = samples::connection_manager();
    let affinity = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
    message.http_filters[0] = filter("affinity", Any { type_url: affinity.to_owned(), value: Vec::new() });
    let decoded = listener_resource(&message);
    assert!(decoded.value.filters.is_empty());
    assert_eq!(decoded.warnings.len(), 1);
}

#[test]
fn disabled_fault_filter_stands_in_the_chain_and_does_nothing() {
    let mut message = samples::connection_manager();
    message.http_filters[0].disabled = true;
    let FilterKind::Faults(faults) = &listener_resource(&message).value.filters[0].kind;
    assert_eq!(**faults, Default::default());
}

#[test]
fn inline_routes_need_no_name() {
    let mut routes = samples::routes();
    routes.name.clear();
    let message = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..samples::connection_manager()
    };
    assert!(matches!(listener_resource(&message).value.routes, RouteSource::Inline(_)));
}

fn with_faults(
    change: impl FnOnce(&mut envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault),
) -> Result<Decoded<ListenerResource>, ResourceError> {
    let mut faults = samples::faults(100);
    change(&mut faults);
    let mut message = samples::connection_manager();
    message.http_filters[0] = filter("fault", any(&faults));
    decode_listener(&listener_of(&message).encode_to_vec(), &Context::new())
}

#[test]
fn faults_are_refused_for_each_field_that_breaks_a_rule() {
    let at = |field: &str| format!("{HCM}.http_filters[0].typed_config.{field}");
    let refused =
        |outcome: Result<Decoded<ListenerResource>, ResourceError>| outcome.expect_err("bad").blamed().to_owned();
    assert_eq!(refused(with_faults(|m| m.delay = Some(FaultDelay::default()))), at("delay.fixed_delay"));
    let status = |code| {
        move |m: &mut envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault| {
            m.abort = Some(FaultAbort { error_type: Some(ErrorType::HttpStatus(code)), ..Default::default() });
        }
    };
    let mut garbled = samples::connection_manager();
    garbled.http_filters[0] = filter("fault", Any { value: vec![0xff], ..any(&samples::faults(1)) });
    assert_eq!(refused(decode_listener(&listener_of(&garbled).encode_to_vec(), &Context::new())), at("value"));
    for code in [0, 199, 600, 70_000] {
        assert_eq!(refused(with_faults(status(code))), at("abort.http_status"));
    }
}

#[test]
fn fault_without_percentage_never_happens() {
    let decoded = with_faults(|m| {
        m.abort = Some(FaultAbort { error_type: Some(ErrorType::GrpcStatus(14)), ..Default::default() });
    });
    let FilterKind::Faults(faults) = &decoded.expect("good").value.filters[0].kind;
    let abort = faults.abort.expect("kept");
    assert_eq!((abort.with, abort.share.share()), (AbortStatus::Grpc(14), 0.0));
}

#[test]
fn faults_for_a_few_are_not_injected_into_everyone() {
    let decoded = with_faults(|m| m.downstream_nodes.push("node".to_owned())).expect("good");
    let FilterKind::Faults(faults) = &decoded.value.filters[0].kind;
    assert_eq!((faults.delay, faults.abort), (None, None));
    assert_eq!(fields(&decoded.warnings), [format!("{HCM}.http_filters[0].typed_config.downstream_nodes")]);
}
