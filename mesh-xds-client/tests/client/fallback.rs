//! Several control planes in one list (gRFC A71): when the next is asked, what it is asked for, and how the first
//! comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{route::Action, route_action::HostRewriteSpecifier};
use envoy_types::pb::google::protobuf::BoolValue;
use mesh_core::config::{Action as Forwarded, HostRewrite, RouteConfig, Snapshot};
use mesh_core::source::{ConfigSource, ResourceState, ServerStatus};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, ServerFeature};
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::testkit::{ControlPlane, Event};
use mesh_xds_client::{XdsClient, XdsClientBuilder};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tonic::Status;

use crate::support::{Pipes, Planes, Running, address, offer, reached, ready, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);

/// As many control planes as there are in the list, in one list, and the ways to them.
struct List {
    planes: Vec<ControlPlane>,
    pipes: Vec<Pipes>,
}

impl List {
    fn of(count: u16) -> Self {
        let planes: Vec<_> = (0..count).map(|_| ControlPlane::new()).collect();
        let pipes = planes.iter().map(Pipes::to).collect();
        Self { planes, pipes }
    }

    fn builder(&self, features: &[ServerFeature]) -> XdsClientBuilder {
        let uris = (1..=self.planes.len()).map(|port| format!("10.0.0.1:{port}"));
        let features = || features.iter().copied();
        let bootstrap = uris.fold(Bootstrap::builder(), |builder, uri| {
            builder.server_with_features(uri, ChannelCredentials::Insecure, features())
        });
        let connector = Planes((1..).zip(self.pipes.iter().cloned()).collect());
        XdsClient::builder(bootstrap.build().expect("valid")).connector(connector).seed(7)
    }

    /// Takes one away, without a word.
    fn take_away(&self, place: usize) {
        self.pipes[place].cut(true);
        self.planes[place].abort_connections();
    }

    fn bring_back(&self, place: usize) {
        self.pipes[place].cut(false);
    }
}

fn servers(running: &Running) -> Vec<ServerStatus> {
    running.client.status().servers
}

fn in_use(running: &Running) -> Vec<bool> {
    servers(running).iter().map(|server| server.in_use).collect()
}

#[tokio::test(start_paused = true)]
async fn first_server_that_is_away_is_replaced_and_returned_to_and_the_second_is_let_go() {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    offer(&list.planes[1], "echo", &["v2"]);
    list.take_away(0);
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v2"]).await;
    assert_eq!(running.client.status().server, "10.0.0.1:2");
    assert!(running.client.status().connected);
    assert_eq!(in_use(&running), [true, true]);
    let first = &servers(&running)[0];
    assert!(!first.connected && first.last_error.as_ref().is_some_and(|error| error.contains("takes no connections")));

    // The first one is tried all the while, and needs no end of the second to be heard.
    list.bring_back(0);
    running.until_routed("echo", &["v1"]).await;
    assert_eq!(running.client.status().server, "10.0.0.1:1");
    assert_eq!(in_use(&running), [true, false]);
    list.planes[1].wait_streams(0).await;
    let seen = list.planes[1].events().len();
    running.settle(600 * SECOND).await;
    assert_eq!(list.planes[1].events().len(), seen, "it is left alone");
    let second = &servers(&running)[1];
    assert_eq!((second.connected, &second.last_error), (false, &None), "to be let go is no trouble");
}

