//! Makes plans: of each route, what its host, its listener, code and preset come to.

use std::sync::{Arc, atomic::AtomicU32};

use mesh_core::{
    config::{
        Action, ClusterChoice, FaultInjection, FilterKind, Forward, HeaderMutations, Listener, Route, RoutePolicy,
        Semantics, TimeLimit, Timeouts, VirtualHost, WeightedCluster,
    },
    deadline::Bound,
};

use super::{Destination, Destinations, Fault, ForwardPlan, Limit, Plan, Profile, Step, TimeLimits, Treatment};
use crate::cluster::Found;

/// What the plans of a target are made from.
pub(crate) struct Planner<'a> {
    profile: &'a Profile,
    listener: &'a Listener,
    /// Each fault filter, and how many requests meet its faults.
    filters: Vec<(&'a Arc<FaultInjection>, Arc<AtomicU32>)>,
    /// The clusters that exist.
    find: &'a (dyn Fn(&str) -> Found + Sync),
}

/// A route that is planned, with its host.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: &'a VirtualHost,
    route: &'a Route,
}

// === impl Planner ===

impl<'a> Planner<'a> {
    /// A planner of the routes of `listener`; `active` gives the counter of a filter, `find` a cluster.
    pub(crate) fn new(
        profile: &'a Profile,
        listener: &'a Listener,
        mut active: impl FnMut(&Arc<str>) -> Arc<AtomicU32>,
        find: &'a (dyn Fn(&str) -> Found + Sync),
    ) -> Self {
        let filters = listener.filters.iter().map(|filter| match &filter.kind {
            FilterKind::Faults(faults) => (faults, active(&filter.name)),
        });
        Self { profile, listener, filters: filters.collect(), find }
    }

    /// Whether a route behind either listener has the same plan, as long as its host and its clusters are the same.
    pub(crate) fn plans_alike(a: &Listener, b: &Listener) -> bool {
        // The counters of filters go by the two names.
        a.name() == b.name()
            && a.filters == b.filters
            && a.policy == b.policy
            && a.routes.request_headers == b.routes.request_headers
            && a.routes.response_headers == b.routes.response_headers
            && a.routes.most_specific_mutations_win == b.routes.most_specific_mutations_win
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
