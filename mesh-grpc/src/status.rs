//! From what fails on this side to the status that gRPC callers see.

use std::{error::Error as StdError, sync::Arc};

use http::{Response, StatusCode, header::CONTENT_TYPE};
use mesh_core::outcome::{FailureKind, Flags, find_cause};
use tonic::{Code, Status};

/// The status that stands for an error of the mesh, which becomes its source.
///
/// A status that is in the error's own chain, as when a request stream fails with one, is kept.
pub fn status_of(error: mesh_http::Error) -> Status {
    let (code, message) = match find_cause::<Status>(&error) {
        Some(status) => (status.code(), status.message().to_owned()),
        None => (code_of(error.kind(), &error), error.reason()),
    };
    let mut status = Status::new(code, message);
    status.set_source(Arc::new(error));
    status
}

/// The response flags of a status that was made on this side, such as `UO`; none of one that a server sent.
pub fn flags(status: &Status) -> Flags {
    find_cause::<mesh_http::Error>(status).map(mesh_http::Error::flags).unwrap_or_default()
}

/// The code of a failure of this kind; with which code a stream was reset is in its error.
pub(crate) fn code_of(kind: FailureKind, error: &(dyn StdError + 'static)) -> Code {
    match kind {
        FailureKind::Timeout => Code::DeadlineExceeded,
        FailureKind::Reset => {
            let code = find_cause::<mesh_http::conn::Error>(error).and_then(mesh_http::conn::Error::code);
            code.map_or(Code::Internal, code_of_reset)
        }
        FailureKind::Protocol | FailureKind::RequestBody => Code::Internal,
        FailureKind::Other => Code::Unknown,
        _ => Code::Unavailable,
    }
}

/// gRPC over HTTP/2, "HTTP2 Transport Mapping", errors.
fn code_of_reset(code: u32) -> Code {
    const REFUSED_STREAM: u32 = 7;
    const CANCEL: u32 = 8;
    const ENHANCE_YOUR_CALM: u32 = 11;
    const INADEQUATE_SECURITY: u32 = 12;
    match code {
        REFUSED_STREAM => Code::Unavailable,
        CANCEL => Code::Cancelled,
        ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// The status that an answer stands for which does not come from a gRPC server.
pub(crate) fn status_of_stranger<B>(response: &Response<B>) -> Status {
    let content = response.headers().get(CONTENT_TYPE).map_or("none", |value| value.to_str().unwrap_or("unreadable"));
    let message = format!("the answer is not gRPC's: HTTP status {}, content-type {content}", response.status());
    Status::new(code_of_http(response.status()), message)
}

/// The gRPC status that an HTTP status stands for (gRPC's "HTTP to gRPC Status Code Mapping").
pub(crate) fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}
