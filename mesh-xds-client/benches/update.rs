//! What a control plane's change of one endpoint costs the client, from the bytes on its stream to the snapshot that a mesh
//! reads and the answer to the control plane: CPU time of the client's work alone, the median of several updates.
//!
//! The control plane shares the thread, through a pipe in memory, and is not in the figures: they are the thread's CPU time
//! while the client's work is polled. In state of the world the answer lists every name, and is in the figure as well as in a
//! line of its own, since it holds up whoever shares the thread. Run with
//! `cargo bench -p mesh-xds-client --bench update`; lines that begin with `update` are read by the budgets.
//!
//! The same of a route configuration with so many virtual hosts, of which ten change, or all: what it costs, and in the lines
//! with `longest`, how long it holds the thread at once.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    hint::black_box,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use envoy_types::{
    pb::{
        envoy::{
            config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment, route::v3::RouteConfiguration},
            service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
        },
        google::protobuf::Any,
    },
    util::pack_any,
};
use mesh_core::{
    config::Snapshot,
    source::{ConfigSource, Interest},
};
use mesh_xds_client::{
    ResourceKind,
    bootstrap::ServerFeature,
    session::{Config, Event, Request, Response, Session, Verdict},
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener, route_config},
    },
};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::watch, task::JoinHandle};

const RUNS: usize = 51;

/// Short, so that updates come in a row, as pushes do, and find the caches as the last one left them: after a rest of 50 ms an
/// update in delta costs seven times as much. What of one falls into the time of the next is the same each time.
const PAUSE: Duration = Duration::from_millis(2);

/// The work of a client.
struct Metered<F>(Pin<Box<F>>, Spent);

/// The nanoseconds of CPU that the work of a client has taken.
#[derive(Clone, Default)]
struct Spent {
    all: Arc<AtomicU64>,
    /// In one go.
    longest: Arc<AtomicU64>,
}

/// A client that holds so many clusters of so many endpoints.
struct Held {
    plane: ControlPlane,
    clusters: usize,
    endpoints: usize,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    work: JoinHandle<()>,
    _interest: Interest,
    spent: Spent,
    runs: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (clusters, endpoints) in [(1_000, 10), (10_000, 10), (1, 10_000)] {
        let size = format!("{clusters}x{endpoints}");
        let mut held = Held::offered(clusters, endpoints, None).await;
        let everything = held.spent.all.load(Ordering::Relaxed) as f64 / 1e3;
        print_line(&format!("everything-at-first {size}"), vec![everything]);
        report(&format!("part {size}"), &mut held, Held::change_one).await;
        report(&format!("full {size}"), &mut held, Held::change_all).await;
        held.work.abort();
        let mut held = Held::offered(clusters, endpoints, Some(ServerFeature::Delta)).await;
        report(&format!("delta {size}"), &mut held, Held::change_in_delta).await;
        held.work.abort();
    }
    for count in [1_000, 5_000] {
        let mut held = Held::offered_routes(count).await;
        for changed in [10, count] {
            let name = format!("routes {changed}-of-{count}");
            held.spent.longest.store(0, Ordering::Relaxed);
            report(&name, &mut held, |held| held.change_routes(changed)).await;
            print_line(&format!("longest {name}"), vec![held.spent.longest.load(Ordering::Relaxed) as f64 / 1e3]);
        }
        held.work.abort();
    }
    for count in [1_000, 10_000] {
        answer(count);
    }
}

/// What it costs to take the verdict on a full state, and to build and encode the request that says so.
fn answer(count: usize) {
    let kind = ResourceKind::Cluster;
    let mut session = Session::new(Config::default(), Node::default(), 1);
    let names: Vec<Arc<str>> = (0..count).map(|number| name(number).into()).collect();
    names.iter().for_each(|name| session.subscribe(kind, name));
    session.stream_opened();
    let now = tokio::time::Instant::now();
    session.poll_request(now).unwrap();
    let (mut verdicts, mut requests) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        session.received(response(kind, run, Vec::new()), now);
        let batch = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
            Event::Deliver(batch) => Some(*batch),
            _ => None,
        });
        let verdict = Verdict { accepted: names.clone(), rejected: Vec::new() };
        let started = Instant::now();
        session.answer(batch.unwrap().into_ticket(), verdict, now);
        verdicts.push(started.elapsed().as_secs_f64() * 1e6);
        let started = Instant::now();
        let Some(Request::StateOfTheWorld(request)) = session.poll_request(now) else { unreachable!("it is spoken") };
        black_box(request.encode_to_vec());
        requests.push(started.elapsed().as_secs_f64() * 1e6);
    }
    print_line(&format!("verdict-on-full-state {count}"), verdicts);
    print_line(&format!("request-that-accepts-it {count}"), requests);
}

async fn report(name: &str, held: &mut Held, change: impl Fn(&mut Held) -> Vec<Response>) {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let responses = change(held);
        tokio::time::sleep(PAUSE).await;
        held.snapshots.borrow_and_update();
        let before = held.spent.all.load(Ordering::Relaxed);
        for response in responses {
            held.plane.send(response);
        }
        held.snapshots.changed().await.unwrap();
        tokio::time::sleep(PAUSE).await;
        runs.push((held.spent.all.load(Ordering::Relaxed) - before) as f64 / 1e3);
    }
    print_line(name, runs);
}

