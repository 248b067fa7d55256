//! The messages of both variants, as one type each.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, ResourceError,
};
use envoy_types::pb::google::protobuf::{Any, Duration};
use prost::Message;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variant {
    /// Requests list every name, and responses may hold everything. All servers know it. The method
    /// `StreamAggregatedResources`.
    #[default]
    StateOfTheWorld,
    /// Requests and responses hold what has changed, each resource with a version of its own. The method
    /// `DeltaAggregatedResources`.
    Delta,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// In the variant of that name.
    StateOfTheWorld(DiscoveryRequest),
    /// In the variant of that name.
    Delta(DeltaDiscoveryRequest),
}

/// What a server says.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// In the variant of that name.
    StateOfTheWorld(DiscoveryResponse),
    /// In the variant of that name.
    Delta(DeltaDiscoveryResponse),
}

/// What a server says, its resources as they were sent: there may be thousands, and each is read when its turn comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Sealed {
    /// In the variant of that name.
    StateOfTheWorld(SealedState),
    /// In the variant of that name.
    Delta(SealedDelta),
}

/// `google.protobuf.Any` whose bytes are part of what they came in, which they hold as long as they live. On the wire they are the
/// same.
#[derive(Clone, PartialEq, Message)]
pub struct SealedAny {
    /// What the bytes are said to be.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.service.discovery.v3.Resource` with such a body, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SealedResource {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<SealedAny>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(message, optional, tag = "6")]
    pub(super) ttl: Option<Duration>,
}

/// `DiscoveryResponse` with the bytes of each resource. On the wire they are the same.
#[derive(Clone, PartialEq, Message)]
pub struct SealedState {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(message, repeated, tag = "7")]
    pub(super) resource_errors: Vec<ResourceError>,
}

/// `DeltaDiscoveryResponse` with the bytes of each resource. On the wire they are the same.
#[derive(Clone, PartialEq, Message)]
pub struct SealedDelta {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
    #[prost(message, repeated, tag = "9")]
    pub(super) resource_errors: Vec<ResourceError>,
}

// === impl Request ===

impl Request {
    /// The type that is asked for.
    pub fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(request) => &request.type_url,
            Self::Delta(request) => &request.type_url,
        }
    }

    /// Who asks. Only the first request of a stream says so.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::StateOfTheWorld(request) => request.node.as_ref(),
            Self::Delta(request) => request.node.as_ref(),
        }
    }

    pub(super) fn with_node(mut self, node: Option<Node>) -> Self {
        match &mut self {
            Self::StateOfTheWorld(request) => request.node = node,
            Self::Delta(request) => request.node = node,
        }
        self
    }
}

// === impl Response ===

impl Response {
    /// The type of what it holds.
    pub fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(response) => &response.type_url,
            Self::Delta(response) => &response.type_url,
        }
    }
}

// === impl Sealed ===

impl Sealed {
    pub(super) fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(response) => &response.type_url,
            Self::Delta(response) => &response.type_url,
        }
    }

    pub(super) fn variant(&self) -> Variant {
        match self {
            Self::StateOfTheWorld(_) => Variant::StateOfTheWorld,
            Self::Delta(_) => Variant::Delta,
        }
    }
}

impl<T: Into<Response>> From<T> for Sealed {
    fn from(response: T) -> Self {
        match response.into() {
            Response::StateOfTheWorld(response) => Self::StateOfTheWorld(SealedState {
                version_info: response.version_info,
                resources: seal(&response.resources),
                type_url: response.type_url,
                nonce: response.nonce,
                resource_errors: response.resource_errors,
            }),
            Response::Delta(response) => Self::Delta(SealedDelta {
                system_version_info: response.system_version_info,
                resources: seal(&response.resources),
                type_url: response.type_url,
                nonce: response.nonce,
                removed_resources: response.removed_resources,
                resource_errors: response.resource_errors,
            }),
        }
    }
}

impl From<Any> for SealedAny {
    fn from(Any { type_url, value }: Any) -> Self {
        Self { type_url, value: value.into() }
    }
}

impl From<SealedState> for Sealed {
    fn from(response: SealedState) -> Self {
        Self::StateOfTheWorld(response)
    }
}

impl From<SealedDelta> for Sealed {
    fn from(response: SealedDelta) -> Self {
        Self::Delta(response)
    }
}

fn seal(resources: &[impl Message]) -> Vec<Bytes> {
    resources.iter().map(|resource| resource.encode_to_vec().into()).collect()
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Self {
        Self::StateOfTheWorld(response)
    }
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        Self::Delta(response)
    }
}
