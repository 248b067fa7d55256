//! go-control-plane steers, in state of the world and in delta: weights shifted and endpoints changed under load, killed and
//! restarted in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]
#![allow(clippy::print_stdout, reason = "the figures are what is asked for")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use mesh_core::source::{ConfigSource as _, ResourceState, ResourceStatus};
use mesh_http::{Client, Mesh};
use mesh_tests::pair::{Pair, assert_by_chance};
use mesh_tests::patience::{PATIENCE, in_time, until};
use mesh_tests::peers::{GoControlPlane, GrpcCore, RunningControlPlane, Snapshot, bootstrap};
use mesh_tests::wire::Error;
use mesh_xds_client::bootstrap::Bootstrap;
use mesh_xds_client::{Dialect, XdsClient};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const TARGET: &str = "echo.shop:7070";
const WEB: &str = "web.shop:80";
const NODE: &str = "client";
const SIDECAR: &str = "sidecar~10.0.0.7~client.shop~shop.svc.cluster.local";

/// Before this shift the server is killed and restarted.
const RESTART: u32 = 6;

#[tokio::test]
async fn answer_waits_until_every_name_of_the_snapshot_was_asked_for() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    control_plane.set(&snapshot(1)).await;

    // The clusters are asked for first, and held: one of the two that have weight was not named.
    let mut stream = Ads::open(&control_plane, &[ask(CLUSTER, &["a"]), ask(LISTENER, &[TARGET])]).await;
    assert_eq!(stream.answer().await.type_url, LISTENER);

    stream.send(ask(CLUSTER, &["a", "b"])).await;
    let clusters = stream.answer().await;
    assert_eq!((clusters.type_url.as_str(), clusters.resources.len()), (CLUSTER, 2));
}

#[tokio::test]
async fn report_tells_acceptance_rejection_and_reconnection() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    control_plane.set(&snapshot(1)).await;

    let mut stream = Ads::open(&control_plane, &[ask(LISTENER, &[TARGET])]).await;
    let first = stream.answer().await;
    stream.send(accept(ask(LISTENER, &[TARGET]), &first)).await;
    control_plane.set(&snapshot(2)).await;
    let second = stream.answer().await;
    assert_eq!(second.version_info, "2");
    let still_first = DiscoveryResponse { version_info: first.version_info, ..second };
    stream.send(reject(ask(LISTENER, &[TARGET]), &still_first, "listener: too loud")).await;

    // What was rejected is offered again at once.
    assert_eq!(stream.answer().await.version_info, "2");

    let report = control_plane.report().await;
    assert_eq!(report.acked[LISTENER], "1");
    assert_eq!(report.rejected[0].type_url, LISTENER);
    assert_eq!(report.rejected[0].message, "listener: too loud");
    assert_eq!((report.node.as_str(), report.streams), (NODE, 1));

    let addr = control_plane.addr();
    let killed = control_plane.kill().await;
    assert!(stream.answers.message().await.is_err());
    let mut control_plane = killed.restart().await;
    assert_eq!(control_plane.addr(), addr);
    assert_eq!(control_plane.report().await.opened, 0);
}

// The same that is asked of our clients, asked of one that others wrote: it shows that the control plane, the snapshots and
// the restart are what they should be.
#[tokio::test]
async fn c_core_follows_ten_shifts_and_a_restart_without_a_failed_call() {
    let (Some(program), Some(core)) = (GoControlPlane::find(), GrpcCore::find()) else { return };
    let servers = core.servers(&["v1", "v2", "v3"]).await;
    let (v1, v2) = ([servers.addr("v1")], [servers.addr("v2"), servers.addr("v3")]);
    let split = |version: u32, weight: u32| {
        let clusters: [(&str, u32, &[SocketAddr]); 2] = [("v1", 100 - weight, &v1), ("v2", weight, &v2)];
        Snapshot::new(NODE, version).target(TARGET, &clusters)
    };
    let mut control_plane = program.start().await;
    control_plane.set(&Snapshot::new(NODE, 0).target(TARGET, &[("v1", 100, &v1)])).await;
    let mut client = core.client(&format!("xds:///{TARGET}"), &bootstrap(control_plane.addr(), NODE)).await;
    client.settle(&["v1"]).await;

    client.start().await;
    for version in 1..=10 {
        if version == 6 {
            control_plane = control_plane.kill().await.restart().await;
        }
        control_plane.set(&split(version, version * 10)).await;
        control_plane.accepted(version).await;
    }
    control_plane.set(&Snapshot::new(NODE, 11).target(TARGET, &[("v2", 100, &v2)])).await;
    control_plane.accepted(11).await;
    client.settle(&["v2", "v3"]).await;
    let tally = client.stop().await;

    tally.assert_none_failed();
}

