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
//! (`own-thread`). What is left then is partly the machine's: control plane, backend, requests and that thread share its cores.
//! So there is a third (`other-process`): the storm blows upon a client of another process, and the one that is measured has a
//! control plane that rests. What it feels is the price of cores, and no part of its own.
//! `cargo bench -p mesh-tests --bench storm`.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write, stdin, stdout},
    process::{Child, Command, Stdio, exit},
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
use mesh_http::{Client, Control, Mesh};
use mesh_xds_client::session::Variant;
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

mod support;
use support::{Elsewhere, Size, TARGET, called, host, median, mesh, routes_in, runtime};

const SIZE: Size = Size { clusters: 1_000, endpoints: 10 };
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
const AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);
const BETWEEN_PUSHES: Duration = Duration::from_millis(10);

/// Makes this program the other process, of a control plane at the address behind it, in the variant behind that.
const FOLLOW: &str = "--follow";

/// Who bears the storm.
#[derive(Clone, Copy)]
enum Bearer {
    /// The client whose requests are measured.
    Ours(Control),
    /// A client of another process.
    Another,
}

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

/// A client in a process of its own.
struct Another(Child);

fn main() {
    let mut arguments = env::args().skip_while(|argument| argument != FOLLOW).skip(1);
    if let (Some(plane), Some(variant)) = (arguments.next(), arguments.next()) {
        return follow(&plane, &variant);
    }
    let wanted = |name: &str| env::args().skip(1).all(|argument| argument.starts_with('-') || name.contains(&argument));
    let two_workers = || Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let runtimes: [(_, fn() -> Runtime); 2] = [("current-thread", runtime), ("two-workers", two_workers)];
    let bearers = [
        ("", Bearer::Ours(Control::Runtime)),
        ("-own-thread", Bearer::Ours(Control::OwnThread)),
        ("-other-process", Bearer::Another),
    ];
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        for (edits, changes) in [("", Changes::All), ("-edits", Changes::Ten)] {
            for (runs, runtime) in &runtimes {
                for (borne, bearer) in bearers {
                    let name = format!("{runs}{edits}{borne}");
                    if wanted(&name) {
                        measure(&name, (bearer, changes), variant, &runtime());
                    }
                }
            }
        }
    }
}

fn measure(name: &str, (bearer, changes): (Bearer, Changes), variant: Variant, runtime: &Runtime) {
    let stormy_plane = Arc::new(Elsewhere::start());
    stormy_plane.offer(SIZE, 0);
    let storm = Storm::gather(stormy_plane.clone(), changes);
    let (control, another) = match bearer {
        Bearer::Ours(control) => (control, None),
        Bearer::Another => (Control::Runtime, Some(Another::start(&stormy_plane, variant))),
    };
    let quiet_plane = another.as_ref().map(|_| {
        let plane = Elsewhere::start();
        plane.offer(SIZE, 0);
        plane
    });
    let plane = quiet_plane.as_ref().unwrap_or(&stormy_plane);
    let client = runtime.block_on(async { ready(&plane.mesh(variant, control)).await });
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

/// A client that knows all of `mesh`.
async fn ready(mesh: &Mesh) -> Client {
    let builder = Client::builder(TARGET).mesh(mesh).any_authority().protocol(HttpProtocol::Http2);
    let client = builder.build().expect("a legal configuration");
    client.ready().await.expect("it is told");
    client
}

/// Is a client that calls nobody, until the process that asked for it is gone.
fn follow(plane: &str, variant: &str) {
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        exit(0);
    });
    let plane = plane.parse().expect("an address");
    let variants = [Variant::StateOfTheWorld, Variant::Delta];
    let variant = variants.into_iter().find(|known| called(*known) == variant).expect("a variant");
    runtime().block_on(async {
        let _client = ready(&mesh(plane, variant, Control::Runtime)).await;
        println!("ready");
        stdout().flush().expect("somebody listens");
        std::future::pending().await
    })
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

// === impl Another ===

impl Another {
    /// Starts it, and waits until it knows all.
    fn start(elsewhere: &Elsewhere, variant: Variant) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program has a file"));
        let plane = elsewhere.address.to_string();
        command.args([FOLLOW, &plane, called(variant)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut said).expect("it speaks");
        assert_eq!(said.trim(), "ready");
        Self(child)
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
