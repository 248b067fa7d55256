//! The dialect of sidecars over a stream, in either variant of the protocol.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as Wire;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use mesh_core::config::{Semantics, Snapshot};
use mesh_core::source::{ConfigSource, Interest, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, RouteConfiguration};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, route_config};
use mesh_xds_client::{BuildError, Dialect, XdsClient, XdsClientBuilder};
use tokio::time::Instant;
use tonic::Status;

use crate::support::{Pipes, Planes, Running, address, reached, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);
const NODE: &str = "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local";
const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";
const ROUTES: &str = "reviews.shop.svc.cluster.local:9080";
const VARIANTS: [&[ServerFeature]; 2] = [&[], &[ServerFeature::Delta]];

fn sidecar(plane: &ControlPlane, features: &[ServerFeature]) -> Running {
    run(builder(plane, features))
}

fn builder(plane: &ControlPlane, features: &[ServerFeature]) -> XdsClientBuilder {
    let features = features.iter().copied();
    let bootstrap = Bootstrap::builder()
        .server_with_features("10.0.0.1:15010", ChannelCredentials::Insecure, features)
        .node(Node::new(NODE))
        .build()
        .expect("a valid bootstrap");
    XdsClient::builder(bootstrap).connector(Pipes::to(plane)).seed(7).dialect(Dialect::Sidecar)
}

/// The service `reviews`, with an endpoint, and another that nobody asks for.
fn offer(plane: &ControlPlane) {
    plane.update(|tx| {
        tx.set(cluster(REVIEWS)).set(endpoints(REVIEWS, [address(1)]));
        tx.set(cluster("outbound|9080||other.shop.svc.cluster.local"));
        tx.set(route_config(ROUTES, [(REVIEWS, 1)]));
    });
}

/// A sidecar that is served `reviews`, and whoever wants it.
struct Served {
    plane: ControlPlane,
    running: Running,
    snapshot: Arc<Snapshot>,
    _interest: Interest,
}

async fn served(features: &[ServerFeature]) -> Served {
    let plane = ControlPlane::new();
    offer(&plane);
    let mut running = sidecar(&plane, features);
    let _interest = running.client.watch("reviews:9080");
    let snapshot = running.until_routed("reviews:9080", &[REVIEWS]).await;
    Served { plane, running, snapshot, _interest }
}

/// A run that leaves in its cache file what it was told.
async fn keep(plane: &ControlPlane, features: &[ServerFeature], file: &Path) {
    let mut running = run(builder(plane, features).cache_file(file));
    let _interest = running.client.watch("reviews:9080");
    running.until_routed("reviews:9080", &[REVIEWS]).await;
    running.settle(10 * SECOND).await;
    running.work.abort();
}

#[tokio::test(start_paused = true)]
async fn short_name_is_served_by_service_without_a_listener() {
    for features in VARIANTS {
        let Served { running, snapshot, _interest, .. } = served(features).await;
        assert_eq!(reached(&snapshot, REVIEWS), ["10.0.0.1:80"]);
        assert_eq!(running.state(Cluster, "outbound|9080||other.shop.svc.cluster.local"), Some(ResourceState::Synced));
        assert_eq!(running.state(ClusterLoadAssignment, "outbound|9080||other.shop.svc.cluster.local"), None);
        assert_eq!(running.client.semantics(), Some(Semantics::Envoy));
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_of_an_earlier_run_that_is_not_among_all_is_gone_in_the_time_of_one_that_is_asked_for() {
    for features in VARIANTS {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xds.cache");
        let plane = ControlPlane::new();
        offer(&plane);
        keep(&plane, features, &file).await;

        plane.silence(true);
        let mut running = run(builder(&plane, features).cache_file(&file));
        let _interest = running.client.watch("reviews:9080");
        running.until_routed("reviews:9080", &[REVIEWS]).await;
        plane.remove(Cluster, REVIEWS);
        plane.silence(false);
        running.settle(SECOND).await;
        assert!(running.resource(Cluster, REVIEWS).expect("wanted").is_cached, "it may yet come");
        running.until_unavailable("reviews:9080").await;
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Absent));
    }
}

