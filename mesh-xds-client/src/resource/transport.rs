//! How the endpoints of a cluster are reached: by one transport for all of them, TLS wherever TLS is spoken of.
//!
//! Envoy chooses per endpoint: the first of `transport_socket_matches` that fits the endpoint's metadata, else
//! `transport_socket`, else plaintext. Here one transport serves the whole cluster, and the choice may be stricter than Envoy's
//! and never weaker: nothing falls back to plaintext that was meant to be secured.
//!
//! | sent | every endpoint is reached |
//! |---|---|
//! | a `transport_socket` with TLS | as it says |
//! | else TLS among the matches | as the first of those says |
//! | else a `raw_buffer` anywhere | in plaintext, which was asked for by name |
//! | none of these fields | in plaintext, which is what a cluster without them says |
//! | else (transports that are not known here, a `transport_socket_matcher` alone) | not at all: the cluster is refused |
//!
//! Whatever of this is not to the letter is warned of. The second row is what Istio's sidecars are sent for automatic mutual
//! TLS (`tlsMode-istio` with TLS, then `tlsMode-disabled` with `raw_buffer`): such a cluster is not refused, its endpoints
//! with a sidecar are reached as meant, and those without one fail their handshake and are seen to. `GENERATOR=grpc` sends
//! no matches.

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
use mesh_core::config::{ConfigError, UpstreamTls};

use super::{Context, common::is, connection::Auto, notes::Notes, tls};

/// What a cluster says of transports.
pub(super) struct Transports {
    socket: Option<TransportSocket>,
    matches: Vec<TransportSocketMatch>,
    has_matcher: bool,
}

/// The transport of every endpoint: TLS, or none for plaintext.
pub(super) fn decode(
    transports: Transports,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<Option<UpstreamTls>, ConfigError> {
    let Transports { socket, matches, has_matcher } = transports;
    let has_matches = !matches.is_empty();
    let is_plain_by_name = socket.is_some() || matches.iter().filter_map(transport_of).any(is::<RawBuffer>);
    let of_all = notes.opt("transport_socket", socket, |socket, notes| tls::decode(socket, auto, context, notes))?;
    let (tls, instead) = match of_all.flatten() {
        Some(tls) => (Some(tls), "every endpoint is reached as transport_socket says"),
        None => match first_secured(matches, auto, context, notes)? {
            Some(tls) => (Some(tls), "every endpoint is reached by the first TLS in it, and none in plaintext"),
            None if has_matcher => return Err(unknown("transport_socket_matcher")),
            None if has_matches && !is_plain_by_name => return Err(unknown("transport_socket_matches")),
            None => (None, "every endpoint is reached WITHOUT TLS, by raw_buffer"),
        },
    };
    for (field, is_set) in [("transport_socket_matches", has_matches), ("transport_socket_matcher", has_matcher)] {
        if is_set {
            notes.warn(field, instead);
        }
    }
    Ok(tls)
}

/// The first TLS among the matches. The others are not read: what is not used need not be known.
fn first_secured(
    matches: Vec<TransportSocketMatch>,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<Option<UpstreamTls>, ConfigError> {
    let mut numbered = matches.into_iter().enumerate();
    let first = numbered.find(|(_, one)| transport_of(one).is_some_and(is::<UpstreamTlsContext>));
    let Some((index, TransportSocketMatch { transport_socket: Some(socket), .. })) = first else { return Ok(None) };
    let part = format!("transport_socket_matches[{index}].transport_socket");
    notes.at(part, socket, |socket, notes| tls::decode(socket, auto, context, notes))
}

fn transport_of(one: &TransportSocketMatch) -> Option<&Any> {
    match one.transport_socket.as_ref()?.config_type.as_ref()? {
        ConfigType::TypedConfig(extension) => Some(extension),
    }
}

fn unknown(field: &'static str) -> ConfigError {
    let remedy = "set transport_socket to an UpstreamTlsContext, or to a raw_buffer where plaintext is meant";
    ConfigError::new(field, "no transport that is known here", remedy)
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
