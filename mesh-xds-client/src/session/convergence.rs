//! In delta a client and a server that keeps the rules come to agree, whatever happens on the way and however late it is
//! heard of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Batch, Config, Event, Request, ResourceError, Session, Variant, Verdict};
use crate::ResourceKind;

const KIND: ResourceKind = ResourceKind::Cluster;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    Everything(bool),
    /// The server has another version, which is good or bad.
    Set(&'static str, bool),
    Remove(&'static str),
    /// The client's requests leave, and the server hears so many.
    Transmit(usize),
    /// The client hears the next response.
    Hear,
    /// The verdict on the oldest batch.
    Judge,
    Break,
    /// Another server has stood in, so what is held is no longer this one's.
    Forget,
    /// Another server that stood in has left this behind.
    Presume(&'static str),
    Wait(u64),
}

/// A server, as far as one stream of one kind goes.
#[derive(Default)]
struct Server {
    resources: BTreeMap<String, u64>,
    is_asked: bool,
    is_everything_implied: bool,
    /// Who asks for everything is answered, though there be nothing.
    owes_an_answer: bool,
    names: BTreeSet<String>,
    sent: BTreeMap<String, String>,
    denied: BTreeSet<String>,
    /// Nonces that were given out and not answered.
    unanswered: BTreeSet<String>,
}

struct World {
    session: Session,
    now: Instant,
    server: Server,
    /// Counts versions and nonces. Odd versions are bad.
    count: u64,
    is_open: bool,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    batches: VecDeque<Batch>,
    wanted: BTreeSet<String>,
    wants_everything: bool,
    /// What the client has in use.
    held: BTreeMap<String, String>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = proptest::sample::select(NAMES.to_vec());
    let step = prop_oneof![
        4 => name.clone().prop_map(Step::Subscribe),
        3 => name.clone().prop_map(Step::Unsubscribe),
        1 => any::<bool>().prop_map(Step::Everything),
        4 => (name.clone(), any::<bool>()).prop_map(|(name, good)| Step::Set(name, good)),
        2 => name.clone().prop_map(Step::Remove),
        5 => (0..4_usize).prop_map(Step::Transmit),
        5 => Just(Step::Hear),
        5 => Just(Step::Judge),
        1 => Just(Step::Break),
        1 => Just(Step::Forget),
        2 => name.prop_map(Step::Presume),
        1 => (0..20_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn client_ends_with_what_the_server_has(steps in steps(), seed: u64) {
        let mut world = World::new(seed);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let config = Config { variant: Variant::Delta, ..Config::default() };
        Self {
            session: Session::new(config, Node::default(), seed),
            now: Instant::now(),
            server: Server::default(),
            count: 0,
            is_open: false,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            batches: VecDeque::new(),
            wanted: BTreeSet::new(),
            wants_everything: false,
            held: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(name) => {
                self.session.subscribe(KIND, name);
                self.wanted.insert(name.to_owned());
            }
            Step::Unsubscribe(name) => {
                self.session.unsubscribe(KIND, name);
                self.wanted.remove(name);
            }
            // Later on a stream the protocol cannot tell a resource that was under way meanwhile, and is gone, from one that is
            // there because everything is wanted.
            Step::Everything(true) if self.has_not_begun() => {
                self.session.subscribe_all(KIND);
                self.wants_everything = true;
            }
            Step::Everything(_) => {
                self.session.unsubscribe_all(KIND);
                self.wants_everything = false;
            }
            Step::Set(name, is_good) => {
                self.count += 2;
                self.server.resources.insert(name.to_owned(), self.count + u64::from(!is_good));
                self.push();
            }
            Step::Remove(name) => {
                self.server.resources.remove(name);
                self.push();
            }
            Step::Transmit(room) => self.transmit(room),
            Step::Hear => {
                if let Some(response) = self.responses.pop_front() {
                    self.session.received(response, self.now);
                }
            }
            Step::Judge => self.judge(),
            Step::Break => self.lose(),
            Step::Forget => {
                self.forget_stream();
                self.session.forget_versions();
            }
            Step::Presume(name) if self.wants_everything && self.has_not_begun() => {
                if !self.wanted.contains(name) && !self.held.contains_key(name) {
                    self.session.presume(KIND, &[name.into()]);
                    self.held.insert(name.to_owned(), "of another server".to_owned());
                }
            }
            Step::Presume(_) => {}
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.session.timeout(self.now);
            }
        }
        self.held.retain(|name, _| self.wants_everything || self.wanted.contains(name));
        self.obey();
    }

    fn obey(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Connect => {
                    self.session.stream_opened();
                    self.is_open = true;
                }
                Event::Deliver(batch) => self.batches.push_back(*batch),
                Event::Absent { name, .. } => drop(self.held.remove(&name)),
                _ => {}
            }
        }
    }

    fn transmit(&mut self, room: usize) {
        while let Some(request) = self.session.poll_request(self.now) {
            let Request::Delta(request) = request else { panic!("spoken in delta: {request:?}") };
            self.requests.push_back(request);
        }
        for _ in 0..room {
            let Some(request) = self.requests.pop_front() else { break };
            self.server.hear(request);
            self.push();
        }
    }

    fn push(&mut self) {
        if self.is_open {
            self.count += 2;
            self.responses.extend(self.server.due(self.count));
        }
    }

    fn judge(&mut self) {
        let Some(mut batch) = self.batches.pop_front() else { return };
        let mut verdict = Verdict::default();
        while let Some(resource) = batch.next() {
            let (name, version) =
                (resource.name.expect("named in delta"), resource.version.expect("versioned in delta"));
            if version.parse::<u64>().expect("a number") % 2 == 1 {
                verdict.rejected.push(ResourceError { name: Some(name), field: None, message: "bad".to_owned() });
                continue;
            }
            self.session.accept(&mut batch, &name);
            if self.wants_everything || self.wanted.contains(&name) {
                self.held.insert(name, version);
            }
        }
        self.session.answer(batch.into_ticket(), verdict, self.now);
    }

    fn has_not_begun(&self) -> bool {
        !self.server.is_asked && self.requests.is_empty()
    }

    fn lose(&mut self) {
        self.session.stream_ended("reset", self.now);
        self.forget_stream();
    }

    fn forget_stream(&mut self) {
        self.is_open = false;
        self.requests.clear();
        self.responses.clear();
        self.server = Server { resources: std::mem::take(&mut self.server.resources), ..Server::default() };
    }

    /// Everything becomes good and is heard of. Then both sides agree.
    fn settle(&mut self) {
        for name in self.server.resources.clone().into_keys() {
            let name = NAMES.into_iter().find(|known| **known == *name).expect("one of ours");
            self.step(Step::Set(name, true));
        }
        for _ in 0..50 {
            for step in [Step::Transmit(100), Step::Hear, Step::Judge, Step::Wait(5)] {
                self.step(step);
            }
        }
        for _ in 0..50 {
            self.step(Step::Wait(60));
            self.step(Step::Transmit(100));
        }
        let has = |name: &str| self.wants_everything || self.wanted.contains(name);
        let agreed = self.server.resources.iter().filter(|(name, _)| has(name));
        let agreed: BTreeMap<_, _> = agreed.map(|(name, version)| (name.clone(), version.to_string())).collect();
        assert_eq!(self.held, agreed);
        if self.is_open {
            let named: BTreeSet<_> = self.server.names.iter().filter(|name| *name != "*").cloned().collect();
            assert_eq!(named, self.wanted, "what the server believes to be wanted");
            assert!(self.server.unanswered.is_empty(), "each response is answered: {:?}", self.server.unanswered);
            assert_eq!(self.session.next_timeout(), None, "every name is held or absent by now");
        }
    }
}

impl Server {
    fn hear(&mut self, request: DeltaDiscoveryRequest) {
        let (subscribe, unsubscribe) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        if !request.response_nonce.is_empty() {
            assert!(subscribe.is_empty() && unsubscribe.is_empty(), "names may be lost with an answer");
            assert!(self.unanswered.remove(&request.response_nonce), "answered twice, or never sent");
            return;
        }
        assert!(subscribe.iter().all(|name| !unsubscribe.contains(name)), "subscribed and unsubscribed at once");
        if !std::mem::replace(&mut self.is_asked, true) {
            self.is_everything_implied = subscribe.is_empty();
            self.owes_an_answer = subscribe.is_empty() || subscribe.iter().any(|name| name == "*");
            self.sent = request.initial_resource_versions.into_iter().collect();
        } else {
            assert!(request.initial_resource_versions.is_empty(), "said in the first request");
            assert!(!(subscribe.is_empty() && unsubscribe.is_empty()), "a request that says nothing");
            self.is_everything_implied = false;
            for name in subscribe.iter().chain(&unsubscribe) {
                self.sent.remove(name);
                self.denied.remove(name);
            }
        }
        self.names.extend(subscribe);
        self.names.retain(|name| !unsubscribe.contains(name));
        let is_everything = self.is_everything();
        self.sent.retain(|name, _| is_everything || self.names.contains(name));
    }

    fn is_everything(&self) -> bool {
        self.is_everything_implied || self.names.contains("*")
    }

    fn due(&mut self, nonce: u64) -> Option<DeltaDiscoveryResponse> {
        if !self.is_asked {
            return None;
        }
        let is_everything = self.is_everything();
        let mut resources = Vec::new();
        for (name, version) in &self.resources {
            let version = version.to_string();
            if (is_everything || self.names.contains(name)) && self.sent.get(name) != Some(&version) {
                self.sent.insert(name.clone(), version.clone());
                self.denied.remove(name);
                let resource = Some(Any { type_url: KIND.type_url().to_owned(), value: Vec::new() });
                resources.push(Resource { name: name.clone(), version, resource, ..Default::default() });
            }
        }
        let spoken_of = self.names.iter().chain(self.sent.keys()).filter(|name| *name != "*");
        let gone: BTreeSet<_> = spoken_of
            .filter(|name| !self.resources.contains_key(*name) && !self.denied.contains(*name))
            .cloned()
            .collect();
        self.sent.retain(|name, _| !gone.contains(name));
        self.denied.extend(gone.iter().cloned());
        if resources.is_empty() && gone.is_empty() && !std::mem::take(&mut self.owes_an_answer) {
            return None;
        }
        self.owes_an_answer = false;
        let nonce = nonce.to_string();
        self.unanswered.insert(nonce.clone());
        let type_url = KIND.type_url().to_owned();
        let removed_resources = gone.into_iter().collect();
        Some(DeltaDiscoveryResponse { resources, removed_resources, nonce, type_url, ..Default::default() })
    }
}
