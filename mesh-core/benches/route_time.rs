//! What selecting a route takes in nanoseconds: the median of several runs over tables of growing size.
//!
//! Requests go round all virtual hosts in a shuffled order, as cold as a process that talks to all of them would find
//! them. Run with `cargo bench -p mesh-core --bench route_time`.
#![allow(clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use self::tables::{Request, Table, many_hosts, many_routes, to_a_late_route, to_each_host};

mod tables;

const RUNS: usize = 15;
const SELECTS: usize = 200_000;

fn main() {
    for count in [10, 100, 1_000, 10_000] {
        report(&format!("{count} virtual hosts"), &many_hosts(count), &to_each_host(count));
    }
    let started = Instant::now();
    let table = many_hosts(10_000);
    println!("{:32} {:6.1} ms", "compiling those", started.elapsed().as_secs_f64() * 1e3);
    report("10000 virtual hosts, by suffix", &table, &[Request::get("http://www.example.com/")]);
    report("10000 virtual hosts, by *", &table, &[Request::get("http://www.elsewhere.org/")]);
    for count in [1, 4, 8, 20, 200] {
        report(&format!("{count} routes"), &many_routes(count), &[to_a_late_route(count)]);
    }
}

fn report(name: &str, table: &Table, requests: &[Request]) {
    let mut runs: Vec<f64> = (0..RUNS).map(|_| nanoseconds_each(table, requests)).collect();
    runs.sort_by(f64::total_cmp);
    println!("{name:32} {:6.1} ns (best {:.1})", runs[RUNS / 2], runs[0]);
}

fn nanoseconds_each(table: &Table, requests: &[Request]) -> f64 {
    let started = Instant::now();
    for request in requests.iter().cycle().take(SELECTS) {
        assert!(black_box(table).select(&black_box(request).head(), 0).is_ok());
    }
    started.elapsed().as_nanos() as f64 / SELECTS as f64
}
