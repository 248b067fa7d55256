//! Faults by host, route and cluster, and other settings of filters.

use envoy_types::pb::envoy::config::route::v3 as pb;
use mesh_core::config::ClusterChoice;

use super::*;
use crate::resource::samples::{FAULT, any, faults, unknown};

fn fault_override(percent: u32) -> std::collections::HashMap<String, Any> {
    [(FAULT.to_owned(), any(&faults(percent)))].into()
}

fn wrapped(config: Option<Any>, is_optional: bool, disabled: bool) -> Any {
    any(&pb::FilterConfig { config, is_optional, disabled })
}

#[test]
fn faults_are_overridden_at_every_level() {
    let mut message = samples::routes();
    message.typed_per_filter_config = fault_override(1);
    message.virtual_hosts[0].routes[0].typed_per_filter_config = fault_override(3);
    weighted(&mut message).clusters[0].typed_per_filter_config = fault_override(4);
    let percent = |faults: &Option<Arc<mesh_core::config::FaultInjection>>| {
        faults.as_ref().and_then(|faults| faults.delay).map(|delay| delay.share.share() * 100.0)
    };
    let config = decoded(&message).value;
    assert_eq!(percent(&config.virtual_hosts()[0].faults), Some(1.0), "from the whole configuration");
    assert_eq!(percent(&config.virtual_hosts()[0].routes[0].faults), Some(3.0));
    let ClusterChoice::Weighted(clusters) = &forward(&config).to else { panic!("weighted") };
    assert_eq!(percent(&clusters.entries()[0].faults), Some(4.0));
    message.virtual_hosts[0].typed_per_filter_config = fault_override(2);
    assert_eq!(percent(&decoded(&message).value.virtual_hosts()[0].faults), Some(2.0), "the host's own wins");
}

#[test]
fn wrapped_override_can_hold_faults_or_turn_them_off() {
    let decode_with = |config: Any| {
        let mut message = samples::routes();
        message.virtual_hosts[0].typed_per_filter_config = [(FAULT.to_owned(), config)].into();
        decoded(&message).value.virtual_hosts()[0].faults.clone().expect("an override")
    };
    assert!(decode_with(wrapped(Some(any(&faults(1))), false, false)).delay.is_some());
    assert_eq!(*decode_with(wrapped(Some(any(&faults(1))), false, true)), Default::default());
    assert_eq!(*decode_with(wrapped(None, false, true)), Default::default());
}

#[test]
fn unknown_override_is_refused_unless_optional() {
    let path = "virtual_hosts[0].typed_per_filter_config[new]";
    let decode_with = |config: Any| {
        let mut message = samples::routes();
        message.virtual_hosts[0].typed_per_filter_config = [("new".to_owned(), config)].into();
        read_routes(&message, &samples::context())
    };
    for config in [unknown(), wrapped(Some(unknown()), false, false)] {
        assert_eq!(decode_with(config).expect_err("unknown").blamed(), format!("{path}.type_url"));
    }
    for garbled in
        [Any { value: vec![0xff], ..any(&faults(1)) }, Any { value: vec![0xff], ..wrapped(None, false, true) }]
    {
        assert_eq!(decode_with(garbled).expect_err("no message").blamed(), format!("{path}.value"));
    }
    let empty = decode_with(wrapped(None, false, false)).expect_err("nothing to apply");
    assert_eq!(empty.blamed(), format!("{path}.config"));
    let optional = decode_with(wrapped(Some(unknown()), true, false)).expect("optional");
    assert_eq!(fields(&optional.warnings), [format!("{path}.type_url")]);
}

/// Of a sidecar's filters on the way out none is known, so that what one host says to one of them must not cost the others their
/// routes.
#[test]
fn unknown_override_is_passed_over_for_sidecars_at_every_level() {
    let other = || [("envoy.filters.http.local_ratelimit".to_owned(), unknown())].into();
    let mut message = samples::routes();
    message.typed_per_filter_config = other();
    message.virtual_hosts[0].typed_per_filter_config = other();
    message.virtual_hosts[0].routes[0].typed_per_filter_config = other();
    weighted(&mut message).clusters[0].typed_per_filter_config = other();
    let Decoded { value, warnings } =
        read_routes(&message, &samples::context().for_sidecars()).expect("routes without it");
    assert_eq!(value, decoded(&samples::routes()).value);
    let place = "typed_per_filter_config[envoy.filters.http.local_ratelimit].type_url";
    let places = [
        "",
        "virtual_hosts[0].",
        "virtual_hosts[0].routes[0].",
        "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].",
    ];
    for at in places {
        assert!(fields(&warnings).contains(&format!("{at}{place}").as_str()), "{at}: {warnings:?}");
    }
}
