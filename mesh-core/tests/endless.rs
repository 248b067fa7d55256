//! Waits and limits beyond what a clock can count: they are no panics, and last for ever.
#![allow(missing_docs)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use mesh_core::{
    config::{ClusterPolicy, OutlierDetection, RetryAfter, RetryOn, RetryPolicy, Semantics},
    hold::Settle,
    outcome::{BoxError, Flags},
    retry::{ReplayBody, RetryLayer},
};
use tokio::{task::yield_now, time::sleep};
use tower::{Layer, ServiceExt, service_fn};

mod support;
use support::{Scene, flat, server_error};

/// What a peer may say that means no harm to those who obey it up to a limit of their own.
async fn asks_for_ever(_: Request<ReplayBody>) -> Result<Response<Empty<Bytes>>, BoxError> {
    let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
    let response = response.header("date", "Thu, 01 Jan 1970 00:00:00 GMT").header("retry-after", u64::MAX.to_string());
    Ok(response.body(Empty::new())?)
}

#[tokio::test(start_paused = true)]
async fn peer_that_asks_for_ever_is_waited_for_or_its_answer_delivered() {
    let endless = RetryAfter::up_to(Duration::MAX).expect("legal");
    let layer = RetryLayer::new(RetryPolicy::on(RetryOn::SERVER_ERROR).retry_after(endless));
    let request = || Request::new(Full::<Bytes>::from("body"));
    let limited = layer.clone().timeout(Duration::from_secs(5)).layer(service_fn(asks_for_ever));
    let response = limited.oneshot(request()).await.expect("an answer");
    assert_eq!(response.extensions().get(), Some(&Flags::URX), "the time does not last for another attempt");

    let call = tokio::spawn(layer.layer(service_fn(asks_for_ever)).oneshot(request()));
    sleep(Duration::from_secs(1_000_000)).await;
    assert!(!call.is_finished());
}

#[tokio::test(start_paused = true)]
async fn ejection_without_end_is_one() {
    let lengths = [(Duration::MAX, Duration::ZERO), (Duration::from_secs(30), Duration::MAX)];
    for (base_ejection, ejection_jitter) in lengths {
        let outlier = OutlierDetection {
            consecutive_errors: 1,
            always_eject_one: true,
            base_ejection,
            ejection_jitter,
            ..OutlierDetection::default()
        };
        let outlier_detection = Some(Arc::new(outlier.validated().expect("legal")));
        let policy = ClusterPolicy { outlier_detection, ..ClusterPolicy::default() };
        let mut scene = Scene::with(policy, Semantics::Envoy, &flat([1, 2]));
        let work = tokio::spawn(scene.cluster.work());
        yield_now().await;
        scene.pick().settle(&server_error());
        sleep(Duration::from_secs(1_000_000)).await;
        assert!(!work.is_finished());
        assert_eq!(scene.cluster.status().endpoints.iter().filter(|endpoint| endpoint.is_ejected).count(), 1);
    }
}
