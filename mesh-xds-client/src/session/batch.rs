//! One response on its way to a verdict: its resources out of their wrappers, and the ticket to answer it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    self as wire_xds, DeltaDiscoveryResponse, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::{self as wire, Any};
use prost::{Message, Name};
use tokio::time::Instant;
use tonic::Code;

use super::wire::Response;
use super::{FOREVER, ResourceError};
use crate::ResourceKind;
use crate::fingerprint::Fingerprint;
use crate::name::canonical;

/// The resources of one response, to be decoded and answered.
#[derive(Debug)]
pub struct Batch {
    /// What all of the resources should be. Each resource's own type URL is the peer's claim and still to be checked.
    pub kind: ResourceKind,
    /// The server's version of this kind. In delta it is for people alone, and each resource has its own.
    pub version: String,
    /// The resources, in the order of the response, without their `envoy.service.discovery.v3.Resource` wrapper.
    pub resources: Vec<RawResource>,
    /// What [`Session::answer`](super::Session::answer) takes. Until then no request of this kind is sent in state of the
    /// world.
    pub ticket: Ticket,
}

/// A resource that nobody has looked into.
#[derive(Debug, Clone, PartialEq)]
pub struct RawResource {
    /// The name on the wrapper, when there was one. Otherwise the name is inside.
    pub name: Option<String>,
    /// The version of this very resource, in delta. It goes by the name on the wrapper, and so must the resource itself.
    pub version: Option<String>,
    /// The resource's type and bytes, as sent.
    pub body: Any,
}

/// The right and the duty to answer one [`Batch`]: it can be spent once, and should not be dropped.
#[derive(Debug)]
#[must_use = "a batch that is never answered holds back every later request of its kind"]
pub struct Ticket {
    pub(super) stream: u64,
    pub(super) kind: ResourceKind,
    pub(super) version: String,
    pub(super) nonce: String,
    /// Of all resources as they were sent, where the response before was refused.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Errors of the wrappers, found before anyone could decode.
    pub(super) malformed: Vec<ResourceError>,
    /// Resources without a body, which says that they stand as they were.
    pub(super) heartbeats: Vec<(String, Label)>,
    /// What the wrappers say of resources, by name.
    pub(super) labels: HashMap<String, Label>,
    pub(super) gone: Gone,
    /// Resources that the server does not give, and why.
    pub(super) denied: Vec<Denied>,
}

/// What a server says of a resource that it does not give (xRFC TP3, `resource_errors`).
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) name: String,
    pub(super) code: Code,
    pub(super) message: String,
}

/// What a response says of resources that are gone.
#[derive(Debug)]
pub(super) enum Gone {
    /// What it does not mention is.
    Missing,
    /// These are.
    Named(Vec<String>),
}

/// What a wrapper says of its resource.
#[derive(Debug, Default)]
pub(super) struct Label {
    /// In delta.
    pub(super) version: Option<String>,
    /// When the resource is to be forgotten, unless it comes again.
    pub(super) expires: Option<Instant>,
}

/// What became of the resources of a [`Batch`].
///
/// Every resource is in exactly one of the lists. One rejected resource refuses the response, and its neighbours are still
/// used (gRFC A46).
#[derive(Debug, Default)]
pub struct Verdict {
    /// The names of the resources that are now in use.
    pub accepted: Vec<Arc<str>>,
    /// What is wrong with the others.
    pub rejected: Vec<ResourceError>,
}

// === impl Batch ===

impl Batch {
    /// Takes the resources of a response out of their wrappers. `compares` asks for a fingerprint.
    pub(super) fn unpack(stream: u64, kind: ResourceKind, response: Response, compares: bool, now: Instant) -> Self {
        match response {
            Response::StateOfTheWorld(response) => Self::of_state(stream, kind, response, compares, now),
            Response::Delta(response) => Self::of_delta(stream, kind, response, compares, now),
        }
    }

    fn of_state(stream: u64, kind: ResourceKind, response: DiscoveryResponse, compares: bool, now: Instant) -> Self {
        let mut batch = Self::empty(stream, kind, response.version_info, response.nonce);
        if kind.is_full_state() {
            batch.ticket.gone = Gone::Missing;
        }
        batch.ticket.fingerprint = compares.then(|| Fingerprint::of(&response.resources));
        batch.ticket.denied = denied(response.resource_errors);
        batch.resources.reserve(response.resources.len());
        let wrapper_url = Resource::type_url();
        for body in response.resources {
            if body.type_url != wrapper_url {
                batch.resources.push(RawResource { name: None, version: None, body });
                continue;
            }
            match Resource::decode(body.value.as_slice()) {
                // The version of all stands in the response.
                Ok(resource) => batch.unwrap(resource, None, now),
                Err(error) => batch.ticket.malformed.push(ResourceError {
                    name: None,
                    field: None,
                    message: format!("its envoy.service.discovery.v3.Resource wrapper is not valid protobuf: {error}"),
                }),
            }
        }
        batch
    }