#[tokio::test]
async fn our_clients_follow_ten_shifts_and_a_restart_without_a_failed_call() {
    follow_ten_shifts_and_a_restart(&[]).await;
}

#[tokio::test]
async fn our_clients_follow_ten_shifts_and_a_restart_in_delta_without_a_failed_call() {
    follow_ten_shifts_and_a_restart(&["mesh.delta"]).await;
}

async fn follow_ten_shifts_and_a_restart(features: &[&str]) {
    let (Some(program), Some(core)) = (GoControlPlane::find(), GrpcCore::find()) else { return };
    let mut servers = core.servers(&["g1", "g2", "g3"]).await;
    let mut web = [Web::start("w1").await, Web::start("w2").await, Web::start("w3").await];
    let grpc = ["g1", "g2", "g3"].map(|name| servers.addr(name));
    let http = [web[0].addr, web[1].addr, web[2].addr];
    // The second version of each service has one endpoint and two by turns.
    let shift = |version: u32, weight: u32| {
        let second = 2 + (version as usize % 2);
        Snapshot::new(NODE, counted(version))
            .target(TARGET, &[("g-v1", 100 - weight, &grpc[..1]), ("g-v2", weight, &grpc[1..second])])
            .target(WEB, &[("w-v1", 100 - weight, &http[..1]), ("w-v2", weight, &http[1..second])])
    };
    let mut control_plane = program.start().await;
    // What no route leads to would silence CDS, so that the second versions are left out until they have weight.
    let first =
        Snapshot::new(NODE, 0).target(TARGET, &[("g-v1", 1, &grpc[..1])]).target(WEB, &[("w-v1", 1, &http[..1])]);
    control_plane.set(&first).await;
    let client = xds_client(control_plane.addr(), features);
    let ours = pair(&client).await;

    let (lines, tally) = ours
        .under_load(async || {
            let mut lines = Vec::new();
            for version in 1..=10 {
                if version == RESTART {
                    let killed = control_plane.kill().await;
                    let meanwhile = ours.sample().await;
                    assert!(meanwhile.iter().all(|tally| tally.len() > 1), "both versions answer: {meanwhile:?}");
                    control_plane = killed.restart().await;
                }
                let weight = version * 9;
                let before = shifting(&client);
                control_plane.set(&shift(version, weight)).await;
                shifted(&client, before, 4).await;
                let shares = ours.sample().await;
                for tally in &shares {
                    assert_by_chance(tally, "1", f64::from(100 - weight) / 100.0);
                }
                lines.push(format!("{version}: {weight} % meant, {shares:?}"));
            }
            // What has left the set takes nothing with it when it goes: 10 is even, so the third has left.
            servers.drain("g3", 0.0).await;
            web[2].stop().await;
            ours.sample().await;
            let report = control_plane.report().await;
            assert!(report.rejected.is_empty(), "{report:?}");
            lines
        })
        .await;

    println!("{}\nfailed: {:?} of {} calls", lines.join("\n"), tally.failures, tally.calls());
    tally.assert_none_failed();
}

#[tokio::test]
async fn server_that_comes_back_with_what_is_held_is_known_to_be_there() {
    come_back_with_the_same(&[]).await;
}

#[tokio::test]
async fn server_that_comes_back_with_what_is_held_is_known_to_be_there_in_delta() {
    come_back_with_the_same(&["mesh.delta"]).await;
}

