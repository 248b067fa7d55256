//! Whether one route takes a request, and if not, which of its conditions stands in the way (`RouteMatch`).
//!
//! Envoy leaves the order of the conditions open. Here the cheap ones come before those that look through headers.

use crate::{
    RequestHead,
    config::{PathMatch, RouteMatch},
};

/// The first condition of a route that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The path is another.
    Path,
    /// The roll is outside the share of requests.
    Fraction,
    /// The content type is not one of gRPC's.
    Grpc,
    /// This header matcher, counting from 0, does not pass.
    Header(usize),
    /// This query matcher, counting from 0, does not pass.
    Query(usize),
}

/// What stands in the way of `matches` taking the request; none, it does.
pub(super) fn refusal(matches: &RouteMatch, head: &RequestHead<'_>, roll: u64) -> Option<Refusal> {
    if !takes_path(&matches.path, matches.case_sensitive, head.uri.path()) {
        return Some(Refusal::Path);
    }
    if matches.fraction.is_some_and(|share| !share.contains(roll)) {
        return Some(Refusal::Fraction);
    }
    if matches.grpc && !is_grpc(head) {
        return Some(Refusal::Grpc);
    }
    if let Some(index) = matches.headers.iter().position(|matcher| !matcher.matches(head)) {
        return Some(Refusal::Header(index));
    }
    if matches.query.is_empty() {
        return None;
    }
    let query = head.uri.query().unwrap_or_default();
    matches.query.iter().position(|matcher| !matcher.matches(query)).map(Refusal::Query)
}

/// `path` is the request's without query and fragment; it is empty when the request has none, as `CONNECT` has.
fn takes_path(matcher: &PathMatch, case_sensitive: bool, path: &str) -> bool {
    if path.is_empty() {
        return false;
    }
    let same = |part: &str, wanted: &str| match case_sensitive {
        true => part == wanted,
        false => part.eq_ignore_ascii_case(wanted),
    };
    // None where the length is not a character boundary: then the texts differ in the character that straddles it.
    let starts_with = |wanted: &str| path.get(..wanted.len()).is_some_and(|start| same(start, wanted));
    match matcher {
        PathMatch::Exact(wanted) => same(path, wanted),
        PathMatch::Prefix(wanted) if takes_every_path(wanted) => true,
        PathMatch::Prefix(wanted) => starts_with(wanted),
        PathMatch::SeparatedPrefix(wanted) => {
            starts_with(wanted) && matches!(path.as_bytes().get(wanted.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

/// Envoy takes these two prefixes for "any", also where the path is `*` and has no `/` to start with.
pub(super) fn takes_every_path(prefix: &str) -> bool {
    matches!(prefix, "" | "/")
}

fn is_grpc(head: &RequestHead<'_>) -> bool {
    let content_type = head.headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    match content_type.and_then(|value| value.strip_prefix(b"application/grpc")) {
        Some(rest) => matches!(rest.first(), None | Some(b'+')),
        None => false,
    }
}
