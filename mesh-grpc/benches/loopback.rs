//! What a unary gRPC call costs the client, beside tonic's own channel: CPU, instructions, allocations, system calls.
//!
//! The flow is what a service pays for every call that it makes: one message of 1 KiB there and back over a connection that
//! is open, through a client as tonic generates them. It runs valgrind and strace on itself where they are installed.
#![allow(missing_docs)]

use std::net::SocketAddr;

use bytes::Bytes;
use mesh_grpc::{Channel, ChannelBuilder, testkit::Echo};
use tonic::{body::Body, client::GrpcService, transport::Endpoint};

#[path = "../../mesh-http/benches/support/mod.rs"]
mod support;
use support::{Stack, backend::Speaks};

const MESSAGE: Bytes = Bytes::from_static(&[b'x'; 1024]);

fn main() {
    support::main(Speaks::Grpc, stacks);
}

fn stacks(backend: &[SocketAddr]) -> Vec<Vec<Stack>> {
    let tonic = Endpoint::from_shared(format!("http://{}", backend[0])).expect("a legal target").connect_lazy();
    vec![vec![
        stack("tonic", tonic),
        stack("mesh", mesh(backend, 1, |builder| builder)),
        stack("mesh-without-retries", mesh(backend, 1, ChannelBuilder::no_retries)),
        stack("mesh-3-endpoints", mesh(backend, 3, |builder| builder)),
    ]]
}

fn mesh(backend: &[SocketAddr], endpoints: usize, say: impl Fn(ChannelBuilder) -> ChannelBuilder) -> Channel {
    let builder = Channel::builder("echo.bench:80").endpoints(backend[..endpoints].iter().copied());
    say(builder).build().expect("a legal configuration")
}

fn stack<T>(name: &'static str, channel: T) -> Stack
where
    T: GrpcService<Body, Future: Send, ResponseBody: Send + 'static> + Clone + Send + 'static,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Debug,
    T::ResponseBody: http_body::Body<Data = Bytes>,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    Stack::new(name, move || {
        let mut client = Echo::new(channel.clone());
        async move {
            let answer = client.unary(MESSAGE).await.expect("an answer");
            assert_eq!(answer.into_inner().len(), MESSAGE.len());
        }
    })
}
