//! Connecting ahead of the first request: to whom, how often, and what becomes of failures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use client_support::{Net, says, serve, text};
use mesh_core::config::{CircuitBreakers, LoadBalancing, Thresholds};
use mesh_http::{Client, ClientBuilder, Mesh, protocol::Http};
use tokio::time::sleep;

const ADDRESSES: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// A network that counts the connections to each address.
fn counting() -> (Net, Arc<Mutex<BTreeMap<SocketAddr, u32>>>) {
    let opened = Arc::<Mutex<BTreeMap<_, _>>>::default();
    let counts = opened.clone();
    let net = Net::new(move |address, stream| {
        *counts.lock().unwrap().entry(address).or_default() += 1;
        tokio::spawn(serve(stream, |_| says("hello")));
    });
    (net, opened)
}

fn client(net: &Net, say: impl FnOnce(ClientBuilder<Http>) -> ClientBuilder<Http>) -> Client {
    let mesh = Mesh::builder().connector(net.clone()).seed(1).build().unwrap();
    // By turns, so that three requests are one to each endpoint.
    let builder = Client::builder("reviews").mesh(&mesh).endpoints(ADDRESSES).load_balancing(LoadBalancing::RoundRobin);
    say(builder).build().unwrap()
}

async fn call(client: &Client) {
    assert_eq!(text(client.get("http://reviews/").await.unwrap()).await, "hello");
}

fn one_each(addresses: &[&str]) -> BTreeMap<SocketAddr, u32> {
    addresses.iter().map(|address| (address.parse().unwrap(), 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_has_a_connection_before_the_first_request_and_the_requests_use_it() {
    let (net, opened) = counting();
    let client = client(&net, |builder| builder.connect_ahead(3));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES));
    for _ in 0..9 {
        call(&client).await;
    }
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES));
}

#[tokio::test(start_paused = true)]
async fn nobody_connects_ahead_unasked_or_to_more_endpoints_than_were_said() {
    for say in [|builder: ClientBuilder<Http>| builder, |builder: ClientBuilder<Http>| builder.connect_ahead(2)] {
        let (net, opened) = counting();
        let client = client(&net, say);
        sleep(Duration::from_secs(10)).await;
        assert!(opened.lock().unwrap().is_empty());
        call(&client).await;
        assert_eq!(opened.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_is_not_repeated_and_leaves_the_endpoint_to_the_requests() {
    let (net, opened) = counting();
    net.dead.lock().unwrap().insert(ADDRESSES[0].parse().unwrap());
    let client = client(&net, |builder| builder.connect_ahead(3));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES[1..]));

    // It was no request's failure, so the endpoint is as good as the others to the next one.
    net.dead.lock().unwrap().clear();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES[1..]));
    for _ in 0..3 {
        call(&client).await;
    }
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES));
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_limits_what_is_opened_ahead() {
    let (net, opened) = counting();
    let two = Thresholds { max_connections: Some(2), ..Thresholds::default() };
    let breakers = CircuitBreakers { default: two, ..CircuitBreakers::default() };
    let client = client(&net, |builder| builder.connect_ahead(3).circuit_breakers(breakers));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES[..2]));
    // A request to the third has its connection all the same, being the first.
    for _ in 0..3 {
        call(&client).await;
    }
    assert_eq!(*opened.lock().unwrap(), one_each(&ADDRESSES));
}
