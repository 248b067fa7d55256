//! Mutations of the routes.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryHostPredicate};
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{Header, PolicySpecifier};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::{
    ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier, TlsContextMatchOptions,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    ClusterSpecifierPlugin, DirectResponseAction, FilterAction, FilterConfig, HeaderMatcher, NonForwardingAction,
    QueryParameterMatcher, RedirectAction, RetryPolicy, VirtualHost, WeightedCluster, route,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range};
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use mesh_xds_client::ResourceKind;

use super::{Change, Parts, garbage, seconds, spoiled, truth, unknown};
use crate::conformance::generate::{regex, wrap};

const FAULT: &str = "envoy.filters.http.fault";
/// Closes a group that was not opened.
const BAD: &str = "a)";

pub(super) const MUTATIONS: &[Change] = &[
    ("routes: bytes that are no routes", |p| {
        let type_url = ResourceKind::RouteConfiguration.type_url().to_owned();
        p.raw = Some((ResourceKind::RouteConfiguration, Any { type_url, value: garbage() }));
    }),
    ("routes: no hosts", |p| p.routes.virtual_hosts.clear()),
    ("host: no domains", |p| p.host().domains.clear()),
    ("host: an empty domain", |p| p.host().domains = vec![String::new()]),
    ("host: an empty domain beside a good one", |p| p.host().domains.push(String::new())),
    ("host: a domain with a star inside", |p| p.host().domains.push("a*b".to_owned())),
    ("host: a domain of two stars", |p| p.host().domains.push("**".to_owned())),
    ("host: a domain with stars at both ends", |p| p.host().domains.push("*a*".to_owned())),
    ("host: one domain twice", |p| p.host().domains.push("*".to_owned())),
    ("host: one domain in two hosts", |p| {
        let mut other = p.host().clone();
        other.name = "other".to_owned();
        p.routes.virtual_hosts.push(other);
    }),
    ("host: one name twice", |p| {
        let other = VirtualHost { domains: vec!["other".to_owned()], ..p.host().clone() };
        p.routes.virtual_hosts.push(other);
    }),
    ("host: no name", |p| p.host().name.clear()),
    ("host: no routes", |p| p.host().routes.clear()),
    ("match: missing", |p| p.route().r#match = None),
    ("match: no path", |p| p.matches().path_specifier = None),
    ("match: CONNECT", |p| p.matches().path_specifier = Some(PathSpecifier::ConnectMatcher(ConnectMatcher {}))),
    ("match: a separated prefix", |p| {
        p.matches().path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/conformance.Echo".to_owned()));
    }),
    ("match: a path policy", |p| {
        let policy = TypedExtensionConfig { name: "unknown".to_owned(), typed_config: Some(unknown()) };
        p.matches().path_specifier = Some(PathSpecifier::PathMatchPolicy(policy));
    }),
    ("match: a bad expression", |p| path_regex(p, BAD)),
    ("match: an empty expression", |p| path_regex(p, "")),
    ("match: an expression that looks ahead", |p| path_regex(p, "/(?=a)")),
    ("match: an expression that refers back", |p| path_regex(p, r"/(a)\1")),
    ("match: a repetition beyond a thousand", |p| path_regex(p, "/a{1001}")),
    ("match: a prefix without a slash", |p| p.matches().path_specifier = prefix("conformance")),
    ("match: a prefix of two slashes", |p| p.matches().path_specifier = prefix("//")),
    ("match: a prefix of three parts", |p| p.matches().path_specifier = prefix("/a/b/c")),
    ("match: an empty prefix", |p| p.matches().path_specifier = prefix("")),
    ("match: a path without a slash", |p| p.matches().path_specifier = path("conformance")),
    ("match: a path of one part", |p| p.matches().path_specifier = path("/conformance")),
    ("match: an empty path", |p| p.matches().path_specifier = path("")),
    ("match: case_sensitive false", |p| {
        p.matches().path_specifier = path("/conformance.ECHO/first");
        p.matches().case_sensitive = truth(false);
    }),
    ("match: case_sensitive unset", |p| p.matches().path_specifier = path("/conformance.ECHO/first")),
    ("match: a fraction of an unknown denominator", |p| fraction(p, 0, 9)),
    ("match: a fraction above one", |p| fraction(p, 150, 0)),
    ("match: a fraction without a value", |p| {
        p.matches().runtime_fraction = Some(RuntimeFractionalPercent::default());
    }),
    ("match: a query parameter", |p| {
        p.matches().query_parameters.push(QueryParameterMatcher { name: "q".to_owned(), ..Default::default() });
    }),
    ("match: a query parameter without a name", |p| p.matches().query_parameters.push(Default::default())),
    ("match: gRPC only", |p| p.matches().grpc = Some(GrpcRouteMatchOptions {})),
    ("match: TLS context", |p| {
        p.matches().tls_context = Some(TlsContextMatchOptions { presented: truth(true), ..Default::default() });
    }),
    ("match: dynamic metadata", |p| p.matches().dynamic_metadata.push(Default::default())),
    ("header: no name", |p| header(p, "", Some(HeaderMatchSpecifier::PresentMatch(true)))),
    ("header: no matcher", |p| header(p, "x", None)),
    ("header: no matcher, present", |p| {
        header(p, "x", None);
        p.metadata.push(("x", "1"));
    }),
    ("header: string without a pattern", |p| text(p, None)),
    ("header: string with a bad expression", |p| text(p, Some(MatchPattern::SafeRegex(regex(BAD))))),
    ("header: string with a custom pattern", |p| {
        let custom = envoy_types::pb::xds::core::v3::TypedExtensionConfig {
            name: "unknown".to_owned(),
            typed_config: Some(unknown()),
        };
        text(p, Some(MatchPattern::Custom(custom)));
    }),
    ("header: string with an empty prefix", |p| text(p, Some(MatchPattern::Prefix(String::new())))),
    ("header: string with an empty suffix", |p| text(p, Some(MatchPattern::Suffix(String::new())))),
    ("header: string that contains nothing", |p| text(p, Some(MatchPattern::Contains(String::new())))),
    ("header: string that is empty", |p| text(p, Some(MatchPattern::Exact(String::new())))),
    ("header: a bad expression, the old way", |p| header(p, "x", Some(old_regex(BAD)))),
    ("header: an empty range", |p| range(p, 5, 5)),
    ("header: a range that ends before it starts", |p| range(p, 5, 1)),
    ("header: binary", |p| header(p, "x-bin", Some(HeaderMatchSpecifier::PresentMatch(true)))),
    ("header: content-type", |p| {
        let exact = MatchPattern::Exact("application/grpc".to_owned());
        let matcher = StringMatcher { match_pattern: Some(exact), ..Default::default() };
        header(p, "content-type", Some(HeaderMatchSpecifier::StringMatch(matcher)));
    }),
    ("header: a missing one treated as empty", |p| {
        header(p, "x", Some(HeaderMatchSpecifier::PresentMatch(false)));
        p.matches().headers[0].treat_missing_header_as_empty = true;
    }),
    ("action: missing", |p| p.route().action = None),
    ("action: redirect", |p| p.route().action = Some(route::Action::Redirect(RedirectAction::default()))),
    ("action: redirect with an unknown code", |p| {
        p.route().action = Some(route::Action::Redirect(RedirectAction { response_code: 9, ..Default::default() }));
    }),
    ("action: direct response", |p| respond(p, 200)),
    ("action: direct response of status 99", |p| respond(p, 99)),
    ("action: direct response of status 600", |p| respond(p, 600)),
    ("action: not forwarding", |p| {
        p.route().action = Some(route::Action::NonForwardingAction(NonForwardingAction {}));
    }),
    ("action: a filter's", |p| p.route().action = Some(route::Action::FilterAction(FilterAction::default()))),
    ("forward: nowhere", |p| p.action().cluster_specifier = None),
    ("forward: to a cluster without a name", |p| {
        p.action().cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()));
    }),
    ("forward: as a header says", |p| {
        p.action().cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned()));
    }),
    ("forward: as a header without a name says", |p| {
        p.action().cluster_specifier = Some(ClusterSpecifier::ClusterHeader(String::new()));
    }),
    ("weighted: none", |p| weighted(p, &[])),
    ("weighted: total 0", |p| weighted(p, &[Some(0)])),
    ("weighted: total beyond 32 bits", |p| weighted(p, &[Some(u32::MAX), Some(1)])),
    ("weighted: total of 32 bits", |p| weighted(p, &[Some(u32::MAX - 1), Some(1)])),
    ("weighted: one of weight 0", |p| weighted(p, &[Some(1), Some(0)])),
    ("weighted: one without a weight", |p| weighted(p, &[Some(1), None])),
    ("weighted: one without a name", |p| {
        weighted(p, &[Some(1), Some(1)]);
        clusters(p)[1].name.clear();
    }),
    ("weighted: a header in place of a name", |p| {
        weighted(p, &[Some(1), Some(1)]);
        clusters(p)[1].name.clear();
        clusters(p)[1].cluster_header = "x-cluster".to_owned();
    }),
    ("weighted: a name and a header", |p| {
        weighted(p, &[Some(1)]);
        clusters(p)[0].cluster_header = "x-cluster".to_owned();
    }),
    ("weighted: an unknown override of a filter", |p| {
        weighted(p, &[Some(1)]);
        clusters(p)[0].typed_per_filter_config = one("unknown", unknown());
    }),
    ("plugin: one that is not listed", |p| to_plugin(p, false)),
    ("plugin: unknown, nobody uses it", |p| plugin(p, false)),
    ("plugin: unknown, optional, nobody uses it", |p| plugin(p, true)),
    ("plugin: unknown", |p| {
        plugin(p, false);
        to_plugin(p, false);
    }),
    ("plugin: unknown, optional", |p| {
        plugin(p, true);
        to_plugin(p, false);
    }),
    ("plugin: inline", |p| to_plugin(p, true)),
    ("plugin: one name twice", |p| {
        plugin(p, true);
        plugin(p, true);
    }),
    ("plugin: without an extension", |p| {
        p.routes.cluster_specifier_plugins.push(ClusterSpecifierPlugin::default());
    }),
    ("retry: num_retries 0", |p| retry(p, |policy| policy.num_retries = wrap(0))),
    ("retry: num_retries 100", |p| retry(p, |policy| policy.num_retries = wrap(100))),
    ("retry: num_retries unset", |p| retry(p, |policy| policy.num_retries = None)),
    ("retry: no base_interval", |p| back_off(p, None, None)),
    ("retry: base_interval 0", |p| back_off(p, Some((0, 0)), None)),
    ("retry: base_interval negative", |p| back_off(p, Some((-1, 0)), None)),
    ("retry: base_interval below a millisecond", |p| back_off(p, Some((0, 1000)), None)),
    ("retry: max_interval below base_interval", |p| back_off(p, Some((2, 0)), Some((1, 0)))),
    ("retry: max_interval 0", |p| back_off(p, Some((1, 0)), Some((0, 0)))),
    ("retry: max_interval negative", |p| back_off(p, Some((1, 0)), Some((-1, 0)))),
    ("retry: retry_on unknown", |p| retry(p, |policy| policy.retry_on = "whatever".to_owned())),
    ("retry: retry_on with blanks", |p| {
        p.metadata.push(("echo-fail-attempts", "1"));
        retry(p, |policy| policy.retry_on = "cancelled , unavailable".to_owned());
    }),
    ("retry: retry_on in capitals", |p| {
        p.metadata.push(("echo-fail-attempts", "1"));
        retry(p, |policy| policy.retry_on = "UNAVAILABLE".to_owned());
    }),
    ("retry: of the host", |p| {
        p.metadata.push(("echo-fail-attempts", "1"));
        p.host().retry_policy = Some(unavailable());
    }),
    ("retry: of the host, num_retries 0", |p| {
        p.host().retry_policy = Some(RetryPolicy { num_retries: wrap(0), ..unavailable() });
    }),
    ("retry: without a reason on the route", |p| {
        p.metadata.push(("echo-fail-attempts", "1"));
        p.host().retry_policy = Some(unavailable());
        p.action().retry_policy = Some(RetryPolicy::default());
    }),
    ("retry: per_try_timeout negative", |p| retry(p, |policy| policy.per_try_timeout = seconds(-1))),
    ("retry: an unknown predicate of hosts", |p| {
        retry(p, |policy| {
            policy.retry_host_predicate.push(RetryHostPredicate { name: "unknown".to_owned(), ..Default::default() });
        });
    }),
    ("timeout: negative", |p| p.action().timeout = seconds(-1)),
    ("timeout: of too many nanoseconds", |p| {
        p.action().timeout = Some(Duration { seconds: 1, nanos: 2_000_000_000 });
    }),
    ("timeout: idle_timeout negative", |p| p.action().idle_timeout = seconds(-1)),
    ("timeout: max_stream_duration negative", |p| stream(p, seconds(-1), None)),
    ("timeout: max_stream_duration of too many nanoseconds", |p| {
        stream(p, Some(Duration { seconds: 1, nanos: 2_000_000_000 }), None);
    }),
    ("timeout: max_stream_duration less than a second longer than the call", |p| {
        p.metadata.push(("echo-delay-ms", "1200"));
        stream(p, seconds(2), None);
    }),
    ("timeout: grpc_timeout_header_max negative", |p| stream(p, None, seconds(-1))),
    ("override: unknown, of the route", |p| p.route().typed_per_filter_config = one("unknown", unknown())),
    ("override: unknown, of the host", |p| p.host().typed_per_filter_config = one("unknown", unknown())),
    ("override: unknown, of all", |p| p.routes.typed_per_filter_config = one("unknown", unknown())),
    ("override: unknown, optional", |p| wrapped(p, Some(unknown()), true, false)),
    ("override: unknown, wrapped", |p| wrapped(p, Some(unknown()), false, false)),
    ("override: wrapped, with nothing in it", |p| wrapped(p, None, false, false)),
    ("override: wrapped, disabled", |p| wrapped(p, None, false, true)),
    ("override: bytes that are no wrapper", |p| {
        p.route().typed_per_filter_config = one("unknown", spoiled::<FilterConfig>());
    }),
    ("override: bytes that are no fault", |p| {
        p.route().typed_per_filter_config = one(FAULT, spoiled::<HttpFault>());
    }),
    ("override: of a filter that is not there", |p| {
        p.route().typed_per_filter_config = one(FAULT, pack_any(HttpFault::default()));
    }),
    ("hash: by a header without a name", |p| hash(p, Some(by_header("", None)))),
    ("hash: by a header, rewritten by a bad expression", |p| hash(p, Some(by_header("x", Some(BAD))))),
    ("hash: by a header", |p| hash(p, Some(by_header("x", None)))),
    ("hash: by nothing", |p| hash(p, None)),
    ("hash: by a cookie", |p| hash(p, Some(PolicySpecifier::Cookie(Default::default())))),
    ("hash: by the connection", |p| hash(p, Some(PolicySpecifier::ConnectionProperties(Default::default())))),
    ("headers: one to add without a name", |p| add_header(p, "", "1")),
    ("headers: one to add with a bad name", |p| add_header(p, "a b", "1")),
    ("headers: one to add with a line break", |p| add_header(p, "x", "1\n2")),
    ("headers: a pseudo-header to add", |p| add_header(p, ":path", "/")),
    ("headers: a pseudo-header to remove", |p| p.route().request_headers_to_remove.push(":path".to_owned())),
    ("headers: host to remove", |p| p.route().request_headers_to_remove.push("host".to_owned())),
    ("headers: one to remove without a name", |p| p.route().request_headers_to_remove.push(String::new())),
    ("rewrite: prefix and expression", |p| {
        p.action().prefix_rewrite = "/x".to_owned();
        p.action().regex_rewrite = Some(rewrite("a", "b"));
    }),
    ("rewrite: a bad expression", |p| p.action().regex_rewrite = Some(rewrite(BAD, "b"))),
    ("rewrite: a group that is not there", |p| p.action().regex_rewrite = Some(rewrite("a", r"\7"))),
    ("rewrite: the host, with a line break", |p| {
        p.action().host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("a\nb".to_owned()));
    }),
    ("mirror: to nowhere", |p| p.action().request_mirror_policies.push(RequestMirrorPolicy::default())),
    ("forward: an unknown priority", |p| p.action().priority = 9),
    ("forward: an unknown code for a missing cluster", |p| p.action().cluster_not_found_response_code = 9),
];

