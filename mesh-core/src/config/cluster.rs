//! A cluster: where its endpoints come from and how they are treated (`envoy.config.cluster.v3.Cluster`).

use std::{sync::Arc, time::Duration};

use super::{Aggregate, ClusterPolicy, ConfigError, DnsEndpoints, Endpoints, Percent};

/// A named set of endpoints that serve the same requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How they are treated.
    pub policy: ClusterPolicy,
}

/// Where the endpoints of a cluster come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// From whoever gave the cluster, under this name, which may differ from the cluster's (EDS `service_name`).
    Endpoints(Arc<str>),
    /// By DNS (`STRICT_DNS`, `LOGICAL_DNS`).
    Dns(Arc<DnsEndpoints>),
    /// These (`STATIC`).
    Static(Arc<Endpoints>),
    /// Those of other clusters, the first of which that can take a request does
    /// (`envoy.extensions.clusters.aggregate.v3.ClusterConfig`, gRFC A37). Each request is treated as the cluster says that it
    /// goes to; of this one's policy only the limits of retries count.
    Aggregate(Arc<Aggregate>),
    /// In a way that is not honoured here, for this reason, which requests to the cluster fail with (NC). Sources that send
    /// every cluster there is send such ones too.
    Unsupported(Arc<str>),
}

/// How an endpoint is picked among those that are available.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LoadBalancing {
    /// Each in turn, as often as its weight says. Choose it when requests cost the same.
    #[default]
    RoundRobin,
    /// The one with fewer requests under way of a few drawn at random (power of two choices), weights divided by the load.
    /// Choose it when requests differ in cost.
    LeastRequest {
        /// How many are drawn (`choice_count`, default 2, at least 2). No more than
        /// [`MOST_CHOICES`](LoadBalancing::MOST_CHOICES) are, and by gRPC's rules no more than 10 (gRFC A48).
        choices: u32,
    },
    /// One at random, by weight. Choose it when many clients would otherwise move in step.
    Random,
    /// The one that promises the earlier answer of two drawn at random: a latency average that rises at once and decays
    /// slowly, times requests under way. Choose it when endpoints differ in speed.
    PeakEwma {
        /// How fast a bad moment is forgotten (time constant; default 10 s).
        decay: Duration,
        /// The latency that a new endpoint is taken to have (default 30 ms).
        initial: Duration,
    },
}

/// Which HTTP is spoken to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, by prior knowledge where there is no TLS.
    Http2,
    /// Whichever the endpoint chooses by ALPN; HTTP/1.1 where there is no TLS.
    Auto,
}

/// How much may be under way towards a cluster at a time, by request priority (`CircuitBreakers`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CircuitBreakers {
    /// For requests of default priority.
    pub default: Thresholds,
    /// For requests of high priority.
    pub high: Thresholds,
}

/// The limits of one priority; unset is Envoy's 1024 (3 for retries). Zero admits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Connections to the whole cluster.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    pub max_pending: Option<u32>,
    /// Requests under way.
    pub max_requests: Option<u32>,
    /// Retries scheduled or under way; a budget replaces it.
    pub max_retries: Option<u32>,
    /// Retries as a share of the requests under way.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries under way, as a share of requests under way (`CircuitBreakers.Thresholds.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// The share (default 20 %).
    pub percent: Percent,
    /// Retries that are always allowed, so that a quiet client can retry at all (default 3).
    pub min_concurrency: u32,
}

/// Which requests of a cluster a set of limits speaks of (`RoutingPriority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestPriority {
    /// What nobody marked.
    #[default]
    Default,
    /// Marked as more important.
    High,
}

/// When an endpoint is left out because its answers are bad (`OutlierDetection`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Server errors in a row that eject an endpoint: 5xx, gRPC statuses that mean the server failed, resets, connect
    /// failures (`consecutive_5xx`, default 5). Zero is off.
    pub consecutive_errors: u32,
    /// How many of those ejections are carried out (`enforcing_consecutive_5xx`, default 100 %).
    pub enforce_errors: Percent,
    /// 502, 503 and 504 in a row that eject (`consecutive_gateway_failure`, default 5). Zero is off.
    pub consecutive_gateway_errors: u32,
    /// How many of those are carried out (`enforcing_consecutive_gateway_failure`, default 0 %: counted only).
    pub enforce_gateway_errors: Percent,
    /// How often ejections are reviewed (`interval`, default 10 s).
    pub interval: Duration,
    /// How long the first ejection lasts; the `n`th in a row lasts `n` times as long (`base_ejection_time`, default 30 s).
    pub base_ejection: Duration,
    /// The longest ejection (`max_ejection_time`, default 300 s, at least the base).
    pub max_ejection: Duration,
    /// Added to each ejection, uniformly up to this (`max_ejection_time_jitter`, default 0).
    pub ejection_jitter: Duration,
    /// The most endpoints ejected at a time (`max_ejection_percent`, default 10 %).
    pub max_ejected: Percent,
    /// Whether one endpoint may be ejected whatever the percentage says (`always_eject_one_host`; Envoy's default is
    /// no, gRPC's rule is yes).
    pub always_eject_one: bool,
}

