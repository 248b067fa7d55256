//! Matchers: strings, headers, query parameters, as Envoy means them (`envoy.type.matcher.v3`, `HeaderMatcher`).

use std::{borrow::Cow, fmt, ops::Range, sync::OnceLock};

use http::{HeaderMap, HeaderName, Method};

use super::ConfigError;
use crate::RequestHead;

/// A regular expression that must match the whole text (RE2 full match).
///
/// Compiled when it is made; equal when the pattern is. A pattern whose compiled form would pass 1 MiB is refused: Envoy
/// counts RE2 program instructions there, which has no equivalent here.
#[derive(Clone)]
pub struct Regex {
    pattern: Box<str>,
    compiled: regex::Regex,
    /// The pattern without anchors, set at the first replacement; most expressions only ever match.
    unanchored: OnceLock<regex::Regex>,
}

/// A test of one string (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

/// What a [`StringMatcher`] looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The whole text.
    Exact(Box<str>),
    /// How it starts; never empty.
    Prefix(Box<str>),
    /// How it ends; never empty.
    Suffix(Box<str>),
    /// What it holds; never empty.
    Contains(Box<str>),
    /// What all of it looks like.
    Regex(Regex),
}

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

/// A test of the first query parameter of a name (`envoy.config.route.v3.QueryParameterMatcher`), on raw text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    name: Box<str>,
    test: QueryTest,
}

/// What a [`QueryMatcher`] asks of the parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryTest {
    /// The value matches.
    Value(StringMatcher),
    /// The parameter is there, or, with `false`, is not.
    Present(bool),
}

// === impl Regex ===

impl Regex {
    /// The most memory that one compiled pattern may take.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles `pattern`, to be matched against whole texts.
    ///
    /// # Errors
    ///
    /// Refuses what is not a regular expression, uses back-references or look-around, or compiles past
    /// [`SIZE_LIMIT`](Self::SIZE_LIMIT).
    pub fn new(pattern: &str) -> Result<Self, ConfigError> {
        let spelled = spell_out(pattern);
        // Compiled alone first: `a)(b` would otherwise become legal inside the anchoring group.
        build(&spelled)
            .and_then(|_| build(&format!(r"\A(?:{spelled})\z")))
            .map(|compiled| Self { pattern: pattern.into(), compiled, unanchored: OnceLock::new() })
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    ConfigError::new("regex", pattern, "its compiled form passes 1 MiB; shorten it or its repetitions")
                }
                other => ConfigError::new("regex", pattern, format!("write RE2 syntax; {}", first_line(&other))),
            })
    }

    /// Whether all of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The pattern compiled without anchors, for replacing inside a text.
    pub(crate) fn unanchored(&self) -> &regex::Regex {
        let build = || build(&spell_out(&self.pattern)).expect("the pattern compiled when this value was made");
        self.unanchored.get_or_init(build)
    }
}

fn build(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(Regex::SIZE_LIMIT).build()
}

/// RE2 has a quotation, `\Q..\E` or to the end, in which every character stands for itself; the regex crate does not, and
/// gets it character by character.
fn spell_out(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(r"\Q") {
        return pattern.into();
    }
    let (mut spelled, mut rest) = (String::new(), pattern);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        spelled.push_str(before);
        rest = match escape.strip_prefix(r"\Q") {
            Some(quoted) => {
                let (quoted, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                spelled.push_str(&regex::escape(quoted));
                after
            }
            None => {
                let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                spelled.push_str(&escape[..end]);
                &escape[end..]
            }
        };
    }
    spelled.push_str(rest);
    spelled.into()
}

fn first_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().next_back().unwrap_or_default().trim().to_owned()
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}

// === impl StringMatcher ===

impl StringMatcher {
    /// Matches `text` itself.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { pattern: Pattern::Exact(text.into()), ignore_case: false }
    }

    /// Matches what starts with `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn prefix(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("prefix", text.into()).map(|text| Self { pattern: Pattern::Prefix(text), ignore_case: false })
    }

    /// Matches what ends with `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn suffix(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("suffix", text.into()).map(|text| Self { pattern: Pattern::Suffix(text), ignore_case: false })
    }

    /// Matches what holds `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn contains(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("contains", text.into()).map(|text| Self { pattern: Pattern::Contains(text), ignore_case: false })
    }

    /// Matches what `regex` describes as a whole.
    ///
    /// # Errors
    ///
    /// As [`Regex::new`].
    pub fn regex(regex: &str) -> Result<Self, ConfigError> {
        Regex::new(regex).map(Self::from)
    }

    /// Takes ASCII letters of either case for the same.
    ///
    /// # Errors
    ///
    /// Refuses this for a regular expression, which says `(?i)` itself.
    pub fn ignore_case(mut self) -> Result<Self, ConfigError> {
        match &mut self.pattern {
            Pattern::Regex(regex) => {
                return Err(ConfigError::new("ignore_case", regex.as_str(), "write (?i) in the regular expression"));
            }
            Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text) => {
                text.make_ascii_lowercase();
            }
        }
        self.ignore_case = true;
        Ok(self)
    }

    /// Whether `text` passes.
    pub fn matches(&self, text: &str) -> bool {
        if !self.ignore_case {
            return self.pattern.matches(text);
        }
        // On bytes, so that no text is copied to be folded; a multi-byte character has no byte in common with ASCII.
        let (bytes, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
        match &self.pattern {
            Pattern::Exact(wanted) => same(bytes, wanted.as_bytes()),
            Pattern::Prefix(wanted) => bytes.get(..wanted.len()).is_some_and(|start| same(start, wanted.as_bytes())),
            Pattern::Suffix(wanted) => {
                bytes.len().checked_sub(wanted.len()).is_some_and(|at| same(&bytes[at..], wanted.as_bytes()))
            }
            Pattern::Contains(wanted) => bytes.windows(wanted.len()).any(|part| same(part, wanted.as_bytes())),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }

    /// What is looked for.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether ASCII case is ignored.
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }
}

