//! A cluster through its updates: what stays, what goes, what is ejected, who waits.
#![allow(missing_docs)]

use std::{collections::HashMap, sync::Arc, time::Duration};

use mesh_core::{
    Dice,
    cluster::{Capacity, Cluster},
    config::{
        CircuitBreakers, ClusterPolicy, DropOverload, Endpoints, Fraction, HealthStatus, LoadBalancing,
        OutlierDetection, Percent, RequestPriority, Semantics, Thresholds,
    },
    hold::Settle,
    outcome::{FailureKind, Flags, Outcome, Sent},
};
use proptest::prelude::*;
use tokio::{
    task::yield_now,
    time::{Instant, advance},
};
use tokio_test::{assert_pending, assert_ready, task};

mod support;
use support::*;

fn ejecting() -> ClusterPolicy {
    let max_ejected = Percent::new(50.0).expect("legal");
    let outlier = OutlierDetection { consecutive_errors: 3, max_ejected, ..OutlierDetection::default() };
    ClusterPolicy { outlier_detection: Some(Arc::new(outlier)), ..ClusterPolicy::default() }
}

/// Picks until `port` has had `n` requests, all of which end like `outcome`; those of others succeed.
fn end_like(scene: &mut Scene, port: u16, n: usize, outcome: &Outcome) {
    let mut left = n;
    while left > 0 {
        let mut picked = scene.pick();
        if *picked.handle() == port {
            picked.settle(outcome);
            left -= 1;
        } else {
            picked.settle(&success());
        }
    }
}

fn ejected(cluster: &Cluster<Notes>) -> Vec<u16> {
    let status = cluster.status();
    status
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.is_ejected)
        .map(|endpoint| port(&endpoint.addresses[0]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_stays_keeps_its_number_count_and_connections() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2]));
    let held: Vec<_> = (0..6).map(|_| scene.pick()).collect();
    let before = scene.cluster.status();
    scene.notes.take();

    let moved = groups(vec![
        group(0, "a", 1, vec![endpoint(3), weighing(2, 5)]),
        group(1, "b", 1, vec![ailing(1, HealthStatus::Degraded)]),
    ]);
    scene.cluster.update_endpoints(&moved);
    let after = scene.cluster.status();
    let find = |id| after.endpoints.iter().find(|endpoint| endpoint.id == id).expect("it stayed");
    for endpoint in &before.endpoints {
        assert_eq!(find(endpoint.id).in_flight, 3);
        assert_eq!(find(endpoint.id).addresses, endpoint.addresses);
    }
    assert_eq!(scene.notes.take(), Vec::<String>::new(), "nothing was opened, updated or retired");
    drop(held);
    assert!(scene.cluster.status().endpoints.iter().all(|endpoint| endpoint.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_leaves_is_retired_once_and_finishes_what_it_has() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2, 3]));
    let mut held: Vec<_> = (0..2).map(|_| scene.pick()).collect();
    let gone = *held[0].handle();
    scene.notes.take();
    scene.cluster.update_endpoints(&flat((1..=3).filter(|port| *port != gone)));
    assert_eq!(scene.notes.take(), [format!("retire {gone}")]);
    assert!((0..100).all(|_| *scene.pick().handle() != gone));
    held[0].settle(&success());
    drop(held);

    let known = scene.cluster.status();
    scene.cluster.update_endpoints(&flat([1, 2, 3]));
    let back = scene.cluster.status().endpoints.into_iter().find(|endpoint| port(&endpoint.addresses[0]) == gone);
    let back = back.expect("it is back");
    assert!(known.endpoints.iter().all(|endpoint| endpoint.id < back.id), "its number is a new one");
}

#[tokio::test(start_paused = true)]
async fn unused_endpoint_is_neither_opened_nor_retired() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2]));
    let used = *scene.pick().handle();
    scene.cluster.update_endpoints(&Endpoints::none());
    assert_eq!(scene.notes.take(), [format!("open {used}"), format!("retire {used}")]);
}

#[tokio::test(start_paused = true)]
async fn change_of_policy_tells_the_transport_and_keeps_counts() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1, 2]));
    let held = scene.pick();
    scene.notes.take();
    scene
        .cluster
        .update_policy(ClusterPolicy { load_balancing: Some(LoadBalancing::PEAK_EWMA), ..ClusterPolicy::default() });
    assert_eq!(scene.notes.take(), [format!("update {}", held.handle())]);
    assert_eq!(scene.cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight).sum::<u32>(), 1);
    assert_ne!(scene.pick().id(), held.id(), "the new policy sees what is in flight");
}