async fn come_back_with_the_same(features: &[&str]) {
    let Some(program) = GoControlPlane::find() else { return };
    let web = Web::start("w1").await;
    let same = Snapshot::new(NODE, 1).target(WEB, &[("w-v1", 1, &[web.addr])]);
    let mut control_plane = program.start().await;
    control_plane.set(&same).await;
    let source = xds_client(control_plane.addr(), features);
    let mesh = Mesh::builder().source(source.clone()).build().unwrap();
    let client = Client::builder(WEB).mesh(&mesh).build().unwrap();
    client.ready().await.unwrap();

    let killed = control_plane.kill().await;
    until("it is missed", || !source.status().connected).await;
    let mut control_plane = killed.restart().await;
    control_plane.set(&same).await;
    until("it is known to be there", || source.status().connected).await;
    assert_eq!(get(&client).await.unwrap(), "w1");
    assert!(control_plane.report().await.rejected.is_empty());
}

/// What a version is called by a server that is restarted before the sixth, and then counts in another way, backwards.
fn counted(version: u32) -> String {
    if version < RESTART { version.to_string() } else { format!("again-{}", 100 - version) }
}

#[tokio::test]
async fn sidecars_that_want_every_cluster_follow_ten_shifts_and_a_restart_without_a_failed_call() {
    follow_as_sidecars(&[]).await;
}

#[tokio::test]
async fn sidecars_that_want_every_cluster_follow_ten_shifts_and_a_restart_in_delta_without_a_failed_call() {
    follow_as_sidecars(&["mesh.delta"]).await;
}

