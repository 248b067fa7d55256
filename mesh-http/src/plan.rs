//! Routes made ready for requests: whatever can be decided before a request is there is decided here, once per update.
//!
//! A plan holds the effective policy of its route (pin, control plane, code and preset laid over each other, Envoy's or
//! gRPC's rules applied), the handles of its clusters, and the header changes of all levels in the order in which they apply.
//! A request that is forwarded keeps the `Arc` of that part of its plan for its whole life: route and policy are one version.
//!
//! gRPC's rules are rules for reading control planes. What stands in code means what its documentation says, in channels too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::AtomicU32},
    time::Duration,
};

use http::{HeaderName, StatusCode};
use mesh_core::{
    config::{
        Action, ClusterChoice, ClusterPolicy, ConfigError, DirectResponse, FaultInjection, FilterKind, Forward,
        HeaderMutations, HostRewrite, Listener, PathMatch, PathRewrite, Policy, Redirect, RequestPriority, RetryPolicy,
        Route, RoutePolicy, Semantics, TimeLimit, Timeouts, VirtualHost, WeightedCluster, WeightedClusters,
    },
    deadline::{Bound, Expiry, Silence},
};
use tokio::time::Instant;

use crate::cluster::Cluster;

/// What a client's builder fixed: whose rules count, and what code says above and below the control plane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    /// Of the kind of client.
    pub(crate) semantics: Semantics,
    /// Whose rules count for what is said of routes and clusters: Envoy's for code, else those of the source of the mesh, or
    /// of the kind of client where it has none of its own.
    pub(crate) rules: Semantics,
    /// What nothing overrides.
    pub(crate) pins: Policy,
    /// What counts where the control plane is silent.
    pub(crate) code: Policy,
    /// What counts where everything else is silent.
    pub(crate) preset: Policy,
}

/// A route, ready for requests.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    pub(crate) step: Step,
    /// Changes to responses that do not come from a cluster, most specific first unless turned round.
    pub(crate) response_headers: Vec<HeaderMutations>,
}

/// What happens to a request of the route.
#[derive(Debug)]
pub(crate) enum Step {
    Forward(Arc<ForwardPlan>),
    Redirect(Redirect),
    Respond(DirectResponse),
    /// The action is one that this side of the mesh, or this kind of client, does not have.
    Refuse(Arc<str>),
}

/// How a request goes to a cluster.
#[derive(Debug)]
pub(crate) struct ForwardPlan {
    pub(crate) to: Destinations,
    pub(crate) limits: TimeLimits,
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) priority: RequestPriority,
    pub(crate) path_rewrite: Option<PathRewrite>,
    pub(crate) host_rewrite: Option<HostRewrite>,
    pub(crate) cluster_not_found: StatusCode,
    pub(crate) announce_attempt: bool,
}

/// The clusters of a route.
#[derive(Debug)]
pub(crate) enum Destinations {
    One(Destination),
    Weighted {
        shares: WeightedClusters,
        each: Vec<Destination>,
    },
    /// The one that the request names in this header.
    Named {
        by: HeaderName,
        treatment: Treatment,
    },
}

/// One cluster of a route.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) name: Arc<str>,
    /// None when the source knows no such cluster.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) treatment: Treatment,
}

/// What holds for requests that go to a cluster by a route. Changes stand in the order in which they apply.
#[derive(Debug)]
pub(crate) struct Treatment {
    pub(crate) request_headers: Vec<HeaderMutations>,
    pub(crate) response_headers: Vec<HeaderMutations>,
    pub(crate) faults: Vec<Fault>,
}

/// A fault that requests may meet, and how many meet those of its filter now.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) says: Arc<FaultInjection>,
    pub(crate) active: Arc<AtomicU32>,
}

/// How many requests meet the faults of each filter: by whose targets they are, the listener's name and the filter's. An
/// update of either goes on counting.
#[derive(Debug, Default)]
pub(crate) struct ActiveFaults(BTreeMap<(u64, Arc<str>, Arc<str>), Weak<AtomicU32>>);

/// The time limits that hold for a request, off where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// The whole request; what the caller asks for is taken into account at the call.
    overall: Option<Limit>,
    /// What of that stands in code, and no header of the caller's may replace.
    firm: Option<Limit>,
    caller: CallerLimit,
    pub(crate) per_try: Option<Duration>,
    pub(crate) silence: Option<Silence>,
}

/// A limit to the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bound: Bound,
    pub(crate) after: Duration,
}

/// What becomes of a limit that the caller wrote into the request (`grpc-timeout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CallerLimit {
    /// It counts beside the route's own; the nearer one wins.
    #[default]
    Beside,
    /// It replaces the route's own, up to a maximum, less an offset.
    Replaces { max: Option<Duration>, offset: Duration },
}

