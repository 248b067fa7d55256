//! Which requests: paths, headers, query parameters, shares (`RouteMatch`, `HeaderMatcher`, `StringMatcher`).

use envoy_types::pb::envoy::{
    config::{core::v3::RuntimeFractionalPercent, route::v3 as pb},
    r#type::matcher::v3 as matcher,
};
use mesh_core::config::{
    ConfigError, Fraction, HeaderKey, HeaderMatcher, HeaderTest, PathMatch, QueryMatcher, QueryTest, Regex, RouteMatch,
    StringMatcher,
};

use super::{
    common::{fraction, told_as},
    notes::Notes,
};

/// The conditions of a route; none when they hold for no request of this process, so that the route is dead.
pub(super) fn route(message: pb::RouteMatch, notes: &mut Notes) -> Result<Option<RouteMatch>, ConfigError> {
    let path = path(message.path_specifier)?;
    let headers = notes.each("headers", message.headers, header)?;
    let query = notes.each("query_parameters", message.query_parameters, query)?;
    let fraction = notes.opt("runtime_fraction", message.runtime_fraction, runtime_fraction)?;
    // Leaving one of these conditions out would widen the route to requests that it was not meant for.
    let unmet = [
        ("cookies", !message.cookies.is_empty()),
        ("tls_context", message.tls_context.is_some()),
        ("dynamic_metadata", !message.dynamic_metadata.is_empty()),
        ("filter_state", !message.filter_state.is_empty()),
        ("connect_matcher", path.is_none()),
    ];
    if let Some((field, _)) = unmet.into_iter().find(|(_, set)| *set) {
        notes.warn(field, "nothing here meets this condition, so the route takes no request");
        return Ok(None);
    }
    Ok(path.map(|path| {
        let mut matches = RouteMatch::path(path);
        matches.case_sensitive = message.case_sensitive.is_none_or(|wrapper| wrapper.value);
        matches.headers = headers;
        matches.query = query;
        matches.fraction = fraction;
        matches.grpc = message.grpc.is_some();
        matches
    }))
}

/// The path; none for a CONNECT matcher.
fn path(specifier: Option<pb::route_match::PathSpecifier>) -> Result<Option<PathMatch>, ConfigError> {
    use pb::route_match::PathSpecifier;
    match specifier {
        Some(PathSpecifier::Prefix(text)) => Ok(Some(PathMatch::Prefix(text.into()))),
        Some(PathSpecifier::Path(text)) => Ok(Some(PathMatch::Exact(text.into()))),
        Some(PathSpecifier::SafeRegex(message)) => regex("safe_regex", &message).map(PathMatch::Regex).map(Some),
        Some(PathSpecifier::PathSeparatedPrefix(text)) => PathMatch::separated_prefix(&text).map(Some),
        Some(PathSpecifier::ConnectMatcher(_)) => Ok(None),
        Some(PathSpecifier::PathMatchPolicy(extension)) => Err(ConfigError::new(
            "path_match_policy",
            extension.name,
            "use prefix, path, safe_regex or path_separated_prefix",
        )),
        None => Err(ConfigError::new("path_specifier", "", "set prefix, path, safe_regex or path_separated_prefix")),
    }
}

fn runtime_fraction(message: RuntimeFractionalPercent, _: &mut Notes) -> Result<Fraction, ConfigError> {
    match message.default_value {
        Some(value) => fraction("default_value", value),
        None => Err(ConfigError::new("default_value", "", "set this field")),
    }
}

/// A test of a header. Envoy takes a matcher without a specifier for one of presence; since a specifier of a newer version
/// looks the same from here, it is refused, as by gRPC.
pub(super) fn header(message: pb::HeaderMatcher, notes: &mut Notes) -> Result<HeaderMatcher, ConfigError> {
    let key = HeaderKey::parse(&message.name)?;
    let mut matcher = HeaderMatcher::new(key, header_test(message.header_match_specifier, notes)?);
    if message.invert_match {
        matcher = matcher.invert();
    }
    if message.treat_missing_header_as_empty {
        matcher = matcher.missing_as_empty();
    }
    Ok(matcher)
}

#[expect(deprecated, reason = "the specifiers that string_match replaced are still sent")]
fn header_test(
    specifier: Option<pb::header_matcher::HeaderMatchSpecifier>,
    notes: &mut Notes,
) -> Result<HeaderTest, ConfigError> {
    use pb::header_matcher::HeaderMatchSpecifier as Specifier;
    let value = match specifier {
        Some(Specifier::PresentMatch(wanted)) => return Ok(HeaderTest::Present(wanted)),
        Some(Specifier::RangeMatch(range)) => return Ok(HeaderTest::Range(range.start..range.end)),
        Some(Specifier::StringMatch(message)) => notes.at("string_match", message, string)?,
        Some(Specifier::ExactMatch(text)) => StringMatcher::exact(text),
        Some(Specifier::PrefixMatch(text)) => told("prefix_match", StringMatcher::prefix(text))?,
        Some(Specifier::SuffixMatch(text)) => told("suffix_match", StringMatcher::suffix(text))?,
        Some(Specifier::ContainsMatch(text)) => told("contains_match", StringMatcher::contains(text))?,
        Some(Specifier::SafeRegexMatch(message)) => regex("safe_regex_match", &message)?.into(),
        None => return Err(ConfigError::new("header_match_specifier", "", "set string_match or another test")),
    };
    Ok(HeaderTest::Value(value))
}

fn query(message: pb::QueryParameterMatcher, notes: &mut Notes) -> Result<QueryMatcher, ConfigError> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let test = match message.query_parameter_match_specifier {
        Some(Specifier::StringMatch(message)) => QueryTest::Value(notes.at("string_match", message, string)?),
        Some(Specifier::PresentMatch(wanted)) => QueryTest::Present(wanted),
        None => QueryTest::Present(true),
    };
    told("name", QueryMatcher::new(message.name, test))
}

/// A test of a text.
pub(super) fn string(message: matcher::StringMatcher, _: &mut Notes) -> Result<StringMatcher, ConfigError> {
    use matcher::string_matcher::MatchPattern;
    let matcher = match message.match_pattern {
        Some(MatchPattern::Exact(text)) => StringMatcher::exact(text),
        Some(MatchPattern::Prefix(text)) => StringMatcher::prefix(text)?,
        Some(MatchPattern::Suffix(text)) => StringMatcher::suffix(text)?,
        Some(MatchPattern::Contains(text)) => StringMatcher::contains(text)?,
        Some(MatchPattern::SafeRegex(message)) => regex("safe_regex", &message)?.into(),
        Some(MatchPattern::Custom(extension)) => {
            let remedy = "use exact, prefix, suffix, contains or safe_regex";
            return Err(ConfigError::new("custom", extension.name, remedy));
        }
        None => {
            let remedy = "set exact, prefix, suffix, contains or safe_regex";
            return Err(ConfigError::new("match_pattern", "", remedy));
        }
    };
    if message.ignore_case { matcher.ignore_case() } else { Ok(matcher) }
}

/// A regular expression.
pub(super) fn regex(field: &'static str, message: &matcher::RegexMatcher) -> Result<Regex, ConfigError> {
    Regex::new(&message.regex).map_err(|error| error.within(field))
}

fn told<T>(field: &'static str, outcome: Result<T, ConfigError>) -> Result<T, ConfigError> {
    outcome.map_err(|error| told_as(field, &error))
}