async fn follow_as_sidecars(features: &[&str]) {
    let (Some(program), Some(core)) = (GoControlPlane::find(), GrpcCore::find()) else { return };
    let servers = core.servers(&["g1", "g2"]).await;
    let web = [Web::start("w1").await, Web::start("w2").await];
    let grpc = ["g1", "g2"].map(|name| servers.addr(name));
    let http = [web[0].addr, web[1].addr];
    // A service is there if the cluster of its name is; its routes lead to others. Each version has a cluster of its own that
    // nobody needs.
    let shift = |version: u32, weight: u32| {
        Snapshot::new(SIDECAR, counted(version))
            .routes(
                "echo.shop.svc.cluster.local:7070",
                &[
                    ("outbound|7070||echo.shop.svc.cluster.local", 0, &grpc),
                    ("g-v1", 100 - weight, &grpc[..1]),
                    ("g-v2", weight, &grpc[1..]),
                ],
            )
            .routes(
                "web.shop.svc.cluster.local:80",
                &[
                    ("outbound|80||web.shop.svc.cluster.local", 0, &http),
                    ("w-v1", 100 - weight, &http[..1]),
                    ("w-v2", weight, &http[1..]),
                ],
            )
            .routes("unrelated", &[(&format!("unrelated-{version}"), 1, &http)])
    };
    let mut control_plane = program.answering_as_asked().start().await;
    control_plane.set(&shift(0, 50)).await;
    let bootstrap = bootstrap_of(control_plane.addr(), SIDECAR, features);
    let client = XdsClient::builder(bootstrap).dialect(Dialect::Sidecar).build().unwrap();
    let ours = pair(&client).await;
    let synced = |kind: &str| {
        let resources = client.status().resources.into_iter();
        resources.filter(|one| one.kind == kind && one.state == ResourceState::Synced).collect::<Vec<_>>()
    };
    let unrelated = || {
        let names = synced("Cluster").into_iter().map(|one| one.name.to_string());
        names.filter(|name| name.starts_with("unrelated")).collect::<Vec<_>>()
    };
    let routes = || synced("RouteConfiguration").into_iter().map(|one| one.version).collect::<Vec<_>>();

    let (lines, tally) = ours
        .under_load(async || {
            let mut lines = Vec::new();
            for version in 1..=10 {
                if version == RESTART {
                    let killed = control_plane.kill().await;
                    ours.sample().await;
                    control_plane = killed.restart().await;
                }
                let weight = version * 9;
                let before = routes();
                control_plane.set(&shift(version, weight)).await;
                // All clusters came, and what is no longer among them is gone, though it went while nobody was listening.
                let followed = async {
                    let is_new = |now: Vec<_>| now.iter().zip(&before).all(|(now, before)| now != before);
                    while unrelated() != [format!("unrelated-{version}")] || !is_new(routes()) {
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                let outcome = timeout(PATIENCE, followed).await;
                assert!(outcome.is_ok(), "{version} is not in use: {:#?}", client.status());
                let shares = ours.sample().await;
                for tally in &shares {
                    assert_by_chance(tally, "1", f64::from(100 - weight) / 100.0);
                }
                lines.push(format!("{version}: {weight} % meant, {shares:?}"));
            }
            let report = control_plane.report().await;
            assert!(report.rejected.is_empty(), "{report:?}");
            lines
        })
        .await;

    println!("{}\nfailed: {:?} of {} calls", lines.join("\n"), tally.failures, tally.calls());
    tally.assert_none_failed();
}

#[tokio::test]
async fn cluster_dropped_together_with_its_last_route_loses_no_call() {
    drop_clusters_with_their_routes(&[]).await;
}

#[tokio::test]
async fn cluster_dropped_together_with_its_last_route_in_delta_loses_no_call() {
    drop_clusters_with_their_routes(&["mesh.delta"]).await;
}

async fn drop_clusters_with_their_routes(features: &[&str]) {
    let (Some(program), Some(core)) = (GoControlPlane::find(), GrpcCore::find()) else { return };
    let servers = core.servers(&["g0", "g1"]).await;
    let web = [Web::start("w0").await, Web::start("w1").await];
    let only = |version: u32| {
        let which = version as usize % 2;
        Snapshot::new(NODE, version)
            .target(TARGET, &[(["even", "odd"][which], 1, &[servers.addr(["g0", "g1"][which])])])
            .target(WEB, &[(["w-even", "w-odd"][which], 1, &[web[which].addr])])
    };
    let mut control_plane = program.start().await;
    control_plane.set(&only(0)).await;
    let client = xds_client(control_plane.addr(), features);
    let ours = pair(&client).await;

    let ((), tally) = ours
        .under_load(async || {
            for version in 1..=10 {
                let before = shifting(&client);
                control_plane.set(&only(version)).await;
                shifted(&client, before, 2).await;
                for tally in ours.sample().await {
                    let name = format!("{}", version % 2);
                    assert!(tally.keys().all(|backend| backend.ends_with(&name)), "{version}: {tally:?}");
                }
            }
            let report = control_plane.report().await;
            assert!(report.rejected.is_empty(), "{report:?}");
        })
        .await;

    println!("failed: {:?} of {} calls, 10 clusters dropped under them", tally.failures, tally.calls());
    tally.assert_none_failed();
}

// It offers a refused version again at once, and so would be asked and refused as fast as the two can.
#[tokio::test]
async fn refused_version_that_is_offered_again_at_once_is_refused_ever_more_seldom() {
    let Some(program) = GoControlPlane::find() else { return };
    let web = Web::start("w1").await;
    let to = |version: u32| Snapshot::new(NODE, version).target(WEB, &[("w", 1, &[web.addr])]);
    let mut control_plane = program.start().await;
    control_plane.set(&to(1)).await;
    let client = xds_client(control_plane.addr(), &[]);
    let mesh = Mesh::builder().source(client.clone()).build().unwrap();
    let http = Client::builder(WEB).mesh(&mesh).build().unwrap();
    http.ready().await.unwrap();
    control_plane.accepted(1).await;

    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let nobody_trusted = json!({ "name": "tls", "typed_config": { "@type": tls } });
    control_plane.set(&to(2).cluster_field("w", "transport_socket", nobody_trusted)).await;
    sleep(Duration::from_secs(5)).await;
    let report = control_plane.report().await;
    println!("refusals within 5 s: {}", report.rejected.len());
    // Two at least: the first leaves at once, and the second within a second.
    assert!((2..=20).contains(&report.rejected.len()), "{} refusals", report.rejected.len());
    assert!(report.rejected[0].message.contains("common_tls_context"), "{:?}", report.rejected[0]);
    // Last good serves, and a mended version is taken.
    assert_eq!(get(&http).await.unwrap(), "w1");
    control_plane.set(&to(3)).await;
    let mended = async {
        let is_mended = |status: &ResourceStatus| status.version.as_deref() == Some("3");
        while !client.status().resources.iter().all(is_mended) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("the mended version is taken", mended).await;
    assert_eq!(get(&http).await.unwrap(), "w1");
}

/// A backend over HTTP/1.1 that answers every request with its name.
struct Web {
    addr: SocketAddr,
    tasks: JoinSet<()>,
}

// === impl Web ===

impl Web {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, name));
            }
        });
        Self { addr, tasks }
    }

    /// Stops listening, and cuts every connection.
    async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// Answers requests that have no body, until the peer closes.
