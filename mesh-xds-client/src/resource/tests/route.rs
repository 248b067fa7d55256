//! Route configurations.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{self as core, RuntimeFractionalPercent},
        route::v3::{self as pb, RouteConfiguration, route, route_action, route_match::PathSpecifier},
    },
    r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};
use http::{HeaderName, StatusCode};
use mesh_core::config::{
    Action, ClusterChoice, Forward, HeaderTest, HostRewrite, PathMatch, PathRewrite, RedirectPath, RetryOn, TimeLimit,
};

use super::{
    samples::{FAULT, add, any, direct_response, faults, header_test, seconds, share, unknown, wrap},
    *,
};

fn decoded(message: &RouteConfiguration) -> Decoded<RouteConfig> {
    decode_routes(&message.encode_to_vec(), &samples::context()).expect("good routes")
}

/// The sample with one thing changed about its first route's action.
fn with_forward(change: impl FnOnce(&mut pb::RouteAction)) -> RouteConfiguration {
    let mut message = samples::routes();
    change(action(&mut message));
    message
}

fn action(message: &mut RouteConfiguration) -> &mut pb::RouteAction {
    match &mut message.virtual_hosts[0].routes[0].action {
        Some(route::Action::Route(action)) => action,
        _ => panic!("the first route of the sample forwards"),
    }
}

fn first_action(config: &RouteConfig) -> &Action {
    &config.virtual_hosts()[0].routes[0].action
}

fn forward(config: &RouteConfig) -> &Forward {
    match first_action(config) {
        Action::Forward(forward) => forward,
        other => panic!("{other:?} does not forward"),
    }
}

fn matches(message: &mut RouteConfiguration) -> &mut pb::RouteMatch {
    message.virtual_hosts[0].routes[0].r#match.as_mut().expect("the sample has a match")
}

fn retry(message: &mut RouteConfiguration) -> &mut pb::RetryPolicy {
    action(message).retry_policy.as_mut().expect("the sample has a policy")
}

fn weighted(message: &mut RouteConfiguration) -> &mut pb::WeightedCluster {
    match &mut action(message).cluster_specifier {
        Some(route_action::ClusterSpecifier::WeightedClusters(clusters)) => clusters,
        _ => panic!("the sample has weighted clusters"),
    }
}

fn redirect(message: &mut RouteConfiguration) -> &mut pb::RedirectAction {
    match &mut message.virtual_hosts[0].routes[1].action {
        Some(route::Action::Redirect(redirect)) => redirect,
        _ => panic!("the second route of the sample redirects"),
    }
}

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn set_header_test(message: &mut RouteConfiguration, test: pb::header_matcher::HeaderMatchSpecifier) {
    matches(message).headers[0].header_match_specifier = Some(test);
}

// --- what is kept ---