#[tokio::test(start_paused = true)]
async fn change_of_limits_keeps_what_is_under_way_counted() {
    let scene = Scene::new(LoadBalancing::RoundRobin, &flat([1]));
    let _permit = scene.cluster.limits().request(RequestPriority::Default).expect("one of 1024");
    let default = Thresholds { max_requests: Some(1), ..Thresholds::default() };
    let circuit_breakers = CircuitBreakers { default, ..CircuitBreakers::default() };
    scene.cluster.update_policy(ClusterPolicy { circuit_breakers, ..ClusterPolicy::default() });
    assert!(scene.cluster.limits().request(RequestPriority::Default).is_err());
}

#[tokio::test(start_paused = true)]
async fn dropped_cluster_retires_its_endpoints_and_ends_its_work() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1]));
    let work = tokio::spawn(scene.cluster.work());
    let held = scene.pick();
    yield_now().await;
    drop(scene.cluster);
    work.await.expect("no panic");
    assert_eq!(scene.notes.take(), ["open 1", "retire 1"]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_until_a_sweep_after_the_time() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2, 3, 4]));
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    end_like(&mut scene, 1, 3, &server_error());
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), [1]);
    assert_eq!(scene.shares(30, [1, 2, 3, 4]), [0, 10, 10, 10]);

    advance(Duration::from_secs(29)).await;
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), [1]);
    advance(Duration::from_secs(1)).await;
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), Vec::<u16>::new());
    assert_eq!(scene.shares(40, [1, 2, 3, 4]), [10; 4]);
}

#[tokio::test(start_paused = true)]
async fn success_in_between_resets_the_row() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2, 3, 4]));
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    for _ in 0..5 {
        end_like(&mut scene, 1, 2, &server_error());
        end_like(&mut scene, 1, 1, &success());
    }
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), Vec::<u16>::new());
}

#[tokio::test(start_paused = true)]
async fn refusals_of_our_own_and_callers_who_leave_are_not_held_against_an_endpoint() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2]));
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    end_like(&mut scene, 1, 10, &failure(FailureKind::Overflow, Sent::No));
    end_like(&mut scene, 1, 10, &Outcome::cancelled(Instant::now()));
    (0..20).for_each(|_| drop(scene.pick()));
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), Vec::<u16>::new());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ejected_where_nobody_reviews() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2, 3, 4]));
    end_like(&mut scene, 1, 10, &server_error());
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), Vec::<u16>::new());
}

// It answers, if badly; the other does not, and every request would first have to find that out.
#[tokio::test(start_paused = true)]
async fn ejected_endpoint_is_picked_before_one_out_of_reach() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2]));
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    end_like(&mut scene, 1, 3, &server_error());
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), [1]);
    end_like(&mut scene, 2, 1, &failure(FailureKind::Connect, Sent::No));
    assert_eq!(scene.shares(20, [1, 2]), [20, 0]);
    assert!(scene.try_pick(true).is_err(), "a request that waits waits for the ejection's end too");

    // Once it is due for a probe, it gets one.
    advance(Duration::from_secs(2)).await;
    assert_eq!(scene.shares(20, [1, 2]), [0, 20]);
}

#[tokio::test(start_paused = true)]
async fn ejections_shift_traffic_to_the_next_priority() {
    let endpoints = groups(vec![
        group(0, "a", 1, vec![endpoint(1), endpoint(2)]),
        group(1, "a", 1, vec![endpoint(3), endpoint(4)]),
    ]);
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &endpoints);
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    end_like(&mut scene, 1, 3, &server_error());
    yield_now().await;
    let loads: Vec<_> = scene.cluster.status().priorities.iter().map(|priority| priority.healthy_load).collect();
    assert_eq!(loads, [70, 30]);
}

#[tokio::test(start_paused = true)]
async fn policy_without_detection_ends_all_ejections() {
    let mut scene = Scene::with(ejecting(), Semantics::Envoy, &flat([1, 2, 3, 4]));
    tokio::spawn(scene.cluster.work());
    yield_now().await;
    end_like(&mut scene, 1, 3, &server_error());
    yield_now().await;
    assert_eq!(ejected(&scene.cluster), [1]);
    scene.cluster.update_policy(ClusterPolicy::default());
    assert_eq!(ejected(&scene.cluster), Vec::<u16>::new());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_first_endpoint() {
    let scene = Scene::new(LoadBalancing::RoundRobin, &Endpoints::none());
    let mut waiting = task::spawn(scene.cluster.available());
    assert_pending!(waiting.poll());
    scene.cluster.update_endpoints(&flat([1]));
    assert!(waiting.is_woken());
    assert_ready!(waiting.poll());
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_came_before_the_first_poll_is_not_missed() {
    let scene = Scene::new(LoadBalancing::RoundRobin, &Endpoints::none());
    let mut waiting = task::spawn(scene.cluster.available());
    scene.cluster.update_endpoints(&flat([1]));
    assert_ready!(waiting.poll());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_a_probe_is_due_or_somebody_got_through() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1]));
    scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
    let mut waiting = task::spawn(scene.cluster.available());
    assert_pending!(waiting.poll());
    advance(Duration::from_secs(2)).await;
    assert!(waiting.is_woken());
    assert_ready!(waiting.poll());

    let probe = scene.try_pick(true).expect("the probe");
    let mut waiting = task::spawn(scene.cluster.available());
    assert_pending!(waiting.poll());
    probe.reached();
    assert!(waiting.is_woken());
    assert_ready!(waiting.poll());
}

