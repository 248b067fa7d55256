//! The form of a request's target, which differs between the two versions of HTTP.
//!
//! HTTP/1.1 wants the path in the request line and the authority in `host` (RFC 9112, 3.2.1); HTTP/2 wants scheme and
//! authority as fields of their own and no `host` (RFC 9113, 8.3.1). A request comes in either form. Where its URI names an
//! authority, that counts, and a `host` header does not (RFC 9112, 3.2.2): it is what the request was routed by. CONNECT names
//! only an authority, in both, and is left alone.

use std::{error::Error as StdError, fmt, sync::OnceLock};

use http::{
    HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use mesh_core::outcome::{Failed, Failure, FailureKind, Sent};

/// What was taken from a request, so that it can be given back as it came.
#[derive(Debug, Default)]
pub(super) struct Undo {
    /// Scheme and authority, where the URI was changed.
    uri: Option<(Option<Scheme>, Option<Authority>)>,
    host: HostWas,
}

#[derive(Debug, Default)]
enum HostWas {
    #[default]
    Untouched,
    Inserted,
    Removed(HeaderValue),
}

/// A request names nobody that it is for, or not so that it can be sent.
#[derive(Debug)]
struct NoAuthority;

/// The `host` header of the authority that was seen first. Nearly all requests to an endpoint have the same.
#[derive(Debug, Default)]
pub(super) struct HostCache(OnceLock<(Authority, HeaderValue)>);

/// The host that a request is for, without the port.
pub(super) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let named = || request.headers().get(HOST).and_then(|value| value.to_str().ok());
    request.uri().host().or_else(|| named().map(without_port))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => host,
    }
}

/// Gives `request` the form of HTTP/1.1.
///
/// # Errors
///
/// [`FailureKind::Request`], when it names no authority (RFC 9112, 3.2).
pub(super) fn to_http1<B>(request: &mut Request<B>, cache: &HostCache) -> Result<Undo, Failed> {
    // hyper writes what the request says it is, and 1.0 would end the connection.
    *request.version_mut() = Version::HTTP_11;
    if request.method() == Method::CONNECT {
        return Ok(Undo::default());
    }
    let Some(authority) = request.uri().authority() else {
        return if request.headers().contains_key(HOST) { Ok(Undo::default()) } else { Err(no_authority()) };
    };
    let value = cache.value(authority).ok_or_else(no_authority)?;
    let before = request.headers_mut().insert(HOST, value);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let (scheme, authority) = (parts.scheme.take(), parts.authority.take());
    *request.uri_mut() = parts.path_and_query.map_or_else(Uri::default, Uri::from);
    Ok(Undo { uri: Some((scheme, authority)), host: before.map_or(HostWas::Inserted, HostWas::Removed) })
}

/// Gives `request` the form of HTTP/2; `secure` says which scheme it has where it names none.
///
/// # Errors
///
/// [`FailureKind::Request`], when it names no authority. It is spoilt then.
pub(super) fn to_http2<B>(request: &mut Request<B>, secure: bool) -> Result<Undo, Failed> {
    if request.method() == Method::CONNECT {
        return Ok(Undo::default());
    }
    let host = request.headers_mut().remove(HOST);
    let is_whole = |authority: &Authority| !authority.as_str().contains('@');
    if request.uri().scheme().is_some() && request.uri().authority().is_some_and(is_whole) {
        return Ok(Undo { uri: None, host: HostWas::removed(host) });
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let was = (parts.scheme.clone(), parts.authority.clone());
    parts.scheme.get_or_insert(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    let named = || Authority::try_from(host.as_ref()?.as_bytes()).ok();
    let authority = parts.authority.or_else(named).ok_or_else(no_authority)?;
    parts.authority = Some(without_credentials(authority)?);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| no_authority())?;
    Ok(Undo { uri: Some(was), host: HostWas::removed(host) })
}

/// They are for whoever makes the request, and have no place in `:authority` (RFC 9113, section 8.3.1).
fn without_credentials(authority: Authority) -> Result<Authority, Failed> {
    match authority.as_str().rsplit_once('@') {
        Some((_, host)) => host.parse().map_err(|_| no_authority()),
        None => Ok(authority),
    }
}

fn no_authority() -> Failed {
    Failed::because(Failure::new(FailureKind::Request, Sent::No), NoAuthority)
}

// === impl Undo ===

impl Undo {
    /// Gives `request` the form that it had.
    pub(super) fn restore<B>(self, request: &mut Request<B>) {
        if let Some((scheme, authority)) = self.uri {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            if scheme.is_none() && authority.is_some() {
                parts.path_and_query = None;
            }
            (parts.scheme, parts.authority) = (scheme, authority);
            *request.uri_mut() = Uri::from_parts(parts).expect("it was a URI with these parts before");
        }
        match self.host {
            HostWas::Untouched => {}
            HostWas::Inserted => _ = request.headers_mut().remove(HOST),
            HostWas::Removed(value) => _ = request.headers_mut().insert(HOST, value),
        }
    }
}

// === impl HostWas ===

impl HostWas {
    fn removed(host: Option<HeaderValue>) -> Self {
        host.map_or(Self::Untouched, Self::Removed)
    }
}

// === impl NoAuthority ===

impl fmt::Display for NoAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request names no authority: give it a URI with one, or a legal `host` header")
    }
}