#[test]
fn routes_keep_what_their_source_says() {
    let config = decoded(&samples::routes()).value;
    let host = &config.virtual_hosts()[0];
    assert_eq!(host.domains().iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop.example", "*.shop.example"]);
    let route = &host.routes[0];
    assert_eq!(route.matches.path, PathMatch::prefix("/"));
    assert!(route.matches.case_sensitive, "unset is case-sensitive");
    assert_eq!((route.matches.headers.len(), route.matches.query.len()), (1, 1));
    let forward = forward(&config);
    let timeouts = forward.policy.timeouts;
    assert_eq!(timeouts.request, Some(TimeLimit::OFF));
    assert_eq!(timeouts.idle, None);
    assert_eq!(timeouts.per_try, TimeLimit::after(Duration::from_secs(1)).ok());
    assert_eq!(timeouts.max_stream_duration, TimeLimit::after(Duration::from_secs(4)).ok());
    assert_eq!(timeouts.grpc_timeout_max, Some(TimeLimit::OFF));
    assert_eq!(forward.path_rewrite, Some(PathRewrite::Prefix("/v2".into())));
    assert_eq!(forward.host_rewrite, Some(HostRewrite::literal("h").expect("legal")));
    let retry = forward.policy.retry.as_ref().expect("set");
    assert!(retry.conditions().intersects(RetryOn::GRPC_UNAVAILABLE), "tokens are trimmed, in any case");
    assert_eq!((retry.retries(), retry.avoids_previous()), (2, true));
    assert_eq!(retry.retriable_statuses(), [StatusCode::TOO_MANY_REQUESTS]);
    assert_eq!(retry.wait().window(9), Duration::from_secs(3));
}

#[test]
fn authority_is_rewritten_only_where_the_server_is_trusted() {
    use route_action::HostRewriteSpecifier::{AutoHostRewrite, HostRewriteHeader, HostRewriteLiteral};
    let auto = |value| AutoHostRewrite(envoy_types::pb::google::protobuf::BoolValue { value });
    let cases = [
        (auto(true), Some(HostRewrite::Endpoint)),
        (auto(false), None),
        (HostRewriteLiteral("h".to_owned()), Some(HostRewrite::literal("h").expect("legal"))),
        (HostRewriteHeader("x-to".to_owned()), Some(HostRewrite::Header(HeaderName::from_static("x-to")))),
    ];
    for (specifier, rewrite) in cases {
        let mut message = samples::routes();
        action(&mut message).host_rewrite_specifier = Some(specifier.clone());
        let read = |context: &Context| decode_routes(&message.encode_to_vec(), context).expect("good routes");
        let by_trusted = read(&Context::new().trusting());
        assert_eq!((forward(&by_trusted.value).host_rewrite.clone(), by_trusted.warnings.len()), (rewrite.clone(), 0));
        let by_another = read(&Context::new());
        assert_eq!(forward(&by_another.value).host_rewrite, None);
        let warned = rewrite.map(|_| "virtual_hosts[0].routes[0].route.host_rewrite_specifier");
        assert_eq!(fields(&by_another.warnings), warned.into_iter().collect::<Vec<_>>(), "{specifier:?}");
    }
    // What is refused does not depend on it.
    let mut message = samples::routes();
    action(&mut message).host_rewrite_specifier = Some(HostRewriteLiteral("a b".to_owned()));
    for context in [Context::new(), Context::new().trusting()] {
        let bad = decode_message(&message, &context).expect_err("no authority");
        assert_eq!(bad.blamed(), "virtual_hosts[0].routes[0].route.host_rewrite_literal");
    }
}

#[test]
fn cluster_of_weight_zero_stays_known() {
    let config = decoded(&samples::routes()).value;
    assert_eq!(config.clusters().iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn redirect_and_direct_response_are_kept() {
    let config = decoded(&samples::routes()).value;
    let [_, redirect, answer] = &config.virtual_hosts()[0].routes[..] else { panic!("three routes") };
    let Action::Redirect(redirect) = &redirect.action else { panic!("a redirect") };
    assert_eq!((redirect.status, redirect.port), (StatusCode::TEMPORARY_REDIRECT, Some(8443)));
    assert_eq!(redirect.scheme.as_ref().map(http::uri::Scheme::as_str), Some("https"));
    let Action::Respond(answer) = &answer.action else { panic!("an answer") };
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::NOT_FOUND, &b"gone"[..]));
}

#[test]
fn each_way_to_choose_a_cluster_is_kept() {
    use route_action::ClusterSpecifier as Wire;
    let chosen = |wire| forward(&decoded(&with_forward(|m| m.cluster_specifier = Some(wire))).value).to.clone();
    assert_eq!(chosen(Wire::Cluster("a".to_owned())), ClusterChoice::One("a".into()));
    let header = http::HeaderName::from_static("x-to");
    assert_eq!(chosen(Wire::ClusterHeader("X-To".to_owned())), ClusterChoice::Header(header));
}

#[test]
fn non_forwarding_action_passes_on() {
    let mut message = samples::routes();
    message.virtual_hosts[0].routes[0].action = Some(route::Action::NonForwardingAction(Default::default()));
    assert_eq!(*first_action(&decoded(&message).value), Action::PassOn);
}

#[test]
fn zero_retries_are_none_and_unset_is_one() {
    for (wire, expected) in [(None, 1), (wrap(0), 0), (wrap(7), 7)] {
        let config = decoded(&with_forward(|m| m.retry_policy.as_mut().expect("set").num_retries = wire)).value;
        assert_eq!(forward(&config).policy.retry.as_ref().expect("set").retries(), expected);
    }
}

#[test]
fn status_codes_count_only_where_their_condition_is_asked_for() {
    let config = decoded(&with_forward(|m| m.retry_policy.as_mut().expect("set").retry_on = "5xx".to_owned())).value;
    let retry = forward(&config).policy.retry.clone().expect("set");
    assert!(!retry.conditions().intersects(RetryOn::STATUSES));
    assert!(retry.retriable_statuses().is_empty());
}

#[test]
fn retry_policy_of_the_host_is_kept_and_that_of_a_route_replaces_all_of_it() {
    let mut message = samples::routes();
    message.virtual_hosts[0].retry_policy = Some(samples::retry_policy());
    retry(&mut message).per_try_timeout = None;
    let config = decoded(&message).value;
    let host = &config.virtual_hosts()[0];
    let stacked = forward(&config).policy.or(&host.policy);
    assert_eq!(host.policy.timeouts.per_try, TimeLimit::after(Duration::from_secs(1)).ok());
    assert_eq!(stacked.timeouts.per_try, Some(TimeLimit::OFF));
}

#[test]
fn retry_after_is_honoured_and_other_ways_to_ask_are_warned_of() {
    let ask = |name: &str| pb::retry_policy::ResetHeader { name: name.to_owned(), format: 0 };
    let mut message = samples::routes();
    retry(&mut message).rate_limited_retry_back_off = Some(pb::retry_policy::RateLimitedRetryBackOff {
        reset_headers: vec![ask("x-reset"), ask("Retry-After")],
        max_interval: None,
    });
    let Decoded { value, warnings } = decoded(&message);
    let limit = forward(&value).policy.retry.as_ref().and_then(|retry| retry.asked_wait()).expect("set").limit();
    assert_eq!(limit, Duration::from_secs(300));
    let path = "virtual_hosts[0].routes[0].route.retry_policy.rate_limited_retry_back_off.reset_headers[0]";
    assert_eq!(fields(&warnings), [path]);
}

#[test]
fn retries_for_some_requests_are_not_made_for_all() {
    let mut message = samples::routes();
    retry(&mut message).retriable_request_headers = vec![header_test("x-safe")];
    let Decoded { value, warnings } = decoded(&message);
    assert_eq!(forward(&value).policy.retry.as_ref().expect("set").retries(), 0);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn deprecated_append_decides_between_adding_and_replacing() {
    let mutated = |append: Option<bool>| {
        let mut message = samples::routes();
        let mut addition = add("x-a", "new");
        #[expect(deprecated, reason = "what is tested")]
        {
            addition.append = append.map(|value| envoy_types::pb::google::protobuf::BoolValue { value });
        }
        message.request_headers_to_add = vec![addition];
        let config = decoded(&message).value;
        let request = http::Request::builder().uri("/").body(()).expect("legal");
        let scope =
            mesh_core::config::TemplateScope { request: mesh_core::RequestHead::of(&request), route: "", cluster: "" };
        let mut headers = http::HeaderMap::new();
        headers.insert("x-a", http::HeaderValue::from_static("old"));
        config.request_headers.render(&scope).apply(&mut headers);
        headers.get_all("x-a").iter().count()
    };
    assert_eq!((mutated(None), mutated(Some(true)), mutated(Some(false))), (2, 2, 1));
}

#[test]
fn legacy_grpc_timeouts_count_until_a_stream_duration_is_set() {
    let set = |message: &mut pb::RouteAction| {
        #[expect(deprecated, reason = "Istio sends it")]
        {
            message.max_grpc_timeout = seconds(8);
        }
    };
    let with_duration = decoded(&with_forward(set)).value;
    assert_eq!(forward(&with_duration).policy.timeouts.grpc_timeout_max, Some(TimeLimit::OFF));
    let alone = decoded(&with_forward(|m| {
        set(m);
        m.max_stream_duration = None;
    }));
    let eight = TimeLimit::after(Duration::from_secs(8)).ok();
    assert_eq!(forward(&alone.value).policy.timeouts.grpc_timeout_max, eight);
}

#[test]
fn regex_rewrite_and_redirect_paths_are_kept() {
    let rewrite = RegexMatchAndSubstitute { pattern: Some(regex("/a(.*)")), substitution: "/b\\1".to_owned() };
    let mut message = with_forward(|m| {
        m.prefix_rewrite.clear();
        m.regex_rewrite = Some(rewrite);
    });
    redirect(&mut message).path_rewrite_specifier =
        Some(pb::redirect_action::PathRewriteSpecifier::PathRedirect("/new".to_owned()));
    let config = decoded(&message).value;
    let rewritten = forward(&config).path_rewrite.as_ref().expect("set").apply("/a/x", &PathMatch::prefix("/"));
    assert_eq!(rewritten, "/b/x");
    let Action::Redirect(redirect) = &config.virtual_hosts()[0].routes[1].action else { panic!("a redirect") };
    assert_eq!(redirect.path, Some(RedirectPath::Whole("/new".into())));
}

// --- faults by host, route and cluster ---

fn fault_override(percent: u32) -> std::collections::HashMap<String, Any> {
    [(FAULT.to_owned(), any(&faults(percent)))].into()
}

fn wrapped(config: Option<Any>, is_optional: bool, disabled: bool) -> Any {
    any(&pb::FilterConfig { config, is_optional, disabled })
}

#[test]
fn faults_are_overridden_at_every_level() {
    let mut message = samples::routes();
    message.typed_per_filter_config = fault_override(1);
    message.virtual_hosts[0].routes[0].typed_per_filter_config = fault_override(3);
    weighted(&mut message).clusters[0].typed_per_filter_config = fault_override(4);
    let percent = |faults: &Option<Arc<mesh_core::config::FaultInjection>>| {
        faults.as_ref().and_then(|faults| faults.delay).map(|delay| delay.share.share() * 100.0)
    };
    let config = decoded(&message).value;
    assert_eq!(percent(&config.virtual_hosts()[0].faults), Some(1.0), "from the whole configuration");
    assert_eq!(percent(&config.virtual_hosts()[0].routes[0].faults), Some(3.0));
    let ClusterChoice::Weighted(clusters) = &forward(&config).to else { panic!("weighted") };
    assert_eq!(percent(&clusters.entries()[0].faults), Some(4.0));
    message.virtual_hosts[0].typed_per_filter_config = fault_override(2);
    assert_eq!(percent(&decoded(&message).value.virtual_hosts()[0].faults), Some(2.0), "the host's own wins");
}

#[test]
fn wrapped_override_can_hold_faults_or_turn_them_off() {
    let decode_with = |config: Any| {
        let mut message = samples::routes();
        message.virtual_hosts[0].typed_per_filter_config = [(FAULT.to_owned(), config)].into();
        decoded(&message).value.virtual_hosts()[0].faults.clone().expect("an override")
    };
    assert!(decode_with(wrapped(Some(any(&faults(1))), false, false)).delay.is_some());
    assert_eq!(*decode_with(wrapped(Some(any(&faults(1))), false, true)), Default::default());
    assert_eq!(*decode_with(wrapped(None, false, true)), Default::default());
}

#[test]
fn unknown_override_is_refused_unless_optional() {
    let path = "virtual_hosts[0].typed_per_filter_config[new]";
    let decode_with = |config: Any| {
        let mut message = samples::routes();
        message.virtual_hosts[0].typed_per_filter_config = [("new".to_owned(), config)].into();
        decode_routes(&message.encode_to_vec(), &samples::context())
    };
    for config in [unknown(), wrapped(Some(unknown()), false, false)] {
        assert_eq!(decode_with(config).expect_err("unknown").blamed(), format!("{path}.type_url"));
    }
    for garbled in
        [Any { value: vec![0xff], ..any(&faults(1)) }, Any { value: vec![0xff], ..wrapped(None, false, true) }]
    {
        assert_eq!(decode_with(garbled).expect_err("no message").blamed(), format!("{path}.value"));
    }
    let empty = decode_with(wrapped(None, false, false)).expect_err("nothing to apply");
    assert_eq!(empty.blamed(), format!("{path}.config"));
    let optional = decode_with(wrapped(Some(unknown()), true, false)).expect("optional");
    assert_eq!(fields(&optional.warnings), [format!("{path}.type_url")]);
}

// --- what is refused ---

#[test]
fn hosts_are_refused_for_each_field_that_breaks_a_rule() {
    assert_refused(
        samples::routes(),
        &Context::new(),
        &[
            ("virtual_hosts[0].domains", |m: &mut RouteConfiguration| m.virtual_hosts[0].domains.clear()),
            ("virtual_hosts[0].domains[1]", |m| m.virtual_hosts[0].domains[1] = "a.*.b".to_owned()),
            ("virtual_hosts[0].domains[1]", |m| m.virtual_hosts[0].domains[1].clear()),
            ("virtual_hosts[0].domains[1]", |m| m.virtual_hosts[0].domains[1] = "SHOP.example".to_owned()),
            ("virtual_hosts[1].name", |m| m.virtual_hosts.push(m.virtual_hosts[0].clone())),
            ("virtual_hosts[1].domains", |m| {
                let mut other = m.virtual_hosts[0].clone();
                other.name = "other".to_owned();
                m.virtual_hosts.push(other);
            }),
            ("virtual_hosts[0].retry_policy.retry_back_off.base_interval", |m| {
                m.virtual_hosts[0].retry_policy = Some(samples::retry_policy());
                let policy = m.virtual_hosts[0].retry_policy.as_mut().expect("set");
                policy.retry_back_off = Some(Default::default());
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header", |m| {
                m.virtual_hosts[0].request_headers_to_add[0].header = None;
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.key", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add(":path", "/");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.key", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("host", "x");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.key", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("", "x");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.key", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("a\n", "x");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.value", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("x-a", "100%");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.value", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("x-a", "a\r\nb: c");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].append_action", |m| {
                m.virtual_hosts[0].request_headers_to_add[0].append_action = 9;
            }),
            ("virtual_hosts[0].response_headers_to_remove[0]", |m| {
                m.virtual_hosts[0].response_headers_to_remove[0] = ":status".to_owned();
            }),
            ("cluster_specifier_plugins[0].extension", |m| m.cluster_specifier_plugins = vec![Default::default()]),
        ],
    );
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
fn actions_are_refused_for_each_field_that_breaks_a_rule() {
    use pb::{redirect_action as re, route_action as ra};
    assert_refused(
        samples::routes(),
        &Context::new(),
        &[
            ("virtual_hosts[0].routes[0].route.cluster", |m: &mut RouteConfiguration| {
                action(m).cluster_specifier = Some(ra::ClusterSpecifier::Cluster(String::new()));
            }),
            ("virtual_hosts[0].routes[0].route.cluster_header", |m| {
                action(m).cluster_specifier = Some(ra::ClusterSpecifier::ClusterHeader("a b".to_owned()));
            }),
            ("virtual_hosts[0].routes[0].route.cluster_specifier_plugin", |m| {
                action(m).cluster_specifier = Some(ra::ClusterSpecifier::ClusterSpecifierPlugin("absent".to_owned()));
            }),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.clusters.weight", |m| weighted(m).clusters.clear()),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.clusters.weight", |m| {
                weighted(m).clusters[1].weight = wrap(0);
            }),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.clusters.weight", |m| {
                weighted(m).clusters[0].weight = wrap(u32::MAX);
            }),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].weight", |m| {
                weighted(m).clusters[1].weight = None;
            }),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].name", |m| {
                weighted(m).clusters[1].name.clear();
            }),
            ("virtual_hosts[0].routes[0].route.timeout", |m| action(m).timeout = seconds(-1)),
            ("virtual_hosts[0].routes[0].route.idle_timeout", |m| action(m).idle_timeout = seconds(i64::MAX)),
            ("virtual_hosts[0].routes[0].route.max_stream_duration.grpc_timeout_header_offset", |m| {
                action(m).max_stream_duration.as_mut().expect("set").grpc_timeout_header_offset = seconds(-1);
            }),
            ("virtual_hosts[0].routes[0].route.priority", |m| action(m).priority = 5),
            ("virtual_hosts[0].routes[0].route.cluster_not_found_response_code", |m| {
                action(m).cluster_not_found_response_code = 5;
            }),
            ("virtual_hosts[0].routes[0].route.regex_rewrite", |m| {
                action(m).regex_rewrite = Some(RegexMatchAndSubstitute::default());
            }),
            ("virtual_hosts[0].routes[0].route.regex_rewrite.pattern", |m| {
                action(m).prefix_rewrite.clear();
                action(m).regex_rewrite = Some(RegexMatchAndSubstitute::default());
            }),
            ("virtual_hosts[0].routes[0].route.prefix_rewrite", |m| action(m).prefix_rewrite = "/\n".to_owned()),
            ("virtual_hosts[0].routes[0].route.host_rewrite_header", |m| {
                action(m).host_rewrite_specifier = Some(ra::HostRewriteSpecifier::HostRewriteHeader(":a".to_owned()));
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.per_try_timeout", |m| {
                retry(m).per_try_timeout = seconds(-2)
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.base_interval", |m| {
                retry(m).retry_back_off.as_mut().expect("set").base_interval = seconds(0);
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.base_interval", |m| {
                retry(m).retry_back_off.as_mut().expect("set").base_interval = None;
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.max_interval", |m| {
                retry(m).retry_back_off.as_mut().expect("set").base_interval = seconds(5);
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.rate_limited_retry_back_off.reset_headers", |m| {
                retry(m).rate_limited_retry_back_off = Some(Default::default());
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retriable_headers[0].header_match_specifier", |m| {
                retry(m).retriable_headers = vec![Default::default()];
                retry(m).retriable_headers[0].name = "x".to_owned();
            }),
            ("virtual_hosts[0].routes[1].redirect.port_redirect", |m| redirect(m).port_redirect = 65_536),
            ("virtual_hosts[0].routes[1].redirect.response_code", |m| redirect(m).response_code = 9),
            ("virtual_hosts[0].routes[1].redirect.host_redirect", |m| redirect(m).host_redirect = "a\nb".to_owned()),
            ("virtual_hosts[0].routes[1].redirect.scheme_redirect", |m| {
                redirect(m).scheme_rewrite_specifier =
                    Some(re::SchemeRewriteSpecifier::SchemeRedirect("\r".to_owned()));
            }),
            ("virtual_hosts[0].routes[2].direct_response.status", |m| {
                m.virtual_hosts[0].routes[2].action =
                    Some(route::Action::DirectResponse(pb::DirectResponseAction { status: 199, ..Default::default() }));
            }),
            ("virtual_hosts[0].routes[2].direct_response.body", |m| {
                let long = direct_response(&"x".repeat(4097));
                m.virtual_hosts[0].routes[2].action = Some(route::Action::DirectResponse(long));
            }),
        ],
    );
}

