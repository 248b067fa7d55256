//! The answer of a route that redirects (`RedirectAction`).

use http::{HeaderValue, Response, StatusCode, header::LOCATION, uri::Scheme};

use crate::{
    RequestHead,
    config::{PathMatch, Redirect, RedirectPath},
};

/// The response of `redirect` to a request that a route with the path matcher `matches` took.
///
/// The location is absolute. What the redirect does not replace is the request's: its scheme (`http`, where its target has
/// none, as on an inbound HTTP/1 connection), its authority and its path with the query. A port that is the default
/// of the request's scheme goes when the scheme changes, as it would be wrong for the new one.
///
/// A location that no header can hold, because the configuration wrote control characters into its path, is answered with 500.
///
/// # Examples
///
/// ```
/// use http::{StatusCode, header::LOCATION};
/// use mesh_core::{RequestHead, config::{PathMatch, Redirect}, route::redirect};
///
/// let to_https = Redirect::new(StatusCode::MOVED_PERMANENTLY)?.to_scheme("https")?;
/// let request = http::Request::get("http://shop:80/cart?id=7").body(()).expect("a legal request");
/// let response = redirect(&to_https, &RequestHead::of(&request), &PathMatch::prefix("/"));
/// assert_eq!(response.headers()[LOCATION], "https://shop/cart?id=7");
/// # Ok::<(), mesh_core::config::ConfigError>(())
/// ```
pub fn redirect(redirect: &Redirect, head: &RequestHead<'_>, matches: &PathMatch) -> Response<()> {
    let mut response = Response::new(());
    match HeaderValue::try_from(location(redirect, head, matches)) {
        Ok(location) => {
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(LOCATION, location);
        }
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

fn location(redirect: &Redirect, head: &RequestHead<'_>, matches: &PathMatch) -> String {
    let old_scheme = head.uri.scheme_str().unwrap_or("http");
    let scheme = redirect.scheme.as_ref().map_or(old_scheme, Scheme::as_str);
    let host = match &redirect.host {
        Some(host) => host.as_str(),
        None => kept_authority(head.authority, old_scheme, scheme, redirect.port.is_some()),
    };
    let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", path(redirect, head, matches))
}

/// The request's authority, without a port that would be wrong now.
fn kept_authority<'a>(authority: &'a str, old_scheme: &str, scheme: &str, has_new_port: bool) -> &'a str {
    let Some((host, port)) = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) else {
        return authority;
    };
    let is_default = matches!((old_scheme, port), ("http", "80") | ("https", "443"));
    if has_new_port || (scheme != old_scheme && is_default) { host } else { authority }
}

fn path(redirect: &Redirect, head: &RequestHead<'_>, matches: &PathMatch) -> String {
    let old = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let new = match &redirect.path {
        // The one query that stays whatever `strip_query` says: the redirect's own.
        Some(RedirectPath::Whole(path)) if path.contains('?') => return path.to_string(),
        Some(RedirectPath::Whole(path)) => match head.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_string(),
        },
        Some(RedirectPath::Rewrite(rewrite)) => rewrite.apply(old, matches),
        None => old.to_owned(),
    };
    match new.split_once('?') {
        Some((path, _)) if redirect.strip_query => path.to_owned(),
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PathRewrite, Regex};

    fn found() -> Redirect {
        Redirect::new(StatusCode::FOUND).expect("a redirect")
    }

    fn location_of(redirect: &Redirect, target: &str) -> String {
        let request = http::Request::get(target).body(()).expect("legal");
        location(redirect, &RequestHead::of(&request), &PathMatch::prefix("/old"))
    }

    #[test]
    fn what_is_not_replaced_is_the_requests() {
        assert_eq!(location_of(&found(), "http://shop:8080/old?q"), "http://shop:8080/old?q");
        let host = found().to_host("mall").expect("legal");
        assert_eq!(location_of(&host, "https://shop:8443/old?q"), "https://mall/old?q");
    }

    #[test]
    fn default_port_goes_when_the_scheme_changes_and_only_then() {
        let to = |scheme: &str| found().to_scheme(scheme).expect("legal");
        assert_eq!(location_of(&to("https"), "http://shop:80/"), "https://shop/");
        assert_eq!(location_of(&to("https"), "http://shop:8080/"), "https://shop:8080/");
        assert_eq!(location_of(&to("http"), "https://shop:443/"), "http://shop/");
        assert_eq!(location_of(&to("http"), "http://shop:80/"), "http://shop:80/");
    }

    #[test]
    fn new_port_replaces_the_old_one_also_after_an_ipv6_address() {
        let port = Redirect { port: Some(8443), ..found() };
        assert_eq!(location_of(&port, "http://shop:80/"), "http://shop:8443/");
        assert_eq!(location_of(&port, "http://[::1]:80/"), "http://[::1]:8443/");
        assert_eq!(location_of(&port, "http://[::1]/"), "http://[::1]:8443/");
    }

    #[test]
    fn query_of_a_whole_path_wins_and_survives_stripping() {
        let whole =
            |path: &str, strip_query| Redirect { path: Some(RedirectPath::Whole(path.into())), strip_query, ..found() };
        assert_eq!(location_of(&whole("/new", false), "http://shop/old?q"), "http://shop/new?q");
        assert_eq!(location_of(&whole("/new", true), "http://shop/old?q"), "http://shop/new");
        assert_eq!(location_of(&whole("/new?own", true), "http://shop/old?q"), "http://shop/new?own");
    }

    #[test]
    fn path_is_rewritten_as_a_forwarded_one_would_be() {
        let rewrite = |rewrite| Redirect { path: Some(RedirectPath::Rewrite(rewrite)), ..found() };
        let prefix = PathRewrite::Prefix("/new".into());
        assert_eq!(location_of(&rewrite(prefix), "http://shop/old/a?q"), "http://shop/new/a?q");
        let pattern = Regex::new("/old/(.*)").expect("legal");
        let regex = PathRewrite::Regex { pattern, substitution: r"/\1".into() };
        assert_eq!(location_of(&rewrite(regex), "http://shop/old/a?q"), "http://shop/a?q");
    }

    #[test]
    fn location_that_no_header_can_hold_is_answered_with_500() {
        let request = http::Request::get("http://shop/").body(()).expect("legal");
        let path = RedirectPath::Whole("/a\r\nset-cookie: b".into());
        let bad = Redirect { path: Some(path), ..found() };
        let response = redirect(&bad, &RequestHead::of(&request), &PathMatch::prefix("/"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().is_empty());
    }
}