#[tokio::test(start_paused = true)]
async fn service_of_an_earlier_run_outlives_silence_about_clusters() {
    for features in VARIANTS {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xds.cache");
        let plane = ControlPlane::new();
        offer(&plane);
        plane.set(Listener { name: "virtualInbound".to_owned(), ..Listener::default() });
        keep(&plane, features, &file).await;

        plane.delay_kind(Cluster, 100 * SECOND);
        let mut running = run(builder(&plane, features).cache_file(&file));
        let _interest = running.client.watch("reviews:9080");
        running.until_routed("reviews:9080", &[REVIEWS]).await;
        running.settle(60 * SECOND).await;
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::TimedOut));
        assert!(running.client.status().connected);
        assert_eq!(routed(&running.present(), "reviews:9080"), Some(set(&[REVIEWS])));
        running.settle(60 * SECOND).await;
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Synced));
    }
}

#[tokio::test(start_paused = true)]
async fn services_come_and_go_and_the_name_follows_them() {
    for features in VARIANTS {
        let plane = ControlPlane::new();
        let mut running = sidecar(&plane, features);
        let interest = running.client.watch("reviews.shop:9080");
        plane.set(cluster("unrelated"));
        let why = running.until_unavailable("reviews.shop:9080").await;
        assert!(why.contains(REVIEWS) && why.contains(NODE), "{why}");
        for _ in 0..3 {
            offer(&plane);
            running.until_routed("reviews.shop:9080", &[REVIEWS]).await;
            plane.remove(Cluster, REVIEWS);
            running.until_unavailable("reviews.shop:9080").await;
            running.settle(SECOND).await;
            assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Absent));
            assert_eq!(running.state(RouteConfiguration, ROUTES), None);
        }
        drop(interest);
        running.settle(SECOND).await;
        assert_eq!(running.state(Cluster, REVIEWS), None, "nothing is left of it");
        assert_eq!(running.state(Cluster, "unrelated"), Some(ResourceState::Synced));
    }
}

