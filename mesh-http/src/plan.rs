//! Routes made ready for requests: whatever can be decided before a request is there is decided here, once per update.
//!
//! A plan holds the effective policy of its route (pin, control plane, code and preset laid over each other, Envoy's or
//! gRPC's rules applied), the handles of its clusters, and the header changes of all levels in the order in which they apply.
//! A request keeps the `Arc` of its plan for its whole life: route and policy are one version.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use http::{HeaderName, StatusCode};
use mesh_core::config::{
    Action, ClusterChoice, ClusterPolicy, DirectResponse, FaultInjection, FilterKind, Forward, HeaderMutations,
    HostRewrite, Listener, PathMatch, PathRewrite, Policy, Redirect, RequestPriority, RetryPolicy, Route, RoutePolicy,
    Semantics, TimeLimit, Timeouts, VirtualHost, WeightedCluster, WeightedClusters,
};

/// What a client's builder fixed: whose rules count, and what code says above and below the control plane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) semantics: Semantics,
    /// What nothing overrides.
    pub(crate) pins: Policy,
    /// What counts where the control plane is silent.
    pub(crate) code: Policy,
    /// What counts where everything else is silent.
    pub(crate) preset: Policy,
}

/// A route, ready for requests to clusters of type `C`.
#[derive(Debug)]
pub(crate) struct Plan<C> {
    pub(crate) route: Arc<Route>,
    pub(crate) step: Step<C>,
    /// Changes to responses that do not come from a cluster entry, most specific first unless turned round.
    pub(crate) response_headers: Vec<HeaderMutations>,
}

/// What happens to a request of the route.
#[derive(Debug)]
pub(crate) enum Step<C> {
    Forward(Box<ForwardPlan<C>>),
    Redirect(Redirect),
    Respond(DirectResponse),
    /// The action is one that this side of the mesh does not have.
    Refuse(Arc<str>),
}

/// How a request goes to a cluster.
#[derive(Debug)]
pub(crate) struct ForwardPlan<C> {
    pub(crate) targets: Targets<C>,
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
pub(crate) enum Targets<C> {
    One(Target<C>),
    Weighted { shares: WeightedClusters, targets: Vec<Target<C>> },
    Header(HeaderName),
}

/// One cluster of a route, and what holds for requests that go there.
#[derive(Debug)]
pub(crate) struct Target<C> {
    pub(crate) name: Arc<str>,
    /// None when the source knows no such cluster.
    pub(crate) cluster: Option<C>,
    /// In the order in which they apply.
    pub(crate) request_headers: Vec<HeaderMutations>,
    pub(crate) response_headers: Vec<HeaderMutations>,
    pub(crate) faults: Vec<Fault>,
}

/// A fault that requests of a target may meet, and how many meet it now.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) says: Arc<FaultInjection>,
    pub(crate) active: Arc<AtomicU32>,
}

/// The time limits that hold for a request, off where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// The whole request; what the caller asks for is taken into account at the call.
    pub(crate) overall: Option<Duration>,
    pub(crate) per_try: Option<Duration>,
    pub(crate) per_try_idle: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) caller: CallerLimit,
}

/// What becomes of a limit that the caller wrote into the request (`grpc-timeout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CallerLimit {
    /// It counts beside the route's own; the nearer one wins.
    #[default]
    Beside,
    /// It replaces the route's own, up to a maximum, less an offset.
    Replaces { max: Option<Duration>, offset: Duration },
}

// === impl Profile ===

impl Profile {
    /// The policy that holds where the control plane says `said`.
    pub(crate) fn route_policy(&self, said: &RoutePolicy) -> RoutePolicy {
        let said = self.readable(said);
        self.pins.route.or(&said).or(&self.code.route).or(&self.preset.route)
    }

    /// The policy of a cluster of which the control plane says `said`.
    pub(crate) fn cluster_policy(&self, said: &ClusterPolicy) -> ClusterPolicy {
        self.pins.cluster.or(said).or(&self.code.cluster).or(&self.preset.cluster)
    }

    /// What of `said` this kind of client reads: gRPC does not know route timeouts (gRFC A31).
    fn readable(&self, said: &RoutePolicy) -> RoutePolicy {
        let mut said = said.clone();
        if self.semantics == Semantics::Grpc {
            said.timeouts.request = None;
            said.timeouts.idle = None;
        }
        said
    }
}

// === impl Plan ===

impl<C> Plan<C> {
    /// Prepares `route` of `host`; `find` gives the clusters that exist.
    pub(crate) fn new(
        profile: &Profile,
        listener: &Listener,
        host: &VirtualHost,
        route: &Arc<Route>,
        find: &mut dyn FnMut(&Arc<str>) -> Option<C>,
    ) -> Self {
        let prepare = Prepare { profile, listener, host, route };
        let step = match &route.action {
            Action::Forward(forward) => Step::Forward(Box::new(prepare.forward(forward, find))),
            Action::Redirect(redirect) => Step::Redirect(redirect.clone()),
            Action::Respond(response) => Step::Respond(response.clone()),
            Action::PassOn => Step::Refuse("a non-forwarding action leads nowhere on the way out".into()),
            Action::Unsupported(what) => Step::Refuse(what.clone()),
        };
        Self { route: route.clone(), step, response_headers: prepare.response_headers(None) }
    }

