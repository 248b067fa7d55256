//! Which requests a route is for.

use envoy_types::pb::envoy::{
    config::{
        core::v3::RuntimeFractionalPercent,
        route::v3::{self as pb, RouteConfiguration, route_match::PathSpecifier},
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use mesh_core::config::{HeaderTest, PathMatch};

use super::*;
use crate::resource::samples::share;

fn set_header_test(message: &mut RouteConfiguration, test: pb::header_matcher::HeaderMatchSpecifier) {
    matches(message).headers[0].header_match_specifier = Some(test);
}

#[test]
#[expect(deprecated, reason = "deprecated tests are read too")]
fn matches_are_refused_for_each_field_that_breaks_a_rule() {
    use pb::header_matcher::HeaderMatchSpecifier as Test;
    assert_refused(
        samples::routes(),
        &Context::new(),
        &[
            ("virtual_hosts[0].routes[0].match", |m: &mut RouteConfiguration| {
                m.virtual_hosts[0].routes[0].r#match = None;
            }),
            ("virtual_hosts[0].routes[0].match.path_specifier", |m| matches(m).path_specifier = None),
            ("virtual_hosts[0].routes[0].match.safe_regex.regex", |m| {
                matches(m).path_specifier = Some(PathSpecifier::SafeRegex(regex("(")));
            }),
            ("virtual_hosts[0].routes[0].match.safe_regex.regex", |m| {
                matches(m).path_specifier = Some(PathSpecifier::SafeRegex(regex("(?:a{1000}){1000}")));
            }),
            ("virtual_hosts[0].routes[0].match.path_separated_prefix", |m| {
                matches(m).path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/a/".to_owned()));
            }),
            ("virtual_hosts[0].routes[0].match.path_match_policy", |m| {
                matches(m).path_specifier = Some(PathSpecifier::PathMatchPolicy(Default::default()));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].name", |m| matches(m).headers[0].name.clear()),
            ("virtual_hosts[0].routes[0].match.headers[0].header_match_specifier", |m| {
                matches(m).headers[0].header_match_specifier = None;
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].string_match.match_pattern", |m| {
                set_header_test(m, Test::StringMatch(StringMatcher::default()));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].string_match.prefix", |m| {
                let match_pattern = Some(MatchPattern::Prefix(String::new()));
                set_header_test(m, Test::StringMatch(StringMatcher { match_pattern, ignore_case: false }));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].string_match.custom", |m| {
                let match_pattern = Some(MatchPattern::Custom(Default::default()));
                set_header_test(m, Test::StringMatch(StringMatcher { match_pattern, ignore_case: false }));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].string_match.safe_regex.regex", |m| {
                let match_pattern = Some(MatchPattern::SafeRegex(regex("a(")));
                set_header_test(m, Test::StringMatch(StringMatcher { match_pattern, ignore_case: false }));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].string_match.ignore_case", |m| {
                let match_pattern = Some(MatchPattern::SafeRegex(regex("a")));
                set_header_test(m, Test::StringMatch(StringMatcher { match_pattern, ignore_case: true }));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].safe_regex_match.regex", |m| {
                set_header_test(m, Test::SafeRegexMatch(regex("[")));
            }),
            ("virtual_hosts[0].routes[0].match.headers[0].suffix_match", |m| {
                set_header_test(m, Test::SuffixMatch(String::new()));
            }),
            ("virtual_hosts[0].routes[0].match.query_parameters[0].name", |m| {
                matches(m).query_parameters[0].name.clear();
            }),
            ("virtual_hosts[0].routes[0].match.runtime_fraction.default_value", |m| {
                matches(m).runtime_fraction = Some(RuntimeFractionalPercent::default());
            }),
            ("virtual_hosts[0].routes[0].match.runtime_fraction.default_value.denominator", |m| {
                let mut odd = share(1);
                odd.as_mut().expect("set").denominator = 3;
                matches(m).runtime_fraction =
                    Some(RuntimeFractionalPercent { default_value: odd, ..Default::default() });
            }),
        ],
    );
}

#[test]
fn route_with_a_condition_that_nothing_meets_is_left_out() {
    let cases: [Case<pb::RouteMatch>; 4] = [
        ("tls_context", |m| m.tls_context = Some(Default::default())),
        ("dynamic_metadata", |m| m.dynamic_metadata = vec![Default::default()]),
        ("cookies", |m| m.cookies = vec![Default::default()]),
        ("connect_matcher", |m| m.path_specifier = Some(PathSpecifier::ConnectMatcher(Default::default()))),
    ];
    for (field, change) in cases {
        let mut message = samples::routes();
        change(matches(&mut message));
        let Decoded { value, warnings } = decoded(&message);
        assert_eq!(value.virtual_hosts()[0].routes.len(), 2, "{field}");
        assert_eq!(fields(&warnings), [format!("virtual_hosts[0].routes[0].match.{field}")]);
    }
}

#[test]
fn path_that_no_request_has_is_kept_without_a_word() {
    for (wire, expected) in [
        (PathSpecifier::Prefix("shop".to_owned()), PathMatch::prefix("shop")),
        (PathSpecifier::Path("shop/Add".to_owned()), PathMatch::Exact("shop/Add".into())),
    ] {
        let mut message = samples::routes();
        matches(&mut message).path_specifier = Some(wire);
        let Decoded { value, warnings } = decoded(&message);
        assert_eq!((value.virtual_hosts()[0].routes.len(), warnings.len()), (3, 0));
        assert_eq!(value.virtual_hosts()[0].routes[0].matches.path, expected);
    }
}

#[test]
#[expect(deprecated, reason = "deprecated tests are read too")]
fn every_kind_of_header_test_is_kept() {
    use pb::header_matcher::HeaderMatchSpecifier as Test;
    let range = envoy_types::pb::envoy::r#type::v3::Int64Range { start: -3, end: 9 };
    for (test, passes, fails) in [
        (Test::ExactMatch("ab".to_owned()), "ab", "abc"),
        (Test::PrefixMatch("ab".to_owned()), "abc", "cab"),
        (Test::SuffixMatch("ab".to_owned()), "cab", "abc"),
        (Test::ContainsMatch("b".to_owned()), "abc", "ac"),
        (Test::SafeRegexMatch(regex("a.c")), "abc", "abcd"),
        (Test::RangeMatch(range), "-3", "9"),
    ] {
        let mut message = samples::routes();
        set_header_test(&mut message, test);
        let config = decoded(&message).value;
        let matcher = &config.virtual_hosts()[0].routes[0].matches.headers[0];
        assert!(matcher.matches_value(Some(passes)) && !matcher.matches_value(Some(fails)), "{matcher:?}");
    }
    let mut message = samples::routes();
    set_header_test(&mut message, Test::PresentMatch(false));
    matches(&mut message).headers[0].invert_match = true;
    let config = decoded(&message).value;
    let matcher = &config.virtual_hosts()[0].routes[0].matches.headers[0];
    assert_eq!(*matcher.test(), HeaderTest::Present(false));
    assert!(matcher.matches_value(Some("x")) && !matcher.matches_value(None));
}
