//! What the policy path takes in nanoseconds: the median of several runs. The flow is that of the bench `policy`.
//!
//! Making the request is measured beside it and taken off. Run with `cargo bench -p mesh-core --bench policy_time`.
#![allow(clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use http_body::Body;
use mesh_core::outcome::BoxError;

use self::stack::{Facts, Routed, call, empty, small, stack};

mod stack;

const RUNS: usize = 15;
const CALLS: usize = 200_000;

fn main() {
    report("not kept", false, |facts| Routed::bare(empty(), facts));
    report("not kept, headers", false, |facts| Routed::new(empty(), facts));
    report("kept, headers", true, |facts| Routed::new(empty(), facts));
    report("kept, headers, body", true, |facts| Routed::new(small(), facts));
}

fn report<B>(name: &str, kept: bool, request: impl Fn(Facts) -> Routed<B>)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut stack, facts) = (stack(), Facts::new(kept));
    let made = median(|| drop(black_box(request(facts.clone()))));
    let called = median(|| call(&mut stack, request(facts.clone())));
    println!("{name:20} {:6.1} ns", called - made);
}

fn median(mut each: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..CALLS {
                each();
            }
            started.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}
