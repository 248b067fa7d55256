//! From the control plane through a mesh to a backend: what is said of a cluster decides where a request goes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use http_body_util::BodyExt;
use mesh_core::config::Address;
use mesh_core::identity::{FixedIdentity, Identities, Identity};
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_http::{Client, Mesh};
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, mutual_tls, route_config};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::support::{address, builder, run};

/// Every address is a backend that answers with it.
struct Backends;

impl Connect for Backends {
    fn connect(&self, address: &Address) -> Connecting {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(answer(theirs, address.to_string()));
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

async fn answer(stream: DuplexStream, text: String) -> io::Result<()> {
    let (requests, mut responses) = tokio::io::split(stream);
    let mut lines = BufReader::new(requests).lines();
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            responses.write_all((head + &text).as_bytes()).await?;
        }
    }
    Ok(())
}

async fn get(client: &Client) -> String {
    let response = client.get("http://web/").await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("an address")
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_a_static_cluster_brings_along_are_reached_and_followed() {
    let plane = ControlPlane::new();
    let at = |number: u8| Cluster {
        name: "v1".to_owned(),
        load_assignment: Some(endpoints("v1", [address(number)])),
        ..Cluster::default()
    };
    plane.update(|tx| {
        tx.set(listener("web", route_config("web", [("v1", 1)]))).set(at(1));
    });
    let source = builder(&plane, []).build().expect("a valid client");
    let mesh = Mesh::builder().source(source).connector(Backends).build().expect("a valid mesh");
    let client = Client::builder("web").mesh(&mesh).build().expect("a valid client");
    assert_eq!(get(&client).await, "10.0.0.1:80");

    plane.set(at(2));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&client).await, "10.0.0.2:80");
}

#[tokio::test(start_paused = true)]
async fn identity_that_is_registered_with_the_mesh_is_honoured() {
    let plane = ControlPlane::new();
    plane.update(|tx| {
        let secured = |name| mutual_tls(cluster(name), name, ["spiffe://shop.test/v1"]);
        tx.set(listener("web", route_config("web", [("default", 1), ("nobody", 1)])));
        tx.set(secured("default")).set(endpoints("default", [address(1)])).set(secured("nobody"));
    });
    let source = builder(&plane, []).build().expect("a valid client");
    let identity = FixedIdentity::new(Identity::roots([&b"a root"[..]]).expect("it is not empty"));
    let mesh = Mesh::builder().source(source).identity("default", identity).build().expect("a valid mesh");
    let client = Client::builder("web").mesh(&mesh).build().expect("a valid client");
    client.ready().await.expect("routes");
    let resources = client.status().source.expect("it is steered").resources;
    let state = |name: &str| {
        resources.iter().find(|one| one.kind == "Cluster" && &*one.name == name).map(|resource| resource.state)
    };
    assert_eq!(state("default"), Some(ResourceState::Synced));
    assert_eq!(state("nobody"), Some(ResourceState::Rejected));
}

#[tokio::test(start_paused = true)]
async fn identity_that_is_registered_late_is_honoured_when_the_same_resource_comes_again() {
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(listener("web", route_config("web", [("v1", 1)])));
        tx.set(mutual_tls(cluster("v1"), "late", ["spiffe://shop.test/v1"])).set(endpoints("v1", [address(1)]));
    });
    let identities = Identities::new();
    let running = run(builder(&plane, []).identities(identities.clone()));
    let _interest = running.client.watch("web");
    running.settle(Duration::from_secs(10)).await;
    assert_eq!(running.state(ResourceKind::Cluster, "v1"), Some(ResourceState::Rejected));

    let identity = FixedIdentity::new(Identity::roots([&b"a root"[..]]).expect("it is not empty"));
    identities.insert("late", Arc::new(identity));
    plane.abort_connections();
    running.settle(Duration::from_secs(10)).await;
    assert_eq!(running.state(ResourceKind::Cluster, "v1"), Some(ResourceState::Synced));
}
