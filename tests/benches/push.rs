//! What a push of a whole mesh costs, and how long it keeps everybody else waiting on the thread that takes it.
//!
//! A client of 1,250, 2,500 and 5,000 clusters of ten endpoints, each behind a virtual host of its own, in both variants of the
//! protocol: once when it knows nothing yet, and once more with every resource in another version. Two figures each:
//!
//! - `push`: CPU a cluster, from the first byte on the stream to routes that requests find;
//! - `held`: beside the client runs a task that is always ready. The CPU that the thread spends between two of its turns is
//!   what a request that is ready may have to wait; the line tells the longest.
//!
//! Both are the thread's CPU time, which a busy machine moves little. Then both once more where the mesh follows its source on
//! a thread of its own (`own-thread`): `push` is the CPU of both threads then, `held` that of the one that serves requests.
//! `cargo bench -p mesh-tests --bench push`.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use mesh_http::{Client, Control};
use mesh_xds_client::{ResourceKind, session::Variant};
use tokio::{task::JoinHandle, time::sleep};

mod support;
use support::{Elsewhere, Size, TARGET, called, median, runtime, thread_time, time_of_threads};

const ROUNDS: usize = 5;
const ENDPOINTS: usize = 10;

/// Until what a push sets off has come to rest.
const REST: Duration = Duration::from_millis(100);

/// What is told of one push.
struct Told {
    spent: Duration,
    longest: Duration,
}

/// Stands for the requests of the thread.
struct Heartbeat {
    longest: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

fn main() {
    for (where_followed, control) in [("", Control::Runtime), ("own-thread ", Control::OwnThread)] {
        for variant in [Variant::StateOfTheWorld, Variant::Delta] {
            for clusters in [1_250, 2_500, 5_000] {
                measure((where_followed, control), variant, Size { clusters, endpoints: ENDPOINTS });
            }
        }
    }
}

fn measure((where_followed, control): (&str, Control), variant: Variant, size: Size) {
    let rounds = |beats| -> Vec<[Told; 2]> { (0..ROUNDS).map(|_| pushes(control, variant, size, beats)).collect() };
    let (undisturbed, watched) = (rounds(false), rounds(true));
    for (which, place) in [("first", 0), ("again", 1)] {
        let spent = median(undisturbed.iter().map(|told| told[place].spent.as_secs_f64() * 1e6).collect());
        let longest = median(watched.iter().map(|told| told[place].longest.as_secs_f64() * 1e6).collect());
        let (variant, clusters) = (called(variant), size.clusters);
        println!("push {where_followed}{which} {variant} {clusters} {:.2} us", spent / clusters as f64);
        println!("held {where_followed}{which} {variant} {clusters} {longest:.0} us");
    }
}

/// The first push and the next, of a client that has just been started.
fn pushes(control: Control, variant: Variant, size: Size, beats: bool) -> [Told; 2] {
    let elsewhere = Arc::new(Elsewhere::start());
    elsewhere.offer(size, 0);
    let told = runtime().block_on(async {
        let mesh = elsewhere.mesh(variant, control);
        let client = Client::builder(TARGET).mesh(&mesh).build().expect("a legal configuration");
        let first = watch(beats, async { client.ready().await.expect("it is told") }).await;
        let again = watch(beats, acceptance(&elsewhere, size)).await;
        // Its thread has ended before another begins.
        drop(client);
        mesh.shutdown(REST).await;
        [first, again]
    });
    assert!(elsewhere.plane.nacks().is_empty(), "all of it is valid");
    told
}

/// Offers the next version, and waits until its last part is accepted. Neither is done by this thread.
async fn acceptance(elsewhere: &Arc<Elsewhere>, size: Size) {
    let plane = elsewhere.clone();
    let offer = elsewhere.runtime.spawn_blocking(move || plane.offer(size, 1));
    offer.await.expect("it does not panic");
    let plane = elsewhere.plane.clone();
    let accepted = elsewhere.runtime.spawn(async move {
        let version = plane.version(ResourceKind::RouteConfiguration);
        plane.wait_acked(ResourceKind::RouteConfiguration, &version).await
    });
    accepted.await.expect("it does not panic").expect("it is accepted");
}

/// What happens until `done`, and until what it sets off has come to rest.
async fn watch(beats: bool, done: impl Future<Output = ()>) -> Told {
    let heartbeat = beats.then(Heartbeat::start);
    let spent = || thread_time() + time_of_threads("mesh-control");
    let before = spent();
    done.await;
    sleep(REST).await;
    let spent = spent() - before;
    Told { spent, longest: heartbeat.map_or(Duration::ZERO, Heartbeat::stop) }
}

// === impl Heartbeat ===

impl Heartbeat {
    fn start() -> Self {
        let longest = Arc::<AtomicU64>::default();
        let (told, mut before) = (longest.clone(), thread_time());
        let task = tokio::spawn(poll_fn(move |cx| {
            let now = thread_time();
            told.fetch_max((now - before).as_nanos() as u64, Relaxed);
            before = now;
            // Behind all who are ready, as whoever becomes ready now.
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        Self { longest, task }
    }

    fn stop(self) -> Duration {
        self.task.abort();
        Duration::from_nanos(self.longest.load(Relaxed))
    }
}
