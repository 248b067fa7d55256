//! One response on its way to a verdict: its resources out of their wrappers, and the ticket to answer it.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::ResourceError;
use super::refusals::Fingerprint;
use crate::ResourceKind;

/// The resources of one response, to be decoded and answered.
#[derive(Debug)]
pub struct Batch {
    /// What all of the resources should be. Each resource's own type URL is the peer's claim and still to be checked.
    pub kind: ResourceKind,
    /// The server's version of this kind.
    pub version: String,
    /// The resources, in the order of the response, without their `envoy.service.discovery.v3.Resource` wrapper.
    pub resources: Vec<RawResource>,
    /// What [`Session::answer`](super::Session::answer) takes. Until then no request of this kind is sent.
    pub ticket: Ticket,
}

/// A resource that nobody has looked into.
#[derive(Debug, Clone, PartialEq)]
pub struct RawResource {
    /// The name on the wrapper, when there was one. Otherwise the name is inside.
    pub name: Option<String>,
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
    /// Names whose wrapper had no body, which says that the resource stands as it was.
    pub(super) unchanged: Vec<String>,
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
    /// Takes the resources of a response out of their wrappers.
    pub(super) fn unpack(stream: u64, kind: ResourceKind, response: DiscoveryResponse, compares: bool) -> Self {
        let fingerprint = compares.then(|| Fingerprint::of(&response.resources));
        let mut resources = Vec::with_capacity(response.resources.len());
        let mut malformed = Vec::new();
        let mut unchanged = Vec::new();
        let wrapper_url = Resource::type_url();
        for body in response.resources {
            if body.type_url != wrapper_url {
                resources.push(RawResource { name: None, body });
                continue;
            }
            match Resource::decode(body.value.as_slice()) {
                Ok(Resource { name, resource: Some(body), .. }) => {
                    resources.push(RawResource { name: Some(name).filter(|name| !name.is_empty()), body });
                }
                Ok(Resource { name, resource: None, .. }) => unchanged.push(name),
                Err(error) => malformed.push(ResourceError {
                    name: None,
                    field: None,
                    message: format!("its envoy.service.discovery.v3.Resource wrapper is not valid protobuf: {error}"),
                }),
            }
        }
        let DiscoveryResponse { version_info: version, nonce, .. } = response;
        let ticket = Ticket { stream, kind, version: version.clone(), nonce, fingerprint, malformed, unchanged };
        Self { kind, version, resources, ticket }
    }
}

// === impl Ticket ===

impl Ticket {
    /// The nonce of the response, for logs.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}
