//! What a pick and an idle endpoint cost in memory, by a counting allocator.
#![allow(missing_docs)]

use std::net::SocketAddr;

use allocation_counter::measure;
use mesh_core::{
    config::{Endpoint, Endpoints, LoadBalancing, Weight},
    hold::Settle,
};

mod support;
use support::{Scene, success};

fn endpoints(n: u32, weighted: bool) -> Endpoints {
    let endpoint = |i: u32| {
        let weight = Weight::new(if weighted { 1 + i % 3 } else { 1 }).expect("not zero");
        Endpoint::new(SocketAddr::from(((0x0a00_0000 + i).to_be_bytes(), 80))).with_weight(weight)
    };
    Endpoints::flat((0..n).map(endpoint).collect()).expect("legal")
}

#[test]
fn pick_and_its_end_allocate_nothing() {
    for policy in
        [LoadBalancing::RoundRobin, LoadBalancing::LEAST_REQUEST, LoadBalancing::Random, LoadBalancing::PEAK_EWMA]
    {
        for weighted in [false, true] {
            let mut scene = Scene::new(policy, &endpoints(100, weighted));
            (0..5_000).for_each(|_| drop(scene.pick()));
            let counted = measure(|| {
                for _ in 0..1_000 {
                    scene.pick().settle(&success());
                }
            });
            assert_eq!(counted.count_total, 0, "{policy:?}");
        }
    }
}

#[test]
fn idle_endpoint_takes_250_bytes_with_its_configuration() {
    const N: u32 = 10_000;
    let mut config = None;
    let of_config = measure(|| config = Some(endpoints(N, false)));
    let config = config.expect("made above");
    let scene = Scene::new(LoadBalancing::RoundRobin, &Endpoints::none());
    let of_live = measure(|| scene.cluster.update_endpoints(&config));
    let bytes = (of_config.bytes_current + of_live.bytes_current) / i64::from(N);
    assert!(bytes <= 250, "{bytes} bytes, of which {} are configuration", of_config.bytes_current / i64::from(N));
    // The counter cannot tell itself from nothing.
    assert!(bytes >= 100, "{bytes} bytes");
}
