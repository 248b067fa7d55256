//! The loop by hand: a worker whose streams nobody opens.

use envoy_types::pb::{
    envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryResponse},
    google::protobuf::Any,
};
use mesh_http::{connect::SocketConnector, resolve::SystemResolver};
use prost::Message;

use super::decoding::{LEAST, SLICE};
use super::*;
use crate::{
    ResourceKind,
    bootstrap::ChannelCredentials,
    pace::in_slices,
    session,
    transport::{Dialer, Limits, Parts},
};

/// A listener in name only.
#[derive(Clone, PartialEq, Message)]
struct NamedGarbage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "1000")]
    garbage: String,
}

/// What slices are for cannot be seen by a test, which has no other thread to be held up; that there are some can.
#[test]
fn large_response_is_decoded_in_slices_and_published_as_one() {
    let bootstrap = Bootstrap::builder().server("plane:80", ChannelCredentials::Insecure);
    let bootstrap = bootstrap.build().expect("a valid bootstrap");
    let server = bootstrap.servers()[0].clone();
    let parts = Parts {
        connector: Arc::new(SocketConnector),
        resolver: Arc::new(SystemResolver::default()),
        provider: None,
        limits: Limits::default(),
    };
    let dialer = Arc::new(Dialer::new(&server, &parts).expect("plaintext"));
    let upstream = Upstream::new(server, "plane:80".to_owned(), dialer, session::Config::default(), Node::default(), 1);
    let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
    let (commands, orders) = mpsc::unbounded_channel();
    let mut worker =
        Worker::new(shared.clone(), orders, bootstrap, Dialect::Grpc, Context::new(), vec![upstream], Cache::default());
    let mut streams = Streams::new(1);
    let names: Vec<String> = (0..1000).map(|number| format!("listener-{number}")).collect();
    for name in &names {
        commands.send(Command::Watch(name.as_str().into())).expect("the worker listens");
    }
    let command = worker.commands.try_recv().expect("just sent");
    worker.obey(command);
    in_slices(worker.settle(&mut streams));
    let session = &mut worker.federation.upstreams[0].session;
    session.stream_opened();
    session.poll_request(Instant::now()).expect("listeners are asked for");

    let garbage = |name: &String| Any {
        type_url: ResourceKind::Listener.type_url().to_owned(),
        value: NamedGarbage { name: name.clone(), garbage: "x".repeat(1000) }.encode_to_vec(),
    };
    let response = DiscoveryResponse {
        type_url: ResourceKind::Listener.type_url().to_owned(),
        resources: names.iter().map(garbage).collect(),
        ..Default::default()
    };
    worker.federation.upstreams[0].session.received(response, Instant::now());
    worker.heed(&mut streams);
    let mut slices = 0;
    while worker.decoding.is_some() {
        assert!(!in_slices(worker.assemble()).0, "half a response is not published");
        worker.decode();
        slices += 1;
    }
    // The last finds that there is nothing left.
    assert_eq!(slices, 1000 / SLICE.div_ceil(1000 + 20 + LEAST) + 1);
    let (has_changed, gave_way) = in_slices(worker.assemble());
    assert!(has_changed && gave_way > 0);
    assert_eq!(shared.snapshots.borrow().targets.len(), 1000);
    assert_eq!(shared.snapshots.borrow().generation, 1);
}
