//! What it takes from a control plane's change of one endpoint to the snapshot that a mesh reads: the median of several
//! updates, on one thread, through a pipe in memory.
//!
//! More than the client's work is in the figure: the control plane's encoding and its half of HTTP/2, and on this one
//! thread the start of the client's answer, which in state of the world lists every name. What that answer costs is
//! measured apart, since it holds up whoever shares the thread. Run with
//! `cargo bench -p mesh-xds-client --features testkit --bench update`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::{
    pb::{
        envoy::{
            config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment},
            service::discovery::v3::DiscoveryResponse,
        },
        google::protobuf::Any,
    },
    util::pack_any,
};
use mesh_core::{
    config::{Address, Snapshot},
    source::ConfigSource,
};
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials},
    session::{Config, Event, Session, Verdict},
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener, route_config},
    },
};
use prost::Message as _;
use tokio::sync::watch;

const RUNS: usize = 21;
const PAUSE: Duration = Duration::from_millis(200);

struct Pipes(ControlPlane);

impl Connect for Pipes {
    fn connect(&self, _: &Address) -> Connecting {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(self.0.serve_connection(theirs));
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

/// A client that holds `count` clusters of ten endpoints.
struct Held {
    plane: ControlPlane,
    count: usize,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    runs: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for count in [1_000, 10_000] {
        let plane = ControlPlane::new();
        let started = Instant::now();
        let bootstrap = Bootstrap::builder().server("10.0.0.1:1", ChannelCredentials::Insecure).build().unwrap();
        let client = XdsClient::builder(bootstrap).connector(Pipes(plane.clone())).build().unwrap();
        let work = tokio::spawn(client.work());
        let _interest = client.watch("web");
        let mut held = Held { plane, count, snapshots: client.snapshots(), runs: 0 };
        held.offer().await;
        println!("{count} clusters of 10: everything, at first {:24.1} ms", started.elapsed().as_secs_f64() * 1e3);
        report(&format!("{count} clusters of 10: one set of endpoints"), &mut held, Held::change_one).await;
        report(&format!("{count} clusters of 10: full state, one differs"), &mut held, Held::change_all).await;
        work.abort();
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
        session.received(response(kind, run, Vec::new()));
        let batch = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
            Event::Deliver(batch) => Some(batch),
            _ => None,
        });
        let verdict = Verdict { accepted: names.clone(), rejected: Vec::new() };
        let started = Instant::now();
        session.answer(batch.unwrap().ticket, verdict, now);
        verdicts.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        black_box(session.poll_request(now).unwrap().encode_to_vec());
        requests.push(started.elapsed().as_secs_f64() * 1e3);
    }
    print_line(&format!("{count} names: verdict on a full state"), verdicts);
    print_line(&format!("{count} names: request that accepts it"), requests);
}

async fn report(name: &str, held: &mut Held, change: impl Fn(&mut Held) -> Vec<DiscoveryResponse>) {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let responses = change(held);
        // The answers to the last run are a matter of their own: they list every name.
        tokio::time::sleep(PAUSE).await;
        held.snapshots.borrow_and_update();
        let started = Instant::now();
        for response in responses {
            held.plane.send(response);
        }
        held.snapshots.changed().await.unwrap();
        runs.push(started.elapsed().as_secs_f64() * 1e3);
    }
    print_line(name, runs);
}

fn print_line(name: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    println!("{name:50} {:8.2} ms (best {:.2})", runs[RUNS / 2], runs[0]);
}

fn name(number: usize) -> String {
    format!("outbound|9080||service-{number}.shop.svc.cluster.local")
}

fn assignment(number: usize, run: usize) -> ClusterLoadAssignment {
    let address = |host: usize| SocketAddr::from(([10, run as u8, (number % 256) as u8, host as u8], 80));
    endpoints(&name(number), (0..10).map(address))
}

fn response(kind: ResourceKind, version: usize, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        version_info: format!("bench-{version}"),
        nonce: format!("bench-{version}"),
        resources,
        ..Default::default()
    }
}

// === impl Held ===

impl Held {
    async fn offer(&mut self) {
        let count = self.count;
        self.plane.update(|tx| {
            tx.set(listener("web", route_config("web", (0..count).map(|number| (name(number), 1)))));
            for number in 0..count {
                tx.set(cluster(&name(number))).set(assignment(number, 0));
            }
        });
        self.snapshots.wait_for(|snapshot| snapshot.clusters.len() == count).await.unwrap();
    }

    /// A response with the endpoints that differ, as the protocol permits.
    fn change_one(&mut self) -> Vec<DiscoveryResponse> {
        self.runs += 1;
        let resources = vec![pack_any(assignment(7, self.runs))];
        vec![response(ResourceKind::ClusterLoadAssignment, self.runs, resources)]
    }

    /// All clusters and all endpoints once more, one of which differs.
    fn change_all(&mut self) -> Vec<DiscoveryResponse> {
        self.runs += 1;
        let clusters = (0..self.count).map(|number| pack_any(cluster(&name(number))));
        let run = |number| if number == 7 { self.runs } else { 0 };
        let endpoints = (0..self.count).map(|number| pack_any(assignment(number, run(number))));
        vec![
            response(ResourceKind::Cluster, self.runs, clusters.collect()),
            response(ResourceKind::ClusterLoadAssignment, self.runs, endpoints.collect()),
        ]
    }
}
