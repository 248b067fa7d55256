//! The loop by hand: a worker whose streams nobody opens.

use std::{
    collections::BTreeSet,
    pin::pin,
    task::{self, Waker},
    time::Duration,
};

use envoy_types::pb::{
    envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryResponse},
    google::protobuf::Any,
};
use mesh_core::source::ResourceState;
use mesh_http::{connect::SocketConnector, resolve::SystemResolver};
use prost::Message;

use super::decoding::{DROPPED, LEAST, SLICE};
use super::*;
use crate::{
    ResourceKind,
    bootstrap::ChannelCredentials,
    pace::{self, in_slices},
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

/// A worker that has asked for its listeners, and what reaches it.
struct Bench {
    worker: Worker,
    streams: Streams,
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    names: Vec<String>,
}

impl Bench {
    fn watching(count: usize) -> Self {
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
        let upstream =
            Upstream::new(server, "plane:80".to_owned(), dialer, session::Config::default(), Node::default(), 1);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        let (commands, orders) = mpsc::unbounded_channel();
        let (dialect, context, cache) = (Dialect::Grpc, Context::new(), Cache::default());
        let worker = Worker::new(shared.clone(), orders, bootstrap, dialect, context, vec![upstream], cache);
        let names: Vec<String> = (0..count).map(|number| format!("listener-{number}")).collect();
        let mut bench = Self { worker, streams: Streams::new(1), commands, shared, names };
        for name in bench.names.clone() {
            bench.command(Command::Watch(name.into()));
        }
        bench.obey();
        let session = &mut bench.worker.federation.upstreams[0].session;
        session.stream_opened();
        session.poll_request(Instant::now()).expect("listeners are asked for");
        bench
    }

    fn command(&self, command: Command) {
        self.commands.send(command).expect("the worker listens");
    }

    fn obey(&mut self) {
        let command = self.worker.commands.try_recv().expect("just sent");
        self.worker.obey(command);
        in_slices(self.worker.settle(&mut self.streams));
    }

    /// Every listener comes, and cannot be used.
    fn deliver(&mut self) {
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

    fn targets(&self) -> usize {
        self.shared.snapshots.borrow().targets.len()
    }
}

#[test]
fn what_asks_for_everything_is_not_asked_for_as_a_name() {
    let mut bench = Bench::watching(1);
    for name in ["*", "", "v1"] {
        bench.command(Command::Demand(name.into()));
        bench.obey();
    }
    bench.command(Command::Watch("*".into()));
    bench.obey();
    let session = &mut bench.worker.federation.upstreams[0].session;
    let requests = std::iter::from_fn(|| session.poll_request(Instant::now()));
    let names = requests.flat_map(|request| match request {
        session::Request::StateOfTheWorld(request) => request.resource_names,
        session::Request::Delta(request) => request.resource_names_subscribe,
    });
    assert_eq!(names.collect::<Vec<_>>(), ["v1"]);
    let held = bench.shared.held();
    for (kind, name) in [(ResourceKind::Cluster, "*"), (ResourceKind::Cluster, ""), (ResourceKind::Listener, "*")] {
        let entry = held.store.get(kind, name).expect("somebody wants it");
        assert_eq!(entry.state(), ResourceState::Rejected, "{kind} `{name}`");
    }
}

/// As when the work is dropped between two slices of names to ask for, the first of which wakes a session.
#[tokio::test(start_paused = true)]
async fn stream_that_was_to_be_opened_when_the_work_was_dropped_is_opened_once_by_the_next() {
    let mut bench = Bench::watching(1);
    let now = Instant::now();
    bench.worker.federation.upstreams[0].session.leave();
    bench.worker.federation.upstreams[0].session.subscribe(ResourceKind::Cluster, "v1");
    bench.worker.federation.streams_dropped(now);
    let session = &mut bench.worker.federation.upstreams[0].session;
    assert!(session.poll_event().is_none(), "neither a stream of the work before nor its loss");
    assert_eq!(session.next_timeout(), Some(now));
    session.timeout(now);
    assert!(matches!(session.poll_event(), Some(session::Event::Connect)));
    assert!(session.poll_event().is_none());
}

/// What slices are for cannot be seen by a test, which has no other thread to be held up; that there are some can.
#[test]
fn large_response_is_decoded_in_slices_and_published_as_one() {
    let mut bench = Bench::watching(1000);
    bench.deliver();
    let mut slices = 0;
    while bench.worker.decoding.is_some() {
        assert!(!in_slices(bench.worker.assemble()).0, "half a response is not published");
        bench.worker.decode();
        slices += 1;
    }
    // The last find that there is nothing left, and let go of the names.
    assert_eq!(slices, 1000 / SLICE.div_ceil(1000 + 20 + LEAST) + (1000 * DROPPED).div_ceil(SLICE));
    let (has_changed, gave_way) = in_slices(bench.worker.assemble());
    assert!(has_changed && gave_way >= 1000 / pace::SLICE);
    assert_eq!(bench.targets(), 1000);
    assert_eq!(bench.shared.snapshots.borrow().generation, 1);
}

#[test]
fn name_listed_twice_in_state_of_the_world_refuses_the_response_by_name() {
    let mut bench = Bench::watching(1);
    bench.names.push("listener-0".to_owned());
    bench.deliver();
    while bench.worker.decoding.is_some() {
        bench.worker.decode();
    }
    let answer = bench.worker.federation.upstreams[0].session.poll_request(Instant::now());
    let Some(session::Request::StateOfTheWorld(answer)) = answer else { panic!("an answer is due: {answer:?}") };
    let refused = answer.error_detail.expect("it is refused").message;
    assert!(refused.ends_with(r#"; resource "listener-0": it is listed twice in one response"#), "{refused}");
}

#[test]
fn nobody_sees_half_a_configuration_and_a_target_that_is_released_meanwhile_leaves_the_next() {
    let mut bench = Bench::watching(1000);
    bench.deliver();
    while bench.worker.decoding.is_some() {
        bench.worker.decode();
    }
    {
        let mut assembling = pin!(bench.worker.assemble());
        let mut waker = task::Context::from_waker(Waker::noop());
        let mut seen = BTreeSet::new();
        while assembling.as_mut().poll(&mut waker).is_pending() {
            seen.insert(bench.shared.snapshots.borrow().targets.len());
            if seen.len() == 1 {
                let _ = bench.commands.send(Command::Release("listener-7".into()));
            }
        }
        assert!(seen.is_subset(&BTreeSet::from([0, 1000])) && seen.contains(&0), "{seen:?}");
    }
    assert_eq!(bench.targets(), 1000);
    bench.obey();
    assert_eq!(bench.targets(), 999);
    assert!(bench.shared.held().store.get(ResourceKind::Listener, "listener-7").is_none());
}

#[test]
fn assembling_that_is_dropped_half_way_is_done_again_from_the_beginning() {
    let mut bench = Bench::watching(1000);
    bench.deliver();
    while bench.worker.decoding.is_some() {
        bench.worker.decode();
    }
    for polls in 0..40 {
        let mut assembling = pin!(bench.worker.assemble());
        for _ in 0..polls {
            let _ = assembling.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
            if bench.shared.snapshots.borrow().generation > 0 {
                break;
            }
        }
        // As `run` does when it is run again.
        bench.shared.held().store.touch();
    }
    assert!(in_slices(bench.worker.assemble()).0);
    assert_eq!(bench.targets(), 1000);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_out_of_time_who_is_in_the_response_that_is_being_decoded() {
    let mut bench = Bench::watching(1000);
    let second = Duration::from_secs(1);
    tokio::time::advance(14 * second).await;
    bench.deliver();
    bench.worker.decode();
    tokio::time::advance(2 * second).await;
    // As the loop does, which sleeps until something is due.
    while let Some(due) = bench.worker.next_due().filter(|due| *due <= Instant::now()) {
        bench.worker.tick(due);
    }
    while bench.worker.decoding.is_some() {
        bench.worker.decode();
    }
    bench.worker.tick(Instant::now());
    in_slices(bench.worker.settle(&mut bench.streams));
    let held = bench.shared.held();
    let is_told = |name: &String| {
        let entry = held.store.get(ResourceKind::Listener, name).expect("asked for");
        (entry.state(), entry.error().is_some_and(|error| error.contains("in time")))
    };
    assert!(bench.names.iter().all(|name| is_told(name) == (ResourceState::Rejected, false)));
}
