//! What the policy path costs a request in instructions: deadline, retry driver, budget and request breaker around a service
//! that answers at once.
//!
//! Every request pays it, so that it is the price of standing in the way at all. Run with `cargo bench -p mesh-core --bench
//! policy`; it needs valgrind and `cargo install gungraun-runner` of the version that the workspace names.
// The macros make public items.
#![allow(missing_docs)]

use gungraun::{library_benchmark, library_benchmark_group, main};
use http_body::Body;
use mesh_core::outcome::BoxError;

use self::stack::{Routed, Stack, Terms, call, empty, small, stack};

mod stack;

/// Boxed, so that handing it over is not counted; called once, so that binding symbols is not.
fn ready<B>(kept: bool, body: fn() -> B) -> Box<(Stack, Option<Routed<B>>)>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let (mut stack, terms) = (stack(), Terms::new(kept));
    call(&mut stack, Routed::new(body(), terms.clone()));
    Box::new((stack, Some(Routed::new(body(), terms))))
}

#[library_benchmark]
#[bench::not_kept(ready(false, empty))]
#[bench::kept_empty(ready(true, empty))]
#[bench::kept_small(ready(true, small))]
fn request<B>(given: Box<(Stack, Option<Routed<B>>)>) -> Box<(Stack, Option<Routed<B>>)>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let mut given = given;
    let request = given.1.take().expect("made above");
    call(&mut given.0, request);
    // Returned, so that dropping it is not counted.
    given
}

library_benchmark_group!(name = policy, benchmarks = [request]);
main!(library_benchmark_groups = policy);