async fn answer(mut stream: TcpStream, name: &str) {
    let (requests, mut responses) = stream.split();
    let mut lines = BufReader::new(requests).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.is_empty() {
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            let _ = responses.write_all(response.as_bytes()).await;
        }
    }
}

/// The name of the backend that answers.
async fn get(client: &Client) -> Result<String, Error> {
    let response = client.get(format!("http://{WEB}/")).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

/// Both clients, and their configuration there.
async fn pair(source: &XdsClient) -> Pair {
    let mesh = Mesh::builder().source(source.clone()).build().unwrap();
    Pair::of(&mesh, WEB, TARGET).await
}

fn xds_client(control_plane: SocketAddr, features: &[&str]) -> XdsClient {
    XdsClient::builder(bootstrap_of(control_plane, NODE, features)).build().unwrap()
}

fn bootstrap_of(control_plane: SocketAddr, node: &str, features: &[&str]) -> Bootstrap {
    let mut document: Value = serde_json::from_str(&bootstrap(control_plane, node)).unwrap();
    let known = document["xds_servers"][0]["server_features"].as_array_mut().unwrap();
    known.extend(features.iter().map(|feature| json!(feature)));
    Bootstrap::from_json(document.to_string()).unwrap()
}

/// The versions in use of what every shift changes: routes, and the endpoints of the second versions.
///
/// In delta the control plane does not say which of its snapshots a client has; each resource has a version of its own.
fn shifting(client: &XdsClient) -> BTreeMap<Arc<str>, Option<Arc<str>>> {
    let status = client.status();
    let shifts = |one: &&ResourceStatus| match one.kind {
        "RouteConfiguration" => true,
        "ClusterLoadAssignment" => one.name.ends_with("-v2"),
        _ => false,
    };
    status.resources.iter().filter(shifts).map(|one| (one.name.clone(), one.version.clone())).collect()
}

/// Waits until all that a shift changes, so many resources, is in use in another version than it was, and nothing is lacking.
async fn shifted(client: &XdsClient, before: BTreeMap<Arc<str>, Option<Arc<str>>>, count: usize) {
    let is_new = |(name, version): (&Arc<str>, &Option<Arc<str>>)| {
        version.is_some() && before.get(name).is_none_or(|before| before != version)
    };
    let shifting_on = async {
        loop {
            let now = shifting(client);
            let is_there = |one: &ResourceStatus| one.state == ResourceState::Synced;
            if now.len() == count && now.iter().all(is_new) && client.status().resources.iter().all(is_there) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = timeout(PATIENCE, shifting_on).await;
    assert!(outcome.is_ok(), "the shift is not in use: {:#?}", client.status());
}

fn snapshot(version: u32) -> Snapshot {
    let endpoint: [SocketAddr; 1] = [([127, 0, 0, 1], 1).into()];
    Snapshot::new(NODE, version).target(TARGET, &[("a", 1, &endpoint), ("b", 1, &endpoint)])
}

fn ask(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: NODE.to_owned(), ..Node::default() }),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    }
}

fn accept(request: DiscoveryRequest, last: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest { version_info: last.version_info.clone(), response_nonce: last.nonce.clone(), ..request }
}

fn reject(request: DiscoveryRequest, last: &DiscoveryResponse, message: &str) -> DiscoveryRequest {
    let status = Status { code: Code::InvalidArgument as i32, message: message.to_owned(), details: vec![] };
    DiscoveryRequest { error_detail: Some(status), ..accept(request, last) }
}

/// A state-of-the-world stream by hand.
struct Ads {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Ads {
    /// Sends these at once: gRPC's Go server sends no headers before its first message, so that a client which waits for
    /// headers must have asked for something that will be answered.
    async fn open(control_plane: &RunningControlPlane, first: &[DiscoveryRequest]) -> Self {
        let channel = Channel::from_shared(format!("http://{}", control_plane.addr())).unwrap().connect_lazy();
        let (requests, outgoing) = mpsc::channel(8);
        for request in first {
            requests.send(request.clone()).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answers = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DiscoveryResponse {
        self.answers.message().await.unwrap().expect("the stream goes on")
    }
}