// Its probe is due, and nobody would send one: to wait for that would be to spin.
#[tokio::test(start_paused = true)]
async fn waiting_does_not_spin_for_an_endpoint_that_is_out_for_another_reason_too() {
    let outlier = OutlierDetection { consecutive_errors: 1, always_eject_one: true, ..OutlierDetection::default() };
    let policy = ClusterPolicy { outlier_detection: Some(Arc::new(outlier)), ..ClusterPolicy::default() };
    let unhealthy = Endpoints::flat(vec![ailing(1, HealthStatus::Unhealthy)]).expect("legal");
    for (policy, then) in [(policy, None), (ClusterPolicy::default(), Some(unhealthy))] {
        let mut scene = Scene::with(policy, Semantics::Grpc, &flat([1]));
        tokio::spawn(scene.cluster.work());
        yield_now().await;
        scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
        yield_now().await;
        then.iter().for_each(|endpoints| scene.cluster.update_endpoints(endpoints));
        advance(Duration::from_secs(2)).await;
        let mut waiting = task::spawn(scene.cluster.available());
        assert_pending!(waiting.poll());
        // The runtime makes who spins give way, and wakes it later.
        yield_now().await;
        assert!(!waiting.is_woken(), "nothing has happened");

        advance(Duration::from_secs(30)).await;
        yield_now().await;
        if then.is_some() {
            scene.cluster.update_endpoints(&flat([1]));
        }
        assert!(waiting.is_woken(), "it is back");
        assert_ready!(waiting.poll());
    }
}

/// One step of a cluster's life.
#[derive(Clone, Debug)]
enum Step {
    Update(Vec<(u16, HealthStatus, u32)>),
    Pick,
    Settle(usize, bool),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        6 => Just(HealthStatus::Healthy), 1 => Just(HealthStatus::Unhealthy),
        2 => Just(HealthStatus::Draining), 1 => Just(HealthStatus::Degraded),
    ];
    let endpoints = prop::collection::btree_map(1..8_u16, (health, 0..3_u32), 0..8);
    let update = endpoints.prop_map(|map| map.into_iter().map(|(port, (health, p))| (port, health, p)).collect());
    prop_oneof![
        1 => update.prop_map(Step::Update),
        8 => Just(Step::Pick),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, good)| Step::Settle(n, good)),
        2 => any::<usize>().prop_map(Step::Drop),
    ]
}

fn endpoints_of(update: &[(u16, HealthStatus, u32)]) -> Endpoints {
    // Priorities without a gap: those that are used, numbered anew.
    let mut used: Vec<_> = update.iter().map(|(_, _, priority)| *priority).collect();
    used.sort_unstable();
    used.dedup();
    let of = |wanted: u32| {
        update.iter().filter(move |(_, _, p)| *p == wanted).map(|(port, health, _)| ailing(*port, *health))
    };
    let grouped = (0..).zip(&used).map(|(number, priority)| group(number, "a", 1, of(*priority).collect()));
    groups(grouped.collect())
}