fn one(name: &str, config: Any) -> HashMap<String, Any> {
    [(name.to_owned(), config)].into()
}

fn prefix(prefix: &str) -> Option<PathSpecifier> {
    Some(PathSpecifier::Prefix(prefix.to_owned()))
}

fn path(path: &str) -> Option<PathSpecifier> {
    Some(PathSpecifier::Path(path.to_owned()))
}

fn path_regex(p: &mut Parts, text: &str) {
    p.matches().path_specifier = Some(PathSpecifier::SafeRegex(regex(text)));
}

fn fraction(p: &mut Parts, numerator: u32, denominator: i32) {
    let default_value = Some(FractionalPercent { numerator, denominator });
    p.matches().runtime_fraction = Some(RuntimeFractionalPercent { default_value, ..Default::default() });
}

fn header(p: &mut Parts, name: &str, header_match_specifier: Option<HeaderMatchSpecifier>) {
    let matcher = HeaderMatcher { name: name.to_owned(), header_match_specifier, ..Default::default() };
    p.matches().headers.push(matcher);
}

fn text(p: &mut Parts, match_pattern: Option<MatchPattern>) {
    p.metadata.push(("x", "1"));
    let matcher = StringMatcher { match_pattern, ..Default::default() };
    header(p, "x", Some(HeaderMatchSpecifier::StringMatch(matcher)));
}

