//! Route configurations: hosts, and what holds of a route as a whole; its parts beside this.

mod action;
mod filter;
mod matcher;
mod retry;

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::route::v3::{self as pb, RouteConfiguration, route, route_action},
    r#type::matcher::v3::RegexMatcher,
};
use http::StatusCode;
use mesh_core::config::{Action, Forward, HostRewrite, PathMatch, PathRewrite, RetryOn, RouteConfig, TimeLimit};

use super::*;
use crate::resource::samples::{add, direct_response, wrap};

fn decoded(message: &RouteConfiguration) -> Decoded<RouteConfig> {
    read_routes(message, &samples::context()).expect("good routes")
}

fn read_routes(message: &RouteConfiguration, context: &Context) -> Result<Decoded<RouteConfig>, ResourceError> {
    let decoded = decode_routes(message.encode_to_vec().into(), None, context)?;
    Ok(decoded.map(|routes| Arc::unwrap_or_clone(routes.config)))
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

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

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
