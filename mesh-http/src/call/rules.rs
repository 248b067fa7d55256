//! When the mesh tries again: mesh-core's rules for HTTP, and what the protocol's peers ask for.

use std::marker::PhantomData;

use http::Response;
use mesh_core::{
    outcome::Flags,
    retry::{HttpRules, Judge, Tried, Verdict, Wait},
};

use crate::protocol::{Protocol, Pushback};

/// The rules of a protocol.
#[derive(Clone)]
pub(crate) struct Rules<P>(PhantomData<fn() -> P>);

// === impl Rules ===

impl<P> Rules<P> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<B, P: Protocol> Judge<Response<B>> for Rules<P> {
    fn judge(&self, tried: Tried<'_, Response<B>>) -> Verdict {
        if let (Some(failure), Err(error)) = (tried.failure, tried.result) {
            let is_endpoints = failure.class().is_failure();
            if is_endpoints && tried.policy.conditions().intersects(P::conditions(&failure, &**error)) {
                return Verdict::Retry(Wait::Backoff);
            }
        }
        let response = tried.result.ok();
        let meets = response.map(|response| P::conditions_of_response(response.status(), response.headers()));
        let Verdict::Retry(wait) = HttpRules.judge_meeting(meets.unwrap_or_default(), tried) else {
            return Verdict::Deliver;
        };
        // Looked for only now: most answers are good.
        match response.and_then(|response| P::pushback(response.headers())) {
            Some(Pushback::Stop) => Verdict::Deliver,
            Some(Pushback::After(wait)) => Verdict::Retry(Wait::Exactly(wait)),
            None => Verdict::Retry(wait),
        }
    }

    fn note(&self, response: &mut Response<B>, flags: Flags) {
        HttpRules.note(response, flags);
    }
}
