//! What the tests of the channel share: servers whose handler is a closure, clients of them, and ways to wait for an event.

mod alive;
mod network;
mod peer;
mod said;
mod server;

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use mesh_grpc::{Channel, ChannelBuilder, testkit::Echo};
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::{
    alive::Alive,
    network::{Pipes, Place, builder_over},
    peer::{RawBody, framed, frames, grpc, http2_peer, moody_peer, page, trailers, whole},
    said::Said,
    server::{Messages, Server},
};

/// A client as generated code makes it.
pub(crate) type Client = Echo<Channel>;

/// A client of the servers at `addresses`, by the defaults.
pub(crate) fn client_of(addresses: impl IntoIterator<Item = SocketAddr>) -> Client {
    built(builder(addresses))
}

pub(crate) fn built(builder: ChannelBuilder) -> Client {
    Echo::new(builder.build().expect("a legal channel"))
}

pub(crate) fn builder(addresses: impl IntoIterator<Item = SocketAddr>) -> ChannelBuilder {
    Channel::builder("echo.test").endpoints(addresses)
}

pub(crate) fn message(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A call of an empty message that has so long.
pub(crate) fn within(limit: Duration) -> Request<Bytes> {
    let mut request = Request::new(message(""));
    request.set_timeout(limit);
    request
}

/// A response of these messages.
pub(crate) fn answer(messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Response<Messages> {
    Response::new(Box::pin(messages))
}

/// A response of one message.
pub(crate) fn one(bytes: impl Into<Bytes>) -> Response<Messages> {
    answer(tokio_stream::once(Ok(bytes.into())))
}

/// A response that has a message every so often, without end, and holds `guard`.
pub(crate) fn ticks<G: Send + 'static>(every: Duration, guard: G) -> Response<Messages> {
    answer(futures_util::stream::unfold(guard, move |guard| async move {
        tokio::time::sleep(every).await;
        Some((Ok(message("tick")), guard))
    }))
}

/// All that is sent, in one piece.
pub(crate) async fn joined(mut messages: Streaming<Bytes>) -> Result<Bytes, Status> {
    let mut all = Vec::new();
    while let Some(message) = messages.message().await? {
        all.extend_from_slice(&message);
    }
    Ok(all.into())
}

/// All messages, and how the stream ended.
pub(crate) async fn collect(mut messages: Streaming<Bytes>) -> (Vec<Bytes>, Result<(), Status>) {
    let mut all = Vec::new();
    loop {
        match messages.next().await {
            Some(Ok(message)) => all.push(message),
            Some(Err(status)) => return (all, Err(status)),
            None => return (all, Ok(())),
        }
    }
}

/// The attempts that a request says were before it.
pub(crate) fn attempts_before<T>(request: &Request<T>) -> u32 {
    let count = request.metadata().get("grpc-previous-rpc-attempts");
    count.map_or(0, |count| count.to_str().expect("digits").parse().expect("a number"))
}

/// Waits for an event that other tasks bring about, and says which one it was that never came.
pub(crate) async fn until<T>(what: &str, event: impl Future<Output = T>) -> T {
    const PATIENCE: Duration = Duration::from_secs(20);
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(happened) => happened,
        Err(_) => panic!("not in {PATIENCE:?}: {what}"),
    }
}
