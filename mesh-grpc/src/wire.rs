//! gRPC by name: the protocol as a type, and the headers in which it speaks.

use http::HeaderName;

/// gRPC over HTTP/2: what [`mesh_http::Client`] and [`ClientBuilder`](mesh_http::ClientBuilder) are given to speak it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
