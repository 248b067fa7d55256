//! What a route does with a request.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        core::v3 as core,
        route::v3::{self as pb, RouteConfiguration, route, route_action},
    },
    r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher},
};
use http::{HeaderName, StatusCode};
use mesh_core::config::{Action, ClusterChoice, PathMatch, RedirectPath, TimeLimit};

use super::*;
use crate::resource::samples::{direct_response, seconds, unknown, wrap};

fn redirect(message: &mut RouteConfiguration) -> &mut pb::RedirectAction {
    match &mut message.virtual_hosts[0].routes[1].action {
        Some(route::Action::Redirect(redirect)) => redirect,
        _ => panic!("the second route of the sample redirects"),
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
fn legacy_grpc_timeouts_count_for_sidecars_until_a_stream_duration_is_set() {
    let set = |message: &mut pb::RouteAction| {
        #[expect(deprecated, reason = "Istio sends it")]
        {
            message.max_grpc_timeout = seconds(8);
        }
    };
    let maximum = |routes: &RouteConfig| forward(routes).policy.timeouts.grpc_timeout_max;
    let with_duration = decoded(&with_forward(set)).value;
    assert_eq!(maximum(&with_duration), Some(TimeLimit::OFF));
    let alone = with_forward(|m| {
        set(m);
        m.max_stream_duration = None;
    });
    let for_sidecars = read_routes(&alone, &samples::context().for_sidecars()).expect("good routes");
    assert_eq!(
        (maximum(&for_sidecars.value), for_sidecars.warnings.len()),
        (TimeLimit::after(Duration::from_secs(8)).ok(), 0)
    );

    let for_grpc = decoded(&alone);
    assert_eq!(maximum(&for_grpc.value), None, "gRFC A31 does not know it");
    assert_eq!(fields(&for_grpc.warnings), ["virtual_hosts[0].routes[0].route.max_grpc_timeout"]);
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
fn body_within_a_raised_limit_is_sent() {
    let mut message = samples::routes();
    message.max_direct_response_body_size_bytes = wrap(1 << 20);
    let long = direct_response(&"x".repeat(4097));
    message.virtual_hosts[0].routes[0].action = Some(route::Action::DirectResponse(long));
    let Decoded { value, warnings } = decoded(&message);
    let Action::Respond(response) = first_action(&value) else { panic!("a direct response") };
    assert_eq!((response.body().len(), warnings.len()), (4097, 0));
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
        let read = |context: &Context| read_routes(&message, context).expect("good routes");
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
