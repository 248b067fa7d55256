//! Envoy's verdict on the mutations that our own client is tried with.

use mesh_tests::conformance::client::{Client, Ours};
use mesh_tests::conformance::differences::{self, Peer};
use mesh_tests::conformance::{Scene, mutate, verdict};
use mesh_tests::peers::Envoy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_are_refused_alike_but_for_the_differences_that_are_listed() {
    let Some(envoy) = Envoy::find() else { return };
    let (scene, sidecars) = (Scene::start().await, Scene::start().await);
    let _running = envoy.steered(sidecars.address).await;
    let mutations: Vec<_> = mutate::all().into_iter().filter(|mutation| mutation.is_for_envoy).collect();
    let theirs = verdict::of_sidecar(&sidecars.plane, &mutations, &sidecars.addresses()).await;
    let ours = verdict::of_mutations(&scene, &mut Client::Ours(Ours::new(&scene.bootstrap))).await;
    let found = differences::unlisted(Peer::Envoy, &ours, &theirs);
    assert!(found.is_empty(), "{} not as listed:\n{}", found.len(), found.join("\n"));
}
