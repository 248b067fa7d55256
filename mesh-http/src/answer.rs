//! The answer that stands for an error, for services that pass failures on.

use http::{HeaderValue, Response};
use mesh_core::outcome::{FailureKind, Flags};

use crate::{Body, Error};

impl Error {
    /// The response that Envoy would have answered with, for services that pass failures on: the status, the reason as the
    /// body, and `x-envoy-overloaded: true` when a circuit breaker refused, `x-envoy-drop-overload: true` (or
    /// `x-envoy-unconditional-drop-overload: true`) when load is shed.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.reason()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let overload = match self.kind() {
            FailureKind::Overflow => Some("x-envoy-overloaded"),
            FailureKind::Dropped if self.flags().contains(Flags::UDO) => Some("x-envoy-unconditional-drop-overload"),
            FailureKind::Dropped => Some("x-envoy-drop-overload"),
            _ => None,
        };
        if let Some(name) = overload {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        response
    }
}
