//! Resources: from the bytes of a control plane to validated configuration, in two steps.
//!
//! First a resource is read far enough to know its name, then as a whole. What is refused is refused by itself, as
//! [`ResourceError`], under its name, so that its neighbours in the same response still apply. What is understood but cannot be
//! honoured comes back as a warning with the path of the field, in protobuf's names.
//!
//! Both dialects are read by the same code: that of proxyless gRPC (gRFC A27 and its successors) and that of Envoy's
//! sidecars. Where they judge differently the stricter counts, unless Istio sends what the stricter refuses. Which rules
//! a value then follows is decided by who uses it ([`Semantics`](mesh_core::config::Semantics)).
//!
//! Where the endpoints of a cluster are reached in different ways (`transport_socket_matches`), each is reached as the first
//! match that its metadata fits says; nothing falls back to plaintext that the cluster does not name.
//!
//! A cluster whose endpoints are found in a way that is not honoured here is understood nevertheless, with a warning: whether
//! it is refused is for the [store](crate::store) to say, by who asked for it.
//!
//! Fields that only name things in Envoy's own statistics, logs and traces, or tune how it listens, are not warned of.

mod action;
mod assignment;
mod balance;
mod cluster;
mod common;
mod connection;
mod decoding;
mod discovery;
mod endpoints;
mod filter;
mod former;
mod header;
mod inbound;
mod listener;
mod matcher;
mod notes;
mod protection;
mod retry;
mod route;
#[cfg(any(test, mesh_fuzz))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use the rest"))]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod virtual_hosts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use envoy_types::pb::envoy::config::{cluster::v3 as cluster_pb, listener::v3 as listener_pb};
#[cfg(any(test, mesh_fuzz, feature = "testkit"))]
use envoy_types::pb::google::protobuf::Any;
use mesh_core::{
    config::{Cluster, ConfigError, Decoded, Discovery, IdentityName},
    identity::Identities,
};
use prost::{DecodeError, Message};

pub use self::inbound::InboundListener;
pub(crate) use self::{
    assignment::Assignment,
    decoding::Decoding,
    listener::{ListenerResource, RouteSource},
    virtual_hosts::Routes,
};
use self::{common::undecodable, notes::Notes, virtual_hosts::RouteDecoding};
use crate::{
    ResourceKind,
    fingerprint::{Fingerprint, Printing},
    istio::names::{INBOUND, OutboundService},
    name::name_of,
    session::ResourceError,
};

/// A valid resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Resource {
    /// The filters of a target, and its routes or their name.
    Listener(Arc<ListenerResource>),
    /// What requests come in through.
    Inbound(Arc<InboundListener>),
    /// The routes of a target.
    RouteConfiguration(Routes),
    /// How a cluster is found and treated.
    Cluster {
        cluster: Arc<Cluster>,
        /// Whether its endpoints are waited for however long they take (`initial_fetch_timeout` of 0).
        is_patient: bool,
    },
    /// The endpoints of a cluster.
    Endpoints(Assignment),
}

/// What this process can honour, so that a resource which refers to anything else is refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    identities: BTreeSet<IdentityName>,
    registry: Identities,
    secrets: BTreeMap<Arc<str>, IdentityName>,
    /// Whether whoever sent a resource may have requests bear another authority (gRFC A81).
    is_trusted: bool,
    /// The listener that is for what comes in.
    inbound: Option<&'static str>,
}

/// How routes are read, where that depends on who sends them to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Whether requests may be given another authority (gRFC A81).
    may_rewrite_hosts: bool,
    /// Whether they are meant for Istio's sidecars rather than for gRPC's clients: what Envoy alone knows counts, and what is said
    /// to filters that are not known here is passed over, as those filters are.
    is_for_sidecars: bool,
}

/// As [`decode_parts`] what has its type with it.
///
/// # Errors
///
/// As [`decode_parts`].
#[cfg(any(test, mesh_fuzz, feature = "testkit"))]
pub(crate) fn decode(resource: &Any, context: &Context) -> Result<Decoded<Resource>, ResourceError> {
    decode_parts(&resource.type_url, &Bytes::copy_from_slice(&resource.value), context)
}

