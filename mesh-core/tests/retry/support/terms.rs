//! What a route would say of retries, and the budget that they count against.

use std::{sync::Arc, time::Duration};

use mesh_core::{
    Dice,
    carry::Fixed,
    config::{CircuitBreakers, RequestPriority, RetryPolicy, Thresholds},
    deadline::{Expiry, Silence},
    hold::AtOnce,
    limit::{Breaker, Limits},
    retry::{AttemptPolicy, HttpRules, Replay, RetryLayer, Under},
};

/// What a route would say.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) limits: Option<Arc<Limits>>,
    pub(crate) deadline: Option<Expiry>,
    pub(crate) per_try: Option<Duration>,
    pub(crate) silence: Option<Silence>,
    pub(crate) idempotent: bool,
}

impl AttemptPolicy for Terms {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.retry.as_deref()
    }

    fn dice(&self) -> Dice {
        Dice::new(1)
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.limits.clone()?, priority: RequestPriority::Default })
    }

    fn deadline(&self) -> Option<Expiry> {
        self.deadline
    }

    fn per_try(&self) -> Option<Duration> {
        self.per_try
    }

    fn silence(&self) -> Option<Silence> {
        self.silence
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    fn is_kept(&self) -> bool {
        true
    }
}

pub(crate) fn on_terms(terms: Terms) -> RetryLayer<Under<Replay, Fixed<Terms>, Terms>> {
    RetryLayer::with_parts(Under::new(Replay::new(), Fixed(terms)), HttpRules, AtOnce)
}

pub(crate) fn budget_of(retries: u32) -> Arc<Limits> {
    let thresholds = Thresholds { max_retries: Some(retries), ..Thresholds::default() };
    Limits::new(&CircuitBreakers { default: thresholds, high: thresholds })
}

pub(crate) fn retries_under_way(limits: &Limits) -> u32 {
    limits.figures(RequestPriority::Default).retries.active
}