// === impl Cluster ===

impl Cluster {
    /// The cluster `name`, whose endpoints come from the same source under the same name.
    ///
    /// # Errors
    ///
    /// Refuses an empty name.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() {
            return Err(ConfigError::new("cluster.name", "", "name the cluster"));
        }
        Ok(Self { discovery: Discovery::Endpoints(name.clone()), name, policy: ClusterPolicy::default() })
    }

    /// The name, by which routes refer to it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name under which its endpoints are found, where they come from the same source.
    pub fn endpoints_name(&self) -> Option<&Arc<str>> {
        match &self.discovery {
            Discovery::Endpoints(name) => Some(name),
            Discovery::Dns(_) | Discovery::Static(_) | Discovery::Aggregate(_) | Discovery::Unsupported(_) => None,
        }
    }

    /// What it is made of, where that is other clusters.
    pub fn aggregate(&self) -> Option<&Arc<Aggregate>> {
        match &self.discovery {
            Discovery::Aggregate(aggregate) => Some(aggregate),
            _ => None,
        }
    }
}

// === impl LoadBalancing ===

impl LoadBalancing {
    /// The most endpoints that one pick by least requests looks at, whatever is said. Each costs a draw, and the best of 32
    /// is among the best thirtieth already.
    pub const MOST_CHOICES: u32 = 32;

    /// Least request with two choices.
    pub const LEAST_REQUEST: Self = Self::LeastRequest { choices: 2 };
    /// Peak EWMA with its usual constants.
    pub const PEAK_EWMA: Self = Self::PeakEwma { decay: Duration::from_secs(10), initial: Duration::from_millis(30) };

    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// Refuses fewer than two choices and a zero decay.
    pub fn validated(self) -> Result<Self, ConfigError> {
        match self {
            Self::LeastRequest { choices } if choices < 2 => {
                Err(ConfigError::new("least_request.choice_count", choices, "give at least 2"))
            }
            Self::PeakEwma { decay, .. } if decay.is_zero() => {
                Err(ConfigError::new("peak_ewma.decay", "0s", "give a time above zero"))
            }
            valid => Ok(valid),
        }
    }
}

// === impl CircuitBreakers ===

impl CircuitBreakers {
    /// These limits, and `lower` wherever they are silent.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        Self { default: self.default.or(&lower.default), high: self.high.or(&lower.high) }
    }

    /// The limits of a priority.
    pub fn of(&self, priority: RequestPriority) -> &Thresholds {
        match priority {
            RequestPriority::Default => &self.default,
            RequestPriority::High => &self.high,
        }
    }
}

// === impl Thresholds ===

impl Thresholds {
    /// Envoy's default of each limit but retries.
    pub const DEFAULT: u32 = 1024;
    /// Envoy's default of retries.
    pub const DEFAULT_RETRIES: u32 = 3;

    /// These limits, and `lower` wherever they are silent. A source that sets either retry limit has chosen both.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        let chose_retries = self.max_retries.is_some() || self.retry_budget.is_some();
        let retries = if chose_retries { self } else { lower };
        Self {
            max_connections: self.max_connections.or(lower.max_connections),
            max_pending: self.max_pending.or(lower.max_pending),
            max_requests: self.max_requests.or(lower.max_requests),
            max_retries: retries.max_retries,
            retry_budget: retries.retry_budget,
        }
    }
}

// === impl RetryBudget ===

impl Default for RetryBudget {
    /// 20 %, and at least 3.
    fn default() -> Self {
        Self { percent: Percent::new(20.0).expect("20 is a percentage"), min_concurrency: 3 }
    }
}

// === impl OutlierDetection ===

impl OutlierDetection {
    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// Refuses a zero interval or ejection time.
    pub fn validated(mut self) -> Result<Self, ConfigError> {
        let times = [("interval", self.interval), ("base_ejection_time", self.base_ejection)];
        for (field, time) in times {
            if time.is_zero() {
                return Err(ConfigError::new(field, "0s", "give a time above zero").within("outlier_detection"));
            }
        }
        self.max_ejection = self.max_ejection.max(self.base_ejection);
        Ok(self)
    }
}

impl Default for OutlierDetection {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            enforce_errors: Percent::ALL,
            consecutive_gateway_errors: 5,
            enforce_gateway_errors: Percent::ZERO,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            ejection_jitter: Duration::ZERO,
            max_ejected: Percent::new(10.0).expect("10 is a percentage"),
            always_eject_one: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_sets_one_retry_limit_has_chosen_both() {
        let above = Thresholds { max_retries: Some(9), ..Thresholds::default() };
        let below = Thresholds { retry_budget: Some(RetryBudget::default()), ..Thresholds::default() };
        assert_eq!(above.or(&below).retry_budget, None);
        assert_eq!(Thresholds::default().or(&below).retry_budget, Some(RetryBudget::default()));
    }
}
