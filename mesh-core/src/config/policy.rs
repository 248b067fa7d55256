//! What a team, a preset or a control plane says about how requests are treated, field by field, unset kept apart from set.
//!
//! [`RoutePolicy`] is what a route may say and [`ClusterPolicy`] what a cluster may say. The same types carry all four
//! sources, and [`or`](RoutePolicy::or) stacks them: a pin in code, then the control plane, then code, then the preset.

use std::{sync::Arc, time::Duration};

use super::{
    CircuitBreakers, ConfigError, HttpProtocol, LoadBalancing, OutlierDetection, Percent, RetryPolicy, SecurityMatch,
    TimeLimit, UpstreamTls,
};

/// Both halves of what one source says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What it says of routes.
    pub route: RoutePolicy,
    /// What it says of clusters.
    pub cluster: ClusterPolicy,
}

/// How the requests of a route are treated; every field may be unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutePolicy {
    /// Time limits.
    pub timeouts: Timeouts,
    /// When and how often a request is tried again. One policy counts, whole; policies are never merged.
    pub retry: Option<Arc<RetryPolicy>>,
}

/// Time limits of a request; `None` is unset, [`TimeLimit::OFF`] is no limit on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request to the end of its response, all attempts and back-off included (`RouteAction.timeout`). Envoy's
    /// default is 15 s; of a control plane's, gRPC ignores this field in favour of
    /// [`max_stream_duration`](Self::max_stream_duration).
    pub request: Option<TimeLimit>,
    /// From an attempt's start to its response head (`RetryPolicy.per_try_timeout`). Off by default.
    pub per_try: Option<TimeLimit>,
    /// The longest silence within an attempt, response body included (`RetryPolicy.per_try_idle_timeout`). Off by default.
    pub per_try_idle: Option<TimeLimit>,
    /// The longest silence of the whole stream, in either direction (`RouteAction.idle_timeout`). Envoy's default, from
    /// the connection manager, is 5 min.
    pub idle: Option<TimeLimit>,
    /// From the request to the end of its response, for streams (`RouteAction.max_stream_duration`). When a route sets
    /// it, [`request`](Self::request) no longer counts (Envoy).
    pub max_stream_duration: Option<TimeLimit>,
    /// Has a caller's `grpc-timeout` replace the limit that the route sets, up to this maximum
    /// (`max_stream_duration.grpc_timeout_header_max`); off takes the header as it is; unset, the nearer of both counts. Of a
    /// control plane's, gRPC takes it for the deadline of every call instead (gRFC A31), off for none.
    pub grpc_timeout_max: Option<TimeLimit>,
    /// Subtracted from a caller's `grpc-timeout` that replaces a limit (`grpc_timeout_header_offset`); gRPC reads none.
    pub grpc_timeout_offset: Option<Duration>,
}

/// How the endpoints of a cluster are chosen, watched, limited and reached; every field may be unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterPolicy {
    /// How an endpoint is picked. Default: round robin.
    pub load_balancing: Option<LoadBalancing>,
    /// Whether localities share traffic by their weights (`locality_weighted_lb_config`). gRPC does, unless its own
    /// code says otherwise of endpoints in code.
    pub locality_weighted: Option<bool>,
    /// Below this share of available endpoints, health is ignored (`healthy_panic_threshold`). Default 50 %; never for gRPC,
    /// unless its own code says so of endpoints in code.
    pub panic_threshold: Option<Percent>,
    /// How many requests, connections and retries may be under way.
    pub circuit_breakers: CircuitBreakers,
    /// When an endpoint that fails is left out for a while.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// How long one connection may take to be ready, TLS included (`Cluster.connect_timeout`). Default 5 s.
    pub connect_timeout: Option<Duration>,
    /// Which HTTP is spoken, and how connections are kept.
    pub connections: ConnectionPolicy,
    /// TLS towards the endpoints that [`security`](Self::security) says nothing of; where both are unset, plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// How endpoints are reached by what their metadata says; the first match counts (`transport_socket_matches`). See
    /// [`security_of`](Self::security_of). Empty is unset; a source that sets this or [`tls`](Self::tls) has said both.
    pub security: Arc<[SecurityMatch]>,
}

