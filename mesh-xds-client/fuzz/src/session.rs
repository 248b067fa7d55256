//! What holds of a session whatever happens to it, in whatever order: a byte string is a script, read by the world that the
//! session lives in.
//!
//! The server in this world keeps to no rule. It repeats nonces, says what nobody asked for, removes what was never there and
//! writes resources without body or name. The caller keeps to the session's rules: verdicts of a kind come in order.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    ResourceError as WireError, ResourceName,
};
use envoy_types::pb::google::protobuf::{self as wire, Any};
use envoy_types::pb::google::rpc;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::session::{
    AbsenceReason, Batch, Config, Event, Request, ResourceError, Response, Session, Variant, Verdict,
};
use prost::{Message, Name};
use tokio::time::Instant;

/// What is asked for by name.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What a server says besides.
const ODD_NAMES: [&str; 4] = ["", "*", "nobody's", "a\u{fffd}"];

/// Runs a script to its end, and the conversation to rest.
pub fn check(script: &[u8]) {
    let mut script = Script(script);
    let mut world = World::new(script.byte());
    while !script.0.is_empty() {
        world.step(&mut script);
    }
    world.settle();
}

/// The rest of a script. At its end it reads as zeros.
struct Script<'a>(&'a [u8]);

/// The session, the stream as a server sees it, and what the caller holds.
struct World {
    session: Session,
    now: Instant,
    wanted: BTreeSet<Key>,
    /// The kinds of which everything is wanted.
    everything: BTreeSet<ResourceKind>,
    /// What the caller has in use.
    held: BTreeSet<Key>,
    /// What the caller has because everything is wanted, and the server of the next stream may not: silence may end it.
    presumed: BTreeSet<Key>,
    /// What has come with a time to live, ever.
    mortal: BTreeSet<Key>,
    /// Delivered and not judged, oldest first, with what it said.
    undecided: VecDeque<(Batch, Facts)>,
    /// What the next delivered batch said.
    arriving: Option<Facts>,
    variant: Variant,
    stream: Stream,
    streams: u32,
    ignored: usize,
    responses: u32,
}

type Key = (ResourceKind, String);

/// The present stream.
#[derive(Default)]
struct Stream {
    is_connecting: bool,
    is_open: bool,
    is_greeted: bool,
    kinds: BTreeMap<ResourceKind, Conversation>,
    /// Whether the server used a nonce twice, or anything that this world did not write itself.
    is_ambiguous: bool,
}

/// What the server of a stream knows of a kind, once it was asked.
#[derive(Default)]
struct Conversation {
    names: BTreeSet<String>,
    /// What was delivered and not answered, oldest first.
    pending: VecDeque<String>,
    /// The nonce that was answered last.
    answered: String,
}

/// What a response said of names.
#[derive(Default)]
struct Facts {
    mentioned: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// Whether what it does not mention is gone.
    is_full: bool,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

// === impl Script ===

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn one_in(&mut self, sides: u8) -> bool {
        self.byte() % sides == 1
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn kind(&mut self) -> ResourceKind {
        ResourceKind::ALL[self.below(ResourceKind::ALL.len())]
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.below(NAMES.len())]
    }

    /// A name that a server says.
    fn any_name(&mut self) -> String {
        let all = self.below(NAMES.len() + ODD_NAMES.len());
        NAMES.iter().chain(&ODD_NAMES).nth(all).copied().unwrap_or_default().to_owned()
    }

