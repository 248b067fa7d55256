//! Bad news from a control plane, in every form: what served goes on serving, and the status says what is wrong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, ResourceError as WireError, ResourceName,
};
use envoy_types::pb::google::{protobuf::Any, rpc};
use mesh_core::config::{Address, Snapshot};
use mesh_core::source::{ConfigSource, Interest, ResourceState};
use mesh_http::conn::KeepAlive;
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::ResourceKind::{self, Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::testkit::{ControlPlane, Event};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{builder, running};
use crate::support::{Pipes, Running, address, offer, reached, ready, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);
/// Whom the control plane's operator has to look for.
const NODE: &str = "node id `test`";

/// Bytes that are no message of any kind.
fn garbage(kind: ResourceKind) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: vec![0xff; 40] }
}

/// A target that serves.
async fn serving(plane: &ControlPlane) -> (Running, Interest) {
    offer(plane, "echo", &["v1"]);
    let mut running = running(plane);
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    (running, interest)
}

/// New endpoints arrive, so the client still listens.
async fn assert_alive(plane: &ControlPlane, running: &mut Running) {
    plane.set(endpoints("v1", [address(99)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.99:80"]).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
}

// --- resources ---

#[tokio::test(start_paused = true)]
async fn refused_resource_of_every_kind_leaves_the_last_good_one_serving() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    for kind in ResourceKind::ALL {
        let name = if matches!(kind, Listener | RouteConfiguration) { "echo" } else { "v1" };
        let version = plane.raw(kind, name, garbage(kind));
        let nack = plane.wait_acked(kind, &version).await.expect_err("garbage is refused");
        assert!(nack.request().error.is_some(), "{nack}");
    }
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));

    // Once more with names, which is what a decoder refuses.
    let mut unusable = cluster("v1");
    unusable.eds_cluster_config = None;
    let version = plane.set(unusable);
    let nack = plane.wait_acked(Cluster, &version).await.expect_err("it has no eds_cluster_config");
    assert!(nack.request().error.as_deref().is_some_and(|text| text.contains("\"v1\": eds_cluster_config")), "{nack}");
    let resource = running.resource(Cluster, "v1").expect("asked for");
    assert_eq!(resource.state, ResourceState::Rejected);
    assert_eq!(resource.version.as_deref(), Some("1"), "the version that serves");
    let error = resource.error.expect("the latest is refused");
    assert!(["\"v1\"", "eds_cluster_config", NODE].iter().all(|part| error.contains(part)), "{error}");

    offer(&plane, "echo", &["v1"]);
    assert_alive(&plane, &mut running).await;
    assert_eq!(running.state(Cluster, "v1"), Some(ResourceState::Synced));
}

