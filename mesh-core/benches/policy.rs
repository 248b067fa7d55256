//! What the policy path costs a request in instructions: deadline, retry driver, budget, request breaker and balancer around
//! endpoints that answer at once.
//!
//! Every request pays it, so that it is the price of standing in the way at all. Run with `cargo bench -p mesh-core --bench
//! policy`; it needs valgrind and `cargo install gungraun-runner` of the version that the workspace names.
// The macros make public items.
#![allow(missing_docs)]

use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group, main};
use http_body::Body;
use http_body_util::Empty;
use mesh_core::outcome::BoxError;

use self::stack::{Facts, Routed, Stack, call, empty, small, stack};

mod stack;

/// A request to a cluster that has answered before, so that binding symbols and opening endpoints is not counted. It is an
/// argument by itself, so that it is handed over by address, as by whoever has just made it. Its route lives on, as routes do.
fn ready<B>(kept: bool, request: impl Fn(Facts) -> Routed<B>) -> Routed<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut stack, facts) = (stack(), Facts::new(kept));
    (0..6).for_each(|_| call(&mut stack, request(facts.clone())));
    std::mem::forget(facts.clone());
    request(facts)
}

fn bare(facts: Facts) -> Routed<Empty<Bytes>> {
    Routed::bare(empty(), facts)
}

#[library_benchmark]
#[bench::not_kept(stack(), ready(false, bare))]
#[bench::not_kept_with_headers(stack(), ready(false, |facts| Routed::new(empty(), facts)))]
#[bench::kept_with_headers(stack(), ready(true, |facts| Routed::new(empty(), facts)))]
#[bench::kept_with_headers_and_body(stack(), ready(true, |facts| Routed::new(small(), facts)))]
fn request<B>(mut stack: Stack, request: Routed<B>)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    call(&mut stack, request);
}

library_benchmark_group!(name = policy, benchmarks = [request]);
main!(library_benchmark_groups = policy);