#[tokio::test(start_paused = true)]
async fn second_server_is_not_asked_while_all_that_is_wanted_is_held_or_known_not_to_be() {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    offer(&list.planes[1], "echo", &["v2"]);
    let mut running = run(list.builder(&[]));
    let _interests = [running.client.watch("echo"), running.client.watch("nowhere")];
    running.until_routed("echo", &["v1"]).await;
    running.until_unavailable("nowhere").await;
    let before = running.present();
    list.take_away(0);
    running.settle(600 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    assert_eq!(list.pipes[1].attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_that_means_trouble_is_no_answer_and_has_the_second_server_asked() {
    let list = List::of(2);
    list.planes[0].silence(true);
    offer(&list.planes[1], "echo", &["v2"]);
    let mut running = run(list.builder(&[ServerFeature::ResourceTimerIsTransientError]));
    let _interest = running.client.watch("echo");
    running.until_unavailable("echo").await;
    let error = running.resource(Listener, "echo").and_then(|resource| resource.error).expect("timed out");
    assert!(error.contains("has not answered in time, and may yet"), "{error}");
    list.take_away(0);
    running.until_routed("echo", &["v2"]).await;
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_first_server_takes_nothing_from_what_the_second_has_said() {
    let list = List::of(2);
    offer(&list.planes[1], "echo", &["v2"]);
    list.take_away(0);
    let mut running = run(list.builder(&[ServerFeature::FailOnDataErrors]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v2"]).await;

    // It takes the stream again, and says nothing, as one that is still gathering its own configuration.
    list.planes[0].silence(true);
    list.bring_back(0);
    list.planes[0].wait_streams(1).await;
    let before = running.present();
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let listener = running.resource(Listener, "echo").expect("asked for");
    assert_eq!((listener.state, listener.error), (ResourceState::Synced, None));
}

#[tokio::test(start_paused = true)]
async fn what_the_second_server_does_not_have_stays_and_what_it_has_replaces() {
    // In state of the world the second is silent; in delta it says that there are none.
    stays_and_replaces(&[], ResourceState::Synced).await;
    stays_and_replaces(&[ServerFeature::Delta], ResourceState::Absent).await;
}

async fn stays_and_replaces(features: &[ServerFeature], told_of_the_unknown: ResourceState) {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    offer(&list.planes[0], "own", &["v3"]);
    offer(&list.planes[1], "echo", &["v2"]);
    offer(&list.planes[1], "late", &["v4"]);
    let mut running = run(list.builder(features));
    let _interests = [running.client.watch("echo"), running.client.watch("own")];
    running.until_routed("echo", &["v1"]).await;
    running.until_routed("own", &["v3"]).await;
    list.take_away(0);
    running.settle(60 * SECOND).await;
    let late = running.client.watch("late");
    running.until_routed("late", &["v4"]).await;
    running.until_routed("echo", &["v2"]).await;
    running.settle(60 * SECOND).await;
    assert_eq!(routed(&running.present(), "own"), Some(set(&["v3"])), "cached, and unknown to the second");
    let endpoints = running.state(ClusterLoadAssignment, "v3");
    assert_eq!(endpoints, Some(told_of_the_unknown), "who has something has no clock");

    // It came from another server meanwhile, so the first must send it although it has not changed.
    drop(late);
    list.bring_back(0);
    let seen = list.planes[0].events().len();
    running.until_routed("echo", &["v1"]).await;
    let events = list.planes[0].events().split_off(seen);
    let greeting = events.iter().filter_map(Event::request).find(|request| request.has_node).expect("it is asked");
    assert!(greeting.version.is_empty() && greeting.holds.is_empty(), "{greeting:?}");
    let greeted = list.planes[1].events();
    let greeted = greeted.iter().filter_map(Event::request).find(|request| request.has_node).expect("it was asked");
    assert!(greeted.version.is_empty() && greeted.holds.is_empty(), "{greeted:?}");
    assert_eq!(routed(&running.present(), "own"), Some(set(&["v3"])));
    assert_eq!(reached(&running.present(), "v1"), ["10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn no_reader_ever_sees_a_target_without_routes_while_servers_change_hands() {
    let list = List::of(2);
    for plane in &list.planes {
        offer(plane, "echo", &["v1"]);
    }
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    let mut snapshots = running.client.snapshots();
    let reader = tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            assert_eq!(routed(&snapshot, "echo"), Some(set(&["v1"])));
            assert!(!reached(&snapshot, "v1").is_empty());
        }
    });
    let mut late = Vec::new();
    for round in 0..10 {
        list.take_away(0);
        // Something is lacking each time, which only the second has.
        let name = format!("late-{round}");
        list.planes[1].update(|tx| {
            tx.set(listener(&name, name.as_str())).set(route_config(&name, [("v1", 1)]));
            tx.set(endpoints("v1", [address(2)]));
        });
        late.push(running.client.watch(&name));
        running.until_routed(&name, &["v1"]).await;
        running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
        list.bring_back(0);
        running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.1:80"]).await;
        list.planes[1].wait_streams(0).await;
    }
    assert!(!reader.is_finished(), "every snapshot had routes and endpoints");
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn third_server_serves_while_two_are_away_and_each_that_returns_ends_those_below_it() {
    let list = List::of(3);
    for (place, version) in ["v1", "v2", "v3"].into_iter().enumerate() {
        offer(&list.planes[place], "echo", &[version]);
    }
    list.take_away(0);
    list.take_away(1);
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v3"]).await;
    list.bring_back(1);
    running.until_routed("echo", &["v2"]).await;
    assert_eq!(in_use(&running), [true, true, false]);
    list.bring_back(0);
    running.until_routed("echo", &["v1"]).await;
    assert_eq!(in_use(&running), [true, false, false]);
    list.planes[1].wait_streams(0).await;
    list.planes[2].wait_streams(0).await;
}

#[tokio::test(start_paused = true)]
async fn stream_that_ends_after_an_answer_is_no_reason_to_fall_back() {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    let mut running = run(list.builder(&[]));
    let _interests = [running.client.watch("echo"), running.client.watch("nowhere")];
    running.until_routed("echo", &["v1"]).await;
    for _ in 0..10 {
        list.planes[0].end_streams(Status::unavailable("restarting"));
        running.settle(SECOND).await;
    }
    assert_eq!(list.pipes[1].attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn server_that_takes_streams_and_ends_them_unanswered_is_fallen_back_from() {
    let list = List::of(2);
    offer(&list.planes[1], "echo", &["v2"]);
    list.planes[0].silence(true);
    let refusing = list.planes[0].clone();
    let refuser = tokio::spawn(async move {
        let mut opened = 0;
        loop {
            let mut seen = 0;
            let is_next = |event: &Event| {
                seen += usize::from(matches!(event, Event::StreamOpened { .. }));
                seen > opened
            };
            refusing.wait_for(is_next).await;
            opened += 1;
            refusing.end_streams(Status::unauthenticated("who are you"));
        }
    });
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v2"]).await;
    let error = servers(&running)[0].last_error.clone().expect("it sends everybody away");
    assert!(error.contains("who are you"), "{error}");
    refuser.abort();
}

#[tokio::test(start_paused = true)]
async fn work_that_is_dropped_and_begun_again_before_an_answer_is_no_reason_to_fall_back() {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    offer(&list.planes[1], "echo", &["v2"]);
    list.planes[0].silence(true);
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    for _ in 0..3 {
        list.planes[0].wait_streams(1).await;
        running.work.abort();
        list.planes[0].wait_streams(0).await;
        running.work = tokio::spawn(running.client.work());
    }
    list.planes[0].wait_streams(1).await;
    assert_eq!(list.pipes[0].attempts(), 4, "it is dialled once each time");
    running.settle(5 * SECOND).await;
    assert_eq!((in_use(&running), list.pipes[1].attempts()), (vec![true, false], 0));
    assert_eq!(running.client.status().last_error, None, "nothing is wrong with it");
    list.planes[0].silence(false);
    list.planes[0].end_streams(Status::unavailable("speaks from now on"));
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn release_during_a_large_response_of_the_second_server_does_no_harm() {
    let list = List::of(2);
    offer(&list.planes[0], "echo", &["v1"]);
    let many: Vec<String> = (0..500).map(|number| format!("w{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    offer(&list.planes[1], "echo", &many);
    list.take_away(0);
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    list.planes[1].wait_for(|event| event.request().is_some_and(|request| request.kind == Some(Cluster))).await;
    list.bring_back(0);
    running.until_routed("echo", &["v1"]).await;
    list.planes[0].set(endpoints("v1", [address(9)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.9:80"]).await;
    running.settle(SECOND).await;
    assert_eq!(running.client.status().resources.len(), 4, "nothing of the second is left");
    drop(list.planes[0].set(cluster("v1")));
}

#[tokio::test(start_paused = true)]
async fn server_that_was_let_go_is_dialled_at_once_when_it_is_needed_again() {
    let list = List::of(3);
    for (place, version) in ["v1", "v2", "v3"].into_iter().enumerate() {
        offer(&list.planes[place], "echo", &[version]);
    }
    list.take_away(0);
    list.take_away(1);
    let mut running = run(list.builder(&[]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v3"]).await;
    // The waits for the second grow to two minutes.
    running.settle(1200 * SECOND).await;
    list.bring_back(0);
    running.until_routed("echo", &["v1"]).await;
    list.bring_back(1);
    list.take_away(0);
    running.settle(10 * SECOND).await;

    let start = tokio::time::Instant::now();
    offer(&list.planes[1], "late", &["v2"]);
    let _late = running.client.watch("late");
    running.until_routed("late", &["v2"]).await;
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn preferred_server_that_was_told_what_is_held_is_told_anew_when_another_replaces_it() {
    for features in [&[][..], &[ServerFeature::Delta]] {
        let list = List::of(2);
        offer(&list.planes[0], "echo", &["v1"]);
        offer(&list.planes[1], "echo", &["v2"]);
        offer(&list.planes[1], "late", &["v2"]);
        let mut running = run(list.builder(features));
        let _interest = running.client.watch("echo");
        running.until_routed("echo", &["v1"]).await;
        list.take_away(0);
        running.settle(60 * SECOND).await;
        // It hears what is held, and says nothing yet.
        list.planes[0].silence(true);
        list.bring_back(0);
        list.planes[0].wait_streams(1).await;
        running.settle(SECOND).await;
        let _late = running.client.watch("late");
        running.until_routed("late", &["v2"]).await;
        running.until_routed("echo", &["v2"]).await;
        list.planes[0].silence(false);
        running.until_routed("echo", &["v1"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_servers_at_one_address_are_told_apart() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    // In delta, and where that is not known in state of the world.
    plane.refuse_streams(Status::unimplemented("no such method"));
    let bootstrap = Bootstrap::builder()
        .server_with_features("10.0.0.1:1", ChannelCredentials::Insecure, [ServerFeature::Delta])
        .server("10.0.0.1:1", ChannelCredentials::Insecure);
    let client = XdsClient::builder(bootstrap.build().expect("a valid bootstrap")).connector(Pipes::to(&plane)).seed(7);
    let recorder = DebuggingRecorder::new();
    let figures = recorder.snapshotter();
    let mut running = metrics::with_local_recorder(&recorder, || run(client));
    let _interest = running.client.watch("echo");
    running.settle(SECOND).await;
    assert_eq!(in_use(&running), [true, true]);
    plane.refuse_streams(None);
    running.until_routed("echo", &["v1"]).await;

    let told = servers(&running).into_iter().map(|server| (server.server, f64::from(u8::from(server.connected))));
    let told: BTreeMap<_, _> = told.collect();
    assert_eq!(told.keys().collect::<Vec<_>>(), ["10.0.0.1:1", "10.0.0.1:1 (2)"]);
    let gauges = figures.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
        let server = key.key().labels().find(|label| label.key() == "server")?;
        let DebugValue::Gauge(value) = value else { panic!("{server:?} is no gauge") };
        Some((server.value().to_owned(), value.into_inner()))
    });
    assert_eq!(gauges.collect::<BTreeMap<_, _>>(), told);
}

#[tokio::test(start_paused = true)]
async fn authority_is_rewritten_while_the_trusted_server_speaks_though_the_other_says_the_same() {
    let list = List::of(2);
    for plane in &list.planes {
        offer(plane, "echo", &["v1"]);
        let mut routes = route_config("echo", [("v1", 1)]);
        let Some(Action::Route(to)) = &mut routes.virtual_hosts[0].routes[0].action else { panic!("it routes") };
        to.host_rewrite_specifier = Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }));
        plane.set(routes);
    }
    let bootstrap = Bootstrap::builder()
        .server_with_features("10.0.0.1:1", ChannelCredentials::Insecure, [ServerFeature::TrustedXdsServer])
        .server("10.0.0.1:2", ChannelCredentials::Insecure);
    let connector = Planes((1..).zip(list.pipes.iter().cloned()).collect());
    let client = XdsClient::builder(bootstrap.build().expect("a valid bootstrap")).connector(connector).seed(7);
    list.take_away(0);
    let mut running = run(client);
    let _interest = running.client.watch("echo");
    running.until(|snapshot| ready(snapshot, "echo").is_some_and(|echo| rewrite(&echo.routes).is_none())).await;
    let warnings = running.resource(RouteConfiguration, "echo").expect("asked for").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");

    let is_rewritten = |snapshot: &Snapshot| {
        ready(snapshot, "echo").is_some_and(|echo| rewrite(&echo.routes) == Some(HostRewrite::Endpoint))
    };
    list.bring_back(0);
    running.until(is_rewritten).await;
    list.take_away(0);
    running.settle(SECOND).await;
    let late = running.client.watch("late");
    running.until(|snapshot| !is_rewritten(snapshot)).await;
    drop(late);
}

/// The rewriting of authorities by the first route.
fn rewrite(routes: &RouteConfig) -> Option<HostRewrite> {
    match &routes.virtual_hosts()[0].routes[0].action {
        Forwarded::Forward(forward) => forward.host_rewrite.clone(),
        other => panic!("it routes: {other:?}"),
    }
}
