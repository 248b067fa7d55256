//! What the policy path allocates, and what an idle endpoint occupies, by a counting allocator.
//!
//! The flows are those of the benches `pick` and `policy`, and a set of 10,000 endpoints that nobody has used: memory by the
//! record is what lets a large mesh be idle for nothing. `tests/` asserts the zeros; here are the figures.
#![allow(clippy::print_stdout, missing_docs)]

use allocation_counter::measure;
use http_body::Body;
use mesh_core::{
    config::LoadBalancing,
    hold::Settle,
    outcome::{BoxError, Class, Outcome},
};

mod stack;
mod support;

use self::{
    stack::{Facts, Routed, call, empty, small, stack},
    support::Scene,
};

const POLICIES: [(&str, LoadBalancing); 4] = [
    ("round-robin", LoadBalancing::RoundRobin),
    ("least-request", LoadBalancing::LEAST_REQUEST),
    ("random", LoadBalancing::Random),
    ("peak-ewma", LoadBalancing::PEAK_EWMA),
];

fn main() {
    for (name, policy) in POLICIES {
        println!("pick {name} {}", [3, 1_000, 100_000].map(|n| of_picks(policy, n)).iter().max().expect("three"));
    }
    let unkept = of_call(false, empty);
    println!("policy-path {unkept}");
    println!("keeping-empty {}", of_call(true, empty) - unkept);
    println!("keeping-small {}", of_call(true, small) - of_call(false, small));
    println!("bytes-endpoint {}", bytes_of_an_endpoint());
}

/// Of a thousand picks, settled.
fn of_picks(policy: LoadBalancing, n: u32) -> u64 {
    let mut scene = Scene::new(policy, n, true);
    let outcome =
        Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at: scene.terms.now };
    measure(|| (0..1_000).for_each(|_| scene.pick().settle(&outcome))).count_total
}

/// Of one call, from request to dropped response, by a stack that is warm.
fn of_call<B>(kept: bool, body: impl Fn() -> B) -> u64
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut stack, facts) = (stack(), Facts::new(kept));
    call(&mut stack, Routed::new(body(), facts.clone()));
    let request = Routed::new(body(), facts);
    measure(|| call(&mut stack, request)).count_total
}

/// The configuration that says so, and the record of it in a cluster, without what a cluster costs by itself.
fn bytes_of_an_endpoint() -> i64 {
    const N: u32 = 10_000;
    let mut config = None;
    let of_config = measure(|| config = Some(support::endpoints(0..N, false)));
    let config = config.expect("made above");
    let scene = Scene::new(LoadBalancing::RoundRobin, 1, false);
    let of_cluster = measure(|| scene.cluster.update_endpoints(&config));
    (of_config.bytes_current + of_cluster.bytes_current) / i64::from(N)
}
