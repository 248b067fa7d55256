//! Cancellation: what the caller drops, the server stops.

use std::time::Duration;

use crate::support::{Alive, Server, client_of, message, ticks};

#[tokio::test]
async fn dropped_call_ends_its_handler() {
    let alive = Alive::default();
    let server = Server::silent(&alive);
    let mut client = client_of([server.address]);
    let call = tokio::spawn(async move { client.unary(message("")).await });
    alive.reaches(1).await;
    call.abort();
    alive.reaches(0).await;
}

#[tokio::test]
async fn dropped_stream_ends_its_handler_and_no_other() {
    let alive = Alive::default();
    let handlers = alive.clone();
    let server = Server::start(move |_| {
        let guard = handlers.enter();
        async move { Ok(ticks(Duration::from_millis(1), guard)) }
    });
    let mut client = client_of([server.address]);
    let mut kept = client.server_stream(message("")).await.expect("a head").into_inner();
    let mut dropped = client.server_stream(message("")).await.expect("a head").into_inner();
    dropped.message().await.expect("no error").expect("a tick");
    drop(dropped);
    alive.reaches(1).await;
    kept.message().await.expect("no error").expect("another tick");
}
