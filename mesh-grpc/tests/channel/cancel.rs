//! Cancellation: what the caller drops, the server stops.

use std::time::Duration;

use tonic::Status;

use crate::support::{Alive, Client, Server, answer, message, until};

#[tokio::test]
async fn dropped_call_ends_its_handler() {
    let alive = Alive::default();
    let handlers = alive.clone();
    let server = Server::start(move |_| {
        let guard = handlers.enter();
        async move {
            let _guard = guard;
            std::future::pending::<Result<_, Status>>().await
        }
    })
    .await;
    let mut client = Client::of([server.address]);
    let call = tokio::spawn(async move { client.unary(message("")).await });
    until("it is under way", || alive.count() == 1).await;
    call.abort();
    until("it has ended", || alive.count() == 0).await;
}

#[tokio::test]
async fn dropped_stream_ends_its_handler_and_no_other() {
    let alive = Alive::default();
    let handlers = alive.clone();
    let server = Server::start(move |_| {
        let guard = handlers.enter();
        async move {
            Ok(answer(futures_util::stream::unfold(guard, async |guard| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((Ok(message("tick")), guard))
            })))
        }
    })
    .await;
    let mut client = Client::of([server.address]);
    let mut kept = client.server_stream(message("")).await.expect("a head").into_inner();
    let mut dropped = client.server_stream(message("")).await.expect("a head").into_inner();
    dropped.message().await.expect("no error").expect("a tick");
    drop(dropped);
    until("one has ended", || alive.count() == 1).await;
    kept.message().await.expect("no error").expect("another tick");
}
