//! What changes while clients call, and costs none of them a call: endpoints, services, weights, subsets, localities, istiod.

use serde_json::json;
use tokio::time::sleep;

use mesh_core::outcome::FailureKind;
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_tests::kubernetes::{destination_rule, headless, service};
use mesh_tests::load::under_load;
use mesh_tests::pair::assert_by_chance;
use mesh_tests::sim::{Caller, Speaks, failure_of};

use super::{OUTAGE, open};
use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, REGION, Workload, accepted, canary, service_entry};

#[tokio::test]
async fn endpoints_and_services_come_and_go_without_a_failed_call() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            shop.add("v1-b", 2, &["echo"]).await;
            shop.add("v1-c", 3, &["echo"]).await;
            ours.endpoints(3).await;
            assert_eq!(ours.pair.sample().await.map(|answers| answers.len()), [3, 3]);
            for (leaving, left) in [("v1-a", 2), ("v1-c", 1)] {
                // One is gone at once, the other is seen to be unready before.
                if leaving == "v1-c" {
                    shop.unready(leaving).await;
                    ours.endpoints(left).await;
                }
                let workload = shop.remove(leaving).await;
                ours.endpoints(left).await;
                // A call that was on its way to it has arrived by the time that many later ones are answered.
                ours.pair.sample().await;
                let idle = |_: &_| workload.backends.iter().all(|backend| backend.in_flight() == 0);
                ours.pair.until("what it was asked before is answered", idle).await;
            }
            for answers in ours.pair.sample().await {
                assert!(answers.keys().eq(["v1-b"]), "{answers:?}");
            }

            // A target may be asked for before its service is there.
            let late = Caller::of(&ours.mesh, "late.shop:8080", Speaks::Http1);
            let outside = Caller::of(&ours.mesh, "outside.test:7070", Speaks::Grpc);
            let apply = async {
                shop.serve("late", 11).await;
                shop.add("late-a", 4, &["late"]).await;
                shop.istiod.apply(&service_entry("outside.test", &[(&shop.workloads["late-a"], REGION)])).await;
            };
            let ((), http, grpc) = tokio::join!(apply, late.ready(), outside.ready());
            http.and(grpc).unwrap();
            assert_eq!(late.call().await.unwrap(), "late-a");
            assert_eq!(outside.call().await.unwrap(), "late-a");

            shop.istiod.delete(&service("late", 11, &[])).await;
            ours.is_unavailable("late.shop:8080", true).await;
            let error = late.call().await.unwrap_err();
            assert_eq!(failure_of(&error).unwrap().0, FailureKind::NoConfig, "{error}");
            shop.serve("late", 11).await;
            ours.is_unavailable("late.shop:8080", false).await;
            assert_eq!(late.call().await.unwrap(), "late-a");
        })
        .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn service_without_an_address_is_balanced_over_its_workloads_without_a_failed_call() {
    let Some(mut shop) = open().await else { return };
    shop.istiod.delete(&service("echo", 10, &[])).await;
    shop.istiod.apply(&headless("echo", &[("http", HTTP_PORT), ("grpc", GRPC_PORT)])).await;
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v1-b", 2, &["echo"]).await;
    let ours = shop.clients().await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            ours.endpoints(2).await;
            assert_eq!(ours.pair.sample().await.map(|answers| answers.len()), [2, 2]);
            let _leaving = shop.remove("v1-a").await;
            ours.endpoints(1).await;
            ours.pair.sample().await;
            for answers in ours.pair.sample().await {
                assert!(answers.keys().eq(["v1-b"]), "{answers:?}");
            }
        })
        .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn canary_is_followed_without_a_failed_call() {
    let Some(mut shop) = open().await else { return };
    for (name, number) in [("v1-a", 1), ("v1-b", 2), ("v2-a", 3)] {
        shop.add(name, number, &["echo"]).await;
    }
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    shop.istiod.apply(&canary(0)).await;
    let ours = shop.clients().await;

    let (lines, tally) = ours
        .pair
        .under_load(async || {
            let mut lines = Vec::new();
            for weight in [0, 5, 50, 100, 50, 0] {
                shop.istiod.apply(&canary(weight)).await;
                ours.routed_by(&format!("canary-{weight}")).await;
                let shares = ours.pair.sample().await;
                for answers in &shares {
                    assert_by_chance(answers, "v2-a", f64::from(weight) / 100.0);
                }
                lines.push(format!("{weight} % meant: {shares:?}"));
            }
            lines
        })
        .await;
    println!("{}", lines.join("\n"));
    tally.assert_none_failed();
}

#[tokio::test]
async fn subsets_that_come_late_and_go_early_cost_no_call() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    let ours = shop.clients().await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            for _ in 0..3 {
                // The new routes lead to clusters that there are none of, so that the old ones stay.
                shop.istiod.apply(&canary(50)).await;
                ours.subsets_are(ResourceState::Requested, &["v1", "v2"]).await;
                assert_eq!(ours.routes().each_ref().map(|name| &**name), ["default"; 2]);
                shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
                ours.routed_by("canary-50").await;
                // Routes still lead to them, so that they stay.
                shop.istiod.delete(&destination_rule(HOST, &[], json!({}))).await;
                ours.subsets_are(ResourceState::Absent, &["v1", "v2"]).await;
                ours.pair.sample().await;
                shop.istiod.delete(&canary(50)).await;
                ours.routed_by("default").await;
            }
        })
        .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn istiod_that_is_killed_and_comes_back_costs_no_call() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    shop.istiod.apply(&canary(50)).await;
    let ours = shop.clients().await;
    ours.routed_by("canary-50").await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            shop.istiod.kill().await;
            // What changes meanwhile is learnt afterwards.
            shop.istiod.apply(&canary(100)).await;
            sleep(OUTAGE).await;
            assert!(!ours.source.status().connected);
            for answers in ours.pair.sample().await {
                assert_by_chance(&answers, "v2-a", 0.5);
            }
            shop.istiod.restart().await;
            ours.routed_by("canary-100").await;
            for answers in ours.pair.sample().await {
                assert!(answers.keys().eq(["v2-a"]), "{answers:?}");
            }
            accepted(&shop.istiod).await;
        })
        .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn locality_that_dies_is_left_for_the_next_without_a_failed_call() {
    let Some(mut shop) = open().await else { return };
    let (near, far) = (Workload::start("near-a", 1, &[]).await, Workload::start("far-a", 2, &[]).await);
    shop.istiod.apply(&service_entry("spread.test", &[(&near, REGION), (&far, "elsewhere")])).await;
    // Without outlier detection istiod tells no priorities.
    let policy = json!({ "outlierDetection": { "consecutive5xxErrors": 1 } });
    shop.istiod.apply(&destination_rule("spread.test", &[], policy)).await;
    let ours = shop.clients().await;
    let caller = Caller::of(&ours.mesh, "spread.test:7070", Speaks::Grpc);
    caller.ready().await.unwrap();

    let ((), tally) = under_load(4, || caller.call(), async {
        for _ in 0..100 {
            assert_eq!(caller.call().await.unwrap(), "near-a");
        }
        drop(near);
        for _ in 0..100 {
            assert_eq!(caller.call().await.unwrap(), "far-a");
        }
    })
    .await;
    tally.assert_none_failed();
}
