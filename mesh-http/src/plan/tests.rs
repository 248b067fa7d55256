//! What plans come to, for what code and control planes say.

use std::time::Duration;

use mesh_core::{
    config::{
        Action, ClusterChoice, Domain, Forward, HeaderAppend, HeaderTemplate, Listener, Policy, RouteConfig,
        RouteMatch, Semantics, TimeLimit, Timeouts, VirtualHost, preset,
    },
    deadline::Bound,
};

use super::*;

fn seconds(seconds: u64) -> Option<TimeLimit> {
    TimeLimit::after(Duration::from_secs(seconds)).ok()
}

fn profile(semantics: Semantics, preset: Policy) -> Profile {
    Profile { semantics, rules: semantics, pins: Policy::default(), code: Policy::default(), preset }
}

/// The plan of a route of `host`, which stands alone behind a listener that says `stream` of the duration of streams.
fn plan(profile: &Profile, host: &VirtualHost, stream: Option<TimeLimit>, turned: bool) -> Arc<ForwardPlan> {
    let mut routes = RouteConfig::new("r", vec![host.clone()]).expect("legal");
    routes.most_specific_mutations_win = turned;
    let mut listener = Listener::new("l", Arc::new(routes));
    listener.policy.timeouts.max_stream_duration = stream;
    let planner = Planner::new(profile, &listener, |_| Arc::default(), &|_| Err("is not known".into()));
    match planner.plan(host, &host.routes[0]).step {
        Step::Forward(forward) => forward,
        step => panic!("it forwards: {step:?}"),
    }
}

fn host(timeouts: Timeouts, change: impl FnOnce(&mut Route)) -> VirtualHost {
    let mut forward = Forward::to(ClusterChoice::One("c".into()));
    forward.policy.timeouts = timeouts;
    let mut route = Route::new(RouteMatch::any(), Action::Forward(forward));
    change(&mut route);
    VirtualHost::new("h", vec![Domain::Any], vec![Arc::new(route)]).expect("legal")
}

/// The limit in seconds, of a caller who asks for as many.
fn overall(profile: &Profile, said: Timeouts, asked: Option<u64>) -> Option<(Bound, u64)> {
    let plan = plan(profile, &host(said, |_| {}), None, false);
    plan.limits.overall(asked.map(Duration::from_secs)).map(|limit| (limit.bound, limit.after.as_secs()))
}

fn request(limit: u64) -> Timeouts {
    Timeouts { request: seconds(limit), ..Timeouts::default() }
}

#[test]
fn pin_beats_control_plane_beats_code_beats_preset() {
    let mut profile = profile(Semantics::Envoy, preset::service());
    let overall = |profile: &Profile, said| overall(profile, said, None).map(|(_, seconds)| seconds);
    assert_eq!(overall(&profile, Timeouts::default()), Some(15));
    profile.code.route.timeouts = request(3);
    assert_eq!(overall(&profile, Timeouts::default()), Some(3));
    assert_eq!(overall(&profile, request(2)), Some(2));
    profile.pins.route.timeouts = request(1);
    assert_eq!(overall(&profile, request(2)), Some(1));
}

#[test]
fn grpc_reads_a_control_planes_header_maximum_then_its_stream_duration_and_not_its_timeout() {
    let profile = profile(Semantics::Grpc, preset::rpc());
    let said = Timeouts { max_stream_duration: seconds(9), ..request(1) };
    let maximum = |max| Timeouts { grpc_timeout_max: max, grpc_timeout_offset: Some(Duration::from_secs(1)), ..said };
    assert_eq!(overall(&profile, request(1), None), None);
    assert_eq!(overall(&profile, said, None), Some((Bound::Request, 9)));
    assert_eq!(overall(&profile, maximum(seconds(5)), None), Some((Bound::Request, 5)));
    assert_eq!(overall(&profile, maximum(seconds(5)), Some(60)), Some((Bound::Request, 5)), "and no offset");
    assert_eq!(overall(&profile, maximum(seconds(5)), Some(2)), Some((Bound::Request, 2)));
    assert_eq!(overall(&profile, maximum(Some(TimeLimit::OFF)), None), None);
}

