//! The loop by hand: a worker whose streams nobody opens.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryResponse},
    google::protobuf::Any,
};
use mesh_core::source::ResourceState;
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

/// A worker that has asked for a thousand listeners.
struct Scene {
    worker: Worker,
    streams: Streams,
    names: Vec<String>,
    _commands: mpsc::UnboundedSender<Command>,
}

impl Scene {
    fn asking_for_a_thousand() -> Self {
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
        let name = "plane:80".to_owned();
        let upstream = Upstream::new(server, name.clone(), dialer, session::Config::default(), Node::default(), 1);
        let shared = Arc::new(Shared::new(Node::default(), [name]));
        let (commands, orders) = mpsc::unbounded_channel();
        let (context, cache) = (Context::new(), Cache::default());
        let mut worker = Worker::new(shared, orders, bootstrap, Dialect::Grpc, context, vec![upstream], cache);
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
        Self { worker, streams, names, _commands: commands }
    }

    /// A response with all of them comes.
    fn respond(&mut self) {
        let garbage = |name: &String| Any {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            value: NamedGarbage { name: name.clone(), garbage: "x".repeat(1000) }.encode_to_vec(),
        };
        let response = DiscoveryResponse {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            resources: self.names.iter().map(garbage).collect(),
            ..Default::default()
        };
        self.worker.federation.upstreams[0].session.received(response, Instant::now());
        self.worker.heed(&mut self.streams);
    }
}

/// What slices are for cannot be seen by a test, which has no other thread to be held up; that there are some can.
#[test]
fn large_response_is_decoded_in_slices_and_published_as_one() {
    let mut scene = Scene::asking_for_a_thousand();
    scene.respond();
    let worker = &mut scene.worker;
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
    assert_eq!(worker.shared.snapshots.borrow().targets.len(), 1000);
    assert_eq!(worker.shared.snapshots.borrow().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_out_of_time_who_is_in_the_response_that_is_being_decoded() {
    let mut scene = Scene::asking_for_a_thousand();
    let second = Duration::from_secs(1);
    tokio::time::advance(14 * second).await;
    scene.respond();
    scene.worker.decode();
    tokio::time::advance(2 * second).await;
    // As the loop does, which sleeps until something is due.
    while let Some(due) = scene.worker.next_due().filter(|due| *due <= Instant::now()) {
        scene.worker.tick(due);
    }
    while scene.worker.decoding.is_some() {
        scene.worker.decode();
    }
    scene.worker.tick(Instant::now());
    in_slices(scene.worker.settle(&mut scene.streams));
    let held = scene.worker.shared.held();
    let is_told = |name: &String| {
        let entry = held.store.get(ResourceKind::Listener, name).expect("asked for");
        (entry.state(), entry.error().is_some_and(|error| error.contains("in time")))
    };
    assert!(scene.names.iter().all(|name| is_told(name) == (ResourceState::Rejected, false)));
}
