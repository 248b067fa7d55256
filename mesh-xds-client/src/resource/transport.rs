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
//! Names that DNS finds stand for endpoints without metadata. What stands in the cluster beside the names is looked at when
//! it is decoded, and one way holds for all that they resolve to: TLS if it is said of any of them.

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, TransportSocketMatch},
            },
            core::v3::{TransportSocket, transport_socket::ConfigType},
        },
        extensions::transport_sockets::{raw_buffer::v3::RawBuffer, tls::v3::UpstreamTlsContext},
    },
    google::protobuf::Any,
};
use mesh_core::config::{ClusterPolicy, ConfigError, Metadata, Security, SecurityMatch, UpstreamTls};

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
    names: Names,
}

/// What is said of each name that DNS is to resolve.
pub(super) struct Names(Vec<Option<Metadata>>);

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
    let Transports { socket, matches, has_matcher, names } = transports;
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
    let secured = Secured { tls, by_endpoint: by_endpoint.into() };
    Ok(if names.0.is_empty() { secured } else { names.secured(secured, notes) })
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
    pub(super) fn take(message: &mut Cluster, names: Names) -> Self {
        Self {
            socket: message.transport_socket.take(),
            matches: std::mem::take(&mut message.transport_socket_matches),
            has_matcher: message.transport_socket_matcher.is_some(),
            names,
        }
    }
}

// === impl Names ===

impl Names {
    /// What the message says of the names that it has resolved, of which other kinds of clusters have none.
    pub(super) fn of(message: &Cluster) -> Self {
        let is_by_name =
            |kind: i32| kind == DiscoveryType::StrictDns as i32 || kind == DiscoveryType::LogicalDns as i32;
        let assigned = match message.cluster_discovery_type {
            Some(ClusterDiscoveryType::Type(kind)) if is_by_name(kind) => message.load_assignment.as_ref(),
            _ => None,
        };
        let groups = assigned.into_iter().flat_map(|assigned| &assigned.endpoints);
        // They are warned of, if at all, where the names are read.
        let mut unheard = Notes::default();
        let said = groups.flat_map(|group| &group.lb_endpoints);
        let said = said.map(|one| one.metadata.clone().map(|said| endpoints::metadata(said, &mut unheard)));
        Self(said.collect())
    }

    /// One way for all that the names resolve to.
    fn secured(&self, secured: Secured, notes: &mut Notes) -> Secured {
        let policy =
            ClusterPolicy { tls: secured.tls, security: secured.by_endpoint.clone(), ..ClusterPolicy::default() };
        let mut ways: Vec<_> = self.0.iter().map(|metadata| policy.security_of(metadata.as_ref())).collect();
        ways.dedup();
        let strictest = ways.iter().find(|way| matches!(way, Security::Tls(_))).or(ways.first()).cloned();
        if ways.len() > 1 {
            notes.warn("transport_socket_matches", "all that the names resolve to is reached in the strictest way");
        }
        match strictest {
            Some(Security::Tls(tls)) => Secured { tls: Some(tls), by_endpoint: Arc::default() },
            Some(security) => {
                let all = SecurityMatch { name: "names".into(), facts: BTreeMap::new(), security };
                Secured { tls: None, by_endpoint: [all].into() }
            }
            None => Secured { tls: policy.tls, by_endpoint: secured.by_endpoint },
        }
    }
}