impl From<Regex> for StringMatcher {
    fn from(regex: Regex) -> Self {
        Self { pattern: Pattern::Regex(regex), ignore_case: false }
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *text,
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::Suffix(wanted) => text.ends_with(&**wanted),
            Self::Contains(wanted) => text.contains(&**wanted),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn filled(field: &'static str, text: Box<str>) -> Result<Box<str>, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::new(field, "", "give at least one character, or match on presence"));
    }
    Ok(text)
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

    pub(super) fn value<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
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

/// The values of a header as one text, joined by `,`; `None` when absent, or when a value is not visible text.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = std::str::from_utf8(values.next()?.as_bytes()).ok()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_owned();
    for value in std::iter::once(second).chain(values) {
        all.push(',');
        all.push_str(std::str::from_utf8(value.as_bytes()).ok()?);
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

// === impl QueryMatcher ===

impl QueryMatcher {
    /// Tests the first parameter called `name`.
    ///
    /// # Errors
    ///
    /// Refuses an empty name.
    pub fn new(name: impl Into<Box<str>>, test: QueryTest) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() {
            return Err(ConfigError::new("query_parameters.name", "", "name the parameter"));
        }
        Ok(Self { name, test })
    }

    /// Which parameter is tested.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked of it.
    pub fn test(&self) -> &QueryTest {
        &self.test
    }

    /// Whether the query (the text after `?`) passes.
    pub fn matches(&self, query: &str) -> bool {
        let value = query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == &*self.name).then_some(value),
            None => (pair == &*self.name).then_some(""),
        });
        match &self.test {
            QueryTest::Value(matcher) => value.is_some_and(|value| matcher.matches(value)),
            QueryTest::Present(wanted) => value.is_some() == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
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
    fn regex_matches_the_whole_text_only() {
        let regex = Regex::new("a|b").expect("legal");
        assert!(regex.is_match("a") && regex.is_match("b"));
        assert!(!regex.is_match("ab"));
        assert!(Regex::new("a)(b").is_err());
    }

    #[test]
    fn regex_takes_a_quotation_literally() {
        let matches = |pattern, text| Regex::new(pattern).expect("legal").is_match(text);
        assert!(matches(r"/\Qa.b(\E.*", "/a.b(c") && !matches(r"/\Qa.b(\E.*", "/axb(c"));
        assert!(matches(r"\Q*", "*"), "to the end, where it is not closed");
        assert!(matches(r"\\Q+", r"\QQ"), "a backslash of its own opens none");
        assert!(Regex::new(r"\Qa\E(").is_err());
    }

    #[test]
    fn regex_that_would_grow_past_the_limit_is_refused_with_its_remedy() {
        let error = Regex::new("((a{100}){100}){100}").expect_err("a million states");
        assert!(error.remedy().contains("1 MiB"), "{error}");
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

    #[test]
    fn query_looks_at_the_first_occurrence_of_raw_text() {
        let matcher = QueryMatcher::new("k", QueryTest::Value(StringMatcher::exact("a%20b"))).expect("named");
        assert!(matcher.matches("x=1&k=a%20b&k=2"));
        assert!(!matcher.matches("k=2&k=a%20b"));
        assert!(QueryMatcher::new("k", QueryTest::Present(true)).expect("named").matches("k"));
    }

    #[test]
    fn ignore_case_folds_ascii_and_is_refused_for_regex() {
        let folded = |matcher: Result<StringMatcher, ConfigError>| matcher.and_then(StringMatcher::ignore_case);
        let prefix = folded(StringMatcher::prefix("AbC")).expect("legal");
        assert!(prefix.matches("aBcd") && !prefix.matches("ab"));
        let suffix = folded(StringMatcher::suffix("AbC")).expect("legal");
        assert!(suffix.matches("éaBc") && !suffix.matches("bc"));
        let contains = folded(StringMatcher::contains("AbC")).expect("legal");
        assert!(contains.matches("xéaBcd") && !contains.matches("xabd"));
        assert!(StringMatcher::regex("a").and_then(StringMatcher::ignore_case).is_err());
    }
}
