//! Circuit breakers and outliers.

use envoy_types::pb::{
    envoy::config::cluster::v3::{self as pb, Cluster as Wire},
    google::protobuf::BoolValue,
};

use super::*;

#[test]
fn first_thresholds_of_a_priority_count() {
    let mut message = samples::cluster();
    let breakers = message.circuit_breakers.as_mut().expect("set");
    breakers.thresholds.push(samples::thresholds(0, 99));
    assert_eq!(decoded(&message).value.policy.circuit_breakers.default.max_requests, Some(10));
}

#[test]
fn retry_budget_has_its_defaults() {
    let mut message = samples::cluster();
    thresholds(&mut message).retry_budget = Some(Default::default());
    let budget = decoded(&message).value.policy.circuit_breakers.default.retry_budget;
    assert_eq!(budget, Some(mesh_core::config::RetryBudget::default()));
}

#[test]
fn always_ejecting_one_is_kept() {
    let mut message = samples::cluster();
    outliers(&mut message).always_eject_one_host = Some(BoolValue { value: true });
    let policy = decoded(&message).value.policy;
    assert!(policy.outlier_detection.expect("set").always_eject_one);
}

#[test]
fn empty_outlier_detection_has_envoys_defaults() {
    let message = Wire { outlier_detection: Some(pb::OutlierDetection::default()), ..samples::cluster() };
    let policy = decoded(&message).value.policy;
    assert_eq!(policy.outlier_detection.as_deref(), Some(&Default::default()));
}
