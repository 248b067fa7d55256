//! Streams that end, connections that are cut, and servers that are away, silent, slow or something else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_core::config::Address;
use mesh_core::source::ConfigSource;
use mesh_http::conn::KeepAlive;
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::testkit::resource::endpoints;
use mesh_xds_client::testkit::{ControlPlane, Event};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tonic::Status;

use super::{NODE, SECOND, assert_alive, builder, running, serving};
use crate::support::{Pipes, address, offer, reached, routed, run, set};

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
