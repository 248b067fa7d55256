//! The head of a request as routing sees it: what matchers test and templates render.

use http::{HeaderMap, Method, Uri};

/// The parts of a request that routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target; its path and query are matched.
    pub uri: &'a Uri,
    /// Host and, where there is one, port: the target's, else from the `host` header (RFC 9112, 3.2.2).
    pub authority: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The head of `request`; its authority is the target's, else the `host` header, else empty.
    pub fn of<B>(request: &'a http::Request<B>) -> Self {
        Self::from_parts(request.method(), request.uri(), request.headers())
    }

    /// The head of a request in parts; see [`of`](Self::of).
    pub fn from_parts(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        let authority = match uri.authority() {
            Some(authority) => without_userinfo(authority.as_str()),
            None => headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        Self { method, uri, authority, headers }
    }
}

/// What stands before `@` is a credential, deprecated in HTTP (RFC 9110, 4.2.4) and no part of the host.
fn without_userinfo(authority: &str) -> &str {
    // By hand: the standard library's search prepares itself for long texts, and this is done for each request.
    authority.bytes().rposition(|byte| byte == b'@').map_or(authority, |at| &authority[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_leaves_credentials_out() {
        let request = http::Request::get("http://me:secret@shop:80/").body(()).expect("legal");
        assert_eq!(RequestHead::of(&request).authority, "shop:80");
    }
}
