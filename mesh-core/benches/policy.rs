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

/// What a call needs. The route's part of the facts lives on, as routes do.
type Given<B> = Box<(Stack, Option<Routed<B>>, Facts)>;

/// Boxed, so that handing it over is not counted; called before, so that binding symbols and opening endpoints is not.
fn ready<B>(kept: bool, request: impl Fn(Facts) -> Routed<B>) -> Given<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut stack, facts) = (stack(), Facts::new(kept));
    (0..6).for_each(|_| call(&mut stack, request(facts.clone())));
    Box::new((stack, Some(request(facts.clone())), facts))
}

fn bare(facts: Facts) -> Routed<Empty<Bytes>> {
    Routed::bare(empty(), facts)
}

#[library_benchmark]
#[bench::not_kept(ready(false, bare))]
#[bench::not_kept_with_headers(ready(false, |facts| Routed::new(empty(), facts)))]
#[bench::kept_with_headers(ready(true, |facts| Routed::new(empty(), facts)))]
#[bench::kept_with_headers_and_body(ready(true, |facts| Routed::new(small(), facts)))]
fn request<B>(mut given: Given<B>) -> Given<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let request = given.1.take().expect("made above");
    call(&mut given.0, request);
    // Returned, so that dropping it is not counted.
    given
}

library_benchmark_group!(name = policy, benchmarks = [request]);
main!(library_benchmark_groups = policy);