#[test]
fn hash_policy_that_no_client_takes_is_refused_though_nothing_is_hashed() {
    use pb::route_action::{HashPolicy, hash_policy::Header, hash_policy::PolicySpecifier};
    let by_header = |name: &str, expression: Option<&str>| {
        let regex_rewrite = expression.map(|expression| RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher { regex: expression.to_owned(), ..Default::default() }),
            ..Default::default()
        });
        let header = Header { header_name: name.to_owned(), regex_rewrite };
        vec![HashPolicy { policy_specifier: Some(PolicySpecifier::Header(header)), ..Default::default() }]
    };
    let mut good = samples::routes();
    action(&mut good).hash_policy = by_header("x", Some("a"));
    decode_message(&good, &Context::new()).expect("a header that is there and an expression that compiles");
    let at = "virtual_hosts[0].routes[0].route.hash_policy[0].header";
    for (policies, field) in
        [(by_header("", None), "header_name"), (by_header("x", Some("a)")), "regex_rewrite.pattern.regex")]
    {
        let mut routes = samples::routes();
        action(&mut routes).hash_policy = policies;
        let bad = decode_message(&routes, &Context::new()).expect_err(field);
        assert_eq!(bad.blamed(), format!("{at}.{field}"));
    }
}

// --- what is not honoured ---