/// How connections to an endpoint are made and kept; every field may be unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Which HTTP is spoken (`HttpProtocolOptions.upstream_protocol_options`). Default: HTTP/1.1, or HTTP/2 for gRPC.
    pub protocol: Option<HttpProtocol>,
    /// The most connections to one endpoint (`per_host_thresholds.max_connections`; gRFC A105). Default: no own limit.
    pub max_per_endpoint: Option<u32>,
    /// Closes a connection after this long without a request (`CommonHttpProtocolOptions.idle_timeout`). Default 1 h.
    pub idle_timeout: Option<TimeLimit>,
    /// Retires a connection after this long: it finishes what it has and takes nothing new
    /// (`max_connection_duration`). Off by default.
    pub max_age: Option<TimeLimit>,
    /// Retires a connection after this many requests (`max_requests_per_connection`). Off by default.
    pub max_requests: Option<u32>,
    /// The most streams at a time on an HTTP/2 connection, below what the peer permits
    /// (`Http2ProtocolOptions.max_concurrent_streams`). Default: what the peer permits.
    pub max_streams: Option<u32>,
    /// Sends an HTTP/2 ping after this long without a frame (`connection_keepalive.interval`). Off by default.
    pub keep_alive_interval: Option<TimeLimit>,
    /// Takes the connection for dead when a ping stays unanswered this long (`connection_keepalive.timeout`). Default
    /// 20 s.
    pub keep_alive_timeout: Option<Duration>,
    /// Whether to ping while no request is in flight. Default off: gRPC's servers end connections that do (gRFC A8). A
    /// control plane that asks for pings has Envoy's in mind, which do not ask whether there are requests.
    pub keep_alive_while_idle: Option<bool>,
    /// Connects to an endpoint when it joins, before a request goes there, as long as the cluster has at most this many
    /// endpoints. Default 0, never: who knows a cluster need not be about to use it. Envoy's `preconnect_policy` is
    /// something else, a ratio of connections to requests under way.
    pub connect_ahead: Option<u32>,
}

// === impl Policy ===

impl Policy {
    /// This policy, and `lower` wherever it is silent.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        Self { route: self.route.or(&lower.route), cluster: self.cluster.or(&lower.cluster) }
    }

    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// As [`ClusterPolicy::validated`], within `cluster`. What a policy says of routes is of types that refuse by themselves.
    pub fn validated(self) -> Result<Self, ConfigError> {
        let cluster = self.cluster.validated().map_err(|error| error.within("cluster"))?;
        Ok(Self { cluster, ..self })
    }
}

// === impl RoutePolicy ===

impl RoutePolicy {
    /// This policy, and `lower` wherever it is silent.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        Self { timeouts: self.timeouts.or(&lower.timeouts), retry: self.retry.clone().or_else(|| lower.retry.clone()) }
    }
}

// === impl Timeouts ===

impl Timeouts {
    /// These limits, and `lower` wherever they are silent.
    ///
    /// A source that sets `max_stream_duration` and not `request` has chosen: a lower source's `request` is not taken.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        let chose_stream_duration = self.max_stream_duration.is_some() && self.request.is_none();
        Self {
            request: self.request.or(lower.request.filter(|_| !chose_stream_duration)),
            per_try: self.per_try.or(lower.per_try),
            per_try_idle: self.per_try_idle.or(lower.per_try_idle),
            idle: self.idle.or(lower.idle),
            max_stream_duration: self.max_stream_duration.or(lower.max_stream_duration),
            grpc_timeout_max: self.grpc_timeout_max.or(lower.grpc_timeout_max),
            grpc_timeout_offset: self.grpc_timeout_offset.or(lower.grpc_timeout_offset),
        }
    }
}

// === impl ClusterPolicy ===

impl ClusterPolicy {
    /// This policy, and `lower` wherever it is silent.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        let on_security = if self.says_security() { self } else { lower };
        Self {
            load_balancing: self.load_balancing.or(lower.load_balancing),
            locality_weighted: self.locality_weighted.or(lower.locality_weighted),
            panic_threshold: self.panic_threshold.or(lower.panic_threshold),
            circuit_breakers: self.circuit_breakers.or(&lower.circuit_breakers),
            outlier_detection: self.outlier_detection.clone().or_else(|| lower.outlier_detection.clone()),
            connect_timeout: self.connect_timeout.or(lower.connect_timeout),
            connections: self.connections.or(&lower.connections),
            tls: on_security.tls.clone(),
            security: on_security.security.clone(),
        }
    }

    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// Refuses no time to connect, and what [`LoadBalancing::validated`], [`OutlierDetection::validated`] and
    /// [`ConnectionPolicy::validated`] refuse. Circuit breakers of zero are legal: they admit nothing.
    pub fn validated(mut self) -> Result<Self, ConfigError> {
        not_zero("connect_timeout", self.connect_timeout)?;
        if let Some(balancing) = self.load_balancing {
            balancing.validated().map_err(|error| error.within("load_balancing"))?;
        }
        if let Some(rules) = &self.outlier_detection {
            self.outlier_detection = Some(Arc::new(rules.validated()?));
        }
        self.connections = self.connections.validated().map_err(|error| error.within("connections"))?;
        Ok(self)
    }
}

