//! A whole mesh in one thread under a paused clock: the same seed makes the same decisions, request by request, whatever
//! goes wrong around it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::body::Incoming;
use mesh_core::{
    Dice,
    config::{OutlierDetection, Percent},
};
use mesh_grpc::{Channel, testkit::Echo};
use mesh_http::{CallOptions, Client, Mesh};
use mesh_tests::{
    sim::{Answer, Entry, Network, PLANE, Reach, Speaks, What, World, address, text},
    wire::chain,
};
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

const PAGES: &str = "pages.shop:80";
const ECHO: &str = "echo.shop:80";
const CALLERS: u64 = 4;
const CALLS: u64 = 120;
const PER_TRY: Duration = Duration::from_millis(100);

#[test]
fn same_seed_makes_the_same_decisions_at_the_same_times() {
    let first = in_a_world(|world| day(world, 7));
    let again = in_a_world(|world| day(world, 7));
    same(&first, &again);

    let other = in_a_world(|world| day(world, 8));
    assert_ne!(decisions(&first), decisions(&other), "another seed must not decide the same");
}

#[test]
fn nothing_that_was_planned_for_the_day_is_missing_from_the_record() {
    let record = in_a_world(|world| day(world, 7));

    let calls = record.iter().filter(|entry| matches!(entry.what, What::Ended { .. })).count();
    assert_eq!(calls as u64, 2 * CALLERS * CALLS, "every call of either client ends");

    let arrivals: Vec<_> = record.iter().filter_map(|entry| arrival(&entry.what)).collect();
    let calls: BTreeSet<_> = arrivals.iter().map(|(call, _)| call).collect();
    assert!(arrivals.len() > calls.len(), "{} calls, {} attempts", calls.len(), arrivals.len());
    for backend in ["v1-a", "v1-b", "v1-c", "v2-a", "v2-b", "echo-a", "echo-b"] {
        assert!(arrivals.iter().any(|(_, name)| name == backend), "{backend} is never reached");
    }

    // After its fifth 503 in a row it is ejected, which lasts for the rest of the day.
    let failing = changed(&record, "v2-a fails");
    let to_v2_a = record.iter().filter(|entry| arrival(&entry.what).is_some_and(|(_, name)| name == "v2-a"));
    let since: Vec<_> = to_v2_a.filter(|entry| entry.at >= failing).map(|entry| entry.at).collect();
    assert!((5..=8).contains(&since.len()), "{since:?}");

    // A dead endpoint is asked for connections now and then, and nobody notices.
    let killed = changed(&record, "v1-b dies");
    let dialled = record.iter().filter(|entry| entry.what == What::Dialled { to: address(2) } && entry.at > killed);
    assert!(dialled.count() >= 1);
    let failed = |entry: &&Entry| matches!(&entry.what, What::Ended { outcome, .. } if outcome.starts_with('!'));
    let failures: Vec<_> = record.iter().filter(failed).collect();
    assert!(failures.is_empty(), "{failures:#?}");

    let lost = changed(&record, "the control plane is gone");
    let redialled = record.iter().filter(|entry| entry.what == What::Dialled { to: PLANE } && entry.at > lost).count();
    assert!(redialled >= 2, "{redialled} attempts to reach the control plane again");
}

/// Runs `day` in a world of its own, in a thread of its own, so that no thread-local state carries over.
fn in_a_world<F: Future<Output = ()>>(day: impl Fn(World) -> F + Send + Copy) -> Vec<Entry> {
    let run = move || {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            timeout(Duration::from_secs(600), day(world.clone())).await.expect("a day comes to its end");
            world.record.entries()
        })
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Two clients under load, while everything changes around them.
async fn day(world: World, seed: u64) {
    world.network.latency(Duration::from_millis(1));
    let v1_a = world.backend(1, "v1-a", Speaks::Http1, slow(1));
    let v1_b = world.backend(2, "v1-b", Speaks::Http1, slow(2));
    let _v1_c = world.backend(3, "v1-c", Speaks::Http1, slow(3));
    let v2_a = world.backend(4, "v2-a", Speaks::Http1, slow(4));
    let _v2_b = world.backend(5, "v2-b", Speaks::Http1, slow(5));
    let _echoes = [(6, "echo-a"), (7, "echo-b")].map(|(n, name)| world.backend(n, name, Speaks::Grpc, slow(n)));
    world.plane.update(|tx| {
        tx.set(listener(PAGES, "pages")).set(route_config("pages", [("v1", 100), ("v2", 0)]));
        tx.set(listener(ECHO, "echo")).set(route_config("echo", [("echo", 1)]));
        for (name, numbers) in [("v1", &[1, 2, 3][..]), ("v2", &[4, 5]), ("echo", &[6, 7])] {
            tx.set(cluster(name)).set(endpoints(name, numbers.iter().copied().map(address)));
        }
    });

    let mesh = world.mesh(seed);
    let load = callers(&world, &mesh);
    let change = async {
        for (after, what) in changes() {
            sleep(after).await;
            world.record.note(What::Changed(what));
            match what {
                "half to v2" => drop(world.plane.set(route_config("pages", [("v1", 50), ("v2", 50)]))),
                "v2-a fails" => FAILING.with(|failing| failing.set(true)),
                "v1-c is silent" => {
                    world.network.silence(address(3));
                    world.network.reach(address(3), Reach::BlackHole);
                }
                "v1-c is back" => {
                    world.network.reset(address(3));
                    world.network.reach(address(3), Reach::Open);
                }
                "v1-b dies" => die(&world.network, 2),
                "the control plane is gone" => world.stop_control_plane().await,
                "the control plane is back" => world.listen_for_clients(),
                "v1 without its dead" => drop(world.plane.set(endpoints("v1", [address(1), address(3)]))),
                "all to v2" => drop(world.plane.set(route_config("pages", [("v1", 0), ("v2", 100)]))),
                other => unreachable!("{other} is not planned"),
            }
        }
    };
    tokio::join!(biased; load, change);
    assert!(mesh.shutdown(Duration::from_secs(60)).await);
    FAILING.with(|failing| failing.set(false));
    drop((v1_a, v1_b, v2_a));
}