#[test]
fn what_a_channels_own_code_says_is_read_as_it_stands() {
    let profile = Profile { rules: Semantics::Envoy, ..profile(Semantics::Grpc, preset::rpc()) };
    assert_eq!(overall(&profile, request(1), None), Some((Bound::Request, 1)));
}

#[test]
fn code_that_limits_a_channel_holds_where_the_control_plane_sets_no_limit() {
    let mut profile = profile(Semantics::Grpc, preset::rpc());
    profile.code.route.timeouts = request(3);
    let off = Timeouts { grpc_timeout_max: Some(TimeLimit::OFF), request: Some(TimeLimit::OFF), ..Timeouts::default() };
    assert_eq!(overall(&profile, off, Some(60)), Some((Bound::Request, 3)));
}

#[test]
fn header_replaces_what_the_control_plane_says_and_never_what_code_does() {
    let mut profile = profile(Semantics::Envoy, preset::bare());
    let said =
        Timeouts { grpc_timeout_max: seconds(5), grpc_timeout_offset: Some(Duration::from_secs(1)), ..request(2) };
    assert_eq!(overall(&profile, said, Some(60)), Some((Bound::Request, 4)));
    assert_eq!(overall(&profile, said, None), Some((Bound::Request, 2)));
    profile.code.route.timeouts = request(3);
    assert_eq!(overall(&profile, said, Some(60)), Some((Bound::Request, 4)), "the control plane is above code");
    let silent = Timeouts { request: None, ..said };
    assert_eq!(overall(&profile, silent, Some(60)), Some((Bound::Request, 3)));
    profile.pins.route.timeouts = request(1);
    assert_eq!(overall(&profile, said, Some(60)), Some((Bound::Request, 1)));
}

#[test]
fn nearer_of_own_and_callers_limit_wins() {
    let profile = profile(Semantics::Envoy, preset::bare());
    assert_eq!(overall(&profile, request(5), Some(1)), Some((Bound::Request, 1)));
    assert_eq!(overall(&profile, request(5), Some(9)), Some((Bound::Request, 5)));
}

#[test]
fn stream_duration_is_a_bound_of_its_own() {
    let profile = profile(Semantics::Envoy, preset::bare());
    let said = Timeouts { max_stream_duration: seconds(9), ..request(1) };
    assert_eq!(overall(&profile, said, None), Some((Bound::StreamDuration, 9)));
    let of_listener = plan(&profile, &host(request(10), |_| {}), seconds(2), false).limits.overall(None);
    assert_eq!(of_listener, Limit::of(Bound::StreamDuration, seconds(2)), "the listener's caps the route's timeout");
}

#[test]
fn nearer_limit_on_silence_is_the_one() {
    let mut profile = profile(Semantics::Envoy, preset::bare());
    let silence = |profile: &Profile, per_try_idle, idle| {
        let said = Timeouts { per_try_idle: seconds(per_try_idle), idle: seconds(idle), ..Timeouts::default() };
        plan(profile, &host(said, |_| {}), None, false).limits.silence.map(|silence| silence.bound)
    };
    assert_eq!(silence(&profile, 1, 2), Some(Bound::PerTryIdle));
    assert_eq!(silence(&profile, 2, 1), Some(Bound::Idle));
    profile.pins.route.timeouts.idle = Some(TimeLimit::OFF);
    assert_eq!(silence(&profile, 2, 1), Some(Bound::PerTryIdle));
}

#[test]
fn least_specific_header_change_comes_last_unless_turned_round() {
    let change = |value: &str| {
        let template = HeaderTemplate::new(value).expect("legal");
        HeaderMutations::new()
            .set(HeaderName::from_static("x-level"), template, HeaderAppend::Overwrite)
            .expect("legal")
    };
    let mut host = host(Timeouts::default(), |route| route.request_headers = change("route"));
    host.request_headers = change("host");
    let profile = profile(Semantics::Envoy, preset::bare());
    let order = |turned| match &plan(&profile, &host, None, turned).to {
        Destinations::One(destination) => destination.treatment.request_headers.clone(),
        to => panic!("to one cluster: {to:?}"),
    };
    assert_eq!(order(false), [change("route"), change("host")]);
    assert_eq!(order(true), [change("host"), change("route")]);
}