#[test]
fn what_is_not_known_of_routes_is_warned_of() {
    assert_warned(
        samples::routes(),
        &Context::new(),
        &[
            ("vhds", |m: &mut RouteConfiguration| m.vhds = Some(Default::default())),
            ("vhost_header", |m| m.vhost_header = "x".to_owned()),
            ("request_mirror_policies", |m| m.request_mirror_policies = vec![Default::default()]),
            ("virtual_hosts[0].require_tls", |m| m.virtual_hosts[0].require_tls = 2),
            ("virtual_hosts[0].matcher", |m| m.virtual_hosts[0].matcher = Some(Default::default())),
            ("virtual_hosts[0].hedge_policy", |m| m.virtual_hosts[0].hedge_policy = Some(Default::default())),
            ("virtual_hosts[0].request_headers_to_add[0].header.value", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("x-a", "%DOWNSTREAM_REMOTE_ADDRESS%");
            }),
            ("virtual_hosts[0].request_headers_to_add[0].header.key", |m| {
                m.virtual_hosts[0].request_headers_to_add[0] = add("a b", "x");
            }),
            ("virtual_hosts[0].routes[0].route.hash_policy", |m| action(m).hash_policy = vec![Default::default()]),
            ("virtual_hosts[0].routes[0].route.metadata_match", |m| {
                action(m).metadata_match = Some(Default::default())
            }),
            ("virtual_hosts[0].routes[0].route.request_mirror_policies", |m| {
                action(m).request_mirror_policies = vec![Default::default()];
            }),
            ("virtual_hosts[0].routes[0].route.weighted_clusters.random_value_specifier", |m| {
                weighted(m).random_value_specifier =
                    Some(pb::weighted_cluster::RandomValueSpecifier::HeaderName("x".to_owned()));
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_on", |m| retry(m).retry_on = "moon".to_owned()),
            ("virtual_hosts[0].routes[0].route.retry_policy.num_retries", |m| retry(m).num_retries = wrap(101)),
            ("virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes", |m| {
                retry(m).retriable_status_codes.push(70_000);
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_host_predicate[0]", |m| {
                retry(m).retry_host_predicate[0] = Default::default();
            }),
            ("virtual_hosts[0].routes[0].route.retry_policy.retry_priority", |m| {
                retry(m).retry_priority = Some(Default::default());
            }),
            ("virtual_hosts[0].routes[2].direct_response.body_format", |m| {
                let answer = pb::DirectResponseAction { body_format: Some(Default::default()), ..direct_response("x") };
                m.virtual_hosts[0].routes[2].action = Some(route::Action::DirectResponse(answer));
            }),
        ],
    );
}

#[test]
fn action_that_is_not_known_stays_and_fails_its_requests() {
    use pb::route_action as ra;
    let cases: [Case<RouteConfiguration>; 7] = [
        ("action", |m| m.virtual_hosts[0].routes[0].action = None),
        ("filter_action", |m| {
            m.virtual_hosts[0].routes[0].action = Some(route::Action::FilterAction(Default::default()));
        }),
        ("route.cluster_specifier", |m| action(m).cluster_specifier = None),
        ("route.path_rewrite_policy", |m| action(m).path_rewrite_policy = Some(Default::default())),
        ("route.path_rewrite", |m| action(m).path_rewrite = "%PATH%".to_owned()),
        ("route.host_rewrite_path_regex", |m| {
            action(m).host_rewrite_specifier = Some(ra::HostRewriteSpecifier::HostRewritePathRegex(Default::default()));
        }),
        ("direct_response.body", |m| {
            let specifier = Some(core::data_source::Specifier::Filename("/etc/passwd".to_owned()));
            let body = Some(core::DataSource { specifier, ..Default::default() });
            let answer = pb::DirectResponseAction { body, ..direct_response("") };
            m.virtual_hosts[0].routes[0].action = Some(route::Action::DirectResponse(answer));
        }),
    ];
    for (path, change) in cases {
        let mut message = samples::routes();
        change(&mut message);
        let Decoded { value, warnings } = decoded(&message);
        assert!(matches!(first_action(&value), Action::Unsupported(_)), "{path}");
        assert_eq!(fields(&warnings), [format!("virtual_hosts[0].routes[0].{path}")]);
    }
}

#[test]
fn body_within_a_raised_limit_is_not_refused() {
    let mut message = samples::routes();
    message.max_direct_response_body_size_bytes = wrap(1 << 20);
    let long = direct_response(&"x".repeat(4097));
    message.virtual_hosts[0].routes[0].action = Some(route::Action::DirectResponse(long));
    assert!(matches!(first_action(&decoded(&message).value), Action::Unsupported(_)));
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
fn route_to_an_optional_plugin_is_left_out() {
    let mut message = samples::routes();
    let extension = Some(core::TypedExtensionConfig { name: "rls".to_owned(), typed_config: Some(unknown()) });
    message.cluster_specifier_plugins = vec![pb::ClusterSpecifierPlugin { extension, is_optional: true }];
    action(&mut message).cluster_specifier =
        Some(pb::route_action::ClusterSpecifier::ClusterSpecifierPlugin("rls".to_owned()));
    let Decoded { value, warnings } = decoded(&message);
    assert_eq!(value.virtual_hosts()[0].routes.len(), 2);
    assert_eq!(fields(&warnings), ["virtual_hosts[0].routes[0].route.cluster_specifier_plugin"]);
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
