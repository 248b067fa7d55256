//! Good configurations by seed, each with the share of calls that every backend should get.
//!
//! A configuration belongs to a theme, one thing that control planes say; its numbers, its order and what else is in it are
//! drawn. What is expected is what gRPC means by it (gRFCs A27, A28, A31, A33, A37, A44, A56, A63), and each client is held to
//! that, so that two clients that agree with it agree with each other.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality, SocketAddress, address::Address};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::{Policy, policy::DropOverload};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster, header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
    retry_policy::RetryBackOff, route, route_action::ClusterSpecifier, route_action::MaxStreamDuration,
    route_match::PathSpecifier, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::{Resource, resource};

use super::fleet::{NOBODY, SIZE};
use super::{Addresses, Case, Probe, Shares};

/// Calls from which a share is read that chance decides.
const SAMPLE: u32 = 300;
/// Calls where chance decides nothing.
const FEW: u32 = 4;
/// Configurations of each theme.
const EACH: u64 = 14;

/// The name of the extension that makes a cluster one of clusters.
pub(super) const AGGREGATE: &str = "envoy.clusters.aggregate";
/// The usual name of the fault filter.
const FAULT: &str = "envoy.filters.http.fault";

/// One thing that control planes say.
type Theme = (&'static str, fn(&mut Draft<'_>));

const THEMES: [Theme; 18] = [
    ("paths", paths),
    ("headers", headers),
    ("weights", weights),
    ("fractions", fractions),
    ("localities", localities),
    ("priorities", priorities),
    ("unreachable", unreachable),
    ("health", health),
    ("names", names),
    ("retries", retries),
    ("durations", durations),
    ("hosts", hosts),
    ("queries", queries),
    ("drops", drops),
    ("aborts", aborts),
    ("delays", delays),
    ("mixed", mixed),
    ("aggregates", aggregates),
];

/// How many configurations there are.
pub const COUNT: usize = THEMES.len() * EACH as usize;

/// All configurations; the same seed makes the same ones.
pub fn all(seed: u64, addresses: &Addresses) -> Vec<Case> {
    let numbered = |(name, draw): &Theme| {
        let (name, draw) = (*name, *draw);
        (0..EACH).map(move |number| (name, draw, number))
    };
    let drafts = THEMES.iter().flat_map(numbered).zip(0u64..);
    drafts
        .map(|((theme, fill, number), place)| {
            let dice = Dice(seed ^ place.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let mut draft = Draft::new(format!("{theme}-{number:02}"), dice, addresses);
            fill(&mut draft);
            draft.finish()
        })
        .collect()
}

/// Chance that is the same on every machine (SplitMix64).
struct Dice(u64);

/// A configuration in the making.
struct Draft<'a> {
    name: String,
    dice: Dice,
    addresses: &'a Addresses,
    /// Names of backends, shuffled; what is taken goes round.
    backends: Vec<String>,
    hosts: Vec<VirtualHost>,
    routes: Vec<Route>,
    filters: Vec<HttpFilter>,
    clusters: Vec<Cluster>,
    endpoints: Vec<ClusterLoadAssignment>,
    probes: Vec<Probe>,
}

/// A cluster of a draft and who answers there.
#[derive(Clone)]
struct Site {
    cluster: String,
    shares: Shares,
}

// --- themes ---

