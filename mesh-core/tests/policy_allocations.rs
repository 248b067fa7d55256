//! What the layers allocate: nothing on the way of a request that is not kept and does not fail, and little for keeping one.

#[path = "../benches/stack/mod.rs"]
mod stack;

use std::{
    hint::black_box,
    pin::Pin,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use http_body_util::Full;
use mesh_core::{
    config::{CircuitBreakers, RequestPriority},
    limit::Limits,
    outcome::BoxError,
    retry::{Keep, Kept, Replay, Try},
};

use self::stack::{Facts, Routed, call, empty, small, stack};

/// The allocations of one call, from request to dropped response.
fn allocations<B>(kept: bool, body: impl Fn() -> B) -> u64
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut stack = stack();
    let facts = Facts::new(kept);
    // The first at each of three endpoints opens it.
    (0..6).for_each(|_| call(&mut stack, Routed::new(body(), facts.clone())));
    let request = Routed::new(body(), facts);
    allocation_counter::measure(|| call(&mut stack, request)).count_total
}

#[test]
fn request_that_is_not_kept_allocates_nothing() {
    assert_eq!(allocations(false, empty), 0);
    assert_eq!(allocations(false, small), 0);
}

#[test]
fn keeping_a_request_costs_the_copy_of_its_head() {
    // The two tables of a header map.
    assert_eq!(allocations(true, empty), 2);
    assert_eq!(allocations(true, small), 2);
}

#[test]
fn data_that_was_a_vec_is_made_countable_once() {
    assert_eq!(allocations(true, || Full::new(Bytes::from(vec![0; 100]))), 3);
}

#[test]
fn reading_a_short_body_allocates_nothing() {
    let mut kept = Replay::new().keep(Request::new(Full::new(Bytes::from_static(b"body"))), true);
    let mut cx = Context::from_waker(Waker::noop());
    let counted = allocation_counter::measure(|| {
        kept.gather(&mut cx);
        let mut body = kept.attempt(Try { id: 0, number: 1 }).expect("the first attempt").into_body();
        assert!(black_box(Pin::new(&mut body).poll_frame(&mut cx)).is_ready());
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn permit_allocates_nothing() {
    let limits = Limits::new(&CircuitBreakers::default());
    let counted = allocation_counter::measure(|| drop(black_box(limits.request(RequestPriority::Default))));
    assert_eq!(counted.count_total, 0);
}

#[test]
fn the_count_counts() {
    assert_eq!(allocation_counter::measure(|| drop(black_box(Box::new(1)))).count_total, 1);
}