#[tokio::test(start_paused = true)]
async fn neighbours_of_a_refused_resource_apply() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    plane.raw(ClusterLoadAssignment, "v2", {
        let mut unusable = endpoints("v2", [address(1)]);
        unusable.endpoints[0].priority = 7;
        envoy_types::util::pack_any(unusable)
    });
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let snapshot = running.until_routed("echo", &["v1", "v2"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    assert!(snapshot.clusters["v2"].endpoints.is_none());
    assert_eq!(running.state(ClusterLoadAssignment, "v2"), Some(ResourceState::Rejected));
}

#[tokio::test(start_paused = true)]
async fn target_that_never_had_routes_says_what_is_wrong_with_its_listener() {
    let plane = ControlPlane::new();
    let mut unusable = listener("echo", "routes");
    unusable.api_listener = None;
    plane.set(unusable);
    let mut running = running(&plane);
    let _interests = [running.client.watch("echo"), running.client.watch("xds://other/echo")];
    let reason = running.until_unavailable("echo").await;
    for part in ["Listener `echo`", "api_listener", NODE] {
        assert!(reason.contains(part), "{reason}");
    }
    let reason = running.until_unavailable("xds://other/echo").await;
    assert!(reason.contains("authority"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn target_without_a_listener_is_unavailable_after_15_seconds_until_it_comes() {
    let plane = ControlPlane::new();
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let start = Instant::now();
    let reason = running.until_unavailable("echo").await;
    assert!((15 * SECOND..16 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(reason.contains("Listener `echo`") && reason.contains(NODE), "{reason}");
    // In delta the server has said that there is none.
    let state = running.state(Listener, "echo");
    assert!(matches!(state, Some(ResourceState::TimedOut | ResourceState::Absent)), "{state:?}");
    offer(&plane, "echo", &["v1"]);
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn missing_routes_are_told_by_a_target_that_never_had_any_and_ignored_by_one_that_had() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    plane.set(listener("new", "ghost"));
    let mut running = running(&plane);
    let _interests = [running.client.watch("echo"), running.client.watch("new")];
    running.until_routed("echo", &["v1"]).await;
    plane.set(listener("echo", "ghost"));
    let reason = running.until_unavailable("new").await;
    assert!(reason.contains("RouteConfiguration `ghost`"), "{reason}");
    running.settle(60 * SECOND).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
    plane.set(route_config("ghost", [("v1", 1)]));
    running.until_routed("new", &["v1"]).await;
}

// --- removal ---

#[tokio::test(start_paused = true)]
async fn server_takes_away_what_it_removes() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    plane.remove(Listener, "echo");
    let reason = running.until_unavailable("echo").await;
    assert!(reason.contains("Listener `echo`") && reason.contains("removed"), "{reason}");
    assert_eq!(running.state(Listener, "echo"), Some(ResourceState::Absent));
    running.settle(SECOND).await;
    assert!(plane.subscriptions(Cluster).is_empty(), "nothing refers to clusters any longer");
    offer(&plane, "echo", &["v2"]);
    running.until_routed("echo", &["v2"]).await;
}

#[tokio::test(start_paused = true)]
async fn removed_cluster_serves_until_no_route_names_it() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    let version = plane.remove(Cluster, "v1");
    plane.wait_acked(Cluster, &version).await.expect("accepted");
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let resource = running.resource(Cluster, "v1").expect("asked for");
    assert_eq!(resource.state, ResourceState::Absent);
    assert!(resource.error.is_some_and(|error| error.contains("until no route names it")));

    // Its endpoints are followed meanwhile, and it goes with its last route.
    plane.set(endpoints("v1", [address(2)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
    plane.set(cluster("v2"));
    plane.set(endpoints("v2", [address(3)]));
    plane.set(route_config("echo", [("v2", 1)]));
    let snapshot = running.until_routed("echo", &["v2"]).await;
    assert_eq!(snapshot.clusters.len(), 1);
    running.settle(SECOND).await;
    assert!(running.resource(Cluster, "v1").is_none());
    // Wanted again, it is what the server says now.
    plane.set(route_config("echo", [("v1", 1)]));
    let snapshot = running.until_routed("echo", &["v1"]).await;
    assert!(snapshot.clusters.is_empty(), "it does not exist");
}

#[tokio::test(start_paused = true)]
async fn removed_cluster_is_gone_at_once_where_the_server_wants_that() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, [ServerFeature::FailOnDataErrors]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    plane.remove(Cluster, "v1");
    let snapshot = running.until(|snapshot| snapshot.clusters.is_empty()).await;
    assert_eq!(routed(&snapshot, "echo"), Some(set(&["v1"])), "the routes stay, and fail what goes there");
    plane.set(cluster("v1"));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.1:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn removal_is_ignored_where_the_server_is_known_to_remove_by_mistake() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, [ServerFeature::IgnoreResourceDeletion]));
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    plane.remove(Cluster, "v1");
    let version = plane.remove(Listener, "echo");
    plane.wait_acked(Listener, &version).await.expect("accepted");
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    for (kind, name) in [(Listener, "echo"), (Cluster, "v1")] {
        let resource = running.resource(kind, name).expect("asked for");
        assert_eq!(resource.state, ResourceState::Absent);
        assert!(resource.error.is_some_and(|error| error.contains("it is kept")));
        assert!(resource.version.is_some(), "and yet it serves");
    }
    offer(&plane, "echo", &["v1"]);
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn silence_lasts_longer_where_it_means_trouble_rather_than_absence() {
    let plane = ControlPlane::new();
    let mut running = run(builder(&plane, [ServerFeature::ResourceTimerIsTransientError]));
    let _interest = running.client.watch("echo");
    let start = Instant::now();
    running.until_unavailable("echo").await;
    assert!((30 * SECOND..31 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
}

// --- errors in data, and what they mean for what was good before (gRFC A88) ---

/// Says of a resource in a response of its own that the server does not give it.
fn deny(plane: &ControlPlane, kind: ResourceKind, name: &str, code: Code) {
    let error = || WireError {
        resource_name: Some(ResourceName { name: name.to_owned(), ..Default::default() }),
        error_detail: Some(rpc::Status { code: code as i32, message: "ask somebody else".to_owned(), details: Vec::new() }),
    };
    // One of each variant: a stream takes the one of its own.
    plane.send(DeltaDiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: "denial".to_owned(),
        resource_errors: vec![error()],
        ..Default::default()
    });
    plane.send(DiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: "denial".to_owned(),
        version_info: "denial".to_owned(),
        resource_errors: vec![error()],
        ..Default::default()
    });
}

/// Serves `echo`, or no longer, from routes and a cluster of that name.
async fn serves(features: &[ServerFeature], spoil: impl AsyncFnOnce(&ControlPlane, &mut Running)) -> (ControlPlane, Running, Interest) {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, features.iter().copied()));
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    spoil(&plane, &mut running).await;
    running.settle(SECOND).await;
    (plane, running, interest)
}

#[tokio::test(start_paused = true)]
async fn denial_keeps_the_last_good_one_and_says_why() {
    for (code, state) in [(Code::NotFound, ResourceState::Absent), (Code::Internal, ResourceState::Failed)] {
        let spoil = async |plane: &ControlPlane, _: &mut Running| deny(plane, RouteConfiguration, "echo", code);
        let (plane, mut running, _interest) = serves(&[], spoil).await;
        assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
        let resource = running.resource(RouteConfiguration, "echo").expect("asked for");
        assert_eq!(resource.state, state);
        let error = resource.error.expect("denied");
        assert!(error.contains("ask somebody else; the version before is kept"), "{error}");
        assert!(plane.nacks().is_empty());
        assert_alive(&plane, &mut running).await;
    }
}

#[tokio::test(start_paused = true)]
async fn denial_of_what_never_came_is_told_at_once() {
    let plane = ControlPlane::new();
    let mut running = run(builder(&plane, [ServerFeature::ResourceTimerIsTransientError]));
    let _interest = running.client.watch("echo");
    plane.wait_for(|event| event.request().is_some()).await;
    let start = Instant::now();
    deny(&plane, Listener, "echo", Code::PermissionDenied);
    let reason = running.until_unavailable("echo").await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(reason.contains("PermissionDenied: ask somebody else") && reason.contains(NODE), "{reason}");
    offer(&plane, "echo", &["v1"]);
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn strict_servers_denials_and_refused_versions_end_what_was_good_before() {
    let strict = [ServerFeature::FailOnDataErrors];
    for kind in [Listener, RouteConfiguration] {
        for is_denied in [true, false] {
            let spoil = async |plane: &ControlPlane, running: &mut Running| {
                if is_denied {
                    deny(plane, kind, "echo", Code::PermissionDenied);
                } else {
                    let named = match kind {
                        Listener => envoy_types::util::pack_any(envoy_types::pb::envoy::config::listener::v3::Listener {
                            api_listener: None,
                            ..listener("echo", "echo")
                        }),
                        _ => {
                            let mut routes = route_config("echo", [("v1", 1)]);
                            routes.virtual_hosts[0].routes[0].r#match = None;
                            envoy_types::util::pack_any(routes)
                        }
                    };
                    plane.raw(kind, "echo", named);
                }
                let reason = running.until_unavailable("echo").await;
                assert!(reason.contains(kind.name()), "{reason}");
            };
            let (plane, mut running, _interest) = serves(&strict, spoil).await;
            plane.set(listener("echo", "echo"));
            plane.set(route_config("echo", [("v1", 1)]));
            running.until_routed("echo", &["v1"]).await;
        }
    }
    // Trouble that is not the resource's own takes nothing away, here either.
    let spoil = async |plane: &ControlPlane, _: &mut Running| deny(plane, Listener, "echo", Code::Unavailable);
    let (_plane, running, _interest) = serves(&strict, spoil).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
}

#[tokio::test(start_paused = true)]
async fn strict_servers_refused_endpoints_leave_their_cluster_without_any() {
    let spoil = async |plane: &ControlPlane, running: &mut Running| {
        let mut unusable = endpoints("v1", [address(1)]);
        unusable.endpoints[0].priority = 7;
        plane.set(unusable);
        running.until(|snapshot| snapshot.clusters["v1"].endpoints.is_none()).await;
    };
    let (plane, mut running, _interest) = serves(&[ServerFeature::FailOnDataErrors], spoil).await;
    assert_eq!(running.state(ClusterLoadAssignment, "v1"), Some(ResourceState::Rejected));
    assert_alive(&plane, &mut running).await;
}

// --- streams and connections ---

#[tokio::test(start_paused = true)]
async fn streams_that_end_and_connections_that_are_cut_take_nothing_away() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    plane.end_streams(Status::unavailable("restarting"));
    running.settle(60 * SECOND).await;
    let error = running.client.status().last_error.expect("a stream was lost");
    assert!(error.contains("restarting") && error.contains(NODE), "{error}");
    plane.abort_connections();
    running.settle(60 * SECOND).await;
    assert!(running.client.status().connected);
    assert!(Arc::ptr_eq(&before, &running.present()));
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn connection_cut_every_100_ms_neither_stalls_nor_loses_what_is_held() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    let cutter = tokio::spawn({
        let plane = plane.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                plane.abort_connections();
            }
        }
    });
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let opened = plane.events().iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count();
    assert!((20..=600).contains(&opened), "{opened} streams in a minute");
    assert_alive(&plane, &mut running).await;
    cutter.abort();
}

#[tokio::test(start_paused = true)]
async fn control_plane_that_is_away_is_tried_ever_more_rarely_and_found_again() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let pipes = Pipes::to(&plane);
    let mut running = run(builder(&plane, []).connector(pipes.clone()));
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    pipes.cut(true);
    plane.abort_connections();
    running.settle(10 * 60 * SECOND).await;
    let tried = pipes.attempts();
    running.settle(60 * 60 * SECOND).await;
    let in_an_hour = pipes.attempts() - tried;
    // Waits of 60 s in the mean, and 120 s at most.
    assert!((30..=120).contains(&in_an_hour), "{in_an_hour}");
    let status = running.client.status();
    assert!(!status.connected);
    assert!(status.last_error.is_some_and(|error| error.contains("takes no connections")));
    assert!(Arc::ptr_eq(&before, &running.present()));
    pipes.cut(false);
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn silent_control_plane_makes_a_target_unavailable_and_heals() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    plane.silence(true);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let reason = running.until_unavailable("echo").await;
    assert!(reason.contains("did not answer in time"), "{reason}");
    plane.silence(false);
    running.until_routed("echo", &["v1"]).await;
    plane.silence(true);
    running.settle(600 * SECOND).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
}

