//! Envoy's verdict on the mutations that our own client is tried with.

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
    differences::assert_as_listed(Peer::Envoy, &scene, &theirs).await;
}