    /// As many bytes as come up.
    fn bytes(&mut self) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(usize::from(self.byte()).min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn time_to_live(&mut self) -> Option<wire::Duration> {
        let seconds = match self.below(8) {
            0 => 3,
            1 => i64::MAX,
            2 => -1,
            3 => 0,
            _ => return None,
        };
        Some(wire::Duration { seconds, nanos: i32::from(self.byte()) - 1 })
    }

    fn resource(&mut self, kind: ResourceKind) -> Resource {
        let type_url = if self.one_in(16) { "type/foreign".to_owned() } else { kind.type_url().to_owned() };
        let body = Any { type_url, value: Vec::new() };
        Resource {
            name: self.any_name(),
            version: (self.byte() % 4).to_string(),
            resource: (!self.one_in(8)).then_some(body),
            ttl: self.time_to_live(),
            ..Default::default()
        }
    }

    /// What a server says of resources that it does not give.
    fn errors(&mut self) -> Vec<WireError> {
        let error = |name: String, code: u8| WireError {
            resource_name: Some(ResourceName { name, ..Default::default() }),
            error_detail: Some(rpc::Status { code: i32::from(code % 20), ..Default::default() }),
        };
        (0..self.below(8).saturating_sub(5)).map(|_| error(self.any_name(), self.byte())).collect()
    }
}

// === impl World ===

impl World {
    fn new(seed: u8) -> Self {
        let node = Node { id: "node".to_owned(), ..Default::default() };
        let variant = if seed.is_multiple_of(2) { Variant::StateOfTheWorld } else { Variant::Delta };
        let config = Config { variant, ..Config::default() };
        Self {
            session: Session::new(config, node, seed.into()),
            now: *START,
            wanted: BTreeSet::new(),
            everything: BTreeSet::new(),
            held: BTreeSet::new(),
            presumed: BTreeSet::new(),
            mortal: BTreeSet::new(),
            undecided: VecDeque::new(),
            arriving: None,
            variant,
            stream: Stream::default(),
            streams: 0,
            ignored: 0,
            responses: 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(16) {
            0 | 1 => self.subscribe(script.kind(), script.name()),
            2 => self.unsubscribe(script.kind(), script.name()),
            3 => self.want_everything(script.kind(), script.one_in(2)),
            4 | 5 => self.open(),
            6 => self.end(script.one_in(4)),
            7..=9 => self.respond(script),
            10 => self.respond_as_written(script),
            11 | 12 => self.judge(script.byte()),
            13 | 14 => self.transmit(1 + script.below(4)),
            _ => self.wait(Duration::from_millis(u64::from(script.byte()) * 150)),
        }
        self.take_events(&BTreeSet::new());
    }

    fn subscribe(&mut self, kind: ResourceKind, name: &str) {
        self.session.subscribe(kind, name);
        self.wanted.insert((kind, name.to_owned()));
    }

    fn unsubscribe(&mut self, kind: ResourceKind, name: &str) {
        self.session.unsubscribe(kind, name);
        let key = (kind, name.to_owned());
        self.wanted.remove(&key);
        if !self.everything.contains(&kind) {
            self.held.remove(&key);
        } else if self.held.contains(&key) {
            self.presumed.insert(key);
        }
    }

    fn want_everything(&mut self, kind: ResourceKind, is_wanted: bool) {
        if is_wanted {
            self.session.subscribe_all(kind);
            self.everything.insert(kind);
            return;
        }
        self.session.unsubscribe_all(kind);
        self.everything.remove(&kind);
        let wanted = &self.wanted;
        self.held.retain(|key| key.0 != kind || wanted.contains(key));
    }

    fn is_wanted(&self, key: &Key) -> bool {
        self.wanted.contains(key) || self.everything.contains(&key.0)
    }

    fn open(&mut self) {
        if !self.stream.is_connecting {
            // Out of turn: it changes nothing.
            return self.session.stream_opened();
        }
        self.session.stream_opened();
        self.stream = Stream { is_open: true, ..Stream::default() };
    }

    fn end(&mut self, forgets_versions: bool) {
        self.session.stream_ended("reset", self.now);
        self.stream = Stream::default();
        self.streams += 1;
        if forgets_versions {
            self.presumed.extend(self.held.difference(&self.wanted).cloned());
            self.session.forget_versions();
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.timeout(self.now);
        assert!(self.session.next_timeout().is_none_or(|next| next > self.now), "what was due is done");
    }

    /// A response whose parts make sense each by itself.
    fn respond(&mut self, script: &mut Script<'_>) {
        let (kind, is_foreign_variant) = (script.kind(), script.one_in(32));
        self.responses += 1;
        let nonce = if script.one_in(24) {
            self.stream.is_ambiguous = true;
            "1".to_owned()
        } else {
            format!("{}-{}", self.streams, self.responses)
        };
        let count = script.below(5);
        let is_delta = (self.variant == Variant::Delta) != is_foreign_variant;
        let response: Response = if is_delta {
            let resources = (0..count).map(|_| script.resource(kind)).collect();
            let resource_errors = script.errors();
            let removed_resources = (0..script.below(3)).map(|_| script.any_name()).collect();
            let type_url = kind.type_url().to_owned();
            DeltaDiscoveryResponse {
                resources,
                removed_resources,
                resource_errors,
                nonce,
                type_url,
                ..Default::default()
            }
            .into()
        } else {
            let wrapper = |resource: &Resource| Any { type_url: Resource::type_url(), value: resource.encode_to_vec() };
            let resources = (0..count).map(|_| wrapper(&script.resource(kind))).collect();
            let (version_info, resource_errors) = ((script.byte() % 4).to_string(), script.errors());
            let type_url = kind.type_url().to_owned();
            DiscoveryResponse { resources, version_info, resource_errors, nonce, type_url, ..Default::default() }.into()
        };
        self.receive(response);
    }

    /// A response of any bytes that are one.
    fn respond_as_written(&mut self, script: &mut Script<'_>) {
        let bytes = script.bytes();
        let response = match self.variant {
            Variant::StateOfTheWorld => DiscoveryResponse::decode(&*bytes).map(Response::from),
            Variant::Delta => DeltaDiscoveryResponse::decode(&*bytes).map(Response::from),
        };
        if let Ok(response) = response {
            self.stream.is_ambiguous = true;
            self.receive(response);
        }
    }

    fn receive(&mut self, response: Response) {
        self.arriving = Some(Facts::of(&response));
        let nonce = match &response {
            Response::StateOfTheWorld(response) => response.nonce.clone(),
            Response::Delta(response) => response.nonce.clone(),
        };
        let kind = ResourceKind::from_type_url(response.type_url());
        let before = self.undecided.len();
        self.session.received(response, self.now);
        self.take_events(&BTreeSet::new());
        let is_delivered = self.undecided.len() > before;
        if let (true, Some(kind)) = (is_delivered, kind) {
            let conversation = self.stream.kinds.get_mut(&kind).expect("what is delivered was asked for");
            conversation.pending.push_back(nonce);
        }
    }

    /// The verdict on the oldest batch: `bad` has a bit for each resource that is refused.
    fn judge(&mut self, bad: u8) {
        let Some((mut batch, facts)) = self.undecided.pop_front() else { return };
        let kind = batch.kind;
        let mut verdict = Verdict::default();
        for (place, resource) in batch.by_ref().enumerate() {
            let is_bad = resource.body.type_url != kind.type_url() || bad >> (place % 8) & 1 == 1;
            match resource.name {
                Some(name) if !is_bad => verdict.accepted.push(name.into()),
                name => verdict.rejected.push(ResourceError { name, field: None, message: "bad".to_owned() }),
            }
        }
        let used = verdict.accepted.iter().map(|name| (kind, name.to_string()));
        let used: Vec<_> = used.filter(|key| self.is_wanted(key)).collect();
        self.mortal.extend(facts.mentioned.iter().map(|name| (kind, name.clone())));
        // A wrapper without a name goes by what is in it.
        self.mortal.extend(used.iter().cloned());
        let gone = self.held.iter().filter(|key| key.0 == kind && facts.is_gone(&key.1)).cloned();
        let mut gone: BTreeSet<_> = gone.collect();
        // What was refused and never held may go as well.
        gone.extend(facts.removed.iter().map(|name| (kind, name.clone())));
        if facts.is_full {
            gone.extend(self.mortal.iter().filter(|key| key.0 == kind && facts.is_gone(&key.1)).cloned());
        }
        self.presumed.retain(|key| !used.contains(key));
        self.held.extend(used);
        self.session.answer(batch.into_ticket(), verdict, self.now);
        self.take_events(&gone);
    }

    /// Takes what the session has to say. `gone` is what a server has just called so.
    fn take_events(&mut self, gone: &BTreeSet<Key>) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Connect => {
                    assert!(!self.stream.is_open && !self.stream.is_connecting, "one stream at a time");
                    self.stream.is_connecting = true;
                }
                Event::Deliver(batch) => {
                    let facts = self.arriving.take().expect("one response is one batch");
                    self.undecided.push_back((*batch, facts));
                }
                Event::Absent { kind, name, reason } => self.lose((kind, name), reason, gone),
                Event::Denied { kind, name, .. } => {
                    let key = (kind, name);
                    assert!(self.is_wanted(&key), "a denial of what nobody asked for");
                    // The next stream is not told that it is held, and by silence says that there is none.
                    self.presumed.insert(key);
                }
                Event::Ignored { .. } => self.ignored += 1,
                _ => {}
            }
        }
        assert!(self.ignored <= 32, "what is remembered of a peer's types is bounded");
    }