#[expect(deprecated, reason = "control planes still send it")]
fn old_regex(text: &str) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::SafeRegexMatch(regex(text))
}

fn range(p: &mut Parts, start: i64, end: i64) {
    p.metadata.push(("x", "5"));
    header(p, "x", Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })));
}

fn respond(p: &mut Parts, status: u32) {
    let response = DirectResponseAction { status, ..Default::default() };
    p.route().action = Some(route::Action::DirectResponse(response));
}

/// To `a`, then to `b`.
fn weighted(p: &mut Parts, weights: &[Option<u32>]) {
    let names = p.clusters.each_ref().map(|cluster| cluster.name.clone());
    let clusters = names.into_iter().zip(weights);
    let clusters =
        clusters.map(|(name, weight)| ClusterWeight { name, weight: weight.and_then(wrap), ..Default::default() });
    let clusters = WeightedCluster { clusters: clusters.collect(), ..Default::default() };
    p.action().cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters));
}

fn clusters(p: &mut Parts) -> &mut [ClusterWeight] {
    match &mut p.action().cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(weighted)) => &mut weighted.clusters,
        other => panic!("{other:?} has no weights"),
    }
}

fn listed(is_optional: bool) -> ClusterSpecifierPlugin {
    let extension = TypedExtensionConfig { name: "plugin".to_owned(), typed_config: Some(unknown()) };
    ClusterSpecifierPlugin { extension: Some(extension), is_optional }
}

