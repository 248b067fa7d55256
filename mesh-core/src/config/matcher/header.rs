//! Tests of one header of a request or response (`envoy.config.route.v3.HeaderMatcher`).

use std::{borrow::Cow, ops::Range};

use http::{HeaderMap, HeaderName, Method};

use super::StringMatcher;
use crate::{RequestHead, config::ConfigError};

/// A test of one request header (`envoy.config.route.v3.HeaderMatcher`).
///
/// Values of a repeated header are joined by `,` before the test. A header that is absent never matches, inverted or not,
/// unless the test is about presence or [`missing_as_empty`](Self::missing_as_empty) is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatcher {
    key: HeaderKey,
    test: HeaderTest,
    invert: bool,
    missing_as_empty: bool,
}

/// Which header a [`HeaderMatcher`] looks at: one of the request's own, or a pseudo-header, which Envoy keeps among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// A header by its name.
    Name(HeaderName),
    /// `:method`.
    Method,
    /// `:path`, with its query.
    Path,
    /// `:authority`; `host` is another name for it.
    Authority,
    /// `:scheme`.
    Scheme,
}

/// What a [`HeaderMatcher`] asks of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTest {
    /// The value matches.
    Value(StringMatcher),
    /// The value is a whole decimal number in this half-open range.
    Range(Range<i64>),
    /// The header is there, or, with `false`, is not.
    Present(bool),
}

// === impl HeaderKey ===

impl HeaderKey {
    /// The key for a name as a control plane writes it.
    ///
    /// # Errors
    ///
    /// Refuses an unknown pseudo-header and what is not a header name.
    pub fn parse(name: &str) -> Result<Self, ConfigError> {
        match name {
            ":method" => return Ok(Self::Method),
            ":path" => return Ok(Self::Path),
            ":authority" => return Ok(Self::Authority),
            ":scheme" => return Ok(Self::Scheme),
            _ => {}
        }
        match HeaderName::try_from(name) {
            Ok(http::header::HOST) => Ok(Self::Authority),
            Ok(name) => Ok(Self::Name(name)),
            Err(_) => Err(ConfigError::new("name", name, "give a header name, :method, :path, :authority or :scheme")),
        }
    }

    pub(in crate::config) fn value<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Name(name) => joined(head.headers, name),
            Self::Method => Some(Cow::Borrowed(head.method.as_str())),
            Self::Path => Some(Cow::Borrowed(head.uri.path_and_query().map_or("/", |path| path.as_str()))),
            Self::Authority => Some(Cow::Borrowed(head.authority)),
            Self::Scheme => head.uri.scheme_str().map(Cow::Borrowed),
        }
    }
}

// === impl HeaderMatcher ===

impl HeaderMatcher {
    /// Tests what `key` names.
    pub fn new(key: HeaderKey, test: HeaderTest) -> Self {
        Self { key, test, invert: false, missing_as_empty: false }
    }

    /// Tests the value of the header `name`.
    pub fn value(name: HeaderName, matcher: StringMatcher) -> Self {
        Self::new(HeaderKey::Name(name), HeaderTest::Value(matcher))
    }

    /// Asks for one method.
    pub fn method(method: &Method) -> Self {
        Self::new(HeaderKey::Method, HeaderTest::Value(StringMatcher::exact(method.as_str())))
    }

    /// Turns the answer round, except that an absent header still does not match a test of its value.
    #[must_use]
    pub fn invert(mut self) -> Self {
        self.invert = true;
        self
    }

    /// Takes an absent header for one with an empty value.
    #[must_use]
    pub fn missing_as_empty(mut self) -> Self {
        self.missing_as_empty = true;
        self
    }

    /// Which header is tested.
    pub fn key(&self) -> &HeaderKey {
        &self.key
    }

    /// What is asked of it.
    pub fn test(&self) -> &HeaderTest {
        &self.test
    }

    /// Whether the answer is turned round.
    pub fn is_inverted(&self) -> bool {
        self.invert
    }

    /// Whether an absent header is taken for an empty one.
    pub fn takes_missing_as_empty(&self) -> bool {
        self.missing_as_empty
    }