/// First match wins: exact paths, prefixes, expressions, with and without case.
fn paths(draft: &mut Draft<'_>) {
    const PROBED: [&str; 5] =
        ["/shop.Cart/Add", "/shop.Cart/Get", "/shop.Order/Get", "/SHOP.cart/ADD", "/other.Thing/Do"];
    let exact = |path: &str| PathSpecifier::Path(path.to_owned());
    let prefix = |path: &str| PathSpecifier::Prefix(path.to_owned());
    let regex = |regex: &str| PathSpecifier::SafeRegex(self::regex(regex));
    // Each with the probed paths that it takes.
    let rules: [(PathSpecifier, bool, &[usize]); 8] = [
        (exact("/shop.Cart/Add"), true, &[0]),
        (exact("/Shop.Cart/Add"), false, &[0, 3]),
        (prefix("/shop.Cart/"), true, &[0, 1]),
        (prefix("/shop"), true, &[0, 1, 2]),
        (prefix("/sHOp.c"), false, &[0, 1, 3]),
        (regex(r"/shop\.(Cart|Order)/Get"), true, &[1, 2]),
        // An expression has to match the whole path.
        (regex("/shop"), true, &[]),
        (prefix(""), true, &[0, 1, 2, 3, 4]),
    ];
    let order = draft.dice.shuffled(rules.len());
    let kept = draft.dice.within(2, rules.len() as u64) as usize;
    let mut takers: [Option<Site>; PROBED.len()] = Default::default();
    for &rule in &order[..kept] {
        let (path, is_sensitive, takes) = &rules[rule];
        let site = draft.site(1);
        let case_sensitive = Some(BoolValue { value: *is_sensitive });
        let matches = RouteMatch { path_specifier: Some(path.clone()), case_sensitive, ..Default::default() };
        draft.route(matches, to(&site));
        for &path in *takes {
            takers[path].get_or_insert_with(|| site.clone());
        }
    }
    for (path, taker) in PROBED.iter().zip(takers) {
        draft.probe_at(path, &[], taker.map_or_else(nobody, |site| site.shares), FEW);
    }
}

/// Routes by header: every kind of matcher, inverted or not.
fn headers(draft: &mut Draft<'_>) {
    const VALUES: [Option<&str>; 5] = [None, Some("canary"), Some("Canary-7"), Some("17"), Some("-3")];
    let text = |pattern, ignore_case| {
        HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case })
    };
    let rules: [(HeaderMatchSpecifier, &[usize]); 9] = [
        (text(MatchPattern::Exact("canary".to_owned()), false), &[1]),
        (text(MatchPattern::Exact("CANARY".to_owned()), true), &[1]),
        (text(MatchPattern::Prefix("can".to_owned()), false), &[1]),
        (text(MatchPattern::Prefix("can".to_owned()), true), &[1, 2]),
        (text(MatchPattern::Suffix("7".to_owned()), false), &[2, 3]),
        (text(MatchPattern::Contains("anar".to_owned()), false), &[1, 2]),
        (text(MatchPattern::SafeRegex(regex("[a-z]+")), false), &[1]),
        (HeaderMatchSpecifier::PresentMatch(true), &[1, 2, 3, 4]),
        (HeaderMatchSpecifier::RangeMatch(Int64Range { start: -3, end: 17 }), &[4]),
    ];
    let order = draft.dice.shuffled(rules.len());
    let mut takers: [Option<Site>; VALUES.len()] = Default::default();
    for &rule in &order[..3] {
        let (specifier, takes) = &rules[rule];
        let invert_match = draft.dice.within(0, 3) == 0;
        let site = draft.site(1);
        let header = HeaderMatcher {
            name: "x-stage".to_owned(),
            header_match_specifier: Some(specifier.clone()),
            invert_match,
            ..Default::default()
        };
        draft.route(RouteMatch { headers: vec![header], ..any_path() }, to(&site));
        let is_presence = matches!(specifier, HeaderMatchSpecifier::PresentMatch(_));
        for (value, taker) in takers.iter_mut().enumerate() {
            // What is not there matches nothing, inverted or not, but for presence itself.
            let is_read = value != 0 || is_presence;
            if is_read && takes.contains(&value) != invert_match {
                taker.get_or_insert_with(|| site.clone());
            }
        }
    }
    let rest = draft.site(1);
    draft.route(any_path(), to(&rest));
    for (value, taker) in VALUES.iter().zip(takers) {
        let metadata: Vec<_> = value.iter().map(|value| ("x-stage", *value)).collect();
        draft.probe_at(PATH, &metadata, taker.unwrap_or_else(|| rest.clone()).shares, FEW);
    }
}

/// Clusters by weight, some of weight 0.
fn weights(draft: &mut Draft<'_>) {
    let (action, shares) = draft.weighted(4);
    draft.route(any_path(), action);
    draft.probe(shares, SAMPLE);
}

