//! Endpoints by name, with a resolver that the test writes: looked up again in time, kept when that fails, followed when it
//! says something new.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use client_support::{Net, says, text};
use mesh_http::{
    Client, Mesh,
    resolve::{Resolve, Resolved, Resolving},
};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(30);

/// What a name means at the moment; none is a failure.
#[derive(Clone, Default)]
struct Zone {
    addresses: Arc<Mutex<Option<Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
    takes: Duration,
}

impl Zone {
    fn of(numbers: &[u8]) -> Self {
        let zone = Self::default();
        zone.set(Some(numbers));
        zone
    }

    fn set(&self, numbers: Option<&[u8]>) {
        *self.addresses.lock().unwrap() = numbers.map(<[u8]>::to_vec);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolve for Zone {
    fn resolve(&self, host: &str) -> Resolving {
        assert_eq!(host, "reviews.example");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (zone, takes) = (self.clone(), self.takes);
        Box::pin(async move {
            sleep(takes).await;
            let numbers = zone.addresses.lock().unwrap().clone().ok_or("the name server is away")?;
            let addresses = numbers.into_iter().map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last))).collect();
            Ok(Resolved { addresses, valid_for: TTL })
        })
    }
}

fn client(zone: &Zone) -> (Client, Net) {
    let net = Net::serving(|address, _| says(address.to_string()));
    let mesh = Mesh::builder().connector(net.clone()).resolver(zone.clone()).seed(1).build().unwrap();
    (Client::builder("reviews").mesh(&mesh).endpoints(["reviews.example:9080"]).build().unwrap(), net)
}

/// Who answers, of a number of requests that reaches everybody.
async fn answering(client: &Client) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(text(client.get("http://reviews/").await.unwrap()).await);
    }
    seen
}

fn at(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|last| format!("10.0.0.{last}:9080")).collect()
}

#[tokio::test(start_paused = true)]
async fn first_call_waits_for_the_first_answer() {
    let zone = Zone { takes: Duration::from_secs(2), ..Zone::of(&[1, 2]) };
    let (client, _) = client(&zone);
    let start = Instant::now();
    assert_eq!(answering(&client).await, at(&[1, 2]));
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn name_is_looked_up_again_when_its_time_is_over_and_not_before() {
    let zone = Zone::of(&[1]);
    let (client, _) = client(&zone);
    answering(&client).await;
    sleep(TTL - Duration::from_secs(1)).await;
    assert_eq!(zone.asked(), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(zone.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn added_and_removed_addresses_take_effect() {
    let zone = Zone::of(&[1, 2]);
    let (client, _) = client(&zone);
    assert_eq!(answering(&client).await, at(&[1, 2]));
    for numbers in [&[2, 3][..], &[4], &[1, 2, 3, 4]] {
        zone.set(Some(numbers));
        sleep(TTL + Duration::from_secs(1)).await;
        assert_eq!(answering(&client).await, at(numbers));
    }
}

#[tokio::test(start_paused = true)]
async fn last_good_addresses_serve_while_look_ups_fail_or_find_nothing() {
    let zone = Zone::of(&[1, 2]);
    let (client, _) = client(&zone);
    answering(&client).await;
    for trouble in [None, Some(&[][..])] {
        zone.set(trouble);
        let before = zone.asked();
        sleep(TTL * 4).await;
        assert!(zone.asked() > before, "it keeps asking");
        assert_eq!(answering(&client).await, at(&[1, 2]));
    }
    zone.set(Some(&[3]));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(answering(&client).await, at(&[3]), "and follows as soon as there is an answer");
}

#[tokio::test(start_paused = true)]
async fn name_that_never_resolved_fails_calls_and_heals() {
    let zone = Zone::default();
    let (client, _) = client(&zone);
    let error = client.get("http://reviews/").await.unwrap_err();
    assert!(error.is_no_endpoint(), "{error:?}");
    zone.set(Some(&[1]));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(answering(&client).await, at(&[1]));
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_a_client_that_is_gone() {
    let zone = Zone::of(&[1]);
    let (client, _) = client(&zone);
    answering(&client).await;
    drop(client);
    let asked = zone.asked();
    sleep(TTL * 10).await;
    assert_eq!(zone.asked(), asked);
}