impl StdError for NoAuthority {}

// === impl HostCache ===

impl HostCache {
    fn value(&self, authority: &Authority) -> Option<HeaderValue> {
        if let Some((known, value)) = self.0.get()
            && known == authority
        {
            return Some(value.clone());
        }
        let text = authority.as_str();
        let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
        let value = HeaderValue::from_str(host).ok()?;
        _ = self.0.set((authority.clone(), value.clone()));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method, target and `host` header.
    fn request(method: &str, target: &str, host: Option<&str>) -> Request<()> {
        let builder = Request::builder().method(method).uri(target);
        let builder = host.into_iter().fold(builder, |builder, host| builder.header(HOST, host));
        builder.body(()).expect("legal")
    }

    fn seen(request: &Request<()>) -> (String, Option<&str>) {
        (request.uri().to_string(), request.headers().get(HOST).map(|host| host.to_str().expect("ascii")))
    }

    #[test]
    fn request_is_given_back_as_it_came() {
        for (method, target, host) in [
            ("GET", "http://peer:80/a?b", None),
            ("GET", "http://peer/", Some("other")),
            ("GET", "/a", Some("peer")),
            ("GET", "https://peer", None),
            ("CONNECT", "peer:443", None),
            ("GET", "peer:443", None),
            ("OPTIONS", "*", Some("peer")),
        ] {
            let before = request(method, target, host);
            let mut after = request(method, target, host);
            to_http1(&mut after, &HostCache::default()).expect("it names one").restore(&mut after);
            assert_eq!(seen(&after), seen(&before), "{target} by HTTP/1");
            to_http2(&mut after, true).expect("it names one").restore(&mut after);
            assert_eq!(seen(&after), seen(&before), "{target} by HTTP/2");
        }
    }

    #[test]
    fn connect_keeps_its_target() {
        let mut connect = request("CONNECT", "peer:443", None);
        to_http1(&mut connect, &HostCache::default()).expect("it is left alone");
        to_http2(&mut connect, true).expect("it is left alone");
        assert_eq!(seen(&connect), ("peer:443".to_owned(), None));
    }

    #[test]
    fn cached_host_is_not_given_to_another_authority() {
        let cache = HostCache::default();
        for authority in ["one", "two", "one"] {
            let mut request = request("GET", &format!("http://{authority}/"), None);
            to_http1(&mut request, &cache).expect("it names one");
            assert_eq!(seen(&request), ("/".to_owned(), Some(authority)));
        }
    }

    #[test]
    fn authority_of_the_target_counts_before_the_host_header() {
        for host in [None, Some("other"), Some("not legal")] {
            let mut http1 = request("GET", "http://peer/a", host);
            assert_eq!(host_of(&http1), Some("peer"));
            to_http1(&mut http1, &HostCache::default()).expect("it names one");
            assert_eq!(seen(&http1), ("/a".to_owned(), Some("peer")));
            let mut http2 = request("GET", "http://peer/a", host);
            to_http2(&mut http2, true).expect("it names one");
            assert_eq!(seen(&http2), ("http://peer/a".to_owned(), None));
        }
        let mut named = request("GET", "/a", Some("peer"));
        to_http2(&mut named, true).expect("it names one");
        assert_eq!(seen(&named), ("https://peer/a".to_owned(), None));
    }

    #[test]
    fn credentials_of_the_target_are_not_sent() {
        for host in [None, Some("other")] {
            let before = request("GET", "http://user:word@peer:80/a", host);
            let mut http2 = request("GET", "http://user:word@peer:80/a", host);
            let undo = to_http2(&mut http2, false).expect("it names one");
            assert_eq!(seen(&http2), ("http://peer:80/a".to_owned(), None));
            undo.restore(&mut http2);
            assert_eq!(seen(&http2), seen(&before));
        }
    }

    #[test]
    fn request_that_names_no_authority_is_refused() {
        for (method, target) in [("DELETE", "/items/7"), ("OPTIONS", "*")] {
            let http1 = to_http1(&mut request(method, target, None), &HostCache::default());
            let http2 = [None, Some("not legal")].map(|host| to_http2(&mut request(method, target, host), false));
            for refused in std::iter::once(http1).chain(http2) {
                let failure = refused.expect_err("it names none").failure();
                assert_eq!((failure.kind, failure.sent), (FailureKind::Request, Sent::No));
            }
        }
    }

    #[test]
    fn host_is_told_from_its_port() {
        for (host, expected) in [("peer:80", "peer"), ("peer", "peer"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(host_of(&request("GET", "/", Some(host))), Some(expected));
            assert_eq!(host_of(&request("GET", &format!("http://{host}/"), None)), Some(expected));
        }
        assert_eq!(host_of(&request("GET", "/", None)), None);
    }
}
