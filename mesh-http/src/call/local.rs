//! Answers that are made on this side.

use http::Response;
use mesh_core::config::AbortStatus;

use crate::{body::Body, protocol::Protocol};

/// The answer to a request whose fault is an abort; Envoy's text.
pub(crate) fn aborted<P: Protocol>(with: AbortStatus) -> Response<Body<P>> {
    let (head, ()) = P::abort(with).into_parts();
    let body = if P::ABORT_HAS_TEXT { Body::from("fault filter abort") } else { Body::empty() };
    Response::from_parts(head, body)
}