/// A part of the calls takes a route, the others fall through.
fn fractions(draft: &mut Draft<'_>) {
    let (some, rest) = (draft.site(1), draft.site(1));
    let (whole, denominator) = match draft.dice.within(0, 2) {
        0 => (100, DenominatorType::Hundred),
        1 => (10_000, DenominatorType::TenThousand),
        _ => (1_000_000, DenominatorType::Million),
    };
    // Now and then all or nothing.
    let percent = [0, 100, draft.dice.within(1, 99), draft.dice.within(1, 99), draft.dice.within(1, 99)];
    let percent = percent[draft.dice.within(0, 4) as usize];
    let share = percent as f64 / 100.0;
    let fraction = FractionalPercent { numerator: (percent * whole / 100) as u32, denominator: denominator.into() };
    let fraction = envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent {
        default_value: Some(fraction),
        ..Default::default()
    };
    draft.route(RouteMatch { runtime_fraction: Some(fraction), ..any_path() }, to(&some));
    draft.route(any_path(), to(&rest));
    draft.probe(mix([(share, &some.shares), (1.0 - share, &rest.shares)]), SAMPLE);
}

/// Localities by weight; one without a weight gets nothing (A27).
fn localities(draft: &mut Draft<'_>) {
    let count = draft.dice.within(2, 4);
    let mut groups = Vec::new();
    let mut parts = Vec::new();
    for number in 0..count {
        let weight = if number == 0 { draft.dice.within(1, 40) } else { draft.dice.within(0, 40) } as u32;
        let backends = draft.some_backends(1, 2);
        parts.push((f64::from(weight), evenly(&backends)));
        groups.push(draft.group(&format!("zone-{number}"), 0, (weight > 0).then_some(weight), &backends));
    }
    let site = draft.cluster(groups, normalised(&parts));
    draft.route(any_path(), to(&site));
    draft.probe(site.shares, SAMPLE);
}

/// The first priority that has an endpoint in good health gets everything.
fn priorities(draft: &mut Draft<'_>) {
    let count = draft.dice.within(2, 4);
    let serving = draft.dice.within(0, count) as u32;
    let mut groups = Vec::new();
    let mut shares = nobody();
    for priority in 0..count as u32 {
        let backends = draft.backends(2);
        let mut group = draft.group("zone", priority, Some(1), &backends);
        if priority < serving {
            for endpoint in &mut group.lb_endpoints {
                let bad = [HealthStatus::Unhealthy, HealthStatus::Draining, HealthStatus::Timeout];
                endpoint.health_status = bad[draft.dice.within(0, 2) as usize].into();
            }
        } else if priority == serving {
            shares = evenly(&backends);
        }
        groups.push(group);
    }
    // In any order: a priority is a number, not a place.
    let order = draft.dice.shuffled(groups.len());
    let groups = order.iter().map(|place| groups[*place].clone()).collect();
    let site = draft.cluster(groups, shares);
    draft.route(any_path(), to(&site));
    draft.probe(site.shares, FEW * 10);
}

/// A priority whose endpoints refuse connections is passed over.
fn unreachable(draft: &mut Draft<'_>) {
    let backends = draft.some_backends(1, 2);
    let dead = draft.group("zone", 0, Some(1), &[NOBODY.to_owned()]);
    let alive = draft.group("zone", 1, Some(1), &backends);
    let site = draft.cluster(vec![dead, alive], evenly(&backends));
    draft.route(any_path(), to(&site));
    draft.probe(site.shares, FEW * 10);
}

/// Endpoints of every health, and weights that gRPC does not look at (A27).
fn health(draft: &mut Draft<'_>) {
    let backends = draft.some_backends(2, 5);
    let mut group = draft.group("zone", 0, Some(1), &backends);
    let mut healthy = Vec::new();
    for (endpoint, backend) in group.lb_endpoints.iter_mut().zip(&backends) {
        let any = [
            HealthStatus::Unknown,
            HealthStatus::Healthy,
            HealthStatus::Unhealthy,
            HealthStatus::Draining,
            HealthStatus::Degraded,
        ];
        let health = any[draft.dice.within(0, 4) as usize];
        endpoint.health_status = health.into();
        endpoint.load_balancing_weight = wrap(draft.dice.within(1, 50) as u32);
        if matches!(health, HealthStatus::Unknown | HealthStatus::Healthy) {
            healthy.push(backend.clone());
        }
    }
    let site = draft.cluster(vec![group], evenly(&healthy));
    draft.route(any_path(), to(&site));
    draft.probe(site.shares, FEW * 25);
}