    /// The last good value goes for a reason, or not at all.
    fn lose(&mut self, key: Key, reason: AbsenceReason, gone: &BTreeSet<Key>) {
        let is_held = self.held.remove(&key);
        let is_presumed = self.presumed.remove(&key);
        match reason {
            AbsenceReason::NotFoundTimer => {
                assert!(self.stream.is_open, "absence by timer needs a live stream");
                assert!(self.wanted.contains(&key), "absence of a name nobody wants");
                assert!(!is_held, "a held name was reported absent by its timer");
            }
            AbsenceReason::Removed => {
                assert!(gone.contains(&key), "{key:?} was delivered, and nobody removed it");
            }
            AbsenceReason::Unknown => {
                assert!(!is_held || is_presumed, "a held name was reported unknown");
                assert_eq!(self.variant, Variant::Delta);
            }
            AbsenceReason::Expired => assert!(self.mortal.contains(&key), "{key:?} never had a time to live"),
        }
    }

    fn transmit(&mut self, room: usize) {
        for _ in 0..room {
            let Some(request) = self.session.poll_request(self.now) else { return };
            assert!(self.stream.is_open, "a request without a stream");
            let is_first = !std::mem::replace(&mut self.stream.is_greeted, true);
            assert_eq!(request.node().is_some(), is_first, "the node opens a stream");
            match request {
                Request::StateOfTheWorld(request) => self.heed_state(&request),
                Request::Delta(request) => self.heed_change(&request),
            }
        }
    }