fn print_line(name: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    println!("update {name} {:.0} us (best {:.0})", runs[runs.len() / 2], runs[0]);
}

fn name(number: usize) -> String {
    format!("outbound|9080||service-{number}.shop.svc.cluster.local")
}

/// In run `run` the second endpoint of the cluster has another weight.
fn assignment(number: usize, count: usize, run: usize) -> ClusterLoadAssignment {
    let address = |host: usize| SocketAddr::from(([10, (number % 256) as u8, (host >> 8) as u8, host as u8], 80));
    let weight = |host: usize| if host == 1 { 1 + run as u32 } else { 1 };
    endpoints(&name(number), (0..count).map(|host| (address(host), weight(host))))
}

/// A virtual host for each cluster. In run `run` the routes of `changed` of them have another name.
fn routes(count: usize, changed: usize, run: usize) -> RouteConfiguration {
    let every = count / changed.max(1);
    let host = |number: usize| {
        let mut host = route_config("", [(name(number), 1)]).virtual_hosts.swap_remove(0);
        host.name = name(number);
        host.domains = vec![format!("service-{number}.shop.svc.cluster.local")];
        if number.is_multiple_of(every) {
            host.routes[0].name = format!("run-{run}");
        }
        host
    };
    RouteConfiguration { virtual_hosts: (0..count).map(host).collect(), ..route_config("routes", [("", 1)]) }
}

fn response(kind: ResourceKind, version: usize, resources: Vec<Any>) -> Response {
    let response = DiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        version_info: format!("bench-{version}"),
        nonce: format!("bench-{version}"),
        resources,
        ..Default::default()
    };
    response.into()
}

// === impl Metered ===

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_cpu();
        let outcome = self.0.as_mut().poll(cx);
        let spent = (thread_cpu() - before).as_nanos() as u64;
        self.1.all.fetch_add(spent, Ordering::Relaxed);
        self.1.longest.fetch_max(spent, Ordering::Relaxed);
        outcome
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

// === impl Held ===

impl Held {
    /// Of a control plane that is spoken to in state of the world, unless it has a feature.
    async fn offered(clusters: usize, endpoints: usize, feature: Option<ServerFeature>) -> Self {
        let plane = ControlPlane::new();
        plane.update(|tx| {
            tx.set(listener("web", route_config("web", (0..clusters).map(|number| (name(number), 1)))));
            for number in 0..clusters {
                tx.set(cluster(&name(number))).set(assignment(number, endpoints, 0));
            }
        });
        Self::of(plane, clusters, endpoints, feature).await
    }

    /// Of one that sends a virtual host for each cluster.
    async fn offered_routes(clusters: usize) -> Self {
        let plane = ControlPlane::new();
        plane.update(|tx| {
            tx.set(listener("web", "routes")).set(routes(clusters, 0, 0));
            for number in 0..clusters {
                tx.set(cluster(&name(number))).set(assignment(number, 1, 0));
            }
        });
        Self::of(plane, clusters, 1, None).await
    }

    async fn of(plane: ControlPlane, clusters: usize, endpoints: usize, feature: Option<ServerFeature>) -> Self {
        let client = plane.client_with(feature).build().unwrap();
        let spent = Spent::default();
        let work = tokio::spawn(Metered(Box::pin(client.work()), spent.clone()));
        let (interest, mut snapshots) = (client.watch("web"), client.snapshots());
        snapshots.wait_for(|snapshot| snapshot.clusters.len() == clusters).await.unwrap();
        Self { plane, clusters, endpoints, snapshots, work, _interest: interest, spent, runs: 0 }
    }

    fn change_in_delta(&mut self) -> Vec<Response> {
        self.runs += 1;
        let resource = Resource {
            name: name(self.changed()),
            version: format!("bench-{}", self.runs),
            resource: Some(pack_any(assignment(self.changed(), self.endpoints, self.runs))),
            ..Default::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: ResourceKind::ClusterLoadAssignment.type_url().to_owned(),
            nonce: format!("bench-{}", self.runs),
            resources: vec![resource],
            ..Default::default()
        };
        vec![response.into()]
    }

    /// A response with the endpoints that differ, as the protocol permits.
    fn change_one(&mut self) -> Vec<Response> {
        self.runs += 1;
        let resources = vec![pack_any(assignment(self.changed(), self.endpoints, self.runs))];
        vec![response(ResourceKind::ClusterLoadAssignment, self.runs, resources)]
    }

    /// All clusters and all endpoints once more, one of which differs.
    fn change_all(&mut self) -> Vec<Response> {
        self.runs += 1;
        let clusters = (0..self.clusters).map(|number| pack_any(cluster(&name(number))));
        let run = |number| if number == self.changed() { self.runs } else { 0 };
        let endpoints = (0..self.clusters).map(|number| pack_any(assignment(number, self.endpoints, run(number))));
        vec![
            response(ResourceKind::Cluster, self.runs, clusters.collect()),
            response(ResourceKind::ClusterLoadAssignment, self.runs, endpoints.collect()),
        ]
    }

    /// All virtual hosts once more, so many of which differ.
    fn change_routes(&mut self, changed: usize) -> Vec<Response> {
        self.runs += 1;
        let routes = pack_any(routes(self.clusters, changed, self.runs));
        vec![response(ResourceKind::RouteConfiguration, self.runs, vec![routes])]
    }

    fn changed(&self) -> usize {
        self.clusters / 2
    }
}
