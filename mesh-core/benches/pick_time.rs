//! How long it takes to pick an endpoint, by policy and number of endpoints: one line each, in nanoseconds, the median of
//! seven rounds.
//!
//! `pick` is a pick and the drop of its guard, settled. `request` is what a request pays: two readings of the clock beside
//! it. The last table has two threads that pick from the same cluster.
#![allow(clippy::print_stdout, missing_docs)]

use std::{hint::black_box, thread};

use mesh_core::{
    config::LoadBalancing,
    hold::Settle,
    outcome::{Class, Outcome},
};
use tokio::time::Instant;

mod support;
use support::Scene;

const ROUNDS: usize = 7;
const PICKS: u32 = 1_000_000;

fn policies() -> [(&'static str, LoadBalancing, bool); 7] {
    [
        ("round robin", LoadBalancing::RoundRobin, false),
        ("round robin, weights", LoadBalancing::RoundRobin, true),
        ("least request", LoadBalancing::LEAST_REQUEST, false),
        ("least request, weights", LoadBalancing::LEAST_REQUEST, true),
        ("random", LoadBalancing::Random, false),
        ("random, weights", LoadBalancing::Random, true),
        ("peak ewma", LoadBalancing::PEAK_EWMA, false),
    ]
}

fn main() {
    println!("{:<24} {:>8} {:>8} {:>8} {:>8}", "policy", "n", "pick", "settled", "request");
    for (name, policy, weighted) in policies() {
        for n in [3, 10, 100, 1_000, 100_000] {
            let mut scene = Scene::new(policy, n, weighted);
            let pick = median(|| time(&mut scene, pick_only));
            let settled = median(|| time(&mut scene, pick_and_settle));
            let request = median(|| time(&mut scene, request));
            println!("{name:<24} {n:>8} {pick:>8.1} {settled:>8.1} {request:>8.1}");
        }
    }
    println!("\none endpoint changed in a set, microseconds");
    for n in [10, 1_000, 10_000, 100_000] {
        let scene = Scene::new(LoadBalancing::LEAST_REQUEST, n, false);
        println!("{:<24} {n:>8} {:>8.0}", "update", median(|| update(&scene, n)));
    }
    println!("\ntwo threads, one cluster, settled");
    for (name, policy, weighted) in policies() {
        let mut scenes = [Scene::new(policy, 10, weighted), Scene::new(policy, 10, weighted)];
        scenes[1].cluster = scenes[0].cluster.clone();
        let both = thread::scope(|scope| {
            let runs = scenes.each_mut().map(|scene| scope.spawn(|| median(|| time(scene, pick_and_settle))));
            runs.map(|run| run.join().expect("no panic"))
        });
        println!("{name:<24} {:>8} {:>8.1}", 10, both[0].max(both[1]));
    }
}

/// Takes a new set of `n` endpoints, of which one is another.
fn update(scene: &Scene, n: u32) -> f64 {
    let sets = [0, 1].map(|last| support::endpoints((0..n - 1).chain([n + last]), false));
    let start = std::time::Instant::now();
    (0..10).for_each(|i| scene.cluster.update_endpoints(&sets[i % 2]));
    start.elapsed().as_micros() as f64 / 10.0
}

#[inline(never)]
fn pick_only(scene: &mut Scene) {
    // Forgotten rather than dropped unsettled, which would read the clock; counts and references only grow.
    std::mem::forget(black_box(scene.pick()));
}

#[inline(never)]
fn pick_and_settle(scene: &mut Scene) {
    let mut picked = black_box(scene.pick());
    picked.settle(&outcome(scene.terms.now));
}

#[inline(never)]
fn request(scene: &mut Scene) {
    scene.terms.now = Instant::now();
    let mut picked = black_box(scene.pick());
    picked.settle(&outcome(Instant::now()));
}

fn outcome(at: Instant) -> Outcome {
    Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at }
}

fn time(scene: &mut Scene, run: fn(&mut Scene)) -> f64 {
    let start = std::time::Instant::now();
    (0..PICKS).for_each(|_| run(scene));
    start.elapsed().as_nanos() as f64 / f64::from(PICKS)
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| run()).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
