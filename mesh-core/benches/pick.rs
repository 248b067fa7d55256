//! How many instructions it takes to pick an endpoint and to settle its guard, by policy and number of endpoints.
//!
//! Every request pays this once per attempt, so it decides what balancing costs. Instructions rather than time, since they
//! hardly vary; `pick_time` has the time. Each figure is for a hundred picks.
#![allow(missing_docs)]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use mesh_core::{
    config::LoadBalancing,
    hold::Settle,
    outcome::{Class, Outcome},
};

mod support;
use support::Scene;

#[library_benchmark]
#[bench::round_robin_3(Scene::new(LoadBalancing::RoundRobin, 3, false))]
#[bench::round_robin_1000(Scene::new(LoadBalancing::RoundRobin, 1_000, false))]
#[bench::weighted_round_robin_3(Scene::new(LoadBalancing::RoundRobin, 3, true))]
#[bench::weighted_round_robin_1000(Scene::new(LoadBalancing::RoundRobin, 1_000, true))]
#[bench::least_request_3(Scene::new(LoadBalancing::LEAST_REQUEST, 3, false))]
#[bench::least_request_1000(Scene::new(LoadBalancing::LEAST_REQUEST, 1_000, false))]
#[bench::weighted_least_request_3(Scene::new(LoadBalancing::LEAST_REQUEST, 3, true))]
#[bench::weighted_least_request_1000(Scene::new(LoadBalancing::LEAST_REQUEST, 1_000, true))]
#[bench::random_3(Scene::new(LoadBalancing::Random, 3, false))]
#[bench::random_1000(Scene::new(LoadBalancing::Random, 1_000, false))]
#[bench::peak_ewma_3(Scene::new(LoadBalancing::PEAK_EWMA, 3, false))]
#[bench::peak_ewma_1000(Scene::new(LoadBalancing::PEAK_EWMA, 1_000, false))]
fn hundred_picks(mut scene: Scene) -> Scene {
    let at = scene.terms.now;
    for _ in 0..100 {
        let outcome = Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at };
        black_box(scene.pick()).settle(&outcome);
    }
    scene
}

library_benchmark_group!(name = picks; benchmarks = hundred_picks);
main!(library_benchmark_groups = picks);
