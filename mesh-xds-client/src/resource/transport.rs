//! How the endpoints of a cluster are reached: all in one way, or each as its metadata says (`transport_socket_matches`).
//!
//! Envoy looks for the first match that an endpoint's metadata fits, else takes `transport_socket`, else plaintext. The
//! last step is not taken here where there are matches: what was meant to be secured for some endpoints is not opened to
//! all others without a word.
//!
//! | an endpoint that fits | is reached |
//! |---|---|
//! | a match with TLS, or with `raw_buffer` | as the match says |
//! | a match with a transport that is not known here | not at all, with a warning |
//! | none, and there is a `transport_socket` | as that says |
//! | none, and there is none | in plaintext if the cluster has no matches, else not at all |
//!
//! Istio's sidecars are sent two matches for automatic mutual TLS: `tlsMode-istio` with TLS for endpoints that have a sidecar,
//! and `tlsMode-disabled`, which everybody fits, with `raw_buffer`. `GENERATOR=grpc` sends none.
//!
//! The addresses that DNS finds for a name have the metadata that stands beside the name, whichever type the cluster has. An
//! address that two names lead to is that of the first, and is reached as that says.

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster::TransportSocketMatch},
            core::v3::{TransportSocket, transport_socket::ConfigType},
        },
        extensions::transport_sockets::{raw_buffer::v3::RawBuffer, tls::v3::UpstreamTlsContext},
    },
    google::protobuf::Any,
};
use mesh_core::config::{ConfigError, Security, SecurityMatch, UpstreamTls};

use super::{
    Context,
    common::{is, message_name},
    connection::Auto,
    endpoints,
    notes::Notes,
    tls,
};

/// What a cluster says of transports.
pub(super) struct Transports {
    socket: Option<TransportSocket>,
    matches: Vec<TransportSocketMatch>,
    has_matcher: bool,
}

/// What holds for all endpoints, and what holds for some before it.
#[derive(Default)]
pub(super) struct Secured {
    pub(super) tls: Option<Arc<UpstreamTls>>,
    pub(super) by_endpoint: Arc<[SecurityMatch]>,
}

/// How endpoints are reached.
pub(super) fn decode(
    transports: Transports,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<Secured, ConfigError> {
    let Transports { socket, matches, has_matcher } = transports;
    let is_plain_by_name = socket.is_some();
    let of_all = notes.opt("transport_socket", socket, |socket, notes| tls::decode(socket, auto, context, notes))?;
    let tls = of_all.flatten().map(Arc::new);
    if has_matcher {
        return by_matcher(tls, notes);
    }
    if matches.is_empty() {
        return Ok(Secured { tls, ..Secured::default() });
    }
    let mut by_endpoint =
        notes.each("transport_socket_matches", matches, |one, notes| decode_match(one, auto, context, notes))?;
    if tls.is_none() && is_plain_by_name {
        let facts = BTreeMap::new();
        by_endpoint.push(SecurityMatch { name: "transport_socket".into(), facts, security: Security::Plaintext });
    }
    if tls.is_none() && by_endpoint.iter().all(|one| !one.facts.is_empty()) {
        notes.warn("transport_socket", "it is unset, and endpoints that fit no match are not reached");
    }
    Ok(Secured { tls, by_endpoint: by_endpoint.into() })
}

/// A matcher may look at what is not known here. Nothing is lost where it would have found TLS.
fn by_matcher(tls: Option<Arc<UpstreamTls>>, notes: &mut Notes) -> Result<Secured, ConfigError> {
    if tls.is_none() {
        let remedy = "set transport_socket_matches in its place, or transport_socket to an UpstreamTlsContext";
        return Err(ConfigError::new("transport_socket_matcher", "set", remedy));
    }
    notes.warn("transport_socket_matcher", "every endpoint is reached as transport_socket says");
    Ok(Secured { tls, ..Secured::default() })
}

fn decode_match(
    message: TransportSocketMatch,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<SecurityMatch, ConfigError> {
    let facts = message.r#match.map(endpoints::map).unwrap_or_default();
    let security = match transport_of(message.transport_socket.as_ref()) {
        Some(transport) if is::<RawBuffer>(transport) => Security::Plaintext,
        Some(transport) if is::<UpstreamTlsContext>(transport) => {
            let tls = notes.required("transport_socket", message.transport_socket, |socket, notes| {
                tls::decode(socket, auto, context, notes)
            })?;
            tls.map_or(Security::Plaintext, |tls| Security::Tls(Arc::new(tls)))
        }
        other => {
            let what = other.map_or("none", |other| message_name(&other.type_url));
            notes.warn("transport_socket", "it is not known here, and the endpoints that fit are not reached");
            Security::Unavailable(format!("their transport is not known here: {what}").into())
        }
    };
    Ok(SecurityMatch { name: message.name.into(), facts, security })
}

fn transport_of(socket: Option<&TransportSocket>) -> Option<&Any> {
    match socket?.config_type.as_ref()? {
        ConfigType::TypedConfig(extension) => Some(extension),
    }
}

// === impl Transports ===

impl Transports {
    /// Takes them out of the message.
    pub(super) fn take(message: &mut Cluster) -> Self {
        Self {
            socket: message.transport_socket.take(),
            matches: std::mem::take(&mut message.transport_socket_matches),
            has_matcher: message.transport_socket_matcher.is_some(),
        }
    }
}