/// A cluster that is one name for DNS (A37), beside one that is not.
fn names(draft: &mut Draft<'_>) {
    let (named, listed) = (draft.site(1), draft.site(1));
    let mut hosts = draft.endpoints.remove(0);
    let host = ["localhost", "127.0.0.1"][draft.dice.within(0, 1) as usize];
    socket_of(&mut hosts).address = host.to_owned();
    let cluster = &mut draft.clusters[0];
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into()));
    (cluster.eds_cluster_config, cluster.load_assignment) = (None, Some(hosts));
    draft.route(path("/shop.Cart/Named"), to(&named));
    draft.route(any_path(), to(&listed));
    draft.probe_at("/shop.Cart/Named", &[], named.shares, FEW);
    draft.probe(listed.shares, FEW);
}

/// The address of the only endpoint.
fn socket_of(hosts: &mut ClusterLoadAssignment) -> &mut SocketAddress {
    let host = hosts.endpoints[0].lb_endpoints[0].host_identifier.as_mut();
    let address = match host.expect("the kit sets it") {
        HostIdentifier::Endpoint(endpoint) => endpoint.address.as_mut().and_then(|address| address.address.as_mut()),
        HostIdentifier::EndpointName(_) => None,
    };
    match address.expect("the kit sets it") {
        Address::SocketAddress(socket) => socket,
        other => panic!("{other:?} is not of IP"),
    }
}

/// Retries by code, as many as the policy says, of the route or of its host.
fn retries(draft: &mut Draft<'_>) {
    let retries = draft.dice.within(1, 4);
    let applies = draft.dice.within(0, 3) > 0;
    let site = draft.site(1);
    let policy = RetryPolicy {
        retry_on: if applies { "cancelled,unavailable" } else { "cancelled,internal" }.to_owned(),
        num_retries: wrap(retries as u32),
        retry_back_off: Some(RetryBackOff { base_interval: millis(5), max_interval: millis(10) }),
        ..Default::default()
    };
    let is_of_route = draft.dice.within(0, 1) == 0;
    let mut action = to(&site);
    action.retry_policy = is_of_route.then(|| policy.clone());
    draft.route(any_path(), action);
    draft.close_host("all", &["*"]);
    draft.hosts[0].retry_policy = (!is_of_route).then_some(policy);
    for failing in [0, 1, retries, retries + 1] {
        let is_answered = failing == 0 || (applies && failing <= retries);
        let shares = if is_answered { site.shares.clone() } else { nobody() };
        draft.probe_at(PATH, &[("echo-fail-attempts", &failing.to_string())], shares, 1);
    }
}

/// Streams are cut at their longest duration: of the route, of the listener, or neither (A31).
fn durations(draft: &mut Draft<'_>) {
    let site = draft.site(1);
    let mut action = to(&site);
    // Long for a call on a busy machine, and longer than the second that C-core is early by (see `differences`); short for
    // one that its backend lets wait.
    let limit = millis(2500);
    let is_cut = match draft.dice.within(0, 4) {
        0 => {
            action.max_stream_duration = Some(MaxStreamDuration { max_stream_duration: limit, ..Default::default() });
            true
        }
        // Where both stand the header's limit counts; 0 is none.
        1 => {
            let (grpc_timeout_header_max, max_stream_duration) = (millis(0), limit);
            action.max_stream_duration =
                Some(MaxStreamDuration { grpc_timeout_header_max, max_stream_duration, ..Default::default() });
            false
        }
        2 => {
            let (grpc_timeout_header_max, max_stream_duration) = (limit, millis(0));
            action.max_stream_duration =
                Some(MaxStreamDuration { grpc_timeout_header_max, max_stream_duration, ..Default::default() });
            true
        }
        // Envoy's limit of a request is not gRPC's.
        3 => {
            action.timeout = limit;
            false
        }
        _ => false,
    };
    draft.route(any_path(), action);
    draft.probe_at(PATH, &[], site.shares.clone(), 1);
    let slow = if is_cut { failing("DEADLINE_EXCEEDED") } else { site.shares };
    draft.probe_at(PATH, &[("echo-delay-ms", "3500")], slow, 1);
}

