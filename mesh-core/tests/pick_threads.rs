//! Many threads pick while one writes: nothing is lost, nothing is picked that has left.
#![allow(missing_docs)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use mesh_core::{
    Dice,
    balance::Terms,
    cluster::Cluster,
    config::{self, ClusterPolicy, LoadBalancing, Semantics},
    hold::Settle,
    outcome::{FailureKind, Sent},
};
use tokio::time::Instant;

mod support;
use support::{Notes, failure, flat, success};

const THREADS: u64 = 4;
const PICKS: usize = 5_000;
const UPDATES: u16 = 200;

#[test]
fn counts_return_to_zero_and_every_handle_is_retired_once() {
    for policy in
        [LoadBalancing::RoundRobin, LoadBalancing::LEAST_REQUEST, LoadBalancing::Random, LoadBalancing::PEAK_EWMA]
    {
        let config = Arc::new(config::Cluster::new("test").expect("a name"));
        let notes = Notes::default();
        let of_policy = ClusterPolicy { load_balancing: Some(policy), ..ClusterPolicy::default() };
        let cluster = Cluster::new(&config, of_policy, Semantics::Envoy, notes.clone(), 1);
        cluster.update_endpoints(&flat(0..8));
        let is_over = AtomicBool::new(false);
        // The first port of the newest set, once it is published: ports below it have left for good.
        let oldest = Mutex::new(0_u16);
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (cluster, is_over, oldest) = (&cluster, &is_over, &oldest);
                scope.spawn(move || pick_until(cluster, seed, is_over, oldest));
            }
            scope.spawn(|| {
                for first in 1..=UPDATES {
                    cluster.update_endpoints(&flat(first..first + 8));
                    *oldest.lock().expect("no panic") = first;
                    thread::yield_now();
                }
                is_over.store(true, SeqCst);
            });
        });
        let status = cluster.status();
        assert!(status.endpoints.iter().all(|endpoint| endpoint.in_flight == 0), "{policy:?}: {status:?}");
        cluster.update_endpoints(&config::Endpoints::none());
        let mut notes = notes.take();
        notes.sort_unstable();
        let opened: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix("open ")).collect();
        let retired: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix("retire ")).collect();
        assert_eq!(opened, retired, "{policy:?}: each that was opened, once");
    }
}

fn pick_until(cluster: &Arc<Cluster<Notes>>, seed: u64, is_over: &AtomicBool, oldest: &Mutex<u16>) {
    let mut terms = Terms::new(Dice::new(seed), Instant::now());
    let mut held = Vec::new();
    let mut left = PICKS;
    while left > 0 || !is_over.load(SeqCst) {
        left = left.saturating_sub(1);
        let at_least = *oldest.lock().expect("no panic");
        terms.now = Instant::now();
        let picked = cluster.pick(&mut terms).expect("there is always one");
        assert!(*picked.handle() >= at_least, "an endpoint was picked after it had left");
        held.push(picked);
        if held.len() > 16 {
            let place = terms.dice.below(16) as usize;
            let mut picked = held.swap_remove(place);
            match terms.dice.below(10) {
                0 => picked.settle(&failure(FailureKind::Connect, Sent::No)),
                1 => {}
                _ => picked.settle(&success()),
            }
        }
    }
}