fn not_zero(field: &str, time: Option<Duration>) -> Result<(), ConfigError> {
    match time {
        Some(Duration::ZERO) => Err(ConfigError::new(field, "0s", "give a time above zero, or leave it unset")),
        _ => Ok(()),
    }
}

// === impl ConnectionPolicy ===

impl ConnectionPolicy {
    /// This policy, and `lower` wherever it is silent.
    #[must_use]
    pub fn or(&self, lower: &Self) -> Self {
        Self {
            protocol: self.protocol.or(lower.protocol),
            max_per_endpoint: self.max_per_endpoint.or(lower.max_per_endpoint),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
            max_age: self.max_age.or(lower.max_age),
            max_requests: self.max_requests.or(lower.max_requests),
            max_streams: self.max_streams.or(lower.max_streams),
            keep_alive_interval: self.keep_alive_interval.or(lower.keep_alive_interval),
            keep_alive_timeout: self.keep_alive_timeout.or(lower.keep_alive_timeout),
            keep_alive_while_idle: self.keep_alive_while_idle.or(lower.keep_alive_while_idle),
            connect_ahead: self.connect_ahead.or(lower.connect_ahead),
        }
    }

    /// The same, or why it is refused.
    ///
    /// # Errors
    ///
    /// Refuses a limit to connections, or to the requests or streams of one, that admits none, and no time for the answer to
    /// a ping.
    pub fn validated(self) -> Result<Self, ConfigError> {
        let counts = [
            ("max_per_endpoint", self.max_per_endpoint),
            ("max_requests", self.max_requests),
            ("max_streams", self.max_streams),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, most)| *most == Some(0)) {
            return Err(ConfigError::new(*field, 0, "give at least 1, or leave it unset for no limit"));
        }
        not_zero("keep_alive_timeout", self.keep_alive_timeout)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    fn limit(seconds: u64) -> Option<TimeLimit> {
        TimeLimit::after(Duration::from_secs(seconds)).ok()
    }

    #[test]
    fn presets_and_silence_are_valid() {
        for policy in [Policy::default(), preset::service(), preset::rpc(), preset::external(), preset::bare()] {
            assert_eq!(policy.clone().validated(), Ok(policy));
        }
    }

    #[test]
    fn values_that_would_fail_all_traffic_are_refused_by_their_path() {
        type Spoil = fn(&mut ClusterPolicy);
        let cases: [(&str, Spoil); 7] = [
            ("connect_timeout", |policy| policy.connect_timeout = Some(Duration::ZERO)),
            ("load_balancing.least_request.choice_count", |policy| {
                policy.load_balancing = Some(LoadBalancing::LeastRequest { choices: 0 });
            }),
            ("outlier_detection.interval", |policy| {
                let rules = OutlierDetection { interval: Duration::ZERO, ..OutlierDetection::default() };
                policy.outlier_detection = Some(Arc::new(rules));
            }),
            ("connections.max_per_endpoint", |policy| policy.connections.max_per_endpoint = Some(0)),
            ("connections.max_requests", |policy| policy.connections.max_requests = Some(0)),
            ("connections.max_streams", |policy| policy.connections.max_streams = Some(0)),
            ("connections.keep_alive_timeout", |policy| policy.connections.keep_alive_timeout = Some(Duration::ZERO)),
        ];
        for (field, spoil) in cases {
            let mut policy = preset::service();
            spoil(&mut policy.cluster);
            assert_eq!(policy.validated().expect_err(field).field(), format!("cluster.{field}"));
        }
    }

    #[test]
    fn higher_source_wins_field_by_field() {
        let pin = Timeouts { per_try: limit(1), ..Timeouts::default() };
        let below = Timeouts { per_try: limit(9), request: limit(8), ..Timeouts::default() };
        let both = pin.or(&below);
        assert_eq!((both.per_try, both.request), (limit(1), limit(8)));
    }

    #[test]
    fn off_is_set_and_hides_what_is_below() {
        let above = Timeouts { request: Some(TimeLimit::OFF), ..Timeouts::default() };
        let below = Timeouts { request: limit(15), ..Timeouts::default() };
        assert_eq!(above.or(&below).request, Some(TimeLimit::OFF));
    }

    #[test]
    fn stream_duration_is_not_undercut_by_a_lower_request_timeout() {
        let above = Timeouts { max_stream_duration: limit(60), ..Timeouts::default() };
        let below = Timeouts { request: limit(15), ..Timeouts::default() };
        assert_eq!(above.or(&below).request, None);
    }
}