    fn heed_state(&mut self, request: &DiscoveryRequest) {
        assert_eq!(self.variant, Variant::StateOfTheWorld);
        let kind = ResourceKind::from_type_url(&request.type_url).expect("a kind that we know");
        let is_first = !self.stream.kinds.contains_key(&kind);
        let names: BTreeSet<_> = request.resource_names.iter().cloned().collect();
        assert_eq!(names.len(), request.resource_names.len(), "a name was sent twice");
        for name in names.iter().filter(|name| *name != "*") {
            assert!(self.wanted.contains(&(kind, name.clone())), "a name nobody wants was sent");
        }
        let is_everything = self.everything.contains(&kind);
        assert!(!is_first || !names.is_empty() || is_everything, "it asks for everything, which nobody wants");

        let is_ambiguous = self.stream.is_ambiguous;
        let conversation = self.stream.kinds.entry(kind).or_default();
        let nonce = &request.response_nonce;
        if is_first {
            assert!(nonce.is_empty() && request.error_detail.is_none(), "an answer on a stream that has said nothing");
        } else if !is_ambiguous {
            if *nonce == conversation.answered {
                assert!(request.error_detail.is_none(), "a refusal was sent twice");
                assert!(conversation.pending.is_empty(), "names were sent while an answer is owed");
            } else {
                let place = conversation.pending.iter().position(|pending| pending == nonce);
                conversation.pending.drain(..=place.expect("answered out of order, or never delivered"));
            }
        }
        conversation.answered.clone_from(nonce);
        conversation.names = names;
    }

