//! The time limits of a request: what all levels come to, and what the caller's own word changes.

use std::time::Duration;

use mesh_core::{
    config::{TimeLimit, Timeouts},
    deadline::{Bound, Expiry, Silence},
};
use tokio::time::Instant;

use super::Profile;

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

// === impl TimeLimits ===

impl TimeLimits {
    /// The limits where routes say `said`, and the listener that a request may take no longer than `cap`.
    pub(super) fn new(profile: &Profile, said: &Timeouts, cap: Option<Limit>) -> Self {
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
    pub(super) fn of(bound: Bound, limit: Option<TimeLimit>) -> Option<Self> {
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