#[tokio::test(start_paused = true)]
async fn one_byte_a_second_is_endured_and_an_update_comes_in_the_end() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    plane.drip(SECOND);
    plane.set(endpoints("v1", [address(2)]));
    running.settle(30 * SECOND).await;
    assert_eq!(reached(&running.present(), "v1"), ["10.0.0.1:80"]);
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
    plane.drip(Duration::ZERO);
    assert_alive(&plane, &mut running).await;
}

/// The first connection leads nowhere, the others to a control plane.
struct HoleFirst(Pipes, AtomicUsize);

impl Connect for HoleFirst {
    fn connect(&self, address: &Address) -> Connecting {
        if self.1.fetch_add(1, Ordering::Relaxed) > 0 {
            return self.0.connect(address);
        }
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            // Open for as long as the test, and nobody reads.
            std::mem::forget(theirs);
            Ok(Box::new(ours) as Stream)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_died_without_a_word_is_found_by_keep_alive() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let keep_alive = KeepAlive { interval: 30 * SECOND, timeout: 10 * SECOND, while_idle: false };
    let connector = HoleFirst(Pipes::to(&plane), AtomicUsize::new(0));
    let mut running = run(builder(&plane, []).connector(connector).keep_alive(keep_alive));
    let _interest = running.client.watch("echo");
    let start = Instant::now();
    running.until_routed("echo", &["v1"]).await;
    assert!((40 * SECOND..45 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    let error = running.client.status().last_error.expect("a connection was lost");
    assert!(error.contains("keep-alive"), "{error}");
}

/// Never connects.
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self, _: &Address) -> Connecting {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_does_not_come_about_is_given_up() {
    let plane = ControlPlane::new();
    let running = run(builder(&plane, []).connector(Nowhere).connect_timeout(3 * SECOND));
    let _interest = running.client.watch("echo");
    running.settle(4 * SECOND).await;
    let error = running.client.status().last_error.expect("an attempt was given up");
    assert!(error.contains("within 3s"), "{error}");
}

/// Something else listens there.
struct WebServer;

impl Connect for WebServer {
    fn connect(&self, _: &Address) -> Connecting {
        Box::pin(async {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let said: io::Result<()> = theirs.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            said?;
            Ok(Box::new(ours) as Stream)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_does_not_speak_http2_is_told_apart() {
    let plane = ControlPlane::new();
    let running = run(builder(&plane, []).connector(WebServer));
    let _interest = running.client.watch("echo");
    running.settle(60 * SECOND).await;
    let status = running.client.status();
    assert!(!status.connected);
    let error = status.last_error.expect("streams were lost");
    assert!(error.contains("the connection to the control plane failed: peer broke the protocol"), "{error}");
    assert!(!running.work.is_finished(), "and it goes on trying");
}

// --- responses ---

#[tokio::test(start_paused = true)]
async fn responses_that_make_no_sense_do_no_harm() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    let response = |type_url: &str, value: Vec<u8>, nonce: &str| DiscoveryResponse {
        type_url: type_url.to_owned(),
        resources: vec![Any { type_url: type_url.to_owned(), value }],
        version_info: "weird".to_owned(),
        nonce: nonce.to_owned(),
        ..Default::default()
    };
    plane.send(response("", vec![1], ""));
    plane.send(response("type.googleapis.com/envoy.service.runtime.v3.Runtime", vec![1], "n"));
    plane.send(response(Cluster.type_url(), vec![0xff; 9], "a nonce of its own"));
    plane.send(response(ClusterLoadAssignment.type_url(), Vec::new(), "\u{0}"));
    let mut foreign = response(Cluster.type_url(), vec![1], "x");
    foreign.resources[0].type_url = Listener.type_url().to_owned();
    plane.send(foreign);
    plane.send(DiscoveryResponse::default());
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    assert_eq!(plane.streams(), 1, "none of it ends the stream");
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn response_beyond_the_limit_is_told_and_leaves_the_last_good_one_serving() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, []).max_message_size(64 * 1024));
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    let mut huge = cluster("v1");
    huge.alt_stat_name = "x".repeat(70 * 1024);
    plane.set(huge);
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let error = running.client.status().last_error.expect("streams were lost");
    assert!(error.contains("more than 65536 bytes"), "{error}");
    let opened = plane.events().iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count();
    assert!(opened < 100, "{opened} streams in a minute");
    plane.set(cluster("v1"));
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn response_of_64_mebibytes_is_taken() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let mut routes = route_config("echo", [("v1", 1)]);
    routes.virtual_hosts[0].routes[0].name = "x".repeat(64 << 20);
    plane.set(routes);
    running.until(|snapshot| first_route(snapshot).is_some_and(|name| name.len() == 64 << 20)).await;
    assert_alive(&plane, &mut running).await;
}

fn first_route(snapshot: &Snapshot) -> Option<Arc<str>> {
    let listener = ready(snapshot, "echo")?;
    Some(listener.routes.virtual_hosts()[0].routes[0].name.clone())
}

// --- again ---

/// A story with a bit of everything, as the control plane and a reader of snapshots saw it.
async fn story() -> (Vec<String>, Vec<String>) {
    let plane = ControlPlane::new();
    let (running, _interest) = serving(&plane).await;
    let mut seen = Vec::new();
    for round in 0..20 {
        plane.set(route_config("echo", [("v1", 1), ("v2", round)]));
        plane.set(endpoints("v1", [address(1 + round as u8)]));
        match round % 4 {
            0 => plane.abort_connections(),
            1 => plane.end_streams(Status::unavailable("restarting")),
            2 => drop(plane.set(cluster("v2"))),
            _ => drop(plane.remove(Cluster, "v2")),
        }
        running.settle(Duration::from_millis(700)).await;
        seen.push(format!("{:?}", running.present()));
    }
    assert!(running.present().generation > 10, "something was published on the way");
    (plane.events().iter().map(|event| format!("{event:?}")).collect(), seen)
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let tell = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        std::thread::spawn(move || runtime.expect("a runtime").block_on(story())).join().expect("the story ends")
    };
    let (events, snapshots) = tell();
    assert!(events.len() > 50, "{}", events.len());
    assert_eq!(tell(), (events, snapshots));
}