/// Reads the resource of this type and these bytes.
///
/// # Errors
///
/// Refuses a type that is not a [`ResourceKind`], bytes that are not of their type, and what breaks a rule of the type.
pub(crate) fn decode_parts(
    type_url: &str,
    bytes: &Bytes,
    context: &Context,
) -> Result<Decoded<Resource>, ResourceError> {
    match ResourceKind::from_type_url(type_url) {
        Some(ResourceKind::Listener) if context.is_inbound(bytes) => {
            decode_inbound(bytes).map(|listener| listener.map(|listener| Resource::Inbound(Arc::new(listener))))
        }
        Some(ResourceKind::Listener) => decode_listener(bytes, context)
            .map(|listener| listener.map(|listener| Resource::Listener(Arc::new(listener)))),
        Some(ResourceKind::RouteConfiguration) => {
            decode_routes(bytes.clone(), None, context).map(|routes| routes.map(Resource::RouteConfiguration))
        }
        Some(ResourceKind::Cluster) => read(bytes, |message: cluster_pb::Cluster, notes| {
            let is_patient = discovery::is_patient(&message);
            let cluster = cluster::decode(message, context, notes)?;
            Ok(Resource::Cluster { cluster: Arc::new(cluster), is_patient })
        }),
        Some(ResourceKind::ClusterLoadAssignment) => {
            decode_endpoints(bytes.clone(), None).map(|endpoints| endpoints.map(Resource::Endpoints))
        }
        None => {
            let error = ConfigError::new("type_url", type_url, "send a type that was asked for");
            Err(refusal(None, &error))
        }
    }
}

/// Reads an `envoy.config.listener.v3.Listener` for clients.
///
/// # Errors
///
/// Refuses what the module's rules refuse, with the name if that could be read.
pub(crate) fn decode_listener(bytes: &[u8], context: &Context) -> Result<Decoded<ListenerResource>, ResourceError> {
    read(bytes, |message: listener_pb::Listener, notes| listener::decode(message, context, notes))
}

/// Reads an `envoy.config.listener.v3.Listener` for servers.
///
/// # Errors
///
/// As [`decode_listener`].
fn decode_inbound(bytes: &[u8]) -> Result<Decoded<InboundListener>, ResourceError> {
    read(bytes, |message: listener_pb::Listener, _| InboundListener::new(message))
}

/// Reads an `envoy.config.route.v3.RouteConfiguration`. Virtual hosts that have the same bytes as in `former`, the version
/// before, are taken from there.
///
/// # Errors
///
/// As [`decode_listener`].
pub(crate) fn decode_routes(
    bytes: Bytes,
    former: Option<&Routes>,
    context: &Context,
) -> Result<Decoded<Routes>, ResourceError> {
    let mut decoding = RouteDecoding::new(bytes.clone(), former.cloned(), context);
    loop {
        let mut left = usize::MAX;
        match decoding.advance(&mut left) {
            Ok(false) => {}
            Ok(true) => {
                let (value, notes) = decoding.finish();
                return Ok(Decoded { value, warnings: notes.finish() });
            }
            Err(failure) => return Err(refusal(name_of(&bytes).as_deref(), &failure.into_error(bytes.len()))),
        }
    }
}

/// Reads an `envoy.config.cluster.v3.Cluster`.
///
/// # Errors
///
/// As [`decode_listener`]; refuses identities that `context` does not know.
#[cfg(test)]
pub(crate) fn decode_cluster(bytes: &[u8], context: &Context) -> Result<Decoded<Cluster>, ResourceError> {
    read(bytes, |message: cluster_pb::Cluster, notes| cluster::decode(message, context, notes))
}

/// Reads an `envoy.config.endpoint.v3.ClusterLoadAssignment`. Endpoints that have the same bytes as in `former`, the version
/// before, are taken from there.
///
/// # Errors
///
/// As [`decode_listener`].
pub(crate) fn decode_endpoints(
    bytes: Bytes,
    former: Option<&Assignment>,
) -> Result<Decoded<Assignment>, ResourceError> {
    let sealed = assignment::Sealed::decode(bytes.clone());
    validated(sealed, &bytes, |message, notes| assignment::decode(message, former, notes))
}

fn read<M: Message + Default, T>(
    bytes: &[u8],
    validate: impl FnOnce(M, &mut Notes) -> Result<T, ConfigError>,
) -> Result<Decoded<T>, ResourceError> {
    validated(M::decode(bytes), bytes, validate)
}

fn validated<M, T>(
    message: Result<M, DecodeError>,
    bytes: &[u8],
    validate: impl FnOnce(M, &mut Notes) -> Result<T, ConfigError>,
) -> Result<Decoded<T>, ResourceError> {
    let mut notes = Notes::default();
    message
        .map_err(|error| undecodable(&error, bytes.len()))
        .and_then(|message| validate(message, &mut notes))
        .map(|value| Decoded { value, warnings: notes.finish() })
        .map_err(|error| refusal(name_of(bytes).as_deref(), &error))
}

fn refusal(name: Option<&str>, error: &ConfigError) -> ResourceError {
    ResourceError {
        name: name.map(str::to_owned),
        field: Some(error.field().to_owned()).filter(|field| !field.is_empty()),
        message: format!("it is refused with value `{}`: {}", error.value(), error.remedy()),
    }
}

