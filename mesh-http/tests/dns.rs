//! Endpoints by name, with a resolver that the test writes: each name looked up by itself, again in time, kept when that
//! fails, followed when it says something new.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{collections::BTreeSet, time::Duration};

use client_support::{TTL, Zone, answering, named};
use mesh_http::{Client, Mesh};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const ONE: &str = "one.example";
const TWO: &str = "two.example";

/// A client of these names.
fn client(zone: &Zone, names: &[&str]) -> Client {
    let mesh = Mesh::builder().connector(named()).resolver(zone.clone()).seed(1).build().unwrap();
    let endpoints = names.iter().map(|name| format!("{name}:9080"));
    Client::builder("reviews").mesh(&mesh).endpoints(endpoints).build().unwrap()
}

fn at<const N: usize>(numbers: [u8; N]) -> BTreeSet<u8> {
    numbers.into()
}

#[tokio::test(start_paused = true)]
async fn first_call_waits_for_the_first_answer() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1, 2])).takes(ONE, 2 * SECOND);
    let client = client(&zone, &[ONE]);
    let start = Instant::now();
    assert_eq!(answering(&client).await, at([1, 2]));
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn name_is_looked_up_again_when_its_time_is_over_and_not_before() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1]));
    let client = client(&zone, &[ONE]);
    answering(&client).await;
    sleep(TTL - SECOND).await;
    assert_eq!(zone.asked(ONE), 1);
    sleep(2 * SECOND).await;
    assert_eq!(zone.asked(ONE), 2);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_is_kept_within_bounds() {
    for (valid_for, asked) in [(Duration::ZERO, 300), (300 * TTL, 1)] {
        let zone = Zone { valid_for, ..Zone::new() };
        zone.set(ONE, Some(&[1]));
        let client = client(&zone, &[ONE]);
        client.ready().await.unwrap();
        sleep(300 * SECOND - SECOND / 2).await;
        assert_eq!(zone.asked(ONE), asked);
        sleep(SECOND).await;
        assert_eq!(zone.asked(ONE), asked + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn added_and_removed_addresses_take_effect() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1, 2]));
    let client = client(&zone, &[ONE]);
    assert_eq!(answering(&client).await, at([1, 2]));
    for numbers in [&[2, 3][..], &[4], &[1, 2, 3, 4]] {
        zone.set(ONE, Some(numbers));
        sleep(TTL + SECOND).await;
        assert_eq!(answering(&client).await, numbers.iter().copied().collect());
    }
}

#[tokio::test(start_paused = true)]
async fn last_good_addresses_serve_while_look_ups_fail_or_find_nothing() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1, 2]));
    let client = client(&zone, &[ONE]);
    answering(&client).await;
    for trouble in [None, Some(&[][..])] {
        zone.set(ONE, trouble);
        let before = zone.asked(ONE);
        sleep(TTL * 4).await;
        assert!(zone.asked(ONE) > before, "it keeps asking");
        assert_eq!(answering(&client).await, at([1, 2]));
    }
    zone.set(ONE, Some(&[3]));
    sleep(61 * SECOND).await;
    assert_eq!(answering(&client).await, at([3]), "and follows as soon as there is an answer");
}

#[tokio::test(start_paused = true)]
async fn name_that_never_resolved_fails_calls_and_heals() {
    let zone = Zone::new();
    let client = client(&zone, &[ONE]);
    let error = client.get("http://reviews/").await.unwrap_err();
    assert!(error.is_no_endpoint(), "{error:?}");
    zone.set(ONE, Some(&[1]));
    sleep(61 * SECOND).await;
    assert_eq!(answering(&client).await, at([1]));
}

#[tokio::test(start_paused = true)]
async fn name_that_does_not_resolve_takes_no_other_with_it() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1]));
    let client = client(&zone, &[ONE, TWO]);
    assert_eq!(answering(&client).await, at([1]));
    zone.set(TWO, Some(&[2]));
    sleep(61 * SECOND).await;
    assert_eq!(answering(&client).await, at([1, 2]));

    zone.set(TWO, None).set(ONE, Some(&[3]));
    sleep(TTL + SECOND).await;
    assert_eq!(answering(&client).await, at([2, 3]), "what a name meant last counts while others go on");
}

#[tokio::test(start_paused = true)]
async fn name_whose_look_up_hangs_holds_up_no_other() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1])).set(TWO, Some(&[2])).takes(TWO, 9 * SECOND);
    let client = client(&zone, &[ONE, TWO]);
    let start = Instant::now();
    assert_eq!(answering(&client).await, at([1]));
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(9 * SECOND + SECOND).await;
    assert_eq!(answering(&client).await, at([1, 2]));
}

#[tokio::test(start_paused = true)]
async fn each_name_waits_for_itself_after_failures() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1]));
    let client = client(&zone, &[ONE, TWO]);
    answering(&client).await;
    sleep(TTL - SECOND).await;
    assert_eq!(zone.asked(ONE), 1, "the failures of the other do not make it be asked");
    assert!((4..=8).contains(&zone.asked(TWO)), "1 + 2 + 4 + 8 + 16 s at most: {}", zone.asked(TWO));
}

#[tokio::test(start_paused = true)]
async fn address_of_two_names_is_one_endpoint() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1, 1])).set(TWO, Some(&[1, 2]));
    let client = client(&zone, &[ONE, TWO]);
    assert_eq!(answering(&client).await, at([1, 2]));
    assert_eq!(client.status().clusters[0].endpoints.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_a_client_that_is_gone() {
    let zone = Zone::new();
    zone.set(ONE, Some(&[1]));
    let client = client(&zone, &[ONE]);
    answering(&client).await;
    drop(client);
    let asked = zone.asked(ONE);
    sleep(TTL * 10).await;
    assert_eq!(zone.asked(ONE), asked);
}
