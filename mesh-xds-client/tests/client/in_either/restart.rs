//! A start from what the run before has kept on disk.

use std::path::PathBuf;
use std::time::Duration;

use mesh_core::source::{ConfigSource, Interest, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::cache::{Found, Unusable};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::route_config;
use mesh_xds_client::{ResourceKind, XdsClientBuilder};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tempfile::TempDir;

use super::builder;
use crate::support::{Pipes, Running, offer, reached, run};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A directory, a cache file in it, and a control plane that has come and may go.
struct Scene {
    plane: ControlPlane,
    pipes: Pipes,
    directory: TempDir,
}

impl Scene {
    /// A run has ended that had the target `echo` with these clusters.
    async fn after_a_run(clusters: &[&str]) -> Self {
        let plane = ControlPlane::new();
        offer(&plane, "echo", clusters);
        let directory = tempfile::tempdir().expect("a directory");
        let scene = Self { pipes: Pipes::to(&plane), plane, directory };
        let (mut running, interest) = scene.start();
        running.until_routed("echo", clusters).await;
        scene.end(running, interest).await;
        scene
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("xds.cache")
    }

    fn builder(&self, features: &[ServerFeature]) -> XdsClientBuilder {
        builder(&self.plane, features.iter().copied()).connector(self.pipes.clone()).cache_file(self.file())
    }

    fn start(&self) -> (Running, Interest) {
        self.start_with(&[])
    }

    fn start_with(&self, features: &[ServerFeature]) -> (Running, Interest) {
        let running = run(self.builder(features));
        let interest = running.client.watch("echo");
        (running, interest)
    }

    /// Ends a run as programs end, the users of the client first, and waits until its file is written.
    async fn end(&self, running: Running, interest: Interest) {
        drop(interest);
        running.settle(SECOND / 100).await;
        assert!(running.client.status().resources.is_empty(), "nothing is held any longer");
        running.work.abort();
        assert!(running.work.await.expect_err("it never ends by itself").is_cancelled());
        let status = || running.client.cache_status().expect("it has a file");
        while status().written.is_none() {
            assert!(status().last_error.is_none(), "{:?}", status());
            tokio::time::sleep(SECOND / 100).await;
        }
        // Nobody holds its place while it is being written.
        tokio::task::spawn_blocking(|| {}).await.expect("it does nothing");
    }
}

/// The age of the configuration and how much of it is cached, as they were last shown since this was last asked.
fn gauges(figures: &Snapshotter) -> [Option<f64>; 2] {
    let figures = figures.snapshot().into_vec();
    ["mesh_xds_config_age_seconds", "mesh_xds_config_from_cache"].map(|name| {
        let (.., figure) = figures.iter().find(|(key, ..)| key.key().name() == name)?;
        match figure {
            DebugValue::Gauge(figure) => Some(figure.into_inner()),
            _ => panic!("{name} is no gauge"),
        }
    })
}

fn is_cached(running: &Running, kind: ResourceKind, name: &str) -> bool {
    running.resource(kind, name).expect("asked for").is_cached
}

#[tokio::test(start_paused = true)]
async fn what_the_run_before_held_serves_for_days_and_says_so() {
    let scene = Scene::after_a_run(&["v1", "v2"]).await;
    scene.pipes.cut(true);
    let recorder = DebuggingRecorder::new();
    let figures = recorder.snapshotter();
    let started = tokio::time::Instant::now();
    let (mut running, _interest) = metrics::with_local_recorder(&recorder, || scene.start());
    let snapshot = running.until_routed("echo", &["v1", "v2"]).await;
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing is waited for");
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    let cache = running.client.cache_status().expect("it has a file");
    assert!(matches!(cache.found, Found::Resources { count: 6, .. }), "{cache:?}");

    running.settle(3 * DAY).await;
    assert!(running.snapshots.has_changed().is_ok_and(|has_changed| !has_changed));
    let of_each = [(Listener, "echo"), (RouteConfiguration, "echo"), (Cluster, "v1"), (ClusterLoadAssignment, "v2")];
    for (kind, name) in of_each {
        let status = running.resource(kind, name).expect("asked for");
        assert_eq!((status.state, status.is_cached), (ResourceState::Requested, true));
        assert!(status.version.is_some() && status.updated.is_some(), "{status:?}");
    }
    let age = running.client.status().age;
    assert!(age >= 3 * DAY && age < 3 * DAY + 60 * SECOND, "{age:?}");
    let [Some(shown), Some(6.0)] = gauges(&figures) else { panic!("both are shown") };
    assert!((1.0 - shown / age.as_secs_f64()).abs() <= 0.01, "{shown} for {age:?}");

    // The recorder forgets what it has told, so what it tells now was shown since: the age is, by and by.
    running.settle(2 * HOUR).await;
    scene.pipes.cut(false);
    running.settle(150 * SECOND).await;
    assert_eq!(running.client.status().age, Duration::ZERO);
    assert_eq!(gauges(&figures)[0], Some(0.0));
    assert!(!is_cached(&running, Cluster, "v1"));
}

#[tokio::test(start_paused = true)]
async fn next_user_of_a_target_finds_what_was_kept_as_the_first_did() {
    let scene = Scene::after_a_run(&["v1"]).await;
    scene.pipes.cut(true);
    let (mut running, interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.settle(HOUR).await;
    drop(interest);
    running.settle(HOUR).await;
    assert!(running.client.status().resources.is_empty());
    assert_eq!(running.client.status().age, Duration::ZERO, "nothing is held that could be of an age");

    let interest = running.client.watch("echo");
    let snapshot = running.until_routed("echo", &["v1"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    assert!(is_cached(&running, Listener, "echo"));
    let age = running.client.status().age;
    assert!(age >= 2 * HOUR && age < 2 * HOUR + 60 * SECOND, "it has not grown younger: {age:?}");

    // The control plane has spoken, and nobody remembers what was before.
    scene.pipes.cut(false);
    running.settle(150 * SECOND).await;
    assert!(!is_cached(&running, Listener, "echo"));
    drop(interest);
    scene.pipes.cut(true);
    scene.plane.abort_connections();
    running.settle(SECOND).await;
    let _interest = running.client.watch("echo");
    running.settle(SECOND).await;
    assert_eq!(running.state(Listener, "echo"), Some(ResourceState::Requested));
    assert!(!is_cached(&running, Listener, "echo"));
}

#[tokio::test(start_paused = true)]
async fn word_of_the_control_plane_replaces_what_was_kept() {
    let scene = Scene::after_a_run(&["v1", "v2"]).await;
    scene.pipes.cut(true);
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1", "v2"]).await;

    // Meanwhile a cluster has gone, and the routes with it.
    scene.plane.set(route_config("echo", [("v2", 1)]));
    scene.plane.remove(Cluster, "v1");
    scene.plane.remove(ClusterLoadAssignment, "v1");
    let before = scene.plane.events().len();
    scene.pipes.cut(false);
    let snapshot = running.until_routed("echo", &["v2"]).await;
    assert!(!snapshot.clusters.contains_key("v1"));
    running.settle(SECOND).await;
    assert!(running.resource(Cluster, "v1").is_none(), "nobody asks for it any longer");
    assert!(!is_cached(&running, Cluster, "v2") && !is_cached(&running, Listener, "echo"));
    for request in scene.plane.events()[before..].iter().filter_map(|event| event.request()) {
        let is_greeting = request.nonce.is_empty();
        let is_silent = request.version.is_empty() && request.holds.is_empty();
        assert!(!is_greeting || is_silent, "versions are a server's own: {request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn listener_that_is_gone_goes_when_the_control_plane_has_had_its_time() {
    let scene = Scene::after_a_run(&["v1"]).await;
    scene.pipes.cut(true);
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    let _other = running.client.watch("other");

    scene.plane.remove(Listener, "echo");
    offer(&scene.plane, "other", &["v1"]);
    scene.pipes.cut(false);
    running.until_routed("other", &["v1"]).await;
    assert!(is_cached(&running, Listener, "echo"), "it may yet come");
    let reason = running.until_unavailable("echo").await;
    assert!(reason.contains("has no such resource"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn cluster_that_is_gone_goes_though_routes_name_it_when_the_control_plane_has_had_its_time() {
    let scene = Scene::after_a_run(&["v1", "v2"]).await;
    scene.pipes.cut(true);
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1", "v2"]).await;

    scene.plane.remove(Cluster, "v1");
    scene.pipes.cut(false);
    let is_confirmed = |running: &Running| !is_cached(running, Cluster, "v2");
    while !is_confirmed(&running) {
        running.settle(SECOND / 10).await;
    }
    assert!(is_cached(&running, Cluster, "v1"), "it may yet come");
    let snapshot = running.until(|snapshot| !snapshot.clusters.contains_key("v1")).await;
    assert!(snapshot.clusters.contains_key("v2"));
    running.until_routed("echo", &["v1", "v2"]).await;
    assert_eq!(running.state(Cluster, "v1"), Some(ResourceState::Absent));
    assert!(!is_cached(&running, Cluster, "v1"));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_stays_where_the_server_is_not_to_be_believed_about_that() {
    let scene = Scene::after_a_run(&["v1"]).await;
    scene.plane.remove(Listener, "echo");
    scene.plane.remove(Cluster, "v1");
    let (mut running, _interest) = scene.start_with(&[ServerFeature::IgnoreResourceDeletion]);
    running.settle(HOUR).await;
    let snapshot = running.until_routed("echo", &["v1"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    for (kind, name) in [(Listener, "echo"), (Cluster, "v1")] {
        let status = running.resource(kind, name).expect("asked for");
        assert_eq!((status.state, status.is_cached), (ResourceState::Absent, true), "{status:?}");
        let error = status.error.expect("there is none");
        assert!(error.contains("what an earlier run has kept of it serves"), "{error}");
    }
}

/// The control plane is silent, and no time is left to wait for what was kept: it serves.
async fn waited_for_in_vain() -> (Scene, Running, Interest) {
    let scene = Scene::after_a_run(&["v1"]).await;
    scene.plane.silence(true);
    let (mut running, interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.settle(HOUR).await;
    assert_eq!(running.state(Listener, "echo"), Some(ResourceState::TimedOut));
    (scene, running, interest)
}

#[tokio::test(start_paused = true)]
async fn full_state_that_comes_late_counts_as_one_in_time() {
    let (scene, mut running, _interest) = waited_for_in_vain().await;

    scene.plane.remove(Listener, "echo");
    scene.plane.silence(false);
    let _other = running.client.watch("other");
    offer(&scene.plane, "other", &["v1"]);
    running.until_routed("other", &["v1"]).await;
    let reason = running.until_unavailable("echo").await;
    assert!(reason.contains("has no such resource"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn silence_of_a_control_plane_takes_nothing_away() {
    let (scene, mut running, _interest) = waited_for_in_vain().await;
    assert!(is_cached(&running, Listener, "echo"));
    running.until_routed("echo", &["v1"]).await;

    scene.plane.set(route_config("echo", [("v1", 2)]));
    scene.plane.silence(false);
    running.settle(SECOND).await;
    assert!(!is_cached(&running, RouteConfiguration, "echo"));
}

#[tokio::test(start_paused = true)]
async fn file_that_is_not_as_it_should_be_is_refused_and_replaced() {
    let scene = Scene::after_a_run(&["v1"]).await;
    let mut bytes = std::fs::read(scene.file()).expect("written");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(scene.file(), bytes).expect("written");
    let (mut running, interest) = scene.start();
    let found = running.client.cache_status().expect("it has a file").found;
    let Found::Refused(reason) = found else { panic!("{found:?}") };
    assert!(matches!(*reason, Unusable::Torn { .. }), "{reason}");
    running.until_routed("echo", &["v1"]).await;
    scene.end(running, interest).await;

    scene.pipes.cut(true);
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn end_of_a_quiet_run_says_until_when_the_file_was_known_to_be_good() {
    let scene = Scene::after_a_run(&["v1"]).await;
    let agreed = || {
        let client = scene.builder(&[]).build().expect("a valid client");
        match client.cache_status().expect("it has a file").found {
            Found::Resources { agreed, .. } => agreed,
            other => panic!("{other:?}"),
        }
    };
    let first = agreed();
    let (mut running, interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.settle(SECOND).await;
    scene.end(running, interest).await;
    assert!(agreed() > first, "though nothing has changed");

    scene.pipes.cut(true);
    let second = agreed();
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.work.abort();
    running.settle(SECOND).await;
    assert_eq!(agreed(), second, "nobody has said that it is good still");
}

#[tokio::test(start_paused = true)]
async fn file_of_a_run_that_ends_long_after_its_control_plane_says_until_when_it_was_good() {
    let scene = Scene::after_a_run(&["v1"]).await;
    let (mut running, interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.settle(SECOND).await;
    scene.pipes.cut(true);
    scene.plane.abort_connections();
    running.settle(DAY).await;
    scene.end(running, interest).await;
    let (running, _interest) = scene.start();
    running.settle(SECOND).await;
    let age = running.client.status().age;
    assert!(age >= DAY && age < DAY + 60 * SECOND, "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn change_is_on_disk_after_the_interval_and_quiet_writes_nothing() {
    let scene = Scene::after_a_run(&["v1"]).await;
    let (mut running, _interest) = scene.start();
    running.until_routed("echo", &["v1"]).await;
    running.settle(6 * SECOND).await;
    let written = || running.client.cache_status().expect("it has a file").written;
    assert_eq!(written(), None, "what came at the start was there already");
    scene.plane.set(route_config("echo", [("v1", 2)]));
    running.settle(6 * SECOND).await;
    let first = written().expect("it has changed");
    scene.plane.set(route_config("echo", [("v1", 3)]));
    running.settle(4 * SECOND).await;
    assert_eq!(written(), Some(first), "not at once");
    running.settle(2 * SECOND).await;
    assert!(written() > Some(first));
    let quiet = written();
    running.settle(HOUR).await;
    assert_eq!(written(), quiet, "nothing changes, and nothing is written");
}