/// The most specific domain wins: exact, then suffixes, then prefixes, the longer first, then all.
fn hosts(draft: &mut Draft<'_>) {
    let name = draft.name.clone();
    let (head, tail) = name.split_once('-').expect("a number follows the theme");
    let domains = [
        name.clone(),
        format!("*-{tail}"),
        format!("*{tail}"),
        format!("{head}-*"),
        format!("{head}*"),
        "*".to_owned(),
    ];
    let kept = draft.dice.within(1, domains.len() as u64) as usize;
    let kept = &draft.dice.shuffled(domains.len())[..kept];
    let best = kept.iter().min().copied();
    let mut shares = nobody();
    for &domain in kept {
        let site = draft.site(1);
        draft.route(any_path(), to(&site));
        draft.close_host(&format!("host-{domain}"), &[&domains[domain]]);
        if Some(domain) == best {
            shares = site.shares;
        }
    }
    let other = draft.site(1);
    draft.route(any_path(), to(&other));
    draft.close_host("other", &["elsewhere.example"]);
    draft.probe(shares, FEW);
}

/// No gRPC call has a query, so a route that asks for one is passed over.
fn queries(draft: &mut Draft<'_>) {
    let (never, always) = (draft.site(1), draft.site(1));
    let present = draft.dice.within(0, 1) == 0;
    let specifier = if present {
        QueryParameterMatchSpecifier::PresentMatch(true)
    } else {
        let pattern = Some(MatchPattern::Exact("yes".to_owned()));
        QueryParameterMatchSpecifier::StringMatch(StringMatcher { match_pattern: pattern, ignore_case: false })
    };
    let query = QueryParameterMatcher { name: "debug".to_owned(), query_parameter_match_specifier: Some(specifier) };
    draft.route(RouteMatch { query_parameters: vec![query], ..any_path() }, to(&never));
    draft.route(any_path(), to(&always));
    draft.probe(always.shares, FEW);
}

/// A part of the calls is dropped; two categories one after the other.
fn drops(draft: &mut Draft<'_>) {
    let site = draft.site(2);
    let mut passing = 1.0;
    let mut drop_overloads = Vec::new();
    for category in ["throttle", "lb"] {
        let percent = draft.dice.within(0, 50) as u32;
        passing *= 1.0 - f64::from(percent) / 100.0;
        drop_overloads.push(DropOverload { category: category.to_owned(), drop_percentage: Some(hundredths(percent)) });
    }
    draft.endpoints[0].policy = Some(Policy { drop_overloads, ..Default::default() });
    draft.route(any_path(), to(&site));
    draft.probe(mix([(passing, &site.shares), (1.0 - passing, &nobody())]), SAMPLE);
}

/// A part of the calls is answered by the fault filter, with statuses of HTTP or gRPC, unless the route has it off.
fn aborts(draft: &mut Draft<'_>) {
    let site = draft.site(1);
    let (error_type, code) = match draft.dice.within(0, 5) {
        0 => (ErrorType::HttpStatus(503), "UNAVAILABLE"),
        1 => (ErrorType::HttpStatus(403), "PERMISSION_DENIED"),
        2 => (ErrorType::HttpStatus(404), "UNIMPLEMENTED"),
        3 => (ErrorType::HttpStatus(500), "UNKNOWN"),
        4 => (ErrorType::GrpcStatus(8), "RESOURCE_EXHAUSTED"),
        _ => (ErrorType::GrpcStatus(14), "UNAVAILABLE"),
    };
    let percent = [100, draft.dice.within(0, 100)][draft.dice.within(0, 1) as usize] as u32;
    let abort =
        FaultAbort { error_type: Some(error_type), percentage: Some(hundredths(percent)), ..Default::default() };
    draft.filters.push(filter(FAULT, pack_any(HttpFault { abort: Some(abort), ..Default::default() })));
    draft.route(path("/shop.Cart/Spared"), to(&site));
    draft.routes[0].typed_per_filter_config.insert(FAULT.to_owned(), pack_any(HttpFault::default()));
    draft.route(any_path(), to(&site));
    draft.probe_at("/shop.Cart/Spared", &[], site.shares.clone(), FEW);
    let share = f64::from(percent) / 100.0;
    draft.probe(mix([(share, &failing(code)), (1.0 - share, &site.shares)]), SAMPLE);
}

