//! Options of HTTP.

use envoy_types::pb::envoy::{
    config::{cluster::v3::Cluster as Wire, core::v3 as core},
    extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{self as http_parts, UpstreamProtocolOptions},
    },
};
use mesh_core::config::HttpProtocol;

use super::*;
use crate::resource::samples::{HTTP_OPTIONS, any, http_options, seconds, unknown, wrap};

fn with_options(change: impl FnOnce(&mut HttpProtocolOptions)) -> Wire {
    let mut options = http_options();
    change(&mut options);
    Wire { typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&options))].into(), ..samples::cluster() }
}

#[test]
fn each_choice_of_protocol_is_kept() {
    use http_parts::{ExplicitHttpConfig, explicit_http_config::ProtocolConfig};
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    for (wire, expected) in [
        (explicit(ProtocolConfig::HttpProtocolOptions(Default::default())), Some(HttpProtocol::Http1)),
        (explicit(ProtocolConfig::Http2ProtocolOptions(Default::default())), Some(HttpProtocol::Http2)),
        (explicit(ProtocolConfig::Http3ProtocolOptions(Default::default())), Some(HttpProtocol::Auto)),
        (UpstreamProtocolOptions::AutoConfig(Default::default()), Some(HttpProtocol::Auto)),
        (UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default()), None),
    ] {
        let message = with_options(|options| options.upstream_protocol_options = Some(wire));
        assert_eq!(decoded(&message).value.policy.connections.protocol, expected);
    }
}

#[test]
#[expect(deprecated, reason = "what is tested")]
fn options_of_the_cluster_itself_count_where_typed_ones_are_absent() {
    let mut message = samples::cluster();
    message.http2_protocol_options = Some(Default::default());
    message.max_requests_per_connection = wrap(7);
    assert_eq!(decoded(&message).value.policy.connections.max_requests, Some(100));
    message.typed_extension_protocol_options.clear();
    let connections = decoded(&message).value.policy.connections;
    assert_eq!((connections.protocol, connections.max_requests), (Some(HttpProtocol::Http2), Some(7)));
}

#[test]
fn zero_requests_per_connection_are_no_limit() {
    let message = with_options(|options| {
        let common = options.common_http_protocol_options.as_mut().expect("set");
        common.max_requests_per_connection = wrap(0);
    });
    assert_eq!(decoded(&message).value.policy.connections.max_requests, None);
}

#[test]
fn http_options_are_refused_for_each_field_that_breaks_a_rule() {
    use http_parts::{ExplicitHttpConfig, explicit_http_config::ProtocolConfig};
    let cases: [Case<HttpProtocolOptions>; 6] = [
        ("upstream_protocol_options", |o| o.upstream_protocol_options = None),
        ("explicit_http_config.protocol_config", |o| {
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig::default()));
        }),
        ("explicit_http_config.http2_protocol_options.connection_keepalive.timeout", |o| {
            let http2 =
                core::Http2ProtocolOptions { connection_keepalive: Some(Default::default()), ..Default::default() };
            let protocol_config = Some(ProtocolConfig::Http2ProtocolOptions(http2));
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }));
        }),
        ("explicit_http_config.http2_protocol_options.max_concurrent_streams", |o| {
            let http2 = core::Http2ProtocolOptions { max_concurrent_streams: wrap(0), ..Default::default() };
            let protocol_config = Some(ProtocolConfig::Http2ProtocolOptions(http2));
            o.upstream_protocol_options =
                Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }));
        }),
        ("common_http_protocol_options.idle_timeout", |o| {
            o.common_http_protocol_options.as_mut().expect("set").idle_timeout = seconds(-1);
        }),
        ("common_http_protocol_options.max_connection_duration", |o| {
            o.common_http_protocol_options.as_mut().expect("set").max_connection_duration = seconds(-1);
        }),
    ];
    for (path, spoil) in cases {
        let bad = decode_message(&with_options(spoil), &samples::context()).expect_err(path);
        assert_eq!(bad.blamed(), format!("typed_extension_protocol_options[{HTTP_OPTIONS}].{path}"));
    }
    let mut message = samples::cluster();
    message.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), unknown());
    let bad = decode_message(&message, &samples::context()).expect_err("wrong type");
    assert_eq!(bad.blamed(), format!("typed_extension_protocol_options[{HTTP_OPTIONS}].type_url"));
}