// === impl Resource ===

impl Resource {
    /// The routes that it is, or holds.
    fn routes(&self) -> Option<&Routes> {
        match self {
            Self::RouteConfiguration(routes) => Some(routes),
            Self::Listener(listener) => match &listener.routes {
                RouteSource::Inline(routes) => Some(routes),
                RouteSource::Named(_) => None,
            },
            _ => None,
        }
    }

    /// The same, of which `former` says the same in other bytes: that stays, so that nobody takes it for another.
    ///
    /// Of a route configuration the next version is compared with the new bytes. Of a listener it is the whole that others know by
    /// its `Arc`, and what is compared stands in it: those are the old bytes still, so that each version like the new one
    /// has all its virtual hosts decoded, up to the first that says something else.
    pub(crate) fn in_place_of(self, former: Self) -> Self {
        match (self, former) {
            (Self::RouteConfiguration(routes), Self::RouteConfiguration(former)) => {
                Self::RouteConfiguration(routes.in_place_of(&former))
            }
            (_, former) => former,
        }
    }

    /// Why nobody could make use of it, though it is understood.
    pub(crate) fn useless(&self) -> Option<ResourceError> {
        match self {
            Self::Cluster { cluster, .. } => match &cluster.discovery {
                Discovery::Unsupported(why) => {
                    let error = ConfigError::new("cluster_discovery_type", why, discovery::REMEDY);
                    Some(refusal(Some(cluster.name()), &error))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

// === impl Context ===

impl Context {
    /// A process without identities.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// As [`with_registry`](Self::with_registry) with this identity.
    #[cfg(any(test, mesh_fuzz))]
    fn with_identity(mut self, name: impl Into<IdentityName>) -> Self {
        self.identities.insert(name.into());
        self
    }

    /// Also honours the SDS secret `secret` with the identity `name`. Istio calls the roots of the identity `default`
    /// `ROOTCA`.
    #[must_use]
    pub(crate) fn with_secret(mut self, secret: impl Into<Arc<str>>, name: impl Into<IdentityName>) -> Self {
        let name = name.into();
        self.identities.insert(name.clone());
        self.secrets.insert(secret.into(), name);
        self
    }

    /// Also honours what only a server that is trusted may say (`trusted_xds_server`): which authority requests bear.
    #[must_use]
    pub(crate) fn trusting(mut self) -> Self {
        self.is_trusted = true;
        self
    }

    /// Also honours what Istio's sidecars are sent: the identity of the workload by its two secrets, whether it is registered
    /// yet or not, the listener for what comes in, and all that Envoy does, which trusts whoever steers it.
    #[must_use]
    pub(crate) fn for_sidecars(mut self) -> Self {
        self.inbound = Some(INBOUND);
        self.trusting().with_secret("default", "default").with_secret("ROOTCA", "default")
    }

    /// Also honours certificate provider instances and SDS secrets that go by the name of an identity which is in `registry`
    /// when a resource is decoded: both its certificate and its roots.
    #[must_use]
    pub(crate) fn with_registry(mut self, registry: Identities) -> Self {
        self.registry = registry;
        self
    }

    /// Whether a listener is for what comes in.
    fn is_inbound(&self, bytes: &[u8]) -> bool {
        self.inbound.is_some_and(|name| name_of(bytes).as_deref() == Some(name))
    }

    /// The service that a cluster stands for, if it is one that Istio's sidecars are told of.
    fn service<'a>(&self, cluster: &'a str) -> Option<OutboundService<'a>> {
        OutboundService::of(cluster).filter(|_| self.inbound.is_some())
    }

    fn rules(&self) -> Rules {
        Rules { may_rewrite_hosts: self.is_trusted, is_for_sidecars: self.inbound.is_some() }
    }

    /// Tells versions of a resource apart, and whether they were read as those of a trusted server.
    pub(crate) fn fingerprint(&self, type_url: &str, bytes: &[u8]) -> Fingerprint {
        Fingerprint::of_parts(type_url, bytes, self.is_trusted)
    }

    /// The same on its way, for bytes that are read piece by piece.
    pub(crate) fn printing(&self, type_url: &str) -> Printing {
        Printing::new(type_url, self.is_trusted)
    }

    /// How many identities the registry has.
    pub(crate) fn registered(&self) -> usize {
        self.registry.count()
    }

    /// The identity of this name.
    fn identity(&self, name: &str) -> Option<IdentityName> {
        let registered = || self.registry.get(name).map(|_| name.into());
        self.identities.get(name).cloned().or_else(registered)
    }

    /// The identity that an SDS secret stands for.
    fn secret(&self, name: &str) -> Option<IdentityName> {
        self.secrets.get(name).cloned().or_else(|| self.identity(name))
    }
}