/// Calls wait before they go on, and the wait counts as theirs.
fn delays(draft: &mut Draft<'_>) {
    let site = draft.site(1);
    let delay = millis(draft.dice.within(100, 150)).expect("set");
    let delay = FaultDelay {
        percentage: Some(hundredths(100)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(delay)),
    };
    draft.filters.push(filter(FAULT, pack_any(HttpFault { delay: Some(delay), ..Default::default() })));
    draft.route(any_path(), to(&site));
    draft.probe(site.shares, 1);
}

/// Several paths, each to clusters by weight.
fn mixed(draft: &mut Draft<'_>) {
    for name in ["Add", "Get", "Drop"] {
        let target = format!("/shop.Cart/{name}");
        let (action, shares) = draft.weighted(3);
        draft.route(path(&target), action);
        draft.probe_at(&target, &[], shares, SAMPLE / 2);
    }
    draft.probe_at("/shop.Order/Get", &[], nobody(), 1);
}

/// Clusters one after the other (A37): the first that has anyone to answer gets everything, by its own priorities and
/// localities.
fn aggregates(draft: &mut Draft<'_>) {
    let count = draft.dice.within(2, 4);
    let serving = draft.dice.within(0, count);
    let mut children = Vec::new();
    let mut shares = nobody();
    for number in 0..count {
        let child = if number < serving { draft.silent_site() } else { draft.layered_site() };
        if number == serving {
            shares = child.shares;
        }
        children.push(child.cluster);
    }
    // The last two may be an aggregate of their own, which changes nothing about their order.
    if draft.dice.within(0, 2) == 0 {
        let inner = children.split_off(children.len() - 2);
        children.push(draft.aggregate(inner));
    }
    let cluster = draft.aggregate(children);
    draft.route(any_path(), to(&Site { cluster, shares: shares.clone() }));
    draft.probe(shares, SAMPLE);
}

// --- what drafts are made of ---

/// The method that is called where it makes no difference.
const PATH: &str = "/shop.Cart/Get";

fn path(path: &str) -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Path(path.to_owned())), ..Default::default() }
}

fn any_path() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix(String::new())), ..Default::default() }
}

fn to(site: &Site) -> RouteAction {
    RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(site.cluster.clone())), ..Default::default() }
}

pub(super) fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub(super) fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

pub(super) fn wrap(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn hundredths(numerator: u32) -> FractionalPercent {
    FractionalPercent { numerator, denominator: DenominatorType::Hundred.into() }
}

fn millis(millis: u64) -> Option<Duration> {
    Some(Duration { seconds: (millis / 1000) as i64, nanos: (millis % 1000 * 1_000_000) as i32 })
}

fn nobody() -> Shares {
    failing("UNAVAILABLE")
}

fn failing(code: &str) -> Shares {
    [(code.to_owned(), 1.0)].into()
}

/// Nobody where there are none.
fn evenly(backends: &[String]) -> Shares {
    if backends.is_empty() {
        return nobody();
    }
    backends.iter().map(|name| (name.clone(), 1.0 / backends.len() as f64)).collect()
}

/// What happens by each of these chances.
fn mix<'a>(parts: impl IntoIterator<Item = (f64, &'a Shares)>) -> Shares {
    let mut mixed = Shares::new();
    for (chance, shares) in parts {
        for (who, share) in shares {
            *mixed.entry(who.clone()).or_default() += chance * share;
        }
    }
    mixed
}

fn normalised(parts: &[(f64, Shares)]) -> Shares {
    let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
    mix(parts.iter().map(|(weight, shares)| (weight / total, shares)))
}

/// A resource and its name.
pub(super) fn offered<R: Resource>(message: R) -> (ResourceKind, String, Any) {
    (R::KIND, message.resource_name().to_owned(), pack_any(message))
}

// === impl Dice ===

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Both ends are among what may come.
    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// The numbers below `count` in some order.
    fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..count).collect();
        for place in (1..count).rev() {
            order.swap(place, self.within(0, place as u64) as usize);
        }
        order
    }
}

// === impl Draft ===