#[tokio::test(start_paused = true)]
async fn routes_wait_for_their_clusters_and_not_for_ever() {
    for features in VARIANTS {
        let Served { plane, mut running, _interest, .. } = served(features).await;
        plane.set(route_config(ROUTES, [("late", 1)]));
        running.settle(10 * SECOND).await;
        assert_eq!(routed(&running.present(), "reviews:9080"), Some(set(&[REVIEWS])), "the old ones serve");
        plane.update(|tx| {
            tx.set(cluster("late")).set(endpoints("late", [address(2)]));
        });
        let snapshot = running.until_routed("reviews:9080", &["late"]).await;
        assert_eq!(reached(&snapshot, "late"), ["10.0.0.2:80"]);

        let start = Instant::now();
        plane.set(route_config(ROUTES, [("never", 1)]));
        let snapshot = running.until_routed("reviews:9080", &["never"]).await;
        assert!(start.elapsed() >= 15 * SECOND, "{:?}", start.elapsed());
        assert!(snapshot.clusters.is_empty());
        assert_eq!(running.state(Cluster, "never"), Some(ResourceState::TimedOut));
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_anew_has_the_whole_time_for_a_cluster_that_another_has_given_up() {
    for features in VARIANTS {
        let plane = ControlPlane::new();
        plane.set(cluster("unrelated"));
        let mut running = sidecar(&plane, features);
        let interest = running.client.watch("reviews:9080");
        running.settle(10 * SECOND).await;
        drop(interest);
        running.settle(2 * SECOND).await;

        let _interest = running.client.watch("reviews:9080");
        running.settle(14 * SECOND).await;
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Requested));
        offer(&plane);
        running.until_routed("reviews:9080", &[REVIEWS]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refused_cluster_leaves_its_neighbours_and_the_one_before_it() {
    for features in VARIANTS {
        let Served { plane, running, _interest, .. } = served(features).await;
        plane.update(|tx| {
            tx.set(Wire { connect_timeout: Some(Default::default()), ..cluster(REVIEWS) });
            tx.set(cluster("new"));
        });
        running.settle(SECOND).await;
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Rejected));
        assert_eq!(running.state(Cluster, "new"), Some(ResourceState::Synced));
        assert_eq!(routed(&running.present(), "reviews:9080"), Some(set(&[REVIEWS])));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_outlives_the_stream_and_what_went_meanwhile_is_learnt() {
    for features in VARIANTS {
        let Served { plane, running, snapshot: before, _interest } = served(features).await;
        plane.end_streams(Status::unavailable("restart"));
        running.settle(10 * SECOND).await;
        assert_eq!(running.present().generation, before.generation, "nothing has changed");
        assert!(running.client.status().connected, "a server without news has something to say");
    }
}

#[tokio::test(start_paused = true)]
async fn inbound_listener_is_there_without_any_target() {
    for features in VARIANTS {
        let plane = ControlPlane::new();
        let chain = FilterChain { name: "http".to_owned(), ..Default::default() };
        let listener = Listener { name: "virtualInbound".to_owned(), filter_chains: vec![chain], ..Default::default() };
        plane.set(listener.clone());
        let running = sidecar(&plane, features);
        assert!(running.client.inbound_listener().is_none());
        running.settle(SECOND).await;
        assert_eq!(*running.client.inbound_listener().expect("it has come").message(), listener);
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_the_server_that_was_let_go_had_goes_when_the_preferred_has_not_said_it() {
    for features in VARIANTS {
        let planes = [ControlPlane::new(), ControlPlane::new()];
        let pipes = [Pipes::to(&planes[0]), Pipes::to(&planes[1])];
        planes.iter().for_each(offer);
        planes[1].update(|tx| {
            tx.set(cluster("of the second")).set(cluster("used")).set(endpoints("used", [address(2)]));
            tx.set(route_config(ROUTES, [("used", 1)]));
        });
        let bootstrap = Bootstrap::builder().node(Node::new(NODE));
        let bootstrap = ["10.0.0.1:1", "10.0.0.1:2"].into_iter().fold(bootstrap, |bootstrap, uri| {
            bootstrap.server_with_features(uri, ChannelCredentials::Insecure, features.iter().copied())
        });
        let client = XdsClient::builder(bootstrap.build().expect("a valid bootstrap")).dialect(Dialect::Sidecar);
        pipes[0].cut(true);
        let connector = Planes((1..).zip(pipes.iter().cloned()).collect());
        let mut running = run(client.connector(connector).seed(7));
        let _interest = running.client.watch("reviews:9080");
        running.until_routed("reviews:9080", &["used"]).await;
        assert_eq!(running.state(Cluster, "of the second"), Some(ResourceState::Synced));

        // The preferred comes back with the clusters first, and its routes later: what they replace serves until then.
        planes[0].delay_kind(RouteConfiguration, 100 * SECOND);
        pipes[0].cut(false);
        planes[1].wait_streams(0).await;
        running.settle(60 * SECOND).await;
        assert_eq!(running.state(Cluster, "of the second"), None);
        assert_eq!(running.state(Cluster, "used"), Some(ResourceState::Absent));
        assert_eq!(reached(&running.present(), "used"), ["10.0.0.2:80"]);
        running.until_routed("reviews:9080", &[REVIEWS]).await;
        running.settle(SECOND).await;
        assert_eq!(running.state(Cluster, "used"), None);
        assert_eq!(running.state(Cluster, REVIEWS), Some(ResourceState::Synced));
    }
}

#[test]
fn node_without_istios_four_parts_is_refused() {
    let bootstrap = Bootstrap::builder().server("plane:15010", ChannelCredentials::Insecure).node(Node::new("web-1"));
    let built = XdsClient::builder(bootstrap.build().expect("a valid bootstrap")).dialect(Dialect::Sidecar).build();
    match built.expect_err("nothing says where the node is") {
        BuildError::Dialect(error) => assert_eq!((error.field(), error.value()), ("node.id", "web-1")),
        other => panic!("{other}"),
    }
}
