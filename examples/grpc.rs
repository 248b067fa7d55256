//! A gRPC client without a control plane: the client that tonic generated, unchanged, on a mesh channel. You will see a call,
//! a stream, and what a deadline looks like.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::{error::Error, time::Duration};

use mesh_examples::{
    backend::{Backend, Protocol},
    echo::{SayRequest, echo_client::EchoClient},
};
use mesh_grpc::Channel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let one = Backend::start("one", "v1", Protocol::Grpc, None).await?;
    let two = Backend::start("two", "v1", Protocol::Grpc, None).await?;

    let channel = Channel::builder("echo.shop:7070").endpoints([one.address(), two.address()]).build()?;
    let mut echo = EchoClient::new(channel);

    let reply = echo.say(SayRequest { text: "hello".into() }).await?.into_inner();
    println!("{} says {}", reply.backend, reply.text);

    let questions = ["one", "two", "three"].map(|text| SayRequest { text: text.into() });
    let mut replies = echo.chat(tokio_stream::iter(questions)).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("{} says {}", reply.backend, reply.text);
    }

    one.slow_down(Duration::from_secs(5));
    two.slow_down(Duration::from_secs(5));
    let mut request = tonic::Request::new(SayRequest { text: "quick".into() });
    request.set_timeout(Duration::from_millis(100));
    match echo.say(request).await {
        Ok(reply) => println!("unexpectedly quick: {reply:?}"),
        Err(status) => println!("{:?} [{}]: {}", status.code(), mesh_grpc::flags(&status), status.message()),
    }
    Ok(())
}
