//! What an update costs in instructions where they can be counted apart from sockets and tasks: the decoding of endpoints, and
//! the session's part in delta.
//!
//! Both are paid for each change of a large mesh, and neither may grow with what has not changed. Run with
//! `cargo bench -p mesh-xds-client --bench apply`; it needs valgrind and `cargo install gungraun-runner` of
//! the version that the workspace names.
// The macros make public items.
#![allow(missing_docs)]

use std::net::SocketAddr;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryResponse, Resource},
    },
    google::protobuf::Any,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use mesh_xds_client::{
    ResourceKind,
    session::{Config, Event, Request, Sealed, Session, Variant, Verdict},
    testkit::{measured::DecodedEndpoints, resource},
};
use prost::Message;
use tokio::time::Instant;

const KIND: ResourceKind = ResourceKind::ClusterLoadAssignment;

/// The bytes of 10,000 endpoints, one of which has this weight.
fn endpoints(weight: u32) -> Bytes {
    let address = |host: u32| SocketAddr::from(((0x0a00_0000 + host).to_be_bytes(), 80));
    let weight = |host: u32| if host == 5_000 { weight } else { 1 };
    resource::endpoints("cluster", (0..10_000).map(|host| (address(host), weight(host)))).encode_to_vec().into()
}

fn decoded(bytes: Bytes, former: Option<&DecodedEndpoints>) -> DecodedEndpoints {
    DecodedEndpoints::new(bytes, former).expect("good endpoints")
}

/// The next version, and the one before.
fn after_another() -> (Bytes, Option<DecodedEndpoints>) {
    (endpoints(2), Some(decoded(endpoints(1), None)))
}

fn at_first() -> (Bytes, Option<DecodedEndpoints>) {
    (endpoints(2), None)
}

// What is given comes back, so that dropping it is not counted.
#[library_benchmark]
#[bench::at_first(at_first())]
#[bench::one_of_10000_differs(after_another())]
fn decode((bytes, former): (Bytes, Option<DecodedEndpoints>)) -> (DecodedEndpoints, Option<DecodedEndpoints>) {
    (decoded(bytes, former.as_ref()), former)
}

/// A session in delta that holds so many names, and a response with another version of one.
fn holding(count: usize) -> Box<(Session, Option<Sealed>, Instant)> {
    let now = Instant::now();
    let config = Config { variant: Variant::Delta, ..Config::default() };
    let mut session = Session::new(config, Node::default(), 1);
    let names: Vec<_> = (0..count).map(|number| format!("outbound|80||service-{number}.shop")).collect();
    names.iter().for_each(|name| session.subscribe(KIND, name));
    session.stream_opened();
    session.poll_request(now).expect("names are asked for");
    let all = response("all", &names);
    let next = response("next", &names[count / 2..=count / 2]);
    exchange(&mut session, all, now);
    Box::new((session, Some(next), now))
}

fn response(nonce: &str, names: &[String]) -> Sealed {
    let resource = |name: &String| Resource {
        name: name.clone(),
        version: nonce.to_owned(),
        resource: Some(Any { type_url: KIND.type_url().to_owned(), value: vec![0; 400] }),
        ..Default::default()
    };
    let response = DeltaDiscoveryResponse {
        type_url: KIND.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources: names.iter().map(resource).collect(),
        ..Default::default()
    };
    response.into()
}

fn exchange(session: &mut Session, response: Sealed, now: Instant) -> Request {
    session.received(response, now);
    let batch = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Deliver(batch) => Some(batch),
        _ => None,
    });
    let mut batch = batch.expect("it is delivered");
    while let Some(resource) = batch.next() {
        session.accept(&mut batch, resource.name.as_deref().expect("named in delta"));
    }
    session.answer(batch.into_ticket(), Verdict::default(), now);
    session.poll_request(now).expect("it is answered")
}

#[library_benchmark]
#[bench::of_100(holding(100))]
#[bench::of_10000(holding(10_000))]
fn session(mut given: Box<(Session, Option<Sealed>, Instant)>) -> Box<(Session, Option<Sealed>, Instant)> {
    let (session, next, now) = &mut *given;
    drop(exchange(session, next.take().expect("it is given once"), *now));
    given
}

library_benchmark_group!(name = apply, benchmarks = [decode, session]);
main!(library_benchmark_groups = apply);