    /// Whether a request passes.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.matches_value(self.key.value(head).as_deref())
    }

    /// Whether the headers of a response pass; pseudo-headers are absent there.
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        match &self.key {
            HeaderKey::Name(name) => self.matches_value(joined(headers, name).as_deref()),
            _ => self.matches_value(None),
        }
    }

    /// Whether a value that was looked up elsewhere passes; `None` is an absent header.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let text = match (value, self.missing_as_empty) {
            (Some(text), _) => text,
            (None, true) => "",
            (None, false) => {
                return matches!(self.test, HeaderTest::Present(wanted) if wanted == self.invert);
            }
        };
        let passes = match &self.test {
            HeaderTest::Value(matcher) => matcher.matches(text),
            HeaderTest::Range(range) => decimal(text).is_some_and(|number| range.contains(&number)),
            HeaderTest::Present(wanted) => *wanted,
        };
        passes != self.invert
    }
}

/// The values of a header as one text, joined by `,`; `None` when absent. Bytes that are no text stand for a character that no
/// configuration asks for.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    let Some(second) = values.next() else {
        return Some(first);
    };
    let mut all = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        all.push(',');
        all.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(Cow::Owned(all))
}

/// A base-10 integer that is all of the text; a leading `+`, which Rust would take, is not one.
fn decimal(text: &str) -> Option<i64> {
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    // Else whoever sends such a byte steps round a route that asks whether the header is there.
    #[test]
    fn value_that_is_no_text_is_a_value() {
        let headers: HeaderMap =
            [(HeaderName::from_static("a"), HeaderValue::from_bytes(b"x\xff").expect("legal"))].into_iter().collect();
        let matches = |test| HeaderMatcher::new(key(), test).matches_headers(&headers);
        assert!(matches(HeaderTest::Present(true)) && !matches(HeaderTest::Present(false)));
        assert!(matches(HeaderTest::Value(StringMatcher::prefix("x").expect("legal"))));
        assert!(!matches(HeaderTest::Value(StringMatcher::exact("x"))));
        assert!(
            HeaderMatcher::new(key(), HeaderTest::Value(StringMatcher::exact("x"))).invert().matches_headers(&headers)
        );
    }

    fn key() -> HeaderKey {
        HeaderKey::parse("a").expect("a header name")
    }

    #[test]
    fn pseudo_headers_are_read_from_the_request_line() {
        let request = http::Request::post("http://shop:80/a?b=c").body(()).expect("legal");
        let head = RequestHead::of(&request);
        for (name, value) in [(":method", "POST"), (":path", "/a?b=c"), ("host", "shop:80"), (":scheme", "http")] {
            let test = HeaderTest::Value(StringMatcher::exact(value));
            assert!(HeaderMatcher::new(HeaderKey::parse(name).expect("known"), test).matches(&head), "{name}");
        }
        assert!(HeaderKey::parse(":status").is_err());
    }

    #[test]
    fn absent_header_never_matches_a_value_even_inverted() {
        let test = HeaderTest::Value(StringMatcher::exact("x"));
        let matcher = HeaderMatcher::new(key(), test);
        assert!(!matcher.matches_headers(&headers(&[])));
        assert!(!matcher.clone().invert().matches_headers(&headers(&[])));
        assert!(matcher.invert().missing_as_empty().matches_headers(&headers(&[])));
    }

    #[test]
    fn presence_follows_envoys_truth_table() {
        let present = |wanted| HeaderMatcher::new(key(), HeaderTest::Present(wanted));
        let (absent, there) = (headers(&[]), headers(&[("a", "1")]));
        assert!(present(true).matches_headers(&there) && !present(true).matches_headers(&absent));
        assert!(present(false).matches_headers(&absent) && !present(false).matches_headers(&there));
        assert!(present(true).invert().matches_headers(&absent) && !present(true).invert().matches_headers(&there));
        // With missing_as_empty the answer no longer depends on the request.
        assert!(present(true).missing_as_empty().matches_headers(&absent));
        assert!(!present(false).missing_as_empty().matches_headers(&there));
    }

    #[test]
    fn repeated_header_is_joined_before_the_test() {
        let matcher = HeaderMatcher::new(key(), HeaderTest::Value(StringMatcher::exact("1,2")));
        assert!(matcher.matches_headers(&headers(&[("a", "1"), ("a", "2")])));
    }

    #[test]
    fn range_takes_whole_decimal_numbers_only() {
        let matcher = HeaderMatcher::new(key(), HeaderTest::Range(-5..10));
        for (value, expected) in
            [("9", true), ("10", false), ("-5", true), ("10.9", false), ("-1x", false), ("+3", false)]
        {
            assert_eq!(matcher.matches_value(Some(value)), expected, "{value}");
        }
    }
}