    fn of_delta(
        stream: u64,
        kind: ResourceKind,
        response: DeltaDiscoveryResponse,
        compares: bool,
        now: Instant,
    ) -> Self {
        let repeated = repeated(&response);
        let mut batch = Self::empty(stream, kind, response.system_version_info, response.nonce);
        let bodies = || response.resources.iter().filter_map(|resource| resource.resource.as_ref());
        batch.ticket.fingerprint = compares.then(|| Fingerprint::of(bodies()));
        batch.resources.reserve(response.resources.len());
        for mut resource in response.resources {
            if let (true, Some(other)) = (resource.name.is_empty(), resource.resource_name.take()) {
                resource.name = other.name;
            }
            if resource.name.is_empty() {
                batch.ticket.malformed.push(complaint(None, Some("name"), "it has no name"));
            } else if !repeated.contains(&resource.name) {
                let version = std::mem::take(&mut resource.version);
                batch.unwrap(resource, Some(version), now);
            }
        }
        let removed = response.removed_resources.into_iter().filter(|name| !repeated.contains(name));
        batch.ticket.gone = Gone::Named(removed.map(canonical_string).collect());
        batch.ticket.denied = denied(response.resource_errors);
        let errors = repeated.into_iter().map(|name| complaint(Some(name), None, "it is listed twice in one response"));
        batch.ticket.malformed.extend(errors);
        batch
    }

    fn empty(stream: u64, kind: ResourceKind, version: String, nonce: String) -> Self {
        let ticket = Ticket {
            stream,
            kind,
            version: version.clone(),
            nonce,
            fingerprint: None,
            malformed: Vec::new(),
            heartbeats: Vec::new(),
            labels: HashMap::new(),
            gone: Gone::Named(Vec::new()),
            denied: Vec::new(),
        };
        Self { kind, version, resources: Vec::new(), ticket }
    }

    /// Aliases are passed over: they are other names under which a resource may be looked up, and it is asked for by its own.
    fn unwrap(&mut self, resource: Resource, version: Option<String>, now: Instant) {
        let Resource { name, resource: body, ttl, .. } = resource;
        let name = Some(name).filter(|name| !name.is_empty()).map(canonical_string);
        let expires = match ttl.map(time_to_live) {
            None => None,
            Some(Some(ttl)) => Some(now + ttl),
            Some(None) => {
                let error = complaint(name, Some("ttl"), "give a time above zero, or none");
                return self.ticket.malformed.push(error);
            }
        };
        let label = Label { version: version.clone(), expires };
        match (name, body) {
            (Some(name), None) => self.ticket.heartbeats.push((name, label)),
            (None, None) => {}
            (name, Some(body)) => {
                if let Some(name) = name.clone() {
                    self.ticket.labels.insert(name, label);
                }
                self.resources.push(RawResource { name, version, body });
            }
        }
    }
}

/// A time above zero, and none that cannot be added to an instant.
fn time_to_live(ttl: wire::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(ttl.seconds).ok()?, u64::try_from(ttl.nanos).ok()?);
    let ttl = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos));
    (!ttl.is_zero()).then(|| ttl.min(FOREVER))
}

/// The names that a delta response speaks of more than once, in order.
fn repeated(response: &DeltaDiscoveryResponse) -> BTreeSet<String> {
    let mut seen = HashSet::new();
    let names = response.resources.iter().map(|resource| &resource.name).chain(&response.removed_resources);
    names.filter(|name| !name.is_empty() && !seen.insert(*name)).cloned().collect()
}

fn denied(errors: Vec<wire_xds::ResourceError>) -> Vec<Denied> {
    let told = errors.into_iter().filter_map(|error| {
        let name = error.resource_name.map(|name| name.name).filter(|name| !name.is_empty())?;
        let detail = error.error_detail.unwrap_or_default();
        Some(Denied { name: canonical_string(name), code: Code::from_i32(detail.code), message: detail.message })
    });
    told.collect()
}

fn canonical_string(name: String) -> String {
    match canonical(&name) {
        Cow::Borrowed(_) => name,
        Cow::Owned(canonical) => canonical,
    }
}

fn complaint(name: Option<String>, field: Option<&str>, message: &str) -> ResourceError {
    ResourceError { name, field: field.map(str::to_owned), message: message.to_owned() }
}

// === impl Ticket ===

impl Ticket {
    /// Whether all resources of the response have a name that can be read, as far as their wrappers go.
    pub(crate) fn is_readable(&self) -> bool {
        self.malformed.iter().all(|error| error.name.is_some())
    }

    /// The nonce of the response, for logs.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}
