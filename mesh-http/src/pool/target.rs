//! The form of a request's target, which differs between the two versions of HTTP.
//!
//! HTTP/1.1 wants the path in the request line and the authority in `host` (RFC 9112, 3.2.1); HTTP/2 wants scheme and
//! authority as fields of their own and no `host` (RFC 9113, 8.3.1). A request comes in either form. Where it has a `host`
//! header, that is the authority, as everywhere in hyper's world; else its URI says. CONNECT names only an authority, in
//! both, and is left alone.

use std::sync::OnceLock;

use http::{
    HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};

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

/// The `host` header of the authority that was seen first. Nearly all requests to an endpoint have the same.
#[derive(Debug, Default)]
pub(super) struct HostCache(OnceLock<(Authority, HeaderValue)>);

/// The host that a request is for, without the port.
pub(super) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let named = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    named.map(without_port).or_else(|| request.uri().host())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => host,
    }
}

/// Gives `request` the form of HTTP/1.1.
pub(super) fn to_http1<B>(request: &mut Request<B>, cache: &HostCache) -> Undo {
    // hyper writes what the request says it is, and 1.0 would end the connection.
    *request.version_mut() = Version::HTTP_11;
    if request.method() == Method::CONNECT || request.uri().authority().is_none() {
        return Undo::default();
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let (scheme, authority) = (parts.scheme.take(), parts.authority.take());
    *request.uri_mut() = parts.path_and_query.map_or_else(Uri::default, Uri::from);
    let mut host = HostWas::Untouched;
    if let Some(authority) = &authority
        && !request.headers().contains_key(HOST)
        && let Some(value) = cache.value(authority)
    {
        request.headers_mut().insert(HOST, value);
        host = HostWas::Inserted;
    }
    Undo { uri: Some((scheme, authority)), host }
}

/// Gives `request` the form of HTTP/2; `secure` says which scheme it has where it names none.
pub(super) fn to_http2<B>(request: &mut Request<B>, secure: bool) -> Undo {
    if request.method() == Method::CONNECT {
        return Undo::default();
    }
    let host = request.headers_mut().remove(HOST);
    let named = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let is_named_otherwise = named.is_some() && named.as_ref() != request.uri().authority();
    let has_all = request.uri().scheme().is_some() && request.uri().authority().is_some();
    let undo_host = host.map_or(HostWas::Untouched, HostWas::Removed);
    if has_all && !is_named_otherwise {
        return Undo { uri: None, host: undo_host };
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let (scheme, authority) = (parts.scheme.clone(), parts.authority.take());
    parts.scheme.get_or_insert(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = named.or_else(|| authority.clone());
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    Undo { uri: Some((scheme, authority)), host: undo_host }
}

// === impl Undo ===

impl Undo {
    /// Gives `request` the form that it had.
    pub(super) fn restore<B>(self, request: &mut Request<B>) {
        if let Some((scheme, authority)) = self.uri {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            (parts.scheme, parts.authority) = (scheme, authority);
            // It was a URI with these parts before.
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
        match self.host {
            HostWas::Untouched => {}
            HostWas::Inserted => _ = request.headers_mut().remove(HOST),
            HostWas::Removed(value) => _ = request.headers_mut().insert(HOST, value),
        }
    }
}

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
            ("OPTIONS", "*", Some("peer")),
        ] {
            let before = request(method, target, host);
            let mut after = request(method, target, host);
            to_http1(&mut after, &HostCache::default()).restore(&mut after);
            assert_eq!(seen(&after), seen(&before), "{target} by HTTP/1");
            to_http2(&mut after, true).restore(&mut after);
            assert_eq!(seen(&after), seen(&before), "{target} by HTTP/2");
        }
    }

    #[test]
    fn connect_keeps_its_target() {
        let mut connect = request("CONNECT", "peer:443", None);
        to_http1(&mut connect, &HostCache::default());
        to_http2(&mut connect, true);
        assert_eq!(seen(&connect), ("peer:443".to_owned(), None));
    }

    #[test]
    fn cached_host_is_not_given_to_another_authority() {
        let cache = HostCache::default();
        for authority in ["one", "two", "one"] {
            let mut request = request("GET", &format!("http://{authority}/"), None);
            to_http1(&mut request, &cache);
            assert_eq!(seen(&request), ("/".to_owned(), Some(authority)));
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
