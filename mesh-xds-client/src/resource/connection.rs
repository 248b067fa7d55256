//! Which HTTP is spoken and how connections are kept (`HttpProtocolOptions`).

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::{
    envoy::{
        config::core::v3 as core,
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
    google::protobuf::{Any, UInt32Value},
};
use mesh_core::config::{ConfigError, ConnectionPolicy, HttpProtocol};

use super::{
    common::{limit, number, positive, unpack},
    notes::{Notes, warn_if_set},
};

/// The key under which the typed options stand.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// All that a cluster says of HTTP.
pub(super) struct Options {
    pub(super) typed: HashMap<String, Any>,
    /// The three fields of the cluster itself that the typed options replaced. They count where those are absent.
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) max_requests: Option<UInt32Value>,
}

/// What the HTTP options say of TLS.
#[derive(Clone, Copy, Default)]
pub(super) struct Auto {
    /// The name to send is the host of the request (`auto_sni`).
    pub(super) sni: bool,
    /// The certificate has to be for that host (`auto_san_validation`).
    pub(super) san_validation: bool,
}

/// How connections are made and kept, and what that says of TLS.
pub(super) fn decode(options: Options, notes: &mut Notes) -> Result<(ConnectionPolicy, Auto), ConfigError> {
    let mut found = None;
    for (key, extension) in options.typed.into_iter().collect::<BTreeMap<_, _>>() {
        let field = format!("typed_extension_protocol_options[{key}]");
        if key == KEY {
            found = Some(notes.at(field, extension, typed)?);
        } else {
            notes.warn(field, "not known here and left out");
        }
    }
    if let Some(found) = found {
        return Ok(found);
    }
    let mut policy = notes.opt("common_http_protocol_options", options.common, common)?.unwrap_or_default();
    policy.max_requests = policy.max_requests.or(number(options.max_requests)).filter(|most| *most > 0);
    if let Some(http2) = options.http2 {
        policy.protocol = Some(HttpProtocol::Http2);
        policy = policy.or(&of_http2("http2_protocol_options", Some(http2), notes)?);
    }
    Ok((policy, Auto::default()))
}

fn typed(extension: Any, notes: &mut Notes) -> Result<(ConnectionPolicy, Auto), ConfigError> {
    let message: HttpProtocolOptions = unpack(&extension)?;
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [http_filters, outlier_detection, request_mirror_policies, hash_policy, retry_policy]
    );
    let policy = notes.opt("common_http_protocol_options", message.common_http_protocol_options, common)?;
    let auto = notes.opt("upstream_http_protocol_options", message.upstream_http_protocol_options, automatic)?;
    let (protocol, http2) = protocol(message.upstream_protocol_options, notes)?;
    let mut policy = policy.unwrap_or_default().or(&http2);
    policy.protocol = protocol;
    Ok((policy, auto.unwrap_or_default()))
}

fn common(message: core::HttpProtocolOptions, notes: &mut Notes) -> Result<ConnectionPolicy, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "connections and requests are treated as without it",
        [max_connection_duration_jitter, max_headers_count, max_response_headers_kb, max_stream_duration]
    );
    Ok(ConnectionPolicy {
        idle_timeout: limit("idle_timeout", message.idle_timeout)?,
        max_age: limit("max_connection_duration", message.max_connection_duration)?,
        max_requests: number(message.max_requests_per_connection).filter(|most| *most > 0),
        ..ConnectionPolicy::default()
    })
}

fn automatic(message: core::UpstreamHttpProtocolOptions, notes: &mut Notes) -> Result<Auto, ConfigError> {
    warn_if_set!(notes, message, "the name is that of the request's authority", [override_auto_sni_header]);
    Ok(Auto { sni: message.auto_sni, san_validation: message.auto_san_validation })
}

/// The protocol, and the fields of the policy that its options set.
fn protocol(
    message: Option<UpstreamProtocolOptions>,
    notes: &mut Notes,
) -> Result<(Option<HttpProtocol>, ConnectionPolicy), ConfigError> {
    match message {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(message)) => {
            notes.at("explicit_http_config", message, explicit)
        }
        Some(UpstreamProtocolOptions::AutoConfig(message)) => notes.at("auto_config", message, |message, notes| {
            let http2 = of_http2("http2_protocol_options", message.http2_protocol_options, notes)?;
            Ok((Some(HttpProtocol::Auto), http2))
        }),
        // The protocol of whoever makes the request: that of the client that reads this.
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(message)) => {
            notes.at("use_downstream_protocol_config", message, |message, notes| {
                Ok((None, of_http2("http2_protocol_options", message.http2_protocol_options, notes)?))
            })
        }
        None => Err(ConfigError::new("upstream_protocol_options", "", "set explicit_http_config or another choice")),
    }
}

fn explicit(
    message: ExplicitHttpConfig,
    notes: &mut Notes,
) -> Result<(Option<HttpProtocol>, ConnectionPolicy), ConfigError> {
    match message.protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok((Some(HttpProtocol::Http1), ConnectionPolicy::default())),
        Some(ProtocolConfig::Http2ProtocolOptions(message)) => {
            Ok((Some(HttpProtocol::Http2), of_http2("http2_protocol_options", Some(message), notes)?))
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            notes.warn("http3_protocol_options", "HTTP/3 is not known here; the endpoint chooses HTTP/1.1 or HTTP/2");
            Ok((Some(HttpProtocol::Auto), ConnectionPolicy::default()))
        }
        None => Err(ConfigError::new("protocol_config", "", "set http_protocol_options or http2_protocol_options")),
    }
}

/// The streams and pings of HTTP/2, as a policy that says nothing else.
fn of_http2(
    field: &'static str,
    message: Option<core::Http2ProtocolOptions>,
    notes: &mut Notes,
) -> Result<ConnectionPolicy, ConfigError> {
    let policy = notes.opt(field, message, |message, notes| {
        warn_if_set!(
            notes,
            message,
            "HTTP/2 is spoken as without it",
            [initial_stream_window_size, initial_connection_window_size]
        );
        let max_streams = number(message.max_concurrent_streams);
        if max_streams == Some(0) {
            return Err(ConfigError::new("max_concurrent_streams", 0, "give at least 1"));
        }
        let pings = notes.opt("connection_keepalive", message.connection_keepalive, pings)?;
        Ok(ConnectionPolicy { max_streams, ..pings.unwrap_or_default() })
    })?;
    Ok(policy.unwrap_or_default())
}

fn pings(message: core::KeepaliveSettings, notes: &mut Notes) -> Result<ConnectionPolicy, ConfigError> {
    warn_if_set!(notes, message, "pings are sent as without it", [interval_jitter, connection_idle_interval]);
    let Some(timeout) = positive("timeout", message.timeout)? else {
        return Err(ConfigError::new("timeout", "", "set this field"));
    };
    Ok(ConnectionPolicy {
        keep_alive_interval: limit("interval", message.interval)?,
        keep_alive_timeout: Some(timeout),
        keep_alive_while_idle: Some(true),
        ..ConnectionPolicy::default()
    })
}
