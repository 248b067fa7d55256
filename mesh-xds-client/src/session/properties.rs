//! What holds in a session whatever happens, in whatever order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use prost::{Message, Name};
use tokio::time::Instant;

use super::{AbsenceReason, Batch, Config, Event, Request, ResourceError, Session, Verdict};
use crate::ResourceKind;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One thing that happens to a session.
#[derive(Debug, Clone)]
enum Step {
    Subscribe(ResourceKind, &'static str),
    Unsubscribe(ResourceKind, &'static str),
    Open,
    End,
    /// A response with these names.
    Respond(ResourceKind, BTreeSet<&'static str>),
    /// The verdict on the oldest unanswered batch: all good, or this name bad.
    Answer(Option<&'static str>),
    /// The transport has room for this many requests.
    Transmit(usize),
    Wait(u64),
}

/// The session, the wire as a server sees it, and what must be true of both.
struct World {
    session: Session,
    now: Instant,
    /// The subscriptions that the caller made.
    wanted: BTreeMap<ResourceKind, BTreeSet<&'static str>>,
    /// What the caller has in use.
    held: BTreeSet<(ResourceKind, String)>,
    /// What the server has shown of what is wanted, good or bad.
    shown: BTreeSet<(ResourceKind, String)>,
    unanswered: VecDeque<Batch>,
    /// The number of the current stream, as the caller counts them.
    stream: u64,
    /// Whether a stream was called for and not opened.
    is_connecting: bool,
    is_open: bool,
    greeted: bool,
    /// Nonces given out on the current stream and not answered, by kind, oldest first.
    pending: BTreeMap<ResourceKind, VecDeque<String>>,
    /// The nonce that a request may repeat, by kind.
    last_answered: BTreeMap<ResourceKind, String>,
    /// The names in the last request on this stream, by kind.
    server_knows: BTreeMap<ResourceKind, BTreeSet<String>>,
    responses: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = proptest::sample::select(ResourceKind::ALL.to_vec());
    let name = proptest::sample::select(NAMES.to_vec());
    let names = proptest::collection::btree_set(name.clone(), 0..4);
    let step = prop_oneof![
        4 => (kind.clone(), name.clone()).prop_map(|(kind, name)| Step::Subscribe(kind, name)),
        3 => (kind.clone(), name.clone()).prop_map(|(kind, name)| Step::Unsubscribe(kind, name)),
        3 => Just(Step::Open),
        1 => Just(Step::End),
        5 => (kind, names).prop_map(|(kind, names)| Step::Respond(kind, names)),
        5 => proptest::option::weighted(0.2, name).prop_map(Step::Answer),
        5 => (0..4_usize).prop_map(Step::Transmit),
        2 => (0..20_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_any_order_of_events(steps in steps(), seed: u64) {
        let mut world = World::new(seed);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }

    #[test]
    fn same_steps_and_seed_give_the_same_transcript(steps in steps(), seed: u64) {
        let run = || {
            let mut world = World::new(seed);
            steps.iter().cloned().flat_map(|step| { world.step(step); world.transmit(9) }).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

impl World {
    fn new(seed: u64) -> Self {
        let node = Node { id: "node".to_owned(), ..Default::default() };
        Self {
            session: Session::new(Config::default(), node, seed),
            now: *START,
            wanted: BTreeMap::new(),
            held: BTreeSet::new(),
            shown: BTreeSet::new(),
            unanswered: VecDeque::new(),
            stream: 0,
            is_connecting: false,
            is_open: false,
            greeted: false,
            pending: BTreeMap::new(),
            last_answered: BTreeMap::new(),
            server_knows: BTreeMap::new(),
            responses: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(kind, name) => {
                self.session.subscribe(kind, name);
                self.wanted.entry(kind).or_default().insert(name);
            }
            Step::Unsubscribe(kind, name) => {
                self.session.unsubscribe(kind, name);
                self.wanted.entry(kind).or_default().remove(name);
                self.held.remove(&(kind, name.to_owned()));
                self.shown.remove(&(kind, name.to_owned()));
            }
            Step::Open => self.open(),
            Step::End => self.end(),
            Step::Respond(kind, names) => self.respond(kind, &names),
            Step::Answer(bad) => self.answer(bad),
            Step::Transmit(room) => drop(self.transmit(room)),
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.session.timeout(self.now);
            }
        }
        self.take_events();
    }

    fn open(&mut self) {
        if std::mem::take(&mut self.is_connecting) {
            self.session.stream_opened();
            self.is_open = true;
        }
    }

    fn end(&mut self) {
        self.session.stream_ended("reset", self.now);
        self.is_connecting = false;
        self.is_open = false;
        self.greeted = false;
        self.stream += 1;
        self.pending.clear();
        self.last_answered.clear();
        self.server_knows.clear();
    }

    fn respond(&mut self, kind: ResourceKind, names: &BTreeSet<&'static str>) {
        self.responses += 1;
        let nonce = format!("{}-{}", self.stream, self.responses);
        if self.is_open && self.server_knows.contains_key(&kind) {
            self.pending.entry(kind).or_default().push_back(nonce.clone());
        }
        let resources = names.iter().map(|name| {
            let body = Any { type_url: kind.type_url().to_owned(), value: Vec::new() };
            let wrapper = Resource { name: (*name).to_owned(), resource: Some(body), ..Default::default() };
            Any { type_url: Resource::type_url(), value: wrapper.encode_to_vec() }
        });
        let response = DiscoveryResponse {
            version_info: self.responses.to_string(),
            nonce,
            type_url: kind.type_url().to_owned(),
            resources: resources.collect(),
            ..Default::default()
        };
        self.session.received(response, self.now);
    }

    fn answer(&mut self, bad: Option<&'static str>) {
        let Some(mut batch) = self.unanswered.pop_front() else { return };
        let kind = batch.kind;
        let names: Vec<_> = batch.by_ref().filter_map(|resource| resource.name).collect();
        let shown: Vec<_> = names.iter().filter(|name| self.is_wanted(kind, name)).cloned().collect();
        self.shown.extend(shown.into_iter().map(|name| (kind, name)));
        let (refused, accepted): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| Some(name.as_str()) == bad);
        let used: Vec<_> = accepted.iter().filter(|name| self.is_wanted(kind, name)).cloned().collect();
        self.held.extend(used.into_iter().map(|name| (kind, name)));
        let rejected =
            refused.into_iter().map(|name| ResourceError { name: Some(name), field: None, message: "bad".to_owned() });
        let accepted = accepted.into_iter().map(Into::into).collect();
        self.session.answer(batch.into_ticket(), Verdict { accepted, rejected: rejected.collect() }, self.now);
    }

    fn is_wanted(&self, kind: ResourceKind, name: &str) -> bool {
        self.wanted.get(&kind).is_some_and(|names| names.contains(name))
    }

    fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Connect => self.is_connecting = true,
                Event::Deliver(batch) => self.unanswered.push_back(*batch),
                Event::Absent { kind, name, reason: AbsenceReason::NotFoundTimer } => {
                    assert!(self.is_open, "absence by timer needs a live stream");
                    assert!(self.is_wanted(kind, &name), "absence of a name nobody wants");
                    assert!(!self.held.contains(&(kind, name)), "a held name was reported absent by its timer");
                }
                Event::Absent { kind, name, reason: AbsenceReason::Removed } => {
                    assert!(kind.is_full_state(), "{kind} has no removal by absence");
                    assert!(self.is_wanted(kind, &name), "removal of a name nobody wants");
                    self.held.remove(&(kind, name.clone()));
                    assert!(self.shown.remove(&(kind, name)), "removal of a name never shown");
                }
                _ => {}
            }
        }
    }

    fn transmit(&mut self, room: usize) -> Vec<String> {
        let mut sent = Vec::new();
        while sent.len() < room {
            let Some(Request::StateOfTheWorld(request)) = self.session.poll_request(self.now) else { break };
            sent.push(format!("{request:?}"));
            self.check(&request);
        }
        sent
    }

    fn check(&mut self, request: &DiscoveryRequest) {
        assert!(self.is_open, "a request without a stream");
        assert_eq!(request.node.is_some(), !std::mem::replace(&mut self.greeted, true), "the node opens a stream");

        let kind = ResourceKind::from_type_url(&request.type_url).expect("a kind that we asked for");
        self.check_nonce(kind, request);

        let names: BTreeSet<_> = request.resource_names.iter().cloned().collect();
        assert_eq!(names.len(), request.resource_names.len(), "a name was sent twice");
        assert!(names.iter().all(|name| self.is_wanted(kind, name)), "a name nobody wants was sent");
        let is_first = !self.server_knows.contains_key(&kind);
        assert!(!(is_first && names.is_empty()), "a first request without names asks for everything");
        self.server_knows.insert(kind, names);
    }

    /// A nonce is that of an unanswered response, and stands for those before it, or repeats the last answered, or is the
    /// first of its stream.
    fn check_nonce(&mut self, kind: ResourceKind, request: &DiscoveryRequest) {
        let nonce = &request.response_nonce;
        let stream = self.stream;
        assert!(nonce.is_empty() || nonce.starts_with(&format!("{stream}-")), "nonce {nonce} on stream {stream}");
        let last = self.last_answered.entry(kind).or_default();
        if nonce == last {
            assert!(request.error_detail.is_none(), "a refusal was sent twice");
            return;
        }
        let pending = self.pending.entry(kind).or_default();
        let place = pending.iter().position(|one| one == nonce);
        pending.drain(..=place.expect("answered out of order, or never delivered"));
        nonce.clone_into(last);
    }

    /// Brings the conversation to rest on an open stream: then nothing may be left unsaid.
    fn settle(&mut self) {
        while !self.unanswered.is_empty() {
            self.step(Step::Answer(None));
        }
        self.step(Step::Wait(1000));
        self.step(Step::Open);
        self.transmit(usize::MAX);
        if !self.is_open {
            assert!(self.wanted.values().all(BTreeSet::is_empty), "names are wanted and no stream is open");
            return;
        }
        for kind in ResourceKind::ALL {
            let wanted = self.wanted.get(&kind).cloned().unwrap_or_default();
            let known = self.server_knows.get(&kind).cloned().unwrap_or_default();
            assert!(known.iter().map(String::as_str).eq(wanted), "the server does not know what is wanted of {kind}");
            assert!(self.pending.get(&kind).is_none_or(VecDeque::is_empty), "a batch of {kind} was never answered");
        }
        self.step(Step::Wait(15));
        assert_eq!(self.session.next_timeout(), None, "every name is held, refused or absent by now");
    }
}