fn plugin(p: &mut Parts, is_optional: bool) {
    p.routes.cluster_specifier_plugins.push(listed(is_optional));
}

fn to_plugin(p: &mut Parts, is_inline: bool) {
    p.action().cluster_specifier = Some(if is_inline {
        ClusterSpecifier::InlineClusterSpecifierPlugin(listed(false))
    } else {
        ClusterSpecifier::ClusterSpecifierPlugin("plugin".to_owned())
    });
}

fn unavailable() -> RetryPolicy {
    let back_off = RetryBackOff { base_interval: Some(Duration { seconds: 0, nanos: 5_000_000 }), max_interval: None };
    RetryPolicy { retry_on: "unavailable".to_owned(), retry_back_off: Some(back_off), ..Default::default() }
}

fn retry(p: &mut Parts, change: fn(&mut RetryPolicy)) {
    let mut policy = unavailable();
    change(&mut policy);
    p.action().retry_policy = Some(policy);
}

fn back_off(p: &mut Parts, base: Option<(i64, i32)>, max: Option<(i64, i32)>) {
    let duration = |(seconds, nanos)| Duration { seconds, nanos };
    let back_off = RetryBackOff { base_interval: base.map(duration), max_interval: max.map(duration) };
    p.action().retry_policy = Some(RetryPolicy { retry_back_off: Some(back_off), ..unavailable() });
}