proptest! {
    // Counts against a model: a number belongs to an identity as long as it stays, and in flight is what is held.
    #[test]
    fn counts_numbers_and_picks_hold_through_any_updates(
        steps in prop::collection::vec(step(), 1..120), policy in 0..4_usize, seed in any::<u64>(),
    ) {
        let policies = [LoadBalancing::RoundRobin, LoadBalancing::LEAST_REQUEST, LoadBalancing::Random, LoadBalancing::PEAK_EWMA];
        let mut scene = Scene::new(policies[policy], &Endpoints::none());
        scene.terms.dice = Dice::new(seed);
        let (mut present, mut numbers, mut highest) = (HashMap::new(), HashMap::new(), 0);
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Update(update) => {
                    scene.cluster.update_endpoints(&endpoints_of(&update));
                    present = update.into_iter().map(|(port, health, _)| (port, health)).collect();
                    let before: HashMap<u16, u64> = std::mem::take(&mut numbers);
                    let highest_before = highest;
                    for endpoint in scene.cluster.status().endpoints {
                        let (port, id) = (port(&endpoint.addresses[0]), endpoint.id.get());
                        prop_assert!(before.get(&port).map_or(id > highest_before, |known| *known == id));
                        highest = highest.max(id);
                        numbers.insert(port, id);
                    }
                }
                Step::Pick => match scene.try_pick(false) {
                    Ok(picked) => {
                        prop_assert_eq!(numbers.get(picked.handle()).copied(), Some(picked.id().get()));
                        prop_assert_ne!(present.get(picked.handle()), Some(&HealthStatus::Draining));
                        held.push(picked);
                    }
                    Err(_) => prop_assert!(present.values().all(|health| *health == HealthStatus::Draining)),
                },
                Step::Settle(n, good) if !held.is_empty() => {
                    let place = n % held.len();
                    let mut picked = held.swap_remove(place);
                    picked.settle(&if good { success() } else { failure(FailureKind::Connect, Sent::No) });
                }
                Step::Drop(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
                Step::Settle(..) | Step::Drop(_) => {}
            }
            for endpoint in scene.cluster.status().endpoints {
                let mine = held.iter().filter(|picked| picked.id() == endpoint.id).count();
                prop_assert_eq!(endpoint.in_flight as usize, mine);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_category_of_drops_has_its_share_and_no_drops_leave_the_dice_alone() {
    let scene = Scene::new(LoadBalancing::RoundRobin, &flat([1]));
    let mut dice = Dice::new(7);
    let before = dice;
    assert_eq!(scene.cluster.drop_overload(&mut dice), None);
    assert_eq!(dice, before);

    let share = |category: &str, percent| {
        let share = Fraction::new(percent, 100).expect("hundredths");
        DropOverload { category: category.into(), share }
    };
    scene.cluster.update_endpoints(&flat([1]).with_drops(vec![share("lb", 20), share("throttle", 50)]));
    let dropped: Vec<_> = (0..4_000).filter_map(|_| scene.cluster.drop_overload(&mut dice)).collect();
    let of = |category: &str| dropped.iter().filter(|dropped| **dropped.category() == *category).count();
    assert!((700..900).contains(&of("lb")), "{} of 4000", of("lb"));
    assert!((1_450..1_750).contains(&of("throttle")), "{} of the other 3200", of("throttle"));
    assert!(dropped.iter().all(|dropped| dropped.failure().flags == Flags::DO));

    scene.cluster.update_endpoints(&flat([1]).with_drops(vec![share("lb", 100)]));
    let failure = scene.cluster.drop_overload(&mut dice).expect("all are").failure();
    assert_eq!((failure.kind, failure.flags, failure.sent), (FailureKind::Dropped, Flags::UDO, Sent::No));
    assert!(!failure.class().is_failure(), "no endpoint is to blame");
}

// --- capacity ---

fn capacity(semantics: Semantics, endpoints: &Endpoints) -> (u32, u32, bool) {
    let scene = Scene::with(ClusterPolicy::default(), semantics, endpoints);
    let Capacity { healthy, degraded, is_empty, .. } = scene.cluster.capacity(Instant::now());
    (healthy, degraded, is_empty)
}

#[tokio::test(start_paused = true)]
async fn capacity_is_what_health_and_overprovisioning_leave_of_all_priorities() {
    use HealthStatus::{Degraded, Unhealthy};
    let half = || vec![endpoint(1), ailing(2, Unhealthy)];
    let fifth =
        || vec![endpoint(3), ailing(4, Unhealthy), ailing(5, Unhealthy), ailing(6, Unhealthy), ailing(7, Degraded)];
    for (endpoints, of_envoy, of_grpc) in [
        (flat([1, 2]), (100, 0, false), (100, 0, false)),
        (groups(vec![group(0, "a", 1, half())]), (70, 0, false), (100, 0, false)),
        (groups(vec![group(0, "a", 1, fifth())]), (28, 28, false), (100, 0, false)),
        (groups(vec![group(0, "a", 1, half()), group(1, "a", 1, fifth())]), (98, 28, false), (100, 0, false)),
        (groups(vec![group(0, "a", 1, vec![ailing(1, Unhealthy)])]), (0, 0, false), (0, 0, false)),
        (Endpoints::none(), (0, 0, true), (0, 0, true)),
    ] {
        assert_eq!(capacity(Semantics::Envoy, &endpoints), of_envoy, "{endpoints:?}");
        assert_eq!(capacity(Semantics::Grpc, &endpoints), of_grpc, "{endpoints:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_that_nobody_can_reach_has_no_capacity_until_it_is_time_to_try_again() {
    let mut scene = Scene::new(LoadBalancing::RoundRobin, &flat([1]));
    assert_eq!(scene.cluster.capacity(Instant::now()).healthy, 100);
    scene.pick().settle(&failure(FailureKind::Connect, Sent::No));
    assert_eq!(scene.cluster.capacity(Instant::now()), Capacity::default());
    assert_eq!(scene.cluster.capacity(Instant::now() + Duration::from_secs(120)).healthy, 100);
}