    pub(crate) fn path_match(&self) -> &PathMatch {
        &self.route.matches.path
    }
}

/// What a route is prepared from.
struct Prepare<'a> {
    profile: &'a Profile,
    listener: &'a Listener,
    host: &'a VirtualHost,
    route: &'a Route,
}

// === impl Prepare ===

impl Prepare<'_> {
    fn forward<C>(&self, forward: &Forward, find: &mut dyn FnMut(&Arc<str>) -> Option<C>) -> ForwardPlan<C> {
        let mut said = forward.policy.clone();
        let mut listener = self.listener.policy.clone();
        // A route's stream duration replaces its timeout, and the listener's stream duration, which otherwise caps it.
        let cap = listener.timeouts.max_stream_duration.take();
        let cap = match said.timeouts.max_stream_duration {
            Some(_) => {
                said.timeouts.request = None;
                None
            }
            None => cap.and_then(TimeLimit::duration),
        };
        let policy = self.profile.route_policy(&said.or(&self.host.policy).or(&listener));
        ForwardPlan {
            targets: self.targets(&forward.to, find),
            limits: TimeLimits::from(&policy.timeouts).capped(cap),
            retry: policy.retry.filter(|retry| retry.retries() > 0),
            priority: forward.priority,
            path_rewrite: forward.path_rewrite.clone(),
            host_rewrite: forward.host_rewrite.clone(),
            cluster_not_found: forward.cluster_not_found,
            announce_attempt: self.host.announce_attempt,
        }
    }

    fn targets<C>(&self, choice: &ClusterChoice, find: &mut dyn FnMut(&Arc<str>) -> Option<C>) -> Targets<C> {
        match choice {
            ClusterChoice::One(name) => Targets::One(self.target(name, None, find)),
            ClusterChoice::Weighted(shares) => Targets::Weighted {
                targets: shares.entries().iter().map(|entry| self.target(&entry.cluster, Some(entry), find)).collect(),
                shares: shares.clone(),
            },
            ClusterChoice::Header(name) => Targets::Header(name.clone()),
        }
    }

    fn target<C>(
        &self,
        name: &Arc<str>,
        entry: Option<&WeightedCluster>,
        find: &mut dyn FnMut(&Arc<str>) -> Option<C>,
    ) -> Target<C> {
        Target {
            name: name.clone(),
            cluster: find(name),
            request_headers: self.request_headers(entry),
            response_headers: self.response_headers(entry),
            faults: self.faults(name, entry),
        }
    }

    fn request_headers(&self, entry: Option<&WeightedCluster>) -> Vec<HeaderMutations> {
        let routes = &self.listener.routes;
        self.ordered([
            entry.map(|entry| &entry.request_headers),
            Some(&self.route.request_headers),
            Some(&self.host.request_headers),
            Some(&routes.request_headers),
        ])
    }

    fn response_headers(&self, entry: Option<&WeightedCluster>) -> Vec<HeaderMutations> {
        let routes = &self.listener.routes;
        self.ordered([
            entry.map(|entry| &entry.response_headers),
            Some(&self.route.response_headers),
            Some(&self.host.response_headers),
            Some(&routes.response_headers),
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
    fn faults(&self, cluster: &Arc<str>, entry: Option<&WeightedCluster>) -> Vec<Fault> {
        let override_ =
            entry.and_then(|entry| entry.faults.as_ref()).or(self.route.faults.as_ref()).or(self.host.faults.as_ref());
        let filters = self.listener.filters.iter().map(|filter| match &filter.kind {
            FilterKind::Faults(faults) => override_.unwrap_or(faults),
        });
        filters
            .filter(|faults| faults.delay.is_some() || faults.abort.is_some())
            .filter(|faults| faults.cluster.as_ref().is_none_or(|only| only == cluster))
            .map(|faults| Fault { says: faults.clone(), active: Arc::default() })
            .collect()
    }
}

// === impl TimeLimits ===

impl From<&Timeouts> for TimeLimits {
    fn from(timeouts: &Timeouts) -> Self {
        let limit = |limit: Option<TimeLimit>| limit.and_then(TimeLimit::duration);
        // Both are set only where different sources set them; then both hold.
        let overall = nearer(limit(timeouts.request), limit(timeouts.max_stream_duration));
        let caller = match timeouts.grpc_timeout_max {
            Some(max) => {
                CallerLimit::Replaces { max: max.duration(), offset: timeouts.grpc_timeout_offset.unwrap_or_default() }
            }
            None => CallerLimit::Beside,
        };
        Self {
            overall,
            per_try: limit(timeouts.per_try),
            per_try_idle: limit(timeouts.per_try_idle),
            idle: limit(timeouts.idle),
            caller,
        }
    }
}

impl TimeLimits {
    fn capped(self, cap: Option<Duration>) -> Self {
        Self { overall: nearer(self.overall, cap), ..self }
    }

    /// The overall limit of a request whose caller asked for `asked`.
    pub(crate) fn overall(&self, asked: Option<Duration>) -> Option<Duration> {
        match (self.caller, asked) {
            (CallerLimit::Replaces { max, offset }, Some(asked)) => {
                Some(max.map_or(asked, |max| asked.min(max)).saturating_sub(offset))
            }
            (CallerLimit::Replaces { .. }, None) => self.overall,
            (CallerLimit::Beside, asked) => nearer(self.overall, asked),
        }
    }
}

fn nearer(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (limit, None) | (None, limit) => limit,
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::config::{HeaderAppend, HeaderTemplate, RouteConfig, RouteMatch, preset};

    use super::*;

    fn seconds(seconds: u64) -> Option<TimeLimit> {
        TimeLimit::after(Duration::from_secs(seconds)).ok()
    }

    fn profile(semantics: Semantics) -> Profile {
        Profile { semantics, pins: Policy::default(), code: Policy::default(), preset: preset::service() }
    }

    fn said(timeouts: Timeouts) -> RoutePolicy {
        RoutePolicy { timeouts, retry: None }
    }

    #[test]
    fn pin_beats_control_plane_beats_code_beats_preset() {
        let mut profile = profile(Semantics::Envoy);
        let request = |seconds_| Timeouts { request: seconds(seconds_), ..Timeouts::default() };
        let overall = |profile: &Profile, said_: Timeouts| {
            TimeLimits::from(&profile.route_policy(&said(said_)).timeouts).overall.map(|limit| limit.as_secs())
        };
        assert_eq!(overall(&profile, Timeouts::default()), Some(15));
        profile.code.route.timeouts = request(3);
        assert_eq!(overall(&profile, Timeouts::default()), Some(3));
        assert_eq!(overall(&profile, request(2)), Some(2));
        profile.pins.route.timeouts = request(1);
        assert_eq!(overall(&profile, request(2)), Some(1));
    }

    #[test]
    fn grpc_reads_stream_durations_and_not_route_timeouts() {
        let timeouts = Timeouts { request: seconds(1), max_stream_duration: seconds(9), ..Timeouts::default() };
        let limits = |semantics| TimeLimits::from(&profile(semantics).route_policy(&said(timeouts)).timeouts);
        assert_eq!(limits(Semantics::Grpc).overall, Some(Duration::from_secs(9)));
    }

    #[test]
    fn header_maximum_caps_what_the_caller_asks_less_the_offset() {
        let timeouts = Timeouts {
            grpc_timeout_max: seconds(5),
            grpc_timeout_offset: Some(Duration::from_secs(1)),
            ..Timeouts::default()
        };
        let limits = TimeLimits::from(&timeouts);
        assert_eq!(limits.overall(Some(Duration::from_secs(60))), Some(Duration::from_secs(4)));
        assert_eq!(limits.overall(None), None);
    }

    #[test]
    fn nearer_of_own_and_callers_limit_wins() {
        let limits = TimeLimits::from(&Timeouts { request: seconds(5), ..Timeouts::default() });
        assert_eq!(limits.overall(Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
        assert_eq!(limits.overall(Some(Duration::from_secs(9))), Some(Duration::from_secs(5)));
    }

    #[test]
    fn least_specific_header_change_comes_last_unless_turned_round() {
        let change = |value: &str| {
            let template = HeaderTemplate::new(value).expect("legal");
            HeaderMutations::new()
                .set(HeaderName::from_static("x-level"), template, HeaderAppend::Overwrite)
                .expect("legal")
        };
        let mut route = Route::new(RouteMatch::any(), Action::Forward(Forward::to(ClusterChoice::One("c".into()))));
        route.request_headers = change("route");
        let route = Arc::new(route);
        let mut host = VirtualHost::new("h", vec![mesh_core::config::Domain::Any], vec![route.clone()]).expect("legal");
        host.request_headers = change("host");
        let order = |turned: bool| {
            let mut routes = RouteConfig::new("r", vec![host.clone()]).expect("legal");
            routes.most_specific_mutations_win = turned;
            let listener = Listener::new("l", Arc::new(routes));
            let plan = Plan::new(&profile(Semantics::Envoy), &listener, &host, &route, &mut |_| Some(()));
            let Step::Forward(forward) = plan.step else { panic!("it forwards") };
            let Targets::One(target) = forward.targets else { panic!("to one cluster") };
            target.request_headers
        };
        assert_eq!(order(false), [change("route"), change("host")]);
        assert_eq!(order(true), [change("host"), change("route")]);
    }
}