/// What the plans of a target are made from.
pub(crate) struct Planner<'a> {
    profile: &'a Profile,
    listener: &'a Listener,
    /// Each fault filter, and how many requests meet its faults.
    filters: Vec<(&'a Arc<FaultInjection>, Arc<AtomicU32>)>,
    /// The clusters that exist.
    find: &'a dyn Fn(&str) -> Option<Arc<Cluster>>,
}

/// A route that is planned, with its host.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: &'a VirtualHost,
    route: &'a Route,
}

// === impl Profile ===

impl Profile {
    /// Refuses what code says of clusters and gRPC never does with those of a control plane (gRFC A27).
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.rules != Semantics::Grpc {
            return Ok(());
        }
        let refuse = |whose: &str, field: &str, value: String| {
            let remedy = "leave it unset: it is not for gRPC channels that a control plane steers";
            Err(ConfigError::new(format!("{whose}.cluster.{field}"), value, remedy))
        };
        for (whose, policy) in [("pin", &self.pins), ("policy", &self.code)] {
            match (policy.cluster.panic_threshold, policy.cluster.locality_weighted) {
                (Some(threshold), _) => return refuse(whose, "panic_threshold", threshold.value().to_string()),
                (_, Some(false)) => return refuse(whose, "locality_weighted", false.to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The policy that holds where routes say `said`.
    fn route_policy(&self, said: &RoutePolicy) -> RoutePolicy {
        self.pins.route.or(said).or(&self.code.route).or(&self.preset.route)
    }

    /// The policy of a cluster of which the control plane says `said`.
    pub(crate) fn cluster_policy(&self, said: &ClusterPolicy) -> ClusterPolicy {
        self.pins.cluster.or(said).or(&self.code.cluster).or(&self.preset.cluster)
    }
}

// === impl Plan ===

impl Plan {
    pub(crate) fn path_match(&self) -> &PathMatch {
        &self.route.matches.path
    }
}

// === impl Planner ===

impl<'a> Planner<'a> {
    /// A planner of the routes of `listener`; `active` gives the counter of a filter, `find` a cluster.
    pub(crate) fn new(
        profile: &'a Profile,
        listener: &'a Listener,
        mut active: impl FnMut(&Arc<str>) -> Arc<AtomicU32>,
        find: &'a dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Self {
        let filters = listener.filters.iter().map(|filter| match &filter.kind {
            FilterKind::Faults(faults) => (faults, active(&filter.name)),
        });
        Self { profile, listener, filters: filters.collect(), find }
    }

    /// The plan of `route`, which belongs to `host`.
    pub(crate) fn plan(&self, host: &VirtualHost, route: &Arc<Route>) -> Plan {
        let place = Place { host, route };
        Plan { route: route.clone(), step: self.step(place), response_headers: self.response_headers(place, None) }
    }

    fn step(&self, place: Place<'_>) -> Step {
        let refuse = |why: &str| Step::Refuse(why.into());
        let is_grpc = self.profile.semantics == Semantics::Grpc;
        match &place.route.action {
            // An answer that is HTTP's alone says nothing to a gRPC caller (gRFC A28).
            Action::Redirect(_) if is_grpc => refuse("the route redirects, which gRPC does not know"),
            Action::Respond(_) if is_grpc => refuse("the route answers by HTTP alone, which gRPC does not know"),
            Action::Forward(Forward { to: ClusterChoice::Header(_), .. }) if self.reads_as_grpc() => {
                refuse("the route leaves the cluster to a header, which gRPC does not know")
            }
            Action::Forward(forward) => Step::Forward(Arc::new(self.forward(place, forward))),
            Action::Redirect(redirect) => Step::Redirect(redirect.clone()),
            Action::Respond(response) => Step::Respond(response.clone()),
            Action::PassOn => refuse("a non-forwarding action leads nowhere on the way out"),
            Action::Unsupported(what) => Step::Refuse(what.clone()),
        }
    }

    fn reads_as_grpc(&self) -> bool {
        self.profile.rules == Semantics::Grpc
    }

    fn forward(&self, place: Place<'_>, forward: &Forward) -> ForwardPlan {
        let (said, cap) = if self.reads_as_grpc() {
            (self.said_to_grpc(place, &forward.policy), None)
        } else {
            self.said(place, &forward.policy)
        };
        ForwardPlan {
            to: self.destinations(place, &forward.to),
            limits: TimeLimits::new(self.profile, &said.timeouts, cap),
            retry: self.profile.route_policy(&said).retry.filter(|retry| retry.retries() > 0),
            priority: forward.priority,
            path_rewrite: forward.path_rewrite.clone(),
            host_rewrite: forward.host_rewrite.clone(),
            cluster_not_found: forward.cluster_not_found,
            announce_attempt: place.host.announce_attempt,
        }
    }

    /// What route, host and listener say, and the most that a request may take by the listener's word.
    fn said(&self, place: Place<'_>, route: &RoutePolicy) -> (RoutePolicy, Option<Limit>) {
        let mut said = route.clone();
        let mut listener = self.listener.policy.clone();
        // A route's stream duration replaces its timeout, and the listener's stream duration, which otherwise caps it.
        let cap = listener.timeouts.max_stream_duration.take();
        let cap = match said.timeouts.max_stream_duration {
            Some(_) => {
                said.timeouts.request = None;
                None
            }
            None => Limit::of(Bound::StreamDuration, cap),
        };
        (said.or(&place.host.policy).or(&listener), cap)
    }

    /// The same as gRPC reads it (gRFC A31): the maximum for `grpc-timeout`, else the duration of streams, is a deadline of
    /// the call like the caller's own; nothing else limits its time. Zero says nothing.
    fn said_to_grpc(&self, place: Place<'_>, route: &RoutePolicy) -> RoutePolicy {
        let mut said = route.or(&place.host.policy).or(&self.listener.policy);
        let Timeouts { per_try, per_try_idle, max_stream_duration, grpc_timeout_max, .. } = said.timeouts;
        let request = grpc_timeout_max.or(max_stream_duration).filter(|limit| *limit != TimeLimit::OFF);
        said.timeouts = Timeouts { request, per_try, per_try_idle, ..Timeouts::default() };
        said
    }

    fn destinations(&self, place: Place<'_>, choice: &ClusterChoice) -> Destinations {
        match choice {
            ClusterChoice::One(name) => Destinations::One(self.destination(place, name, None)),
            ClusterChoice::Weighted(shares) => Destinations::Weighted {
                each: shares
                    .entries()
                    .iter()
                    .map(|entry| self.destination(place, &entry.cluster, Some(entry)))
                    .collect(),
                shares: shares.clone(),
            },
            ClusterChoice::Header(name) => {
                Destinations::Named { by: name.clone(), treatment: self.treatment(place, None) }
            }
        }
    }

    fn destination(&self, place: Place<'_>, name: &Arc<str>, entry: Option<&WeightedCluster>) -> Destination {
        Destination { name: name.clone(), cluster: (self.find)(name), treatment: self.treatment(place, entry) }
    }

    fn treatment(&self, place: Place<'_>, entry: Option<&WeightedCluster>) -> Treatment {
        Treatment {
            request_headers: self.request_headers(place, entry),
            response_headers: self.response_headers(place, entry),
            faults: self.faults(place, entry),
        }
    }

    fn request_headers(&self, place: Place<'_>, entry: Option<&WeightedCluster>) -> Vec<HeaderMutations> {
        self.ordered([
            entry.map(|entry| &entry.request_headers),
            Some(&place.route.request_headers),
            Some(&place.host.request_headers),
            Some(&self.listener.routes.request_headers),
        ])
    }

    fn response_headers(&self, place: Place<'_>, entry: Option<&WeightedCluster>) -> Vec<HeaderMutations> {
        self.ordered([
            entry.map(|entry| &entry.response_headers),
            Some(&place.route.response_headers),
            Some(&place.host.response_headers),
            Some(&self.listener.routes.response_headers),
        ])
    }

    /// The changes of all levels, the most specific first; last, where that is to win.
    fn ordered(&self, levels: [Option<&HeaderMutations>; 4]) -> Vec<HeaderMutations> {
        let mut changes: Vec<_> = levels.into_iter().flatten().filter(|level| !level.is_empty()).cloned().collect();
        if self.listener.routes.most_specific_mutations_win {
            changes.reverse();
        }
        changes
    }

    /// The faults of every fault filter; the most specific configuration replaces the filter's own.
    fn faults(&self, place: Place<'_>, entry: Option<&WeightedCluster>) -> Vec<Fault> {
        let own = entry.and_then(|entry| entry.faults.as_ref());
        let own = own.or(place.route.faults.as_ref()).or(place.host.faults.as_ref());
        let faults = self.filters.iter().map(|(filter, active)| (own.unwrap_or(filter), active));
        faults
            .filter(|(faults, _)| faults.delay.is_some() || faults.abort.is_some())
            .map(|(faults, active)| Fault { says: faults.clone(), active: active.clone() })
            .collect()
    }
}

// === impl ActiveFaults ===

impl ActiveFaults {
    /// The counter of a filter. It lives as long as a plan or a request has it.
    pub(crate) fn of(&mut self, scope: u64, listener: &Arc<str>, filter: &Arc<str>) -> Arc<AtomicU32> {
        let key = (scope, listener.clone(), filter.clone());
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        self.0.retain(|_, counter| counter.strong_count() > 0);
        let counter = Arc::default();
        self.0.insert(key, Arc::downgrade(&counter));
        counter
    }
}

// === impl TimeLimits ===

impl TimeLimits {
    /// The limits where routes say `said`, and the listener that a request may take no longer than `cap`.
    fn new(profile: &Profile, said: &Timeouts, cap: Option<Limit>) -> Self {
        let [pins, code, preset] = [&profile.pins, &profile.code, &profile.preset].map(|policy| policy.route.timeouts);
        let own = |said: &Timeouts| pins.or(said).or(&code).or(&preset);
        let all = own(said);
        let is_silent = said.request.is_none() && said.max_stream_duration.is_none();
        let firm = if is_silent { own(&Timeouts::default()) } else { pins };
        let duration = |limit: Option<TimeLimit>| limit.and_then(TimeLimit::duration);
        let silence = |bound, limit| duration(limit).map(|limit| Silence { bound, limit });
        let per_try_idle = silence(Bound::PerTryIdle, all.per_try_idle);
        let idle = silence(Bound::Idle, all.idle);
        Self {
            overall: Limit::nearest([Limit::of_request(&all), cap]),
            firm: Limit::of_request(&firm),
            caller: CallerLimit::of(&all),
            per_try: duration(all.per_try),
            silence: per_try_idle.into_iter().chain(idle).min_by_key(|silence| silence.limit),
        }
    }

    /// The limit to a request whose caller wrote `asked` into it. With a maximum for that, it is taken for what the control
    /// plane says, and what code says holds beside it.
    pub(crate) fn overall(&self, asked: Option<Duration>) -> Option<Limit> {
        match (self.caller, asked) {
            (CallerLimit::Replaces { max, offset }, Some(asked)) => {
                let asked = max.map_or(asked, |max| asked.min(max)).saturating_sub(offset);
                Limit::nearest([self.firm, Some(Limit { bound: Bound::Request, after: asked })])
            }
            (CallerLimit::Replaces { .. }, None) => self.overall,
            (CallerLimit::Beside, asked) => {
                Limit::nearest([self.overall, asked.map(|after| Limit { bound: Bound::Request, after })])
            }
        }
    }
}

// === impl Limit ===

impl Limit {
    fn of(bound: Bound, limit: Option<TimeLimit>) -> Option<Self> {
        limit?.duration().map(|after| Self { bound, after })
    }

    /// Both are set only where different sources set them; then both hold.
    fn of_request(timeouts: &Timeouts) -> Option<Self> {
        let stream = Self::of(Bound::StreamDuration, timeouts.max_stream_duration);
        Self::nearest([Self::of(Bound::Request, timeouts.request), stream])
    }

    fn nearest<const N: usize>(limits: [Option<Self>; N]) -> Option<Self> {
        limits.into_iter().flatten().min_by_key(|limit| limit.after)
    }

    /// When it is over for a request that began at `start`.
    pub(crate) fn expiry(self, start: Instant) -> Expiry {
        Expiry::new(self.bound, start, self.after)
    }
}

// === impl CallerLimit ===

impl CallerLimit {
    fn of(timeouts: &Timeouts) -> Self {
        match timeouts.grpc_timeout_max {
            Some(max) => {
                Self::Replaces { max: max.duration(), offset: timeouts.grpc_timeout_offset.unwrap_or_default() }
            }
            None => Self::Beside,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::config::{Domain, HeaderAppend, HeaderTemplate, RouteConfig, RouteMatch, preset};

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
        let planner = Planner::new(profile, &listener, |_| Arc::default(), &|_| None);
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
        let maximum =
            |max| Timeouts { grpc_timeout_max: max, grpc_timeout_offset: Some(Duration::from_secs(1)), ..said };
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
        let off =
            Timeouts { grpc_timeout_max: Some(TimeLimit::OFF), request: Some(TimeLimit::OFF), ..Timeouts::default() };
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
        assert_eq!(
            of_listener,
            Limit::of(Bound::StreamDuration, seconds(2)),
            "the listener's caps the route's timeout"
        );
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

    #[test]
    fn counter_of_a_filter_outlives_an_update_of_its_routes() {
        let (listener, filter) = ("l".into(), "f".into());
        let mut active = ActiveFaults::default();
        let before = active.of(1, &listener, &filter);
        assert!(Arc::ptr_eq(&before, &active.of(1, &listener, &filter)));
        assert!(!Arc::ptr_eq(&before, &active.of(2, &listener, &filter)), "another's target of that name");
    }
}
