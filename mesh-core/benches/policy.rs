//! What the policy path costs a request in instructions: deadline, retry driver, budget, request breaker, pick and completion,
//! around endpoints that answer at once.
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

use self::stack::{Routed, Stack, Terms, call, empty, small, stack};

mod stack;

/// What a call needs. The route's part of the terms lives on, as routes do.
type Given<B> = Box<(Stack, Option<Routed<B>>, Terms)>;

/// Boxed, so that handing it over is not counted; called once, so that binding symbols is not.
fn ready<B>(kept: bool, request: impl Fn(Terms) -> Routed<B>) -> Given<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut stack, terms) = (stack(), Terms::new(kept));
    call(&mut stack, request(terms.clone()));
    Box::new((stack, Some(request(terms.clone())), terms))
}

fn bare(terms: Terms) -> Routed<Empty<Bytes>> {
    Routed::bare(empty(), terms)
}

#[library_benchmark]
#[bench::not_kept(ready(false, bare))]
#[bench::not_kept_with_headers(ready(false, |terms| Routed::new(empty(), terms)))]
#[bench::kept_with_headers(ready(true, |terms| Routed::new(empty(), terms)))]
#[bench::kept_with_headers_and_body(ready(true, |terms| Routed::new(small(), terms)))]
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
