//! Faults on purpose: which of them a request meets, and the answer of an abort (`envoy.extensions.filters.http.fault.v3.HTTPFault`, gRFC A33).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::Response;
use mesh_core::{Dice, RequestHead, config::AbortStatus};

use crate::{body::Body, plan::Fault, protocol::Protocol};

/// The faults that a request meets: first the wait, then the answer.
#[derive(Debug, Default)]
pub(crate) struct InjectedFaults {
    pub(crate) delay: Option<Duration>,
    pub(crate) abort: Option<AbortStatus>,
    /// Kept until the fault is over, for those that limit how many are active.
    _active: Vec<Active>,
}

/// One active fault.
#[derive(Debug)]
struct Active(Arc<AtomicU32>);

// === impl InjectedFaults ===

impl InjectedFaults {
    /// Draws for every fault that is meant for requests to `cluster`; delays add up, the first abort counts.
    pub(crate) fn draw(faults: &[Fault], cluster: &str, head: &RequestHead<'_>, dice: &mut Dice) -> Self {
        let mut met = Self::default();
        for Fault { says, active } in faults {
            let is_meant = says.cluster.as_ref().is_none_or(|only| **only == *cluster);
            if !is_meant || !says.headers.iter().all(|matcher| matcher.matches(head)) {
                continue;
            }
            // Both are drawn for, so that one does not move the other's dice.
            let (delay_roll, abort_roll) = (dice.roll(), dice.roll());
            let delay = says.delay.filter(|delay| delay.share.contains(delay_roll));
            let abort = says.abort.filter(|abort| abort.share.contains(abort_roll));
            if delay.is_none() && abort.is_none() {
                continue;
            }
            let Some(guard) = Active::enter(active, says.max_active) else {
                continue;
            };
            met._active.push(guard);
            if let Some(delay) = delay {
                met.delay = Some(met.delay.unwrap_or_default() + delay.duration);
            }
            met.abort = met.abort.or(abort.map(|abort| abort.with));
        }
        met
    }

    /// Whether the request meets none.
    pub(crate) fn is_none(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

// === impl Active ===

impl Active {
    fn enter(active: &Arc<AtomicU32>, limit: Option<u32>) -> Option<Self> {
        let limit = limit.unwrap_or(u32::MAX);
        active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < limit).then_some(now + 1))
            .ok()
            .map(|_| Self(active.clone()))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer to a request whose fault is an abort; Envoy's text.
pub(crate) fn aborted<P: Protocol>(with: AbortStatus) -> Response<Body<P>> {
    let body = if P::ABORT_HAS_TEXT { Body::from("fault filter abort") } else { Body::empty() };
    P::abort(with).map(|()| body)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use mesh_core::config::{FaultAbort, FaultDelay, FaultInjection, Fraction, HeaderMatcher, StringMatcher};

    use super::*;

    fn fault(says: FaultInjection) -> Vec<Fault> {
        vec![Fault { says: Arc::new(says), active: Arc::default() }]
    }

    fn share(percent: u32) -> Fraction {
        Fraction::new(percent, 100).expect("hundredths")
    }

    fn abort(percent: u32) -> Option<FaultAbort> {
        FaultAbort::new(AbortStatus::Http(StatusCode::SERVICE_UNAVAILABLE), share(percent)).ok()
    }

    fn draws(faults: &[Fault], times: u64) -> Vec<InjectedFaults> {
        let request = http::Request::get("/").header("x-user", "me").body(()).expect("legal");
        let head = RequestHead::of(&request);
        (0..times).map(|call| InjectedFaults::draw(faults, "c", &head, &mut Dice::of_call(1, 1, call))).collect()
    }

    #[test]
    fn its_share_of_requests_meets_a_fault() {
        let faults = fault(FaultInjection { abort: abort(25), ..FaultInjection::default() });
        let met = draws(&faults, 4_000).iter().filter(|met| met.abort.is_some()).count();
        assert!((850..1_150).contains(&met), "{met} of 4000");
    }

    #[test]
    fn no_more_than_the_limit_are_active_at_a_time() {
        let faults = fault(FaultInjection { abort: abort(100), max_active: Some(2), ..FaultInjection::default() });
        assert_eq!(draws(&faults, 5).iter().filter(|met| met.abort.is_some()).count(), 2);
        assert_eq!(faults[0].active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_requests_to_its_cluster_meet_it() {
        let to = |cluster: &str| {
            fault(FaultInjection { abort: abort(100), cluster: Some(cluster.into()), ..FaultInjection::default() })
        };
        assert!(!draws(&to("c"), 1)[0].is_none());
        assert!(draws(&to("d"), 1)[0].is_none());
    }

    #[test]
    fn only_requests_whose_headers_match_meet_it() {
        let matcher = HeaderMatcher::value(http::HeaderName::from_static("x-user"), StringMatcher::exact("you"));
        let delay = Some(FaultDelay { duration: Duration::from_secs(1), share: share(100) });
        let faults = fault(FaultInjection { delay, headers: vec![matcher], ..FaultInjection::default() });
        assert!(draws(&faults, 1)[0].is_none());
    }
}