impl<'a> Draft<'a> {
    fn new(name: String, mut dice: Dice, addresses: &'a Addresses) -> Self {
        let names: Vec<_> = addresses.keys().filter(|name| *name != NOBODY).collect();
        let backends = dice.shuffled(SIZE).into_iter().map(|place| names[place].clone()).collect();
        let (hosts, routes, filters, clusters, endpoints, probes) = Default::default();
        Self { name, dice, addresses, backends, hosts, routes, filters, clusters, endpoints, probes }
    }

    /// The next so many backends.
    fn backends(&mut self, count: u64) -> Vec<String> {
        self.backends.rotate_left(count as usize);
        self.backends[SIZE - count as usize..].to_vec()
    }

    fn some_backends(&mut self, low: u64, high: u64) -> Vec<String> {
        let count = self.dice.within(low, high);
        self.backends(count)
    }

    fn group(&self, zone: &str, priority: u32, weight: Option<u32>, backends: &[String]) -> LocalityLbEndpoints {
        let addresses = backends.iter().map(|name| self.addresses[name]);
        let mut group = resource::endpoints("", addresses).endpoints.remove(0);
        group.locality = Some(Locality { zone: zone.to_owned(), ..Default::default() });
        group.priority = priority;
        group.load_balancing_weight = weight.and_then(wrap);
        group
    }

    /// A cluster of one locality with so many endpoints.
    fn site(&mut self, endpoints: u64) -> Site {
        let backends = self.backends(endpoints);
        let group = self.group("zone", 0, Some(1), &backends);
        self.cluster(vec![group], evenly(&backends))
    }

    fn cluster(&mut self, groups: Vec<LocalityLbEndpoints>, shares: Shares) -> Site {
        let name = format!("{}/{}", self.name, self.clusters.len());
        let mut cluster = resource::cluster(&name);
        let mut endpoints =
            ClusterLoadAssignment { cluster_name: name.clone(), endpoints: groups, ..Default::default() };
        if self.dice.within(0, 3) == 0 {
            endpoints.cluster_name = format!("{name}/endpoints");
            cluster
                .eds_cluster_config
                .as_mut()
                .expect("the kit sets it")
                .service_name
                .clone_from(&endpoints.cluster_name);
        }
        self.clusters.push(cluster);
        self.endpoints.push(endpoints);
        Site { cluster: name, shares }
    }

    /// A cluster where nobody answers: it has no endpoints, none in good health, or one that refuses connections.
    fn silent_site(&mut self) -> Site {
        let backends = self.backends(1);
        let groups = match self.dice.within(0, 2) {
            0 => Vec::new(),
            1 => {
                let mut group = self.group("zone", 0, Some(1), &backends);
                group.lb_endpoints[0].health_status = HealthStatus::Unhealthy.into();
                vec![group]
            }
            _ => vec![self.group("zone", 0, Some(1), &[NOBODY.to_owned()])],
        };
        self.cluster(groups, nobody())
    }

    /// A cluster of two localities by weight, which may stand behind a priority where nobody answers.
    fn layered_site(&mut self) -> Site {
        let priority = self.dice.within(0, 1) as u32;
        let mut groups = Vec::new();
        if priority > 0 {
            groups.push(self.group("dead", 0, Some(1), &[NOBODY.to_owned()]));
        }
        let mut parts = Vec::new();
        for zone in ["near", "far"] {
            let (weight, backends) = (self.dice.within(1, 20) as u32, self.some_backends(1, 2));
            parts.push((f64::from(weight), evenly(&backends)));
            groups.push(self.group(zone, priority, Some(weight), &backends));
        }
        self.cluster(groups, normalised(&parts))
    }

