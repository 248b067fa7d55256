//! An endpoint that was picked, and the guard that learns what became of the request.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    config::RequestPriority,
    endpoint::{Accusation, Detector, Endpoint, EndpointId, Home, Live},
    hold::{Settle, cause_at},
    limit::Resource,
    outcome::{Class, FailureKind, Outcome},
};

/// An endpoint that was picked for a request; a request in flight there until this is dropped.
///
/// Settle it with the request's outcome, by hand or by a [`Hold`](crate::hold::Hold). Dropped unsettled, it takes it that
/// the caller went away: no failure is counted, and the time that has passed can only raise what the endpoint's latency is
/// taken to be. Dropped by [`give_up`](crate::hold::give_up), as when the time of its attempt was up, the endpoint has failed.
pub struct Picked<H> {
    /// The reference is the request in flight.
    endpoint: Arc<Endpoint<H>>,
    start: Instant,
    /// The priority at which it counts against the cluster's request breaker, if it does.
    counted: Option<RequestPriority>,
    is_settled: bool,
}

impl<H> Picked<H> {
    #[inline]
    pub(crate) fn new(endpoint: Arc<Endpoint<H>>, start: Instant, counted: Option<RequestPriority>) -> Self {
        Self { endpoint, start, counted, is_settled: false }
    }

    /// Counts against the request breaker no longer: that is for whoever takes this.
    pub(crate) fn take_counted(&mut self) -> Option<RequestPriority> {
        self.counted.take()
    }

    /// Counts against the request breaker in place of `other`.
    pub(crate) fn count_as(&mut self, other: &mut Self) {
        self.counted = other.take_counted();
    }

    /// The endpoint's number.
    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// What the transport keeps for the endpoint.
    pub fn handle(&self) -> &H {
        self.endpoint.handle().expect("an endpoint is opened when it is picked")
    }

    /// A response has begun, so there is a connection; the end of a response says so too, but may be far away.
    #[inline]
    pub fn reached(&self) {
        if self.endpoint.live().mark_reachable() {
            self.home().news.notify_waiters();
        }
    }

    fn home(&self) -> &Arc<Home> {
        self.endpoint.home().expect("an endpoint is opened when it is picked")
    }

    fn latency(&self, at: Instant) -> f32 {
        at.saturating_duration_since(self.start).as_secs_f32() * 1_000.0
    }

    // Out of line, so that what settles an answer without news needs few registers.
    #[inline(never)]
    fn answered(&self, at: Instant) {
        let (home, live) = (self.home(), self.endpoint.live());
        live.reset_failures();
        let measure = home.measure();
        // Reckoning with time is not for nothing, so it is left out where nobody looks at the result.
        if live.learns_from_success(measure) {
            live.answered(measure, self.latency(at), home.millis(at), home.rate());
        }
        self.reached();
    }

    fn failed(&self, outcome: &Outcome) {
        let (home, live) = (self.home(), self.endpoint.live());
        let now = home.millis(outcome.at);
        live.failed(home.measure(), self.latency(outcome.at), now, home.rate());
        self.count_failure(live, home, outcome);
        self.note_reach(outcome);
    }

    /// Counts a failure, and accuses the endpoint when the row is long enough.
    fn count_failure(&self, live: &Live, home: &Home, outcome: &Outcome) {
        let (errors, gateway) = home.thresholds();
        if errors == 0 && gateway == 0 {
            return;
        }
        let streak = live.count_failure(outcome.class == Class::GatewayError);
        let by_errors = errors > 0 && streak.errors >= errors;
        let by_gateway = gateway > 0 && streak.gateway >= gateway;
        if !by_errors && !by_gateway {
            return;
        }
        live.restart_streak(by_errors, by_gateway);
        let accuse = |detector| home.accuse(Accusation { endpoint: self.id(), detector, at: outcome.at });
        if by_errors {
            accuse(Detector::ConsecutiveErrors);
        }
        if by_gateway {
            accuse(Detector::ConsecutiveGatewayErrors);
        }
    }

    fn abandoned(&self, at: Instant) {
        let (home, live) = (self.home(), self.endpoint.live());
        live.abandoned(home.measure(), self.latency(at), home.millis(at), home.rate());
    }

    /// There was no good answer.
    #[cold]
    fn missed(&self, outcome: &Outcome) {
        match outcome.class {
            Class::ServerError | Class::GatewayError => self.failed(outcome),
            Class::Cancelled => self.abandoned(outcome.at),
            Class::Success | Class::Local => {}
        }
    }

    /// Whether a good answer changes nothing of what is known, as most do not where nobody looks at latencies.
    #[inline]
    fn is_no_news(&self) -> bool {
        let live = self.endpoint.live();
        live.is_spotless() && !live.learns_from_success(self.home().measure())
    }

    /// Whether a connection was made says more than the class: an error status came over one too.
    fn note_reach(&self, outcome: &Outcome) {
        match outcome.failure.map(|failure| failure.kind) {
            None | Some(FailureKind::Reset | FailureKind::Refused | FailureKind::Protocol) => self.reached(),
            Some(FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls) => {
                let now = self.home().millis(outcome.at);
                self.endpoint.live().mark_unreachable(self.id().get(), now);
            }
            Some(_) => {}
        }
    }
}

impl<H> Picked<H> {
    /// It is dropped, and nobody has said how it ended.
    #[cold]
    fn unsettled(&self) {
        let now = Instant::now();
        let outcome = cause_at(self.id()).map_or(Outcome::cancelled(now), |cause| Outcome::failed(cause, now));
        self.missed(&outcome);
    }
}

impl<H: Send + Sync + 'static> Settle for Picked<H> {
    #[inline]
    fn settle(&mut self, outcome: &Outcome) {
        self.is_settled = true;
        match outcome.class {
            Class::Success if self.is_no_news() => {}
            Class::Success => self.answered(outcome.at),
            _ => self.missed(outcome),
        }
    }
}

impl<H> Drop for Picked<H> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.unsettled();
        }
        if let Some(priority) = self.counted {
            self.home().limits.leave(Resource::Requests, priority);
        }
    }
}

impl<H> fmt::Debug for Picked<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age: Duration = self.start.elapsed();
        f.debug_struct("Picked").field("endpoint", &self.id()).field("age", &age).finish_non_exhaustive()
    }
}
