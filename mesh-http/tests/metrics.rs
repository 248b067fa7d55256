//! What is counted, under the names and labels that the documentation gives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use client_support::{Net, Said, says, steering, text};
use http::StatusCode;
use mesh_core::config::{
    Action, CircuitBreakers, Cluster, DirectResponse, Endpoint, Endpoints, PathMatch, Redirect, RetryPolicy, Route,
    RouteConfig, RouteMatch, Thresholds, VirtualHost,
};
use mesh_http::{Client, Mesh};
use metrics_util::{
    MetricKind,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use tokio::time::sleep;

/// What was recorded since the last look, by name and labels.
fn recorded(snapshotter: &Snapshotter) -> BTreeMap<String, (MetricKind, f64)> {
    let value = |value| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(level) => level.into_inner(),
        DebugValue::Histogram(samples) => samples.len() as f64,
    };
    let entries = snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, recorded)| {
        let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), (key.kind(), value(recorded)))
    });
    entries.collect()
}

/// `/fail` answers 500, `/busy` 503; the others with 200.
fn client(retry: RetryPolicy) -> Client {
    let net = Net::serving(|_, request| {
        let mut answer = says("ok");
        *answer.status_mut() = match request.uri().path() {
            "/fail" => StatusCode::INTERNAL_SERVER_ERROR,
            "/busy" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        answer
    });
    let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
    Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:80"]).retry(retry).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_attempts_and_durations_are_counted_by_cluster_and_outcome() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let retry = RetryPolicy::on(mesh_core::config::RetryOn::GATEWAY_ERROR).max_retries(2).unwrap();
    let client = client(retry);
    for path in ["/", "/", "/", "/fail", "/busy"] {
        text(client.get(format!("http://reviews{path}")).await.unwrap()).await;
    }
    // What is not read counts by its head; what is not answered, as cancelled.
    drop(client.get("http://reviews/fail").await.unwrap());
    drop(client.get("http://reviews/"));
    client.get("http://elsewhere/").await.unwrap_err();
    client.get("no uri at all").await.unwrap_err();

    let recorded = recorded(&recorder.snapshotter());
    let expected = [
        ("mesh_requests_total{cluster=reviews,outcome=success}", MetricKind::Counter, 3.0),
        ("mesh_requests_total{cluster=reviews,outcome=server_error}", MetricKind::Counter, 2.0),
        ("mesh_requests_total{cluster=reviews,outcome=gateway_error}", MetricKind::Counter, 1.0),
        ("mesh_requests_total{cluster=reviews,outcome=cancelled}", MetricKind::Counter, 1.0),
        ("mesh_requests_total{cluster=reviews,outcome=local}", MetricKind::Counter, 0.0),
        ("mesh_request_duration_seconds{cluster=reviews}", MetricKind::Histogram, 7.0),
        ("mesh_requests_active{cluster=reviews}", MetricKind::Gauge, 0.0),
        // The request that is answered with 503 is tried three times.
        ("mesh_attempts_total{cluster=reviews}", MetricKind::Counter, 8.0),
        // What goes elsewhere has no route, and so no cluster; what is no request is not counted.
        ("mesh_unrouted_requests_total{target=reviews,outcome=local}", MetricKind::Counter, 1.0),
        ("mesh_unrouted_failures_total{target=reviews,flags=NR}", MetricKind::Counter, 1.0),
        ("mesh_unrouted_request_duration_seconds{target=reviews}", MetricKind::Histogram, 1.0),
        ("mesh_unrouted_requests_active{target=reviews}", MetricKind::Gauge, 0.0),
    ];
    for (name, kind, value) in expected {
        assert_eq!(recorded.get(name), Some(&(kind, value)), "{name} in {recorded:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn request_is_active_until_its_response_has_been_read_or_dropped() {
    const ACTIVE: &str = "mesh_requests_active{cluster=reviews}";
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let client = client(RetryPolicy::never());
    let (one, two) = (client.get("http://reviews/").await.unwrap(), client.get("http://reviews/").await.unwrap());
    sleep(Duration::from_secs(1)).await;
    // A look takes the gauge down to zero, so that what follows is the difference.
    let snapshotter = recorder.snapshotter();
    assert_eq!(recorded(&snapshotter)[ACTIVE].1, 2.0);
    text(one).await;
    drop(two);
    assert_eq!(recorded(&snapshotter)[ACTIVE].1, -2.0);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_their_flags_and_shown_beside_their_limit() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let one = Thresholds { max_requests: Some(1), ..Thresholds::default() };
    let mesh = Mesh::builder().connector(Net::serving(|_, _| says("ok"))).seed(1).build().unwrap();
    let builder = Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:80"]);
    let client = builder.circuit_breakers(CircuitBreakers { default: one, ..Default::default() }).build().unwrap();
    let held = client.get("http://reviews/").await.unwrap();
    for _ in 0..3 {
        assert!(client.get("http://reviews/").await.unwrap_err().is_overloaded());
    }

    let recorded = recorded(&recorder.snapshotter());
    assert_eq!(recorded["mesh_failures_total{cluster=reviews,flags=UO}"], (MetricKind::Counter, 3.0));
    let requests = client.status().clusters[0].limits.requests;
    assert_eq!((requests.active, requests.limit, requests.refused), (1, 1, 3));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn answers_made_before_there_is_a_cluster_are_counted_by_target() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let route = |path, action| Route::new(RouteMatch::path(PathMatch::exact(path)), action);
    let respond = |status| Action::Respond(DirectResponse::new(status, "").unwrap());
    let host = VirtualHost::any(
        "all",
        vec![
            route("/redirect", Action::Redirect(Redirect::new(StatusCode::FOUND).unwrap())),
            route("/here", respond(StatusCode::OK)),
            route("/sorry", respond(StatusCode::INTERNAL_SERVER_ERROR)),
        ],
    );
    let routes = RouteConfig::new("r", vec![host]).unwrap();
    let client = Client::builder("shop").routes(routes).build().unwrap();
    for path in ["/redirect", "/here", "/sorry"] {
        client.get(format!("http://shop{path}")).await.unwrap();
    }
    client.get("http://shop/elsewhere").await.unwrap_err();
    let recorded = recorded(&recorder.snapshotter());
    for (outcome, count) in [("success", 2.0), ("server_error", 1.0), ("local", 1.0), ("cancelled", 0.0)] {
        let name = format!("mesh_unrouted_requests_total{{target=shop,outcome={outcome}}}");
        assert_eq!(recorded[&name].1, count, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_its_configuration_is_active_and_then_counted() {
    const ACTIVE: &str = "mesh_unrouted_requests_active{target=reviews}";
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let snapshotter = recorder.snapshotter();
    let net = Net::serving(|_, _| says("ok"));
    let client =
        Client::builder("reviews").mesh(&Mesh::builder().source(Said::default()).connector(net).build().unwrap());
    let client = client.build().unwrap();
    let mut waiting = Box::pin(client.get("http://reviews/"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(recorded(&snapshotter)[ACTIVE].1, 1.0);
    waiting.await.unwrap_err();
    drop(client.get("http://reviews/"));
    let recorded = recorded(&snapshotter);
    assert_eq!(recorded[ACTIVE].1, -1.0, "since the last look");
    for outcome in ["local", "cancelled"] {
        let name = format!("mesh_unrouted_requests_total{{target=reviews,outcome={outcome}}}");
        assert_eq!(recorded[&name].1, 1.0, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_waited_is_counted_by_the_cluster_that_it_got() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let source = Said::default();
    let mesh = Mesh::builder().source(source.clone()).connector(Net::serving(|_, _| says("ok"))).build().unwrap();
    let client = Client::builder("shop").mesh(&mesh).build().unwrap();
    let mut waiting = Box::pin(client.get("http://shop/"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let endpoints = Endpoints::flat(vec![Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 80)))]).unwrap();
    source.0.send_replace(steering("shop", Cluster::new("carts").unwrap(), Arc::new(endpoints)));
    text(waiting.await.unwrap()).await;

    let recorded = recorded(&recorder.snapshotter());
    for (name, value) in [
        ("mesh_requests_total{cluster=carts,outcome=success}", 1.0),
        ("mesh_requests_active{cluster=carts}", 0.0),
        ("mesh_unrouted_requests_total{target=shop,outcome=success}", 0.0),
        ("mesh_unrouted_requests_active{target=shop}", 0.0),
    ] {
        assert_eq!(recorded[name].1, value, "{name}");
    }
}
