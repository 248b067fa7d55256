//! Our xDS client and the configurations that `.ci/interop` tries on peers too.

use mesh_tests::conformance::client::{Client, Ours};
use mesh_tests::conformance::{Scene, differences, verdict};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_generated_configuration_is_accepted_and_obeyed() {
    let scene = Scene::start().await;
    verdict::assert_as_meant(&scene, &mut Client::Ours(Ours::new(&scene.bootstrap))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutation_is_taken_as_the_list_of_differences_says() {
    let scene = Scene::start().await;
    let verdicts = verdict::of_mutations(&scene, &mut Client::Ours(Ours::new(&scene.bootstrap))).await;
    let found = differences::changed(&verdicts);
    assert!(found.is_empty(), "{} rows to change in conformance/differences.rs:\n{}", found.len(), found.join("\n"));
}
