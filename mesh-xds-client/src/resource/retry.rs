//! When a request is tried again, and how long one try may take (`RetryPolicy`).

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::{
    config::route::v3::{
        RetryPolicy as Message,
        retry_policy::{
            RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff, RetryHostPredicate,
            retry_host_predicate::ConfigType,
        },
    },
    extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
};
use http::StatusCode;
use mesh_core::config::{Backoff, ConfigError, HeaderMatcher, RetryAfter, RetryOn, RetryPolicy, RoutePolicy, Timeouts};

use super::{
    common::{is, limit, number, positive, status, told_as},
    matcher,
    notes::{Notes, warn_if_set},
};

/// The retry policy, and the limits of a try, which Envoy keeps in the same message.
pub(super) fn policy(message: Message, notes: &mut Notes) -> Result<RoutePolicy, ConfigError> {
    let timeouts = Timeouts {
        per_try: limit("per_try_timeout", message.per_try_timeout)?,
        per_try_idle: limit("per_try_idle_timeout", message.per_try_idle_timeout)?,
        ..Timeouts::default()
    };
    Ok(RoutePolicy { timeouts, retry: Some(Arc::new(retries(message, notes)?)) })
}

fn retries(message: Message, notes: &mut Notes) -> Result<RetryPolicy, ConfigError> {
    warn_if_set!(notes, message, "retries do as without it", [retry_priority, retry_options_predicates]);
    let on = conditions(&message.retry_on, notes);
    let avoid_previous = avoids_previous(&message.retry_host_predicate, notes);
    // How often Envoy draws again (`host_selection_retry_max_attempts`) need not be told: a pick here sees at once who else
    // there is.
    let mut policy = RetryPolicy::on(on).avoid_previous(avoid_previous);
    if let Some(wait) = notes.opt("retry_back_off", message.retry_back_off, backoff)? {
        policy = policy.backoff(wait);
    }
    if let Some(asked) = notes.opt("rate_limited_retry_back_off", message.rate_limited_retry_back_off, retry_after)? {
        policy = asked.into_iter().fold(policy, RetryPolicy::retry_after);
    }
    // The lists count only where their condition is asked for, which the setters below would do by themselves.
    let statuses = statuses(&message.retriable_status_codes, notes);
    if on.intersects(RetryOn::STATUSES) {
        policy = policy.statuses(statuses);
    }
    let headers: Vec<HeaderMatcher> = notes.each("retriable_headers", message.retriable_headers, matcher::header)?;
    if on.intersects(RetryOn::HEADERS) {
        policy = policy.headers(headers);
    }
    if !message.retriable_request_headers.is_empty() {
        // Without this test requests would be repeated that were meant to be sent once.
        notes.warn("retriable_request_headers", "this condition is not known here; nothing is retried");
        return policy.max_retries(0);
    }
    policy.max_retries(count(number(message.num_retries), notes))
}

/// Retries beyond the first try. Unset is one.
fn count(wanted: Option<u32>, notes: &mut Notes) -> u32 {
    let wanted = wanted.unwrap_or(1);
    if wanted > RetryPolicy::MOST_RETRIES {
        notes.warn("num_retries", "100 are made at most");
    }
    wanted.min(RetryPolicy::MOST_RETRIES)
}

fn conditions(list: &str, notes: &mut Notes) -> RetryOn {
    let (on, unknown) = RetryOn::parse(list);
    if !unknown.is_empty() {
        notes.warn("retry_on", format!("not known here: {}", unknown.join(", ")));
    }
    on
}

fn statuses(codes: &[u32], notes: &mut Notes) -> Vec<StatusCode> {
    let (known, unknown): (Vec<_>, Vec<_>) = codes.iter().map(|code| status("", *code)).partition(Result::is_ok);
    if !unknown.is_empty() {
        notes.warn("retriable_status_codes", "codes outside 100 to 999 never come and are left out");
    }
    known.into_iter().flatten().collect()
}

fn avoids_previous(predicates: &[RetryHostPredicate], notes: &mut Notes) -> bool {
    let previous_hosts = |predicate: &RetryHostPredicate| match &predicate.config_type {
        Some(ConfigType::TypedConfig(extension)) => is::<PreviousHostsPredicate>(extension),
        None => predicate.name == "envoy.retry_host_predicates.previous_hosts",
    };
    for (index, predicate) in predicates.iter().enumerate() {
        if !previous_hosts(predicate) {
            notes.warn(format!("retry_host_predicate[{index}]"), "endpoints are chosen as without it");
        }
    }
    predicates.iter().any(previous_hosts)
}

fn backoff(message: RetryBackOff, _: &mut Notes) -> Result<Backoff, ConfigError> {
    let Some(base) = positive("base_interval", message.base_interval)? else {
        return Err(ConfigError::new("base_interval", "", "give a time above zero"));
    };
    match positive("max_interval", message.max_interval)? {
        Some(max) => Backoff::new(base, max),
        None => Backoff::from_base(base),
    }
}

/// How long a peer may ask to wait; none when it would ask in a way that is not read here.
fn retry_after(message: RateLimitedRetryBackOff, notes: &mut Notes) -> Result<Option<RetryAfter>, ConfigError> {
    const DEFAULT_MAX: Duration = Duration::from_secs(300);
    if message.reset_headers.is_empty() {
        return Err(ConfigError::new("reset_headers", "[]", "name at least one header"));
    }
    let max = positive("max_interval", message.max_interval)?.unwrap_or(DEFAULT_MAX);
    let mut honoured = false;
    for (index, header) in message.reset_headers.iter().enumerate() {
        if header.name.eq_ignore_ascii_case("retry-after") && header.format == ResetHeaderFormat::Seconds as i32 {
            honoured = true;
        } else {
            notes.warn(format!("reset_headers[{index}]"), "only `retry-after` in seconds is read");
        }
    }
    let up_to = RetryAfter::up_to(max).map_err(|error| told_as("max_interval", &error))?;
    Ok(honoured.then_some(up_to))
}
