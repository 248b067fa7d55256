//! How one is picked.

use envoy_types::pb::{
    envoy::{
        config::cluster::v3::{
            Cluster as Wire, LoadBalancingPolicy, cluster as parts, load_balancing_policy::Policy as LbPolicyMessage,
        },
        extensions::load_balancing_policies::{
            client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin, least_request::v3::LeastRequest,
            random::v3::Random, ring_hash::v3::RingHash, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
        },
    },
    google::protobuf::{self as wire, Any},
};
use mesh_core::config::LoadBalancing;

use super::*;
use crate::resource::samples::{any, seconds, unknown, wrap};

fn policies(list: Vec<Any>) -> LoadBalancingPolicy {
    let policy = |config| LbPolicyMessage { typed_extension_config: Some(extension(config)) };
    LoadBalancingPolicy { policies: list.into_iter().map(policy).collect() }
}

fn balanced_by(list: Vec<Any>) -> Wire {
    Wire { load_balancing_policy: Some(policies(list)), common_lb_config: None, ..samples::cluster() }
}

fn ring_hash() -> Any {
    any(&RingHash::default())
}

fn wrr_locality(within: Any) -> Any {
    any(&WrrLocality { endpoint_picking_policy: Some(policies(vec![within])) })
}

#[test]
fn lb_policy_is_read_with_its_choices() {
    use parts::LbPolicy;
    let mut message = samples::cluster();
    for (wire, expected) in
        [(LbPolicy::RoundRobin, LoadBalancing::RoundRobin), (LbPolicy::Random, LoadBalancing::Random)]
    {
        message.lb_policy = wire as i32;
        assert_eq!(decoded(&message).value.policy.load_balancing, Some(expected));
    }
    message.lb_policy = LbPolicy::LeastRequest as i32;
    let choices = |count| {
        let config = parts::LeastRequestLbConfig { choice_count: wrap(count), ..Default::default() };
        Some(parts::LbConfig::LeastRequestLbConfig(config))
    };
    message.lb_config = choices(5);
    assert_eq!(decoded(&message).value.policy.load_balancing, Some(LoadBalancing::LeastRequest { choices: 5 }));
    message.lb_config = choices(33);
    assert_eq!(fields(&decoded(&message).warnings), ["least_request_lb_config.choice_count"]);
    message.lb_config = choices(1);
    let bad = decode_message(&message, &samples::context()).expect_err("one is no choice");
    assert_eq!(bad.blamed(), "least_request_lb_config.choice_count");
    for wire in [LbPolicy::LoadBalancingPolicyConfig as i32, LbPolicy::ClusterProvided as i32, 99] {
        message.lb_policy = wire;
        assert_eq!(decode_message(&message, &samples::context()).expect_err("bad").blamed(), "lb_policy");
    }
}

#[test]
fn first_known_policy_of_the_list_counts() {
    let least = any(&LeastRequest { choice_count: wrap(3), ..Default::default() });
    let Decoded { value, warnings } =
        decoded(&balanced_by(vec![unknown(), ring_hash(), least, any(&Random::default())]));
    assert_eq!(value.policy.load_balancing, Some(LoadBalancing::LeastRequest { choices: 3 }));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn what_takes_turns_in_place_of_hashing_is_refused_where_nobody_would_take_it() {
    let ring = |minimum, maximum, hash_function| {
        let size = |value: u64| Some(wire::UInt64Value { value });
        let (minimum_ring_size, maximum_ring_size) = (size(minimum), size(maximum));
        let legacy = parts::RingHashLbConfig { minimum_ring_size, maximum_ring_size, hash_function };
        let lb_config = Some(parts::LbConfig::RingHashLbConfig(legacy));
        let lb_policy = parts::LbPolicy::RingHash.into();
        let typed = RingHash { hash_function, minimum_ring_size, maximum_ring_size, ..Default::default() };
        [Wire { lb_policy, lb_config, ..samples::cluster() }, balanced_by(vec![any(&typed)])]
    };
    for good in [ring(1, 1, 0), ring(1024, 8 << 20, 1)].concat() {
        decoded(&good);
    }
    let bad = [
        (ring(0, 1, 0), "minimum_ring_size"),
        (ring(1, 0, 0), "maximum_ring_size"),
        (ring(2, 1, 0), "minimum_ring_size"),
        (ring(1, (8 << 20) + 1, 0), "maximum_ring_size"),
        (ring(1, 1, 9), "hash_function"),
    ];
    for (messages, field) in bad {
        for message in messages {
            let bad = decode_message(&message, &samples::context()).expect_err(field);
            assert!(bad.blamed().ends_with(field), "{bad}");
        }
    }
    for (config, field) in [
        (
            ClientSideWeightedRoundRobin {
                error_utilization_penalty: Some(wire::FloatValue { value: -1.0 }),
                ..Default::default()
            },
            "error_utilization_penalty",
        ),
        (ClientSideWeightedRoundRobin { blackout_period: seconds(-1), ..Default::default() }, "blackout_period"),
    ] {
        let bad = decode_message(&balanced_by(vec![any(&config)]), &samples::context()).expect_err(field);
        assert!(bad.blamed().ends_with(field), "{bad}");
    }
}

#[test]
fn hashing_cluster_takes_turns_rather_than_being_lost() {
    let Decoded { value, warnings } = decoded(&balanced_by(vec![ring_hash()]));
    assert_eq!(value.policy.load_balancing, Some(LoadBalancing::RoundRobin));
    assert_eq!(fields(&warnings), ["load_balancing_policy.policies[0].typed_extension_config.typed_config"]);
}

#[test]
fn wrr_locality_weighs_localities() {
    let policy = decoded(&balanced_by(vec![wrr_locality(any(&RoundRobin::default()))])).value.policy;
    assert_eq!((policy.load_balancing, policy.locality_weighted), (Some(LoadBalancing::RoundRobin), Some(true)));
}

#[test]
fn policy_lists_are_refused_when_nothing_is_known_or_they_nest_too_deep() {
    let refused = |message: Wire| decode_message(&message, &samples::context()).expect_err("bad").blamed().to_owned();
    assert_eq!(refused(balanced_by(Vec::new())), "load_balancing_policy.policies");
    assert_eq!(refused(balanced_by(vec![unknown()])), "load_balancing_policy.policies");
    let one_choice = any(&LeastRequest { choice_count: wrap(1), ..Default::default() });
    let within = "policies[0].typed_extension_config.typed_config";
    assert_eq!(refused(balanced_by(vec![one_choice])), format!("load_balancing_policy.{within}.choice_count"));
    let mut garbled = any(&RoundRobin::default());
    garbled.value = vec![0xff];
    assert_eq!(refused(balanced_by(vec![garbled])), format!("load_balancing_policy.{within}.value"));
    let nested = |depth| (0..depth).fold(any(&RoundRobin::default()), |within, _| wrr_locality(within));
    decoded(&balanced_by(vec![nested(16)]));
    assert!(refused(balanced_by(vec![nested(17)])).ends_with("endpoint_picking_policy.policies"));
}