    fn heed_change(&mut self, request: &DeltaDiscoveryRequest) {
        assert_eq!(self.variant, Variant::Delta);
        let kind = ResourceKind::from_type_url(&request.type_url).expect("a kind that we know");
        let is_first = !self.stream.kinds.contains_key(&kind);
        let is_ambiguous = self.stream.is_ambiguous;
        let (subscribe, unsubscribe) = (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        let conversation = self.stream.kinds.entry(kind).or_default();
        let says_nothing =
            subscribe.is_empty() && unsubscribe.is_empty() && request.initial_resource_versions.is_empty();
        if !is_ambiguous && request.response_nonce.is_empty() {
            assert!(request.error_detail.is_none(), "an error of no response");
            assert!(is_first || !says_nothing, "a request that says nothing");
        } else if !is_ambiguous {
            assert!(says_nothing, "an answer that changes names");
            let place = conversation.pending.iter().position(|pending| *pending == request.response_nonce);
            conversation.pending.remove(place.expect("answered twice, or never delivered"));
        }
        let is_everything = self.everything.contains(&kind);
        assert!(!is_first || !subscribe.is_empty() || is_everything, "it asks for everything, which nobody wants");
        assert!(is_first || request.initial_resource_versions.is_empty(), "what is held is told first");
        for name in request.initial_resource_versions.keys() {
            assert!(self.held.contains(&(kind, name.clone())), "{name:?} of {kind} is not held");
        }
        for name in subscribe.iter().filter(|name| *name != "*") {
            assert!(self.wanted.contains(&(kind, name.clone())), "a name nobody wants was subscribed to");
        }
        let listed: HashSet<_> = subscribe.iter().chain(unsubscribe).collect();
        assert_eq!(listed.len(), subscribe.len() + unsubscribe.len(), "a name was listed twice");
        for name in unsubscribe.iter().filter(|name| *name != "*") {
            assert!(conversation.names.remove(name), "the server does not know of {name:?}");
        }
        conversation.names.extend(subscribe.iter().filter(|name| *name != "*").cloned());
    }

    /// Brings the conversation to rest on an open stream: then nothing may be left unsaid, nor any clock run.
    fn settle(&mut self) {
        for _ in 0..4 {
            while !self.undecided.is_empty() {
                self.judge(0);
            }
            self.wait(Duration::from_secs(1000));
            self.take_events(&BTreeSet::new());
            if self.stream.is_connecting {
                self.open();
            }
            self.transmit(usize::MAX);
        }
        let wants_nothing = self.wanted.is_empty() && self.everything.is_empty();
        assert!(self.stream.is_open || wants_nothing, "names are wanted and no stream is open");
        for (kind, conversation) in self.stream.kinds.iter().filter(|_| self.stream.is_open) {
            let wanted = self.wanted.iter().filter(|key| key.0 == *kind).map(|key| &key.1);
            let known = conversation.names.iter().filter(|name| *name != "*");
            assert!(known.eq(wanted), "the server does not know what is wanted of {kind}");
            assert!(
                self.stream.is_ambiguous || conversation.pending.is_empty(),
                "a batch of {kind} was never answered"
            );
        }
        let mut turns = 0;
        while let Some(next) = self.session.next_timeout() {
            self.wait(next.saturating_duration_since(self.now));
            self.take_events(&BTreeSet::new());
            self.transmit(usize::MAX);
            turns += 1;
            assert!(turns < 1000, "a clock runs for ever");
        }
    }
}

// === impl Facts ===

impl Facts {
    fn of(response: &Response) -> Self {
        match response {
            Response::StateOfTheWorld(response) => {
                let wrapped = response.resources.iter().filter_map(|any| Resource::decode(&*any.value).ok());
                let kind = ResourceKind::from_type_url(&response.type_url);
                Self {
                    mentioned: wrapped.map(|resource| resource.name).collect(),
                    is_full: kind.is_some_and(ResourceKind::is_full_state),
                    ..Self::default()
                }
            }
            Response::Delta(response) => Self {
                mentioned: response.resources.iter().map(|resource| resource.name.clone()).collect(),
                removed: response.removed_resources.iter().cloned().collect(),
                ..Self::default()
            },
        }
    }

    fn is_gone(&self, name: &str) -> bool {
        self.removed.contains(name) || self.is_full && !self.mentioned.contains(name)
    }
}
