//! Who is picked: by policy, weight, priority, locality, health and history.
#![allow(missing_docs)]

use std::{collections::HashSet, time::Duration};

use mesh_core::{
    balance::NoEndpoint,
    config::{ClusterPolicy, Endpoints, HealthStatus, LoadBalancing, Percent, Semantics},
    hold::Settle,
    outcome::{FailureKind, Sent},
};
use tokio::time::advance;

mod support;
use support::*;

const POLICIES: [LoadBalancing; 4] =
    [LoadBalancing::RoundRobin, LoadBalancing::LEAST_REQUEST, LoadBalancing::Random, LoadBalancing::PEAK_EWMA];

fn close(hits: usize, expected: usize, tolerance: usize) -> bool {
    hits.abs_diff(expected) <= tolerance
}

#[tokio::test(start_paused = true)]
async fn round_robin_takes_turns_exactly() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2, 3]));
    assert_eq!(scene.shares(300, [1, 2, 3]), [100, 100, 100]);
    let round: HashSet<_> = (0..3).map(|_| *scene.pick().handle()).collect();
    assert_eq!(round.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn round_robin_keeps_weights_within_two_picks() {
    let endpoints = Endpoints::flat(vec![weighing(1, 1), weighing(2, 3), weighing(3, 6)]).expect("legal");
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &endpoints);
    for _ in 0..20 {
        let [one, three, six] = scene.shares(100, [1, 2, 3]);
        assert!(close(one, 10, 2) && close(three, 30, 2) && close(six, 60, 2), "{one} {three} {six}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_policy_keeps_weights_while_there_is_no_load() {
    let endpoints = Endpoints::flat(vec![weighing(1, 1), weighing(2, 3)]).expect("legal");
    for policy in [LoadBalancing::RoundRobin, LoadBalancing::LEAST_REQUEST, LoadBalancing::Random] {
        let [light, heavy] = Scene::new(policy, &endpoints).shares(4_000, [1, 2]);
        assert!(close(light, 1_000, 100) && close(heavy, 3_000, 100), "{policy:?}: {light} {heavy}");
    }
}

#[tokio::test(start_paused = true)]
async fn least_request_evens_out_what_is_in_flight() {
    let mut scene = Scene::new(LoadBalancing::LEAST_REQUEST, &flat(1..=10));
    let _held: Vec<_> = (0..1_000).map(|_| scene.pick()).collect();
    let status = scene.cluster.status();
    assert!(status.endpoints.iter().all(|endpoint| (95..=105).contains(&endpoint.in_flight)), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn more_choices_leave_fewer_idle() {
    let idle = |choices| {
        let mut scene = Scene::new(LoadBalancing::LeastRequest { choices }, &flat(1..=200));
        let _held: Vec<_> = (0..200).map(|_| scene.pick()).collect();
        scene.cluster.status().endpoints.iter().filter(|endpoint| endpoint.in_flight == 0).count()
    };
    let (two, ten) = (idle(2), idle(10));
    assert!(ten * 3 < two, "{ten} with ten choices, {two} with two");
}

#[tokio::test(start_paused = true)]
async fn least_request_loads_by_weight() {
    let endpoints = Endpoints::flat(vec![weighing(1, 1), weighing(2, 1), weighing(3, 8)]).expect("legal");
    let mut scene = Scene::new(LoadBalancing::LEAST_REQUEST, &endpoints);
    let _held: Vec<_> = (0..1_000).map(|_| scene.pick()).collect();
    let loads: Vec<_> = scene.cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight as usize).collect();
    assert!(close(loads[0], 100, 15) && close(loads[1], 100, 15) && close(loads[2], 800, 20), "{loads:?}");
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_avoids_the_slow_endpoint_and_comes_back_to_it() {
    let mut scene = Scene::new(LoadBalancing::PEAK_EWMA, &flat([1, 2, 3]));
    let mut hits = [0; 3];
    for _ in 0..1_000 {
        let mut picked = scene.pick();
        let port = *picked.handle();
        advance(Duration::from_millis(if port == 1 { 200 } else { 5 })).await;
        picked.settle(&success());
        hits[usize::from(port) - 1] += 1;
    }
    assert!(hits[0] >= 1 && hits[0] < 60, "{hits:?}");
    assert!(hits[1] > 250 && hits[2] > 250, "{hits:?}");
    advance(Duration::from_secs(120)).await;
    let [slow, ..] = scene.shares(300, [1, 2, 3]);
    assert!(slow > 50, "{slow} of 300 after two minutes of silence");
}

#[tokio::test(start_paused = true)]
async fn new_endpoint_among_fast_ones_gets_its_share_soon() {
    let mut scene = Scene::new(LoadBalancing::PEAK_EWMA, &flat([1, 2]));
    for _ in 0..100 {
        let mut picked = scene.pick();
        advance(Duration::from_millis(1)).await;
        picked.settle(&success());
    }
    scene.cluster.update_endpoints(&flat([1, 2, 3]));
    assert!(scene.shares(100, [1, 2, 3])[2] > 0);
}

// A sink-hole fails at once, and so always has the least under way and the least latency.
#[tokio::test(start_paused = true)]
async fn endpoint_that_fails_at_once_attracts_no_traffic() {
    for policy in [LoadBalancing::LEAST_REQUEST, LoadBalancing::PEAK_EWMA] {
        let mut scene = Scene::new(policy, &flat(1..=5));
        let (mut held, mut failures) = (Vec::new(), 0);
        for step in 0..1_000 {
            let mut picked = scene.pick();
            advance(Duration::from_millis(1)).await;
            if *picked.handle() == 1 {
                picked.settle(&server_error());
                failures += 1;
            } else {
                held.push(picked);
            }
            if step % 2 == 1 && held.len() > 8 {
                held.drain(..2).for_each(|mut picked| picked.settle(&success()));
            }
        }
        assert!(failures < 100, "{policy:?}: {failures} of 1000; a fair share is 200");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_recovers_gets_its_share_again() {
    for policy in [LoadBalancing::LEAST_REQUEST, LoadBalancing::PEAK_EWMA] {
        let mut scene = Scene::new(policy, &flat([1, 2]));
        for _ in 0..50 {
            let mut picked = scene.pick();
            let outcome = if *picked.handle() == 1 { server_error() } else { success() };
            picked.settle(&outcome);
        }
        advance(Duration::from_secs(300)).await;
        let [recovered, _] = scene.shares(1_000, [1, 2]);
        assert!(recovered > 300, "{policy:?}: {recovered} of 1000");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_ignores_endpoint_weights() {
    let endpoints = Endpoints::flat(vec![weighing(1, 1), weighing(2, 9)]).expect("legal");
    let mut scene = Scene::with(ClusterPolicy::default(), Semantics::Grpc, &endpoints);
    assert_eq!(scene.shares(100, [1, 2]), [50, 50]);
}

#[tokio::test(start_paused = true)]
async fn traffic_spills_to_the_next_priority_in_envoys_proportion() {
    let half = vec![endpoint(1), endpoint(2), ailing(3, HealthStatus::Unhealthy), ailing(4, HealthStatus::Unhealthy)];
    let endpoints = groups(vec![group(1, "a", 1, vec![endpoint(9)]), group(0, "a", 1, half)]);
    for policy in POLICIES {
        let [one, two, nine] = Scene::new(policy, &endpoints).shares(10_000, [1, 2, 9]);
        assert!(close(one + two, 7_000, 200) && close(nine, 3_000, 200), "{policy:?}: {one} {two} {nine}");
    }
    let mut grpc = Scene::with(ClusterPolicy::default(), Semantics::Grpc, &endpoints);
    assert_eq!(grpc.shares(100, [1, 2, 9]), [50, 50, 0], "gRPC has no overprovisioning");
}

#[tokio::test(start_paused = true)]
async fn panic_ignores_health_but_not_draining() {
    let sick = |port| ailing(port, HealthStatus::Unhealthy);
    let endpoints = vec![endpoint(1), sick(2), sick(3), ailing(4, HealthStatus::Draining)];
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &Endpoints::flat(endpoints).expect("legal"));
    assert!(scene.cluster.status().priorities[0].is_in_panic);
    assert_eq!(scene.shares(30, [1, 2, 3, 4]), [10, 10, 10, 0]);
}

#[tokio::test(start_paused = true)]
async fn without_panic_the_healthy_carry_on_and_the_unhealthy_get_nothing() {
    let policy = ClusterPolicy { panic_threshold: Some(Percent::ZERO), ..ClusterPolicy::default() };
    let sick = |port| ailing(port, HealthStatus::Unhealthy);
    let some = Endpoints::flat(vec![endpoint(1), sick(2), sick(3)]).expect("legal");
    assert_eq!(Scene::with(policy.clone(), Semantics::Envoy, &some).shares(9, [1, 2, 3]), [9, 0, 0]);
    let none = Endpoints::flat(vec![sick(2), sick(3)]).expect("legal");
    let refused = Scene::with(policy, Semantics::Envoy, &none).try_pick(false);
    assert_eq!(refused.map(|_| ()), Err(NoEndpoint::Unhealthy));
}

#[tokio::test(start_paused = true)]
async fn degraded_endpoints_take_what_the_healthy_cannot() {
    let degraded = |port| ailing(port, HealthStatus::Degraded);
    let endpoints = vec![endpoint(1), degraded(2), degraded(3), degraded(4)];
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &Endpoints::flat(endpoints).expect("legal"));
    // One of four is healthy: 1.4 times a quarter.
    let [healthy, ..] = scene.shares(10_000, [1, 2, 3, 4]);
    assert!(close(healthy, 3_500, 200), "{healthy}");
}

#[tokio::test(start_paused = true)]
async fn localities_share_by_weight_and_health() {
    let policy = ClusterPolicy { locality_weighted: Some(true), ..ClusterPolicy::default() };
    let sick = |port| ailing(port, HealthStatus::Unhealthy);
    let a = vec![endpoint(1), endpoint(2), sick(3), sick(4), sick(5)];
    let b = (11..=15).map(endpoint).collect();
    let endpoints = groups(vec![group(0, "a", 1, a), group(0, "b", 2, b), group(0, "c", 0, vec![endpoint(21)])]);
    let mut scene = Scene::with(policy, Semantics::Envoy, &endpoints);
    let hits = scene.shares(1_000, [1, 2, 11, 12, 13, 14, 15, 21]);
    let (a, b) = (hits[0] + hits[1], hits[2..7].iter().sum());
    assert!(close(a, 219, 3) && close(b, 781, 3), "{hits:?}");
}

// Envoy has a schedule of localities where one of them has a weight and somebody fit; else it takes all who are fit.
#[tokio::test(start_paused = true)]
async fn where_no_locality_counts_envoy_forgets_localities() {
    use HealthStatus::{Degraded, Unhealthy};
    let policy = ClusterPolicy { locality_weighted: Some(true), ..ClusterPolicy::default() };
    let scene = |groups_of: [(u32, Vec<_>); 2]| {
        let [(a, in_a), (b, in_b)] = groups_of;
        let endpoints = groups(vec![group(0, "a", a, in_a), group(0, "b", b, in_b)]);
        Scene::with(policy.clone(), Semantics::Envoy, &endpoints)
    };
    let mut unweighted = scene([(0, vec![endpoint(1), endpoint(2)]), (0, vec![endpoint(3)])]);
    assert_eq!(unweighted.shares(30, [1, 2, 3]), [10; 3]);
    let mut degraded = scene([(0, vec![ailing(1, Degraded)]), (0, vec![ailing(2, Degraded)])]);
    assert_eq!(degraded.shares(30, [1, 2]), [15; 2]);
    let mut weighted_is_sick = scene([(1, vec![ailing(1, Unhealthy)]), (0, vec![endpoint(2), endpoint(3)])]);
    assert_eq!(weighted_is_sick.shares(30, [1, 2, 3]), [0, 15, 15]);
    let mut weighted_is_fit = scene([(1, vec![endpoint(1)]), (0, vec![endpoint(2), endpoint(3)])]);
    assert_eq!(weighted_is_fit.shares(30, [1, 2, 3]), [30, 0, 0]);

    unweighted.pick().settle(&failure(FailureKind::Connect, Sent::No));
    unweighted.pick().settle(&failure(FailureKind::Connect, Sent::No));
    unweighted.pick().settle(&failure(FailureKind::Connect, Sent::No));
    assert!(unweighted.try_pick(false).is_ok(), "one that cannot be reached is better than nobody");
}

#[tokio::test(start_paused = true)]
async fn grpc_shares_by_locality_weight_whatever_the_policy_says() {
    let endpoints = groups(vec![
        group(0, "a", 1, vec![endpoint(1)]),
        group(0, "b", 3, vec![endpoint(2)]),
        group(0, "c", 0, vec![endpoint(3)]),
    ]);
    let [a, b, c] = Scene::with(ClusterPolicy::default(), Semantics::Grpc, &endpoints).shares(400, [1, 2, 3]);
    assert!(close(a, 100, 2) && close(b, 300, 2) && c == 0, "{a} {b} {c}");
}

#[tokio::test(start_paused = true)]
async fn tried_endpoint_is_avoided_while_there_is_another() {
    let lone = Endpoints::flat(vec![weighing(1, 1_000_000), weighing(2, 1)]).expect("legal");
    for policy in POLICIES {
        for endpoints in [flat([1, 2]), lone.clone()] {
            let mut scene = Scene::new(policy, &endpoints);
            let first = scene.cluster.status().endpoints[0].id;
            scene.terms.tried.push(first);
            assert_eq!(scene.shares(50, [1, 2]), [0, 50], "{policy:?}");
            let second = scene.cluster.status().endpoints[1].id;
            scene.terms.tried.push(second);
            assert!(scene.try_pick(false).is_ok(), "{policy:?}: all were tried, so any will do");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_endpoint_is_left_alone_then_probed_once() {
    for policy in POLICIES {
        let mut scene = Scene::new(policy, &flat([1, 2, 3]));
        while scene.notes.take().iter().all(|note| note != "open 1") {
            scene.pick();
        }
        loop {
            let mut picked = scene.pick();
            if *picked.handle() == 1 {
                picked.settle(&failure(FailureKind::Connect, Sent::No));
                break;
            }
        }
        assert_eq!(scene.shares(100, [1, 2, 3])[0], 0, "{policy:?}: left alone");
        // The penalties of the failure have faded, too.
        advance(Duration::from_secs(400)).await;
        let held: Vec<_> = (0..100).map(|_| scene.pick()).collect();
        let probes: Vec<_> = held.iter().filter(|picked| *picked.handle() == 1).collect();
        assert_eq!(probes.len(), 1, "{policy:?}: one probe");
        probes[0].reached();
        drop(held);
        assert!(scene.shares(300, [1, 2, 3])[0] > 10, "{policy:?}: back");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_are_out_of_reach_any_is_picked_unless_the_request_waits() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2]));
    for _ in 0..2 {
        scene.pick().settle(&failure(FailureKind::ConnectTimeout, Sent::No));
    }
    assert!(scene.try_pick(false).is_ok());
    assert_eq!(scene.try_pick(true).map(|_| ()), Err(NoEndpoint::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn priority_out_of_reach_fails_over() {
    let endpoints = groups(vec![group(0, "a", 1, vec![endpoint(1)]), group(1, "a", 1, vec![endpoint(2)])]);
    let mut scene = Scene::new(LoadBalancing::LEAST_REQUEST, &endpoints);
    scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
    assert_eq!(scene.shares(10, [1, 2]), [0, 10]);
}

#[tokio::test(start_paused = true)]
async fn localities_share_by_weight_when_they_stand_in_for_a_priority_out_of_reach() {
    for policy in POLICIES {
        let endpoints = groups(vec![
            group(0, "a", 1, vec![endpoint(1)]),
            group(1, "a", 1, vec![endpoint(2)]),
            group(1, "b", 3, vec![endpoint(3)]),
        ]);
        let policy = ClusterPolicy { load_balancing: Some(policy), ..ClusterPolicy::default() };
        let mut scene = Scene::with(policy, Semantics::Grpc, &endpoints);
        scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
        let [dead, light, heavy] = scene.shares(400, [1, 2, 3]);
        assert!(dead == 0 && close(light, 100, 5) && close(heavy, 300, 5), "{dead} {light} {heavy}");
    }
}

#[tokio::test(start_paused = true)]
async fn localities_share_by_weight_what_one_out_of_reach_cannot_take() {
    let endpoints = groups(vec![
        group(0, "a", 4, vec![endpoint(1)]),
        group(0, "b", 1, vec![endpoint(2)]),
        group(0, "c", 3, vec![endpoint(3)]),
    ]);
    let mut scene = Scene::with(ClusterPolicy::default(), Semantics::Grpc, &endpoints);
    loop {
        let mut picked = scene.pick();
        if *picked.handle() == 1 {
            picked.settle(&failure(FailureKind::Connect, Sent::No));
            break;
        }
    }
    let [dead, light, heavy] = scene.shares(400, [1, 2, 3]);
    assert!(dead == 0 && close(light, 100, 30) && close(heavy, 300, 30), "{dead} {light} {heavy}");
}

// Else a request that waits would be told of the second again and again, and never get it.
#[tokio::test(start_paused = true)]
async fn waiting_request_gets_whoever_is_available_even_if_tried() {
    let endpoints = groups(vec![group(0, "a", 1, vec![endpoint(1)]), group(1, "a", 1, vec![endpoint(2)])]);
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &endpoints);
    scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
    let second = scene.cluster.status().endpoints[1].id;
    scene.terms.tried.push(second);
    assert_eq!(scene.try_pick(true).expect("the second").id(), second);
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_says_why() {
    let refused = |endpoints: &Endpoints| {
        let mut scene = Scene::new(LoadBalancing::RoundRobin, endpoints);
        scene.try_pick(false).expect_err("nobody")
    };
    assert_eq!(refused(&Endpoints::none()), NoEndpoint::Empty);
    let draining = Endpoints::flat(vec![ailing(1, HealthStatus::Draining)]).expect("legal");
    assert_eq!(refused(&draining), NoEndpoint::Draining);
    let mut unweighted =
        Scene::with(ClusterPolicy::default(), Semantics::Grpc, &groups(vec![group(0, "a", 0, vec![endpoint(1)])]));
    assert_eq!(unweighted.try_pick(false).map(|_| ()), Err(NoEndpoint::Unweighted));
    assert_eq!(refused(&draining).to_string(), "all endpoints are draining");
}

#[tokio::test(start_paused = true)]
async fn same_seed_picks_the_same() {
    for policy in POLICIES {
        let run = || {
            let mut scene = Scene::new(policy, &flat(1..=20));
            (0..200).map(|_| *scene.pick().handle()).collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "{policy:?}");
    }
}