/// What happens, and how long after what came before.
fn changes() -> impl Iterator<Item = (Duration, &'static str)> {
    [
        (200, "half to v2"),
        (300, "v1-b dies"),
        (300, "v2-a fails"),
        (300, "v1-c is silent"),
        (400, "v1-c is back"),
        (100, "the control plane is gone"),
        (900, "the control plane is back"),
        (300, "v1 without its dead"),
        (300, "all to v2"),
    ]
    .map(|(millis, what)| (Duration::from_millis(millis), what))
    .into_iter()
}

thread_local! {
    /// Whether v2-a fails; a world has one thread.
    static FAILING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Thinks for 1 to 24 ms, decided by the backend and the request's number.
fn slow(backend: u8) -> impl Fn(&Request<Incoming>, usize) -> Answer + Send + Sync + use<> {
    move |_, number| {
        let think = Dice::of_call(99, backend.into(), number as u64).roll() % 24;
        let fails = backend == 4 && FAILING.with(|failing| failing.get());
        let answer = if fails { Answer::UNAVAILABLE } else { Answer::OK };
        Answer { after: Duration::from_millis(1 + think), ..answer }
    }
}

fn die(network: &Network, number: u8) {
    network.reach(address(number), Reach::Refuses);
    network.reset(address(number));
}

/// Callers of both clients, each with one call after the other.
async fn callers(world: &World, mesh: &Mesh) {
    let rules = OutlierDetection {
        consecutive_errors: 5,
        max_ejected: Percent::new(50.0).unwrap(),
        base_ejection: Duration::from_secs(60),
        ..OutlierDetection::default()
    };
    let pages = Client::builder(PAGES).mesh(mesh).per_try_timeout(PER_TRY).outlier_detection(rules).build().unwrap();
    let echo = Channel::builder(ECHO).mesh(mesh).per_try_timeout(PER_TRY).build().unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (world, pages, echo) = (world.clone(), pages.clone(), Echo::new(echo.clone()));
        callers.spawn(call_pages(world.clone(), pages, caller));
        callers.spawn(call_echo(world, echo, caller));
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
}

async fn call_pages(world: World, client: Client, caller: u64) {
    for number in 0..CALLS {
        let call = format!("pages-{caller}-{number}");
        let request = Request::get(format!("http://{PAGES}/")).header("x-call", &call);
        let outcome = match client.request(request.body(Empty::<Bytes>::new()).unwrap()).await {
            Ok(response) => format!("{} {}", response.status().as_u16(), text(response).await),
            Err(error) => format!("!{}", chain(&error)),
        };
        end(&world, call, outcome, caller).await;
    }
}

async fn call_echo(world: World, mut client: Echo<Channel>, caller: u64) {
    for number in 0..CALLS {
        let call = format!("echo-{caller}-{number}");
        let mut request = tonic::Request::new(Bytes::from_static(b"hello"));
        request.metadata_mut().insert("x-call", call.parse().unwrap());
        request.extensions_mut().insert(CallOptions::new().idempotent());
        let outcome = match client.unary(request).await {
            Ok(response) => String::from_utf8(response.into_inner().to_vec()).unwrap(),
            Err(status) => format!("!{}", chain(&status)),
        };
        end(&world, call, outcome, caller).await;
    }
}

async fn end(world: &World, call: String, outcome: String, caller: u64) {
    world.record.note(What::Ended { call, outcome });
    sleep_until(tokio::time::Instant::now() + Duration::from_millis(3 + caller)).await;
}

fn arrival(what: &What) -> Option<(String, String)> {
    match what {
        What::Arrived { call, backend } => Some((call.clone(), backend.clone())),
        _ => None,
    }
}

fn changed(record: &[Entry], what: &'static str) -> Duration {
    record.iter().find(|entry| entry.what == What::Changed(what)).unwrap().at
}

/// What was decided, without when: which backend each attempt of each call went to.
fn decisions(record: &[Entry]) -> Vec<(String, String)> {
    record.iter().filter_map(|entry| arrival(&entry.what)).collect()
}

/// Says where two records part, rather than print both.
fn same(one: &[Entry], other: &[Entry]) {
    for (at, pair) in one.iter().zip(other).enumerate() {
        let before = &one[at.saturating_sub(5)..at];
        assert_eq!(pair.0, pair.1, "entry {at} of {}, after {before:#?}", one.len());
    }
    assert_eq!(one.len(), other.len());
}
