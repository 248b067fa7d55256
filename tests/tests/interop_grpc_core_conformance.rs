//! gRPC's C-core and the configurations that our own client is tried with.

use mesh_tests::conformance::client::{Client, Ours};
use mesh_tests::conformance::differences::{self, Peer};
use mesh_tests::conformance::{Scene, generate, verdict};
use mesh_tests::peers::GrpcCore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_configurations_mean_the_same_to_c_core() {
    let Some(peer) = GrpcCore::find() else { return };
    let scene = Scene::start().await;
    let cases = generate::all(1, &scene.addresses());
    let mut client = Client::Peer(peer.prober(&scene.bootstrap).await);
    let verdicts = verdict::of_all(&scene.plane, &cases, &mut client).await;
    let found = verdict::surprises(&cases, &verdicts);
    assert!(found.is_empty(), "{} surprises:\n{}", found.len(), found.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_are_taken_alike_but_for_the_differences_that_are_listed() {
    let Some(peer) = GrpcCore::find() else { return };
    let scene = Scene::start().await;
    let mut client = Client::Peer(peer.prober(&scene.bootstrap).await);
    let theirs = verdict::of_mutations(&scene, &mut client).await;
    let ours = verdict::of_mutations(&scene, &mut Client::Ours(Ours::new(&scene.bootstrap))).await;
    let found = differences::unlisted(Peer::GrpcCore, &ours, &theirs);
    assert!(found.is_empty(), "{} not as listed:\n{}", found.len(), found.join("\n"));
}
