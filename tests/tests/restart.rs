//! A process that starts while its control plane is gone: it serves by what the run before has kept, and obeys when the
//! control plane is back. Over real sockets, each run in a runtime of its own, which ends as a process does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use mesh_core::source::ConfigSource;
use mesh_http::Mesh;
use mesh_tests::{
    patience::in_time,
    sim::{Answer, Backend, Caller, Speaks},
};
use mesh_xds_client::{
    XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    cache::Found,
    testkit::{
        ControlPlane, Place,
        resource::{cluster, endpoints, listener, route_config},
    },
};

const TARGET: &str = "shop.test:80";

/// A client of the control plane at this address.
fn source(plane: SocketAddr, file: &Path) -> XdsClient {
    let bootstrap = Bootstrap::builder()
        .server(plane.to_string(), ChannelCredentials::Insecure)
        .node(Node::new("restarted"))
        .build()
        .unwrap();
    let builder = XdsClient::builder(bootstrap).reconnect(Duration::from_millis(10), Duration::from_millis(50));
    builder.cache_file(file).build().unwrap()
}

/// A run of the process, up to its first answer. The runtime is dropped with everything in it, and what is to be kept
/// has been written when that is done.
fn run(plane: SocketAddr, file: PathBuf, speaks: Speaks) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mesh = Mesh::builder().source(source(plane, &file)).build().unwrap();
        let caller = Caller::of(&mesh, TARGET, speaks);
        in_time("the first configuration", caller.ready()).await.unwrap();
        let answer = caller.call().await.unwrap();
        std::mem::forget(mesh);
        answer
    })
}

#[tokio::test]
async fn process_that_restarts_without_a_control_plane_serves_and_then_obeys() {
    for speaks in [Speaks::Http1, Speaks::Grpc] {
        let (one, two) = (
            Backend::on_loopback("one", speaks, Answer::OK).await.unwrap(),
            Backend::on_loopback("two", speaks, Answer::OK).await.unwrap(),
        );
        let plane = ControlPlane::new();
        plane.update(|tx| {
            tx.set(listener(TARGET, "routes")).set(route_config("routes", [("one", 1)]));
            tx.set(cluster("one")).set(endpoints("one", [one.address()]));
        });
        let place = Place::new([127, 0, 0, 1]).unwrap();
        let at = place.address();
        tokio::spawn(plane.serve(place.listen().unwrap()));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("xds.cache");

        // 1. A run that ends with its runtime, as a program does that returns from main.
        let first = thread::spawn({
            let file = file.clone();
            move || run(at, file, speaks)
        });
        let answer = tokio::task::spawn_blocking(|| first.join()).await.unwrap().unwrap();
        assert_eq!(answer, "one");
        assert!(file.exists());

        // 2. The next finds no control plane.
        plane.stop().await;
        let source = source(at, &file);
        let status = source.cache_status().unwrap();
        assert!(matches!(status.found, Found::Resources { count: 4, .. }), "{status:?}");
        let mesh = Mesh::builder().source(source.clone()).build().unwrap();
        let caller = Caller::of(&mesh, TARGET, speaks);
        in_time("the first configuration", caller.ready()).await.unwrap();
        for _ in 0..20 {
            assert_eq!(caller.call().await.unwrap(), "one", "{speaks:?}");
        }
        let status = source.status();
        assert!(!status.connected && status.resources.iter().all(|resource| resource.is_cached), "{status:#?}");

        // 3. It comes back with other routes.
        plane.update(|tx| {
            tx.set(route_config("routes", [("two", 1)]));
            tx.set(cluster("two")).set(endpoints("two", [two.address()]));
        });
        tokio::spawn(plane.serve(place.listen().unwrap()));
        let moved = async { while caller.call().await.unwrap() != "two" {} };
        in_time("the routes of the control plane that is back", moved).await;
        let status = source.status();
        assert!(status.connected && status.resources.iter().all(|resource| !resource.is_cached), "{status:#?}");
    }
}
