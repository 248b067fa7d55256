//! What protects a cluster: circuit breakers and outlier detection (`CircuitBreakers`, `OutlierDetection`).

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers as BreakersMessage, OutlierDetection as OutlierMessage,
    circuit_breakers::{Thresholds as ThresholdsMessage, thresholds::RetryBudget as BudgetMessage},
};
use mesh_core::config::{CircuitBreakers, ConfigError, OutlierDetection, RequestPriority, RetryBudget, Thresholds};

use super::{
    action::priority,
    common::{duration, is_true, number, percent, positive, whole_percent},
    notes::{IsSet, Notes, warn_if_set},
};

/// The limits of a cluster, and of each of its endpoints.
#[derive(Default)]
pub(super) struct Breakers {
    pub(super) limits: CircuitBreakers,
    pub(super) max_per_endpoint: Option<u32>,
}

/// Circuit breakers. The first entry of a priority counts, as in Envoy.
pub(super) fn breakers(message: BreakersMessage, notes: &mut Notes) -> Result<Breakers, ConfigError> {
    let mut default = None;
    let mut high = None;
    for (of, limits) in notes.each("thresholds", message.thresholds, thresholds)? {
        let slot = match of {
            RequestPriority::Default => &mut default,
            RequestPriority::High => &mut high,
        };
        slot.get_or_insert(limits);
    }
    let per_host = notes.each("per_host_thresholds", message.per_host_thresholds, per_host)?;
    Ok(Breakers {
        limits: CircuitBreakers { default: default.unwrap_or_default(), high: high.unwrap_or_default() },
        max_per_endpoint: per_host.into_iter().flatten().next(),
    })
}

fn thresholds(message: ThresholdsMessage, notes: &mut Notes) -> Result<(RequestPriority, Thresholds), ConfigError> {
    warn_if_set!(notes, message, "the number of pools is not limited", [max_connection_pools]);
    let limits = Thresholds {
        max_connections: number(message.max_connections),
        max_pending: number(message.max_pending_requests),
        max_requests: number(message.max_requests),
        max_retries: number(message.max_retries),
        retry_budget: notes.opt("retry_budget", message.retry_budget, budget)?,
    };
    Ok((priority(message.priority)?, limits))
}

fn budget(message: BudgetMessage, notes: &mut Notes) -> Result<RetryBudget, ConfigError> {
    warn_if_set!(notes, message, "the budget is a share of the requests under way", [budget_interval]);
    let default = RetryBudget::default();
    Ok(RetryBudget {
        percent: percent("budget_percent", message.budget_percent)?.unwrap_or(default.percent),
        min_concurrency: number(message.min_retry_concurrency).unwrap_or(default.min_concurrency),
    })
}

/// The connections to one endpoint; none where nothing is said of ordinary requests.
fn per_host(message: ThresholdsMessage, notes: &mut Notes) -> Result<Option<u32>, ConfigError> {
    let others = [
        ("max_pending_requests", message.max_pending_requests.is_set()),
        ("max_requests", message.max_requests.is_set()),
        ("max_retries", message.max_retries.is_set()),
        ("max_connection_pools", message.max_connection_pools.is_set()),
        ("retry_budget", message.retry_budget.is_set()),
    ];
    if let Some((field, _)) = others.into_iter().find(|(_, set)| *set) {
        return Err(ConfigError::new(field, "set", "limit only max_connections of one endpoint"));
    }
    if number(message.max_connections) == Some(0) {
        return Err(ConfigError::new("max_connections", 0, "give at least 1"));
    }
    match priority(message.priority)? {
        RequestPriority::Default => Ok(number(message.max_connections)),
        RequestPriority::High => {
            notes.warn("priority", "connections to an endpoint are counted together, under DEFAULT");
            Ok(None)
        }
    }
}

/// Outlier detection with Envoy's defaults. gRPC's clients know only the statistical detectors, which are not known here.
pub(super) fn outliers(message: OutlierMessage, notes: &mut Notes) -> Result<OutlierDetection, ConfigError> {
    warn_of_other_detectors(&message, notes)?;
    let default = OutlierDetection::default();
    OutlierDetection {
        consecutive_errors: number(message.consecutive_5xx).unwrap_or(default.consecutive_errors),
        enforce_errors: whole_percent("enforcing_consecutive_5xx", message.enforcing_consecutive_5xx)?
            .unwrap_or(default.enforce_errors),
        consecutive_gateway_errors: number(message.consecutive_gateway_failure)
            .unwrap_or(default.consecutive_gateway_errors),
        enforce_gateway_errors: whole_percent(
            "enforcing_consecutive_gateway_failure",
            message.enforcing_consecutive_gateway_failure,
        )?
        .unwrap_or(default.enforce_gateway_errors),
        interval: positive("interval", message.interval)?.unwrap_or(default.interval),
        base_ejection: positive("base_ejection_time", message.base_ejection_time)?.unwrap_or(default.base_ejection),
        max_ejection: positive("max_ejection_time", message.max_ejection_time)?.unwrap_or(default.max_ejection),
        ejection_jitter: duration("max_ejection_time_jitter", message.max_ejection_time_jitter)?
            .unwrap_or(default.ejection_jitter),
        max_ejected: whole_percent("max_ejection_percent", message.max_ejection_percent)?
            .unwrap_or(default.max_ejected),
        always_eject_one: is_true(message.always_eject_one_host),
    }
    .validated()
}

/// Warns of the detectors that are on and not known here. The success rate is on unless it is turned off.
fn warn_of_other_detectors(message: &OutlierMessage, notes: &mut Notes) -> Result<(), ConfigError> {
    warn_if_set!(
        notes,
        message,
        "this does not count here",
        [split_external_local_origin_errors, monitors, detect_degraded_hosts]
    );
    let enforced = [
        ("enforcing_success_rate", message.enforcing_success_rate, 100),
        ("enforcing_failure_percentage", message.enforcing_failure_percentage, 0),
    ];
    for (field, value, default) in enforced {
        whole_percent(field, value)?;
        if number(value).unwrap_or(default) > 0 {
            notes.warn(field, "endpoints are judged by consecutive errors alone");
        }
    }
    whole_percent("failure_percentage_threshold", message.failure_percentage_threshold)?;
    Ok(())
}
