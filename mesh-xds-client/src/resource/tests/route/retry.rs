//! Retry policies of hosts and routes.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;
use mesh_core::config::{RetryOn, TimeLimit};

use super::*;
use crate::resource::samples::{header_test, wrap};

#[test]
fn zero_retries_are_none_and_unset_is_one() {
    for (wire, expected) in [(None, 1), (wrap(0), 0), (wrap(7), 7)] {
        let config = decoded(&with_forward(|m| m.retry_policy.as_mut().expect("set").num_retries = wire)).value;
        assert_eq!(forward(&config).policy.retry.as_ref().expect("set").retries(), expected);
    }
}

#[test]
fn status_codes_count_only_where_their_condition_is_asked_for() {
    let config = decoded(&with_forward(|m| m.retry_policy.as_mut().expect("set").retry_on = "5xx".to_owned())).value;
    let retry = forward(&config).policy.retry.clone().expect("set");
    assert!(!retry.conditions().intersects(RetryOn::STATUSES));
    assert!(retry.retriable_statuses().is_empty());
}

#[test]
fn retry_policy_of_the_host_is_kept_and_that_of_a_route_replaces_all_of_it() {
    let mut message = samples::routes();
    message.virtual_hosts[0].retry_policy = Some(samples::retry_policy());
    retry(&mut message).per_try_timeout = None;
    let config = decoded(&message).value;
    let host = &config.virtual_hosts()[0];
    let stacked = forward(&config).policy.or(&host.policy);
    assert_eq!(host.policy.timeouts.per_try, TimeLimit::after(Duration::from_secs(1)).ok());
    assert_eq!(stacked.timeouts.per_try, Some(TimeLimit::OFF));
}

#[test]
fn retry_after_is_honoured_and_other_ways_to_ask_are_warned_of() {
    let ask = |name: &str| pb::retry_policy::ResetHeader { name: name.to_owned(), format: 0 };
    let mut message = samples::routes();
    retry(&mut message).rate_limited_retry_back_off = Some(pb::retry_policy::RateLimitedRetryBackOff {
        reset_headers: vec![ask("x-reset"), ask("Retry-After")],
        max_interval: None,
    });
    let Decoded { value, warnings } = decoded(&message);
    let limit = forward(&value).policy.retry.as_ref().and_then(|retry| retry.asked_wait()).expect("set").limit();
    assert_eq!(limit, Duration::from_secs(300));
    let path = "virtual_hosts[0].routes[0].route.retry_policy.rate_limited_retry_back_off.reset_headers[0]";
    assert_eq!(fields(&warnings), [path]);
}

#[test]
fn retries_for_some_requests_are_not_made_for_all() {
    let mut message = samples::routes();
    retry(&mut message).retriable_request_headers = vec![header_test("x-safe")];
    let Decoded { value, warnings } = decoded(&message);
    assert_eq!(forward(&value).policy.retry.as_ref().expect("set").retries(), 0);
    assert_eq!(warnings.len(), 1);
}
