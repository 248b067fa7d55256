//! What gRPC responses mean: the class comes from the status, which is in the trailers, or in the head where there is no
//! other part.

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use mesh_core::outcome::{Class, Classify, ClassifyEnd, Head, Judgement};
use tonic::Code;

use crate::{status::code_of_http, wire::GRPC_STATUS};

/// Classifies gRPC responses by their status.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcClassifier;

/// Waits for the trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcEnd;

impl Classify for GrpcClassifier {
    type End = GrpcEnd;

    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Head<GrpcEnd> {
        match code_in(headers) {
            Some(code) => Head::Final(judgement(code)),
            None if is_grpc(status, headers) => Head::AtEnd(GrpcEnd),
            // It stands for a status, which is what the caller sees of it.
            None => Head::Final(judgement(code_of_http(status))),
        }
    }
}

impl ClassifyEnd for GrpcEnd {
    /// A response without a status is one of a server that failed, or is none (gRPC over HTTP/2, "Responses").
    fn end(&self, _: StatusCode, trailers: Option<&HeaderMap>) -> Judgement {
        judgement(trailers.and_then(code_in).unwrap_or(Code::Unknown))
    }
}

/// Whether a gRPC server has spoken, and not something before it.
pub(crate) fn is_grpc(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK
        && headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The status in headers or trailers; one that is not a number is UNKNOWN.
fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

fn judgement(code: Code) -> Judgement {
    Judgement { class: class_of(code), grpc_status: Some(code as u32) }
}

/// The class of a gRPC status, as Envoy maps statuses to HTTP: what would be 5xx is the server's fault, what would be 502, 503
/// or 504 may pass.
fn class_of(code: Code) -> Class {
    match code {
        Code::Unavailable | Code::DeadlineExceeded => Class::GatewayError,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Class::ServerError,
        _ => Class::Success,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(status: &'static str) -> HeaderMap {
        [(GRPC_STATUS, HeaderValue::from_static(status))].into_iter().collect()
    }

    #[test]
    fn trailers_only_answer_is_final_at_once() {
        let head = GrpcClassifier.head(StatusCode::OK, &headers("14"));
        assert_eq!(head, Head::Final(Judgement { class: Class::GatewayError, grpc_status: Some(14) }));
    }

    #[test]
    fn class_is_taken_from_the_trailers() {
        let head = [(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"))].into_iter().collect();
        assert_eq!(GrpcClassifier.head(StatusCode::OK, &head), Head::AtEnd(GrpcEnd));
        assert_eq!(GrpcEnd.end(StatusCode::OK, Some(&headers("0"))).class, Class::Success);
        assert_eq!(GrpcEnd.end(StatusCode::OK, Some(&headers("13"))).class, Class::ServerError);
    }

    #[test]
    fn missing_or_unreadable_status_is_the_servers_fault() {
        assert_eq!(GrpcEnd.end(StatusCode::OK, None).class, Class::ServerError);
        assert_eq!(GrpcEnd.end(StatusCode::OK, Some(&headers("x"))).class, Class::ServerError);
    }

    #[test]
    fn answer_that_is_not_grpc_counts_as_the_status_that_it_stands_for() {
        let rows = [
            (429, Class::GatewayError, Code::Unavailable),
            (502, Class::GatewayError, Code::Unavailable),
            (503, Class::GatewayError, Code::Unavailable),
            (504, Class::GatewayError, Code::Unavailable),
            (500, Class::ServerError, Code::Unknown),
            (404, Class::ServerError, Code::Unimplemented),
            (403, Class::Success, Code::PermissionDenied),
        ];
        for (status, class, code) in rows {
            let head = GrpcClassifier.head(StatusCode::from_u16(status).expect("legal"), &HeaderMap::new());
            assert_eq!(head, Head::Final(Judgement { class, grpc_status: Some(code as u32) }), "{status}");
        }
        let page = [(CONTENT_TYPE, HeaderValue::from_static("text/html"))].into_iter().collect();
        let head = GrpcClassifier.head(StatusCode::OK, &page);
        assert_eq!(head, Head::Final(Judgement { class: Class::ServerError, grpc_status: Some(2) }));
    }
}
