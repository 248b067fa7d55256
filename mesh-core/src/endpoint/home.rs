//! The cluster as its endpoints see it: clock, limits, how answers are judged, and the bells that wake who waits.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
};

use tokio::{sync::Notify, time::Instant};

use super::{EndpointId, Measure};
use crate::{
    config::{LoadBalancing, OutlierDetection},
    limit::Limits,
};

/// What all endpoints of a cluster share.
///
/// A guard outlives the call that picked, and may outlive the cluster: it finds this through its endpoint.
#[derive(Debug)]
pub(crate) struct Home {
    /// Milliseconds are counted from here.
    epoch: Instant,
    measure: AtomicU8,
    /// How fast a cost fades: an `f32`, per millisecond.
    rate: AtomicU32,
    /// The latency that a new endpoint is taken to have: an `f32`, in milliseconds.
    initial: AtomicU32,
    /// Failures in a row that accuse an endpoint; zero is off.
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Whether somebody reviews ejections; nobody is accused before.
    reviewed: AtomicBool,
    accusations: Mutex<Vec<Accusation>>,
    /// What the cluster has under way and may have.
    pub(crate) limits: Arc<Limits>,
    /// Rung for the cluster's work.
    pub(crate) bell: Notify,
    /// Rung for those who wait for an endpoint.
    pub(crate) news: Arc<Notify>,
}

/// An endpoint has failed too often in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accusation {
    pub(crate) endpoint: EndpointId,
    pub(crate) detector: Detector,
    pub(crate) at: Instant,
}

/// What an endpoint is accused of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detector {
    /// Server errors in a row (`consecutive_5xx`).
    ConsecutiveErrors,
    /// 502, 503 and 504 in a row (`consecutive_gateway_failure`).
    ConsecutiveGatewayErrors,
}

impl Home {
    pub(crate) fn new(epoch: Instant, limits: Arc<Limits>) -> Self {
        Self {
            epoch,
            measure: AtomicU8::new(Measure::Nothing as u8),
            rate: AtomicU32::new(0),
            initial: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            reviewed: AtomicBool::new(false),
            accusations: Mutex::default(),
            limits,
            bell: Notify::new(),
            news: Arc::default(),
        }
    }

    /// Milliseconds since the epoch.
    #[inline]
    pub(crate) fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        since.as_secs() * 1_000 + u64::from(since.subsec_millis())
    }

    /// The moment that is `millis` after the epoch.
    pub(crate) fn moment(&self, millis: u64) -> Instant {
        self.epoch + std::time::Duration::from_millis(millis)
    }

    /// Judges by these policies from now on. Says whether costs measure something else than before.
    pub(crate) fn judge_by(&self, balancing: LoadBalancing, outlier: Option<&OutlierDetection>) -> bool {
        let (measure, rate) = Measure::of(balancing);
        self.rate.store(rate.to_bits(), Relaxed);
        if let LoadBalancing::PeakEwma { initial, .. } = balancing {
            self.initial.store((initial.as_secs_f32() * 1_000.0).to_bits(), Relaxed);
        }
        self.errors.store(outlier.map_or(0, |policy| policy.consecutive_errors), Relaxed);
        self.gateway_errors.store(outlier.map_or(0, |policy| policy.consecutive_gateway_errors), Relaxed);
        self.measure.swap(measure as u8, Relaxed) != measure as u8
    }

    #[inline]
    pub(crate) fn measure(&self) -> Measure {
        Measure::from_u8(self.measure.load(Relaxed))
    }

    #[inline]
    pub(crate) fn rate(&self) -> f32 {
        f32::from_bits(self.rate.load(Relaxed))
    }

    /// The latency that a new endpoint is taken to have, where latency is what counts.
    pub(crate) fn initial(&self) -> Option<f32> {
        (self.measure() == Measure::Latency).then(|| f32::from_bits(self.initial.load(Relaxed)))
    }

    /// The thresholds for failures in a row: any, the gateway's.
    pub(crate) fn thresholds(&self) -> (u32, u32) {
        (self.errors.load(Relaxed), self.gateway_errors.load(Relaxed))
    }

    pub(crate) fn set_reviewed(&self, reviewed: bool) {
        self.reviewed.store(reviewed, Relaxed);
    }

    /// Hands an accusation to the cluster's writer. Nobody is accused where nobody would end an ejection.
    pub(crate) fn accuse(&self, accusation: Accusation) {
        if self.reviewed.load(Relaxed) {
            self.accusations.lock().unwrap_or_else(PoisonError::into_inner).push(accusation);
            self.bell.notify_one();
        }
    }

    pub(crate) fn take_accusations(&self) -> Vec<Accusation> {
        std::mem::take(&mut *self.accusations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Measure ===

impl Measure {
    /// How long a penalty is remembered.
    const PENALTY_DECAY_MILLIS: f32 = 10_000.0;

    /// What a policy looks at, and how fast that fades, per millisecond.
    pub(crate) fn of(balancing: LoadBalancing) -> (Self, f32) {
        match balancing {
            LoadBalancing::RoundRobin | LoadBalancing::Random => (Self::Nothing, 0.0),
            LoadBalancing::LeastRequest { .. } => (Self::Penalty, 1.0 / Self::PENALTY_DECAY_MILLIS),
            LoadBalancing::PeakEwma { decay, .. } => (Self::Latency, 1.0 / (decay.as_secs_f32() * 1_000.0)),
        }
    }

    const fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Latency,
            2 => Self::Penalty,
            _ => Self::Nothing,
        }
    }
}