fn stream(p: &mut Parts, max_stream_duration: Option<Duration>, grpc_timeout_header_max: Option<Duration>) {
    p.action().max_stream_duration =
        Some(MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, ..Default::default() });
}

fn wrapped(p: &mut Parts, config: Option<Any>, is_optional: bool, disabled: bool) {
    let wrapper = FilterConfig { config, is_optional, disabled };
    p.route().typed_per_filter_config = one("unknown", pack_any(wrapper));
}

fn hash(p: &mut Parts, policy_specifier: Option<PolicySpecifier>) {
    p.action().hash_policy.push(HashPolicy { policy_specifier, ..Default::default() });
}

fn by_header(name: &str, expression: Option<&str>) -> PolicySpecifier {
    let regex_rewrite = expression.map(|expression| rewrite(expression, ""));
    PolicySpecifier::Header(Header { header_name: name.to_owned(), regex_rewrite })
}

fn rewrite(expression: &str, substitution: &str) -> RegexMatchAndSubstitute {
    let pattern: Option<RegexMatcher> = Some(regex(expression));
    RegexMatchAndSubstitute { pattern, substitution: substitution.to_owned() }
}

fn add_header(p: &mut Parts, key: &str, value: &str) {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    p.route().request_headers_to_add.push(HeaderValueOption { header: Some(header), ..Default::default() });
}
