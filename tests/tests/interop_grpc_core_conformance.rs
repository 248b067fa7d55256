//! gRPC's C-core and the configurations that our own client is tried with.

use mesh_tests::conformance::client::Client;
use mesh_tests::conformance::differences::{self, Peer};
use mesh_tests::conformance::{Scene, verdict};
use mesh_tests::peers::GrpcCore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_configurations_mean_the_same_to_c_core() {
    let Some(peer) = GrpcCore::find() else { return };
    let scene = Scene::start().await;
    verdict::assert_as_meant(&scene, &mut Client::Peer(peer.prober(&scene.bootstrap).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_are_taken_alike_but_for_the_differences_that_are_listed() {
    let Some(peer) = GrpcCore::find() else { return };
    let scene = Scene::start().await;
    let theirs = verdict::of_mutations(&scene, &mut Client::Peer(peer.prober(&scene.bootstrap).await)).await;
    differences::assert_as_listed(Peer::GrpcCore, &scene, &theirs).await;
}
