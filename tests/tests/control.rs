//! A control plane that is followed on a thread of the mesh's own, over real sockets: requests of another runtime feel its
//! changes and none of its work, and the stream ends with the mesh.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use mesh_http::{Control, Mesh};
use mesh_tests::{
    load::under_load,
    patience::{PATIENCE, in_time},
    sim::{Answer, Backend, Caller, Speaks},
};
use mesh_xds_client::{
    XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    testkit::ControlPlane,
};
use tokio::runtime::Builder;

const TARGET: &str = "shop.test:80";

async fn is_followed(control: Control, speaks: Speaks) {
    let (one, two) = (
        Backend::on_loopback("one", speaks, Answer::OK).await.unwrap(),
        Backend::on_loopback("two", speaks, Answer::OK).await.unwrap(),
    );
    let plane = ControlPlane::new();
    plane.offer(TARGET, [("one", one.address())]);
    let at = plane.listen("127.0.0.1:0").await.unwrap();
    let bootstrap = Bootstrap::builder().server(at.to_string(), ChannelCredentials::Insecure).node(Node::new("apart"));
    let source = XdsClient::new(bootstrap.build().unwrap()).unwrap();
    let mesh = Mesh::builder().source(source.clone()).control(control).build().unwrap();
    let caller = Caller::of(&mesh, TARGET, speaks);
    in_time("the first configuration", caller.ready()).await.unwrap();

    let shift = async {
        plane.offer(TARGET, [("two", two.address())]);
        while caller.call().await.unwrap() != "two" {}
    };
    let ((), tally) = under_load(4, || caller.call(), in_time("the new endpoint", shift)).await;
    tally.assert_none_failed();
    assert!(mesh.status().source.unwrap().connected);
    assert_eq!(plane.streams(), 1);

    // The source outlives the mesh, and its stream does not.
    assert!(mesh.shutdown(PATIENCE).await);
    in_time("the end of the stream", plane.wait_streams(0)).await;
    drop(source);
}

#[test]
fn change_is_followed_from_wherever_and_the_stream_ends_with_the_mesh() {
    for speaks in [Speaks::Http1, Speaks::Grpc] {
        for control in [Control::OwnThread, Control::Runtime] {
            let current = Builder::new_current_thread().enable_all().build().unwrap();
            current.block_on(is_followed(control, speaks));
            let several = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            several.block_on(is_followed(control, speaks));
        }
    }
}
