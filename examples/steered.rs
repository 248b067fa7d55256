//! A gRPC client that a control plane steers. You will see a canary take a tenth, then half, then all of the calls, while the
//! client does nothing but call. A real program says `XdsClient::from_env()?` and has no control plane of its own.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::error::Error;

use mesh_examples::{
    backend::{Backend, Protocol},
    echo::{SayRequest, echo_client::EchoClient},
};
use mesh_grpc::Channel;
use mesh_http::Mesh;
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    testkit::{ControlPlane, resource},
};

const TARGET: &str = "echo.shop:7070";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let stable = Backend::start("stable", "v1", Protocol::Grpc, None).await?;
    let canary = Backend::start("canary", "v2", Protocol::Grpc, None).await?;
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(resource::listener(TARGET, "routes"))
            .set(resource::route_config("routes", [("stable", 100), ("canary", 0)]))
            .set(resource::cluster("stable"))
            .set(resource::cluster("canary"))
            .set(resource::endpoints("stable", [stable.address()]))
            .set(resource::endpoints("canary", [canary.address()]));
    });
    let address = plane.listen("127.0.0.1:0").await?;

    let bootstrap = Bootstrap::builder()
        .server(address.to_string(), ChannelCredentials::Insecure)
        .node(Node::new("steered-example"))
        .build()?;
    let mesh = Mesh::builder().source(XdsClient::new(bootstrap)?).build()?;
    let channel = Channel::builder(TARGET).mesh(&mesh).build()?;
    channel.ready().await?;
    let mut echo = EchoClient::new(channel);

    for share in [0, 10, 50, 100] {
        let version = plane.set(resource::route_config("routes", [("stable", 100 - share), ("canary", share)]));
        plane.wait_acked(ResourceKind::RouteConfiguration, &version).await?;
        let mut from_canary = 0;
        for _ in 0..200 {
            let reply = echo.say(SayRequest { text: "hello".into() }).await?.into_inner();
            from_canary += u32::from(reply.backend == "canary");
        }
        println!("canary weight {share}: it answered {from_canary} of 200 calls");
    }
    Ok(())
}