    /// The name of an aggregate of these clusters.
    fn aggregate(&mut self, clusters: Vec<String>) -> String {
        let name = format!("{}/{}", self.name, self.clusters.len());
        self.clusters.push(Cluster {
            name: name.clone(),
            cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: AGGREGATE.to_owned(),
                typed_config: Some(pack_any(ClusterConfig { clusters })),
            })),
            ..Default::default()
        });
        name
    }

    /// Two clusters or more by weight, some of them with several localities.
    fn weighted(&mut self, most: u64) -> (RouteAction, Shares) {
        let count = self.dice.within(2, most);
        let mut clusters = Vec::new();
        let mut parts = Vec::new();
        for number in 0..count {
            let site = self.site(1);
            let weight = if number == 0 { self.dice.within(1, 100) } else { self.dice.within(0, 100) } as u32;
            clusters.push(ClusterWeight { name: site.cluster, weight: wrap(weight), ..Default::default() });
            parts.push((f64::from(weight), site.shares));
        }
        let clusters = WeightedCluster { clusters, ..Default::default() };
        let cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters));
        (RouteAction { cluster_specifier, ..Default::default() }, normalised(&parts))
    }

    /// Adds a route to the host that is being written.
    fn route(&mut self, matches: RouteMatch, action: RouteAction) {
        let action = Some(route::Action::Route(action));
        self.routes.push(Route { r#match: Some(matches), action, ..Default::default() });
    }

    /// Gives the routes so far to a host.
    fn close_host(&mut self, name: &str, domains: &[&str]) {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        let routes = std::mem::take(&mut self.routes);
        self.hosts.push(VirtualHost { name: name.to_owned(), domains, routes, ..Default::default() });
    }

    fn probe(&mut self, expected: Shares, count: u32) {
        self.probe_at(PATH, &[], expected, count);
    }

    fn probe_at(&mut self, path: &str, metadata: &[(&str, &str)], expected: Shares, count: u32) {
        let is_backend = |who: &&String| self.addresses.contains_key(*who);
        // Where failures are expected too, a call of the warming-up may be one, which is no reason to give up.
        let warm = expected.iter().filter(|(_, share)| **share > 0.0).map(|(who, _)| who).filter(is_backend).cloned();
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.probes.push(Probe { path: path.to_owned(), metadata, warm: warm.collect(), count, expected });
    }

    fn finish(mut self) -> Case {
        if self.hosts.is_empty() || !self.routes.is_empty() {
            self.close_host("all", &["*"]);
        }
        let routes_name = format!("{}/routes", self.name);
        let hosts = std::mem::take(&mut self.hosts);
        let routes = RouteConfiguration { name: routes_name.clone(), virtual_hosts: hosts, ..Default::default() };
        let is_inline = self.dice.within(0, 2) == 0;
        let listener = if is_inline {
            resource::listener(&self.name, routes.clone())
        } else {
            resource::listener(&self.name, &*routes_name)
        };
        let mut resources = vec![offered(with_filters(listener, self.filters))];
        if !is_inline {
            resources.push(offered(routes));
        }
        resources.extend(self.clusters.into_iter().map(offered));
        resources.extend(self.endpoints.into_iter().map(offered));
        Case { name: self.name, resources, probes: self.probes }
    }
}

/// The filters stand before the router.
fn with_filters(
    mut listener: envoy_types::pb::envoy::config::listener::v3::Listener,
    filters: Vec<HttpFilter>,
) -> envoy_types::pb::envoy::config::listener::v3::Listener {
    let api = listener.api_listener.as_mut().and_then(|api| api.api_listener.as_mut());
    let api = api.expect("the kit makes one");
    let mut manager: HttpConnectionManager = super::unpacked(api);
    manager.http_filters.splice(0..0, filters);
    *api = pack_any(manager);
    listener
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn addresses() -> Addresses {
        let names = ('a'..).take(SIZE).map(String::from).chain([NOBODY.to_owned()]);
        names.zip(1..).map(|(name, port)| (name, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))).collect()
    }

    #[test]
    fn there_are_two_hundred_and_all_differ() {
        let cases = all(1, &addresses());
        assert_eq!(cases.len(), COUNT);
        const { assert!(COUNT >= 200) };
        let names: std::collections::BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn shares_of_a_probe_are_all_of_its_calls() {
        for case in all(1, &addresses()) {
            for probe in &case.probes {
                let sum: f64 = probe.expected.values().sum();
                assert!((sum - 1.0).abs() < 1e-9, "{}: {:?}", case.name, probe.expected);
            }
        }
    }

    #[test]
    fn same_seed_makes_the_same_configurations() {
        let bytes = |seed| all(seed, &addresses()).into_iter().map(|case| case.resources).collect::<Vec<_>>();
        // Maps of messages are encoded in any order, so that only the sizes are told.
        let sizes = |seed| {
            let all = bytes(seed);
            all.iter().map(|case| case.iter().map(|(_, _, any)| any.value.len()).sum::<usize>()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), sizes(1));
        assert_ne!(sizes(1), sizes(2));
    }
}
