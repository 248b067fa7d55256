//! What clients said to the control plane, kept in order.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use tonic::metadata::MetadataMap;

use crate::ResourceKind;

/// Something that a client did, in the order in which the control plane saw it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A client opened a stream.
    StreamOpened {
        /// The number of the stream, unique in this control plane.
        stream: u64,
        /// What the client sent along, such as `authorization`.
        metadata: MetadataMap,
    },
    /// A client asked, without answering anything: its first request of a kind, or one that changes its names.
    Asked(Request),
    /// A client accepted a response.
    Acked(Request),
    /// A client refused a response.
    Nacked(Request),
    /// A stream ended, whoever ended it.
    StreamClosed {
        /// The number of the stream.
        stream: u64,
    },
}

/// One request of a client, as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The number of the stream.
    pub stream: u64,
    /// The node's id, from the first request of the stream that carried a node.
    pub node_id: String,
    /// Whether this very request carried a node.
    pub has_node: bool,
    /// The kind asked for, or `None` for one that this control plane does not serve.
    pub kind: Option<ResourceKind>,
    /// The type asked for.
    pub type_url: String,
    /// `version_info`: what the client has in use. Empty in delta, where each resource has a version of its own.
    pub version: String,
    /// `response_nonce`.
    pub nonce: String,
    /// The version of the response that this request answers, if it answers one.
    pub answers: Option<String>,
    /// The names that the client wants, in delta those that it has subscribed to by now.
    pub names: Vec<String>,
    /// Whether it came on a stream in delta. What follows is empty otherwise.
    pub is_delta: bool,
    /// `resource_names_subscribe`.
    pub subscribes: Vec<String>,
    /// `resource_names_unsubscribe`.
    pub unsubscribes: Vec<String>,
    /// `initial_resource_versions`: what the client says it holds.
    pub holds: BTreeMap<String, String>,
    /// Why the response was refused.
    pub error: Option<String>,
}

/// A client refused what was expected to be accepted.
#[derive(Debug, Clone)]
pub struct Nacked {
    request: Request,
}

// === impl Event ===

impl Event {
    /// The request behind the event, if it was one.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Asked(request) | Self::Acked(request) | Self::Nacked(request) => Some(request),
            Self::StreamOpened { .. } | Self::StreamClosed { .. } => None,
        }
    }

    pub(super) fn acked(&self) -> Option<&Request> {
        match self {
            Self::Acked(request) => Some(request),
            _ => None,
        }
    }

    pub(super) fn nacked(&self) -> Option<&Request> {
        match self {
            Self::Nacked(request) => Some(request),
            _ => None,
        }
    }
}

/// What the request did, by what it says.
impl From<Request> for Event {
    fn from(request: Request) -> Self {
        match (&request.error, &request.answers) {
            (Some(_), _) => Self::Nacked(request),
            (None, Some(_)) => Self::Acked(request),
            (None, None) => Self::Asked(request),
        }
    }
}

// === impl Request ===

impl Request {
    /// Whether this answers `version` or a later one. Versions are numbers, but for those that a test makes up.
    pub(super) fn answers_at_least(&self, version: &str) -> bool {
        let Some(answered) = self.answers.as_deref() else { return false };
        match (answered.parse::<u64>(), version.parse::<u64>()) {
            (Ok(answered), Ok(version)) => answered >= version,
            _ => answered == version,
        }
    }
}

// === impl Nacked ===

impl Nacked {
    pub(super) fn new(request: Request) -> Self {
        Self { request }
    }

    /// The refusal.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

impl fmt::Display for Nacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { node_id, type_url, answers, error, .. } = &self.request;
        let version = answers.as_deref().unwrap_or("unknown");
        let error = error.as_deref().unwrap_or("no reason given");
        write!(f, "node {node_id:?} refused version {version} of {type_url}: {error}")
    }
}

impl StdError for Nacked {}
