//! What requests feel of a control plane that never rests: their 99th percentile during a hundred pushes a second, of the one
//! when it is quiet.
//!
//! A client of 1,000 clusters calls one of them, eight at once with a pause of a millisecond after each answer, as a service does
//! that is not at its limit. Every push of the storm changes the endpoints of ten clusters, every other one the routes as well, all
//! 1,000 virtual hosts of which are one resource and come whole: each of them is another, or (`edits`) ten are and the rest is as
//! it was, as when people edit. Quiet and stormy half-seconds take turns, and the figure is the median of their ratios: a machine that
//! is shared slows both.
//!
//! Each is measured where the mesh follows its source on the runtime of the requests, and where it has a thread of its own for it
//! (`own-thread`). The control plane stands for that of another machine: it and those who change things in it run when nobody
//! else wants a core. `cargo bench -p mesh-tests --bench storm`.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use mesh_core::config::HttpProtocol;
use mesh_http::{Client, Control};
use mesh_xds_client::session::Variant;
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

mod support;
use support::{Elsewhere, Size, TARGET, called, host, median, routes_in, runtime, take_what_is_left};

const SIZE: Size = Size { clusters: 1_000, endpoints: 10 };
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
const AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);
const BETWEEN_PUSHES: Duration = Duration::from_millis(10);

/// How many virtual hosts another version of the routes changes.
#[derive(Clone, Copy)]
enum Changes {
    All,
    Ten,
}

/// Pushes while it is told to.
struct Storm {
    blows: Arc<AtomicBool>,
    pushes: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn main() {
    let wanted = |name: &str| env::args().skip(1).all(|argument| argument.starts_with('-') || name.contains(&argument));
    let two_workers = || Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let runtimes: [(_, fn() -> Runtime); 2] = [("current-thread", runtime), ("two-workers", two_workers)];
    let controls = [("", Control::Runtime), ("-own-thread", Control::OwnThread)];
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        for (edits, changes) in [("", Changes::All), ("-edits", Changes::Ten)] {
            for (runs, runtime) in &runtimes {
                for (followed, control) in controls {
                    let name = format!("{runs}{edits}{followed}");
                    if wanted(&name) {
                        measure(&name, (control, changes), variant, &runtime());
                    }
                }
            }
        }
    }
}

fn measure(name: &str, (control, changes): (Control, Changes), variant: Variant, runtime: &Runtime) {
    let plane = Arc::new(Elsewhere::start_remote());
    plane.offer(SIZE, 0);
    let storm = Storm::gather(plane.clone(), changes);
    let client = runtime.block_on(ready(&plane, variant, control));
    let (mut quiet, mut stormy, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let pushed = storm.pushes.load(Relaxed);
    for _ in 0..ROUNDS {
        quiet.push(runtime.block_on(round(&client)));
        storm.blows.store(true, Relaxed);
        stormy.push(runtime.block_on(round(&client)));
        storm.blows.store(false, Relaxed);
        ratios.push(stormy[stormy.len() - 1] / quiet[quiet.len() - 1]);
        // What was pushed last is done with before it is quiet again.
        runtime.block_on(async { sleep(Duration::from_millis(200)).await });
    }
    let pushes = f64::from(storm.pushes.load(Relaxed) - pushed) / (ROUNDS as f64 * ROUND.as_secs_f64());
    println!(
        "storm {name} {} {:.2} of {:.0} us at {pushes:.0} pushes a second",
        called(variant),
        median(ratios),
        median(quiet)
    );
    drop(storm);
    drop(client);
}

/// A client that knows all that the control plane has to say.
async fn ready(plane: &Elsewhere, variant: Variant, control: Control) -> Client {
    let mesh = plane.mesh(variant, control);
    let builder = Client::builder(TARGET).mesh(&mesh).any_authority().protocol(HttpProtocol::Http2);
    let client = builder.build().expect("a legal configuration");
    client.ready().await.expect("it is told");
    client
}

/// The 99th percentile of a round, in microseconds.
async fn round(client: &Client) -> f64 {
    let until = Instant::now() + ROUND;
    let callers: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(call(client.clone(), until))).collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await.expect("a caller does not panic"));
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

async fn call(client: Client, until: Instant) -> Vec<f64> {
    let uri: http::Uri = format!("http://{}/", host(0)).parse().expect("a legal target");
    let mut times = Vec::new();
    while Instant::now() < until {
        let started = Instant::now();
        let request = Request::post(uri.clone()).body(Full::new(Bytes::from_static(b"storm"))).expect("legal");
        let response = client.request(request).await.expect("an answer");
        response.into_body().collect().await.expect("a whole body");
        times.push(started.elapsed().as_secs_f64() * 1e6);
        sleep(PAUSE).await;
    }
    times
}

// === impl Storm ===

impl Storm {
    fn gather(elsewhere: Arc<Elsewhere>, changes: Changes) -> Self {
        let (blows, pushes, ends) = <(Arc<AtomicBool>, Arc<AtomicU32>, Arc<AtomicBool>)>::default();
        let thread = thread::spawn({
            let (blows, pushes, ends) = (blows.clone(), pushes.clone(), ends.clone());
            let mut versions = vec![0; SIZE.clusters];
            move || {
                take_what_is_left();
                while !ends.load(Relaxed) {
                    if blows.load(Relaxed) {
                        push(&elsewhere, pushes.fetch_add(1, Relaxed) + 1, &mut versions, changes);
                    }
                    thread::sleep(BETWEEN_PUSHES);
                }
            }
        });
        Self { blows, pushes, ends, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn push(elsewhere: &Elsewhere, number: u32, versions: &mut [u32], changes: Changes) {
    elsewhere.plane.update(|tx| {
        let ten = || (1..=10).map(|nth| (number as usize * 10 + nth) % SIZE.clusters);
        for cluster in ten() {
            tx.set(elsewhere.assignment(cluster, SIZE, number));
        }
        if number.is_multiple_of(2) {
            match changes {
                Changes::All => versions.fill(number),
                Changes::Ten => ten().for_each(|host| versions[host] = number),
            }
            tx.set(routes_in(versions));
        }
    });
}
