//! What selecting a route costs in instructions, which must not grow with virtual hosts and hardly with routes.
//!
//! The flow is the one look-up that every request makes. Run with `cargo bench -p mesh-core --bench route`; it needs
//! valgrind and `cargo install gungraun-runner` of the version that the workspace names.
// The macros make public items.
#![allow(missing_docs)]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};

use self::tables::{Request, Table, many_hosts, many_routes, to_a_late_route, to_each_host};

mod tables;

/// Boxed, so that handing it over is not counted; asked once, so that binding symbols is not.
fn ready(table: Table, request: Request) -> Box<(Table, Request)> {
    assert!(table.select(&request.head(), 0).is_ok());
    Box::new((table, request))
}

fn exact(count: usize) -> Box<(Table, Request)> {
    ready(many_hosts(count), to_each_host(count).swap_remove(0))
}

/// Past all exact names, to the shortest of three suffixes.
fn wildcard(count: usize) -> Box<(Table, Request)> {
    ready(many_hosts(count), Request::get("http://www.example.com/"))
}

/// Past all names and wildcards, to `*`.
fn any(count: usize) -> Box<(Table, Request)> {
    ready(many_hosts(count), Request::get("http://www.elsewhere.org/"))
}

fn late(count: usize) -> Box<(Table, Request)> {
    ready(many_routes(count), to_a_late_route(count))
}

#[library_benchmark]
#[bench::exact_10(exact(10))]
#[bench::exact_100(exact(100))]
#[bench::exact_10000(exact(10_000))]
#[bench::wildcard_10(wildcard(10))]
#[bench::wildcard_10000(wildcard(10_000))]
#[bench::any_10000(any(10_000))]
fn among_virtual_hosts(given: Box<(Table, Request)>) -> Box<(Table, Request)> {
    let (table, request) = &*given;
    let _ = black_box(black_box(table).select(&black_box(request).head(), 0));
    // Returned, so that dropping it is not counted.
    given
}

#[library_benchmark]
#[bench::late_1(late(1))]
#[bench::late_20(late(20))]
#[bench::late_200(late(200))]
fn among_routes(given: Box<(Table, Request)>) -> Box<(Table, Request)> {
    let (table, request) = &*given;
    let _ = black_box(black_box(table).select(&black_box(request).head(), 0));
    given
}

library_benchmark_group!(name = select, benchmarks = [among_virtual_hosts, among_routes]);
main!(library_benchmark_groups = select);
