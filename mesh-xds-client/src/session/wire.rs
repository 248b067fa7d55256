//! The messages of both variants, as one type each.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

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

    pub(super) fn variant(&self) -> Variant {
        match self {
            Self::StateOfTheWorld(_) => Variant::StateOfTheWorld,
            Self::Delta(_) => Variant::Delta,
        }
    }
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
