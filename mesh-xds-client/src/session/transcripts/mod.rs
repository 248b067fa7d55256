//! Transcripts of the protocol: what the session says, line by line, to what it is told.
//!
//! A [`Script`] plays the task that owns the stream and the server at its other end, with a clock moved by hand. Requests and
//! events are compared in short form: `CDS [a b] v1 n1` in state of the world, `CDS +[a] -[b] {c=v1} n1` in delta, where what
//! is empty is left out.

mod delta;
mod denials;
mod everything;
mod parts;
mod state_of_the_world;
mod time_to_live;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use tokio::time::Instant;

use super::{AbsenceReason, Batch, Config, Event, Request, ResourceError, Response, Session, Ticket, Variant, Verdict};
use crate::ResourceKind::{self, Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};

struct Script {
    session: Session,
    now: Instant,
    tickets: HashMap<String, Ticket>,
}

impl Script {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u64) -> Self {
        Self::of(Variant::StateOfTheWorld, seed)
    }

    fn of(variant: Variant, seed: u64) -> Self {
        let node = Node { id: "node-1".to_owned(), ..Default::default() };
        let config = Config { variant, ..Config::default() };
        Self { session: Session::new(config, node, seed), now: Instant::now(), tickets: HashMap::new() }
    }

    /// A session that asks for `names` of `kind` on an open stream, with the first request sent.
    fn asking(kind: ResourceKind, names: &[&str]) -> Self {
        let mut script = Self::new();
        script.open(kind, names);
        script
    }

    fn open(&mut self, kind: ResourceKind, names: &[&str]) {
        self.subscribe(kind, names);
        self.session.stream_opened();
        self.requests();
        self.events();
    }

    /// Asks for a listener too, which is answered: the fewest names of a kind are those that a new stream asks news of.
    fn with_listener(&mut self) {
        self.subscribe(Listener, &["l"]);
        self.requests();
        self.exchange(Listener, "l1", "ln", &["l"]);
    }

    fn subscribe(&mut self, kind: ResourceKind, names: &[&str]) {
        for name in names {
            self.session.subscribe(kind, name);
        }
    }

    fn unsubscribe(&mut self, kind: ResourceKind, names: &[&str]) {
        for name in names {
            self.session.unsubscribe(kind, name);
        }
    }

    fn respond(&mut self, kind: ResourceKind, version: &str, nonce: &str, names: &[&str]) {
        let resources = names.iter().map(|name| wrapped(name, kind.type_url())).collect();
        self.receive(response(kind.type_url(), version, nonce, resources));
    }

    fn receive(&mut self, response: impl Into<Response>) {
        self.session.received(response, self.now);
    }

    /// A response in delta: names with their versions, and names that are gone.
    fn change(&mut self, kind: ResourceKind, nonce: &str, resources: &[(&str, &str)], removed: &[&str]) {
        let resources = resources.iter().map(|(name, version)| versioned(kind, name, version)).collect();
        self.receive(delta(kind, nonce, resources, removed));
    }

    /// A response in delta that is delivered, accepted whole and answered.
    fn exchange_change(&mut self, kind: ResourceKind, nonce: &str, resources: &[(&str, &str)]) {
        self.change(kind, nonce, resources, &[]);
        self.events();
        let names: Vec<_> = resources.iter().map(|(name, _)| *name).collect();
        self.accept(nonce, &names);
        assert_eq!(self.requests(), [format!("{} {nonce}", short(kind.type_url()))]);
    }

    /// Takes the events, and keeps the tickets of batches by their nonce.
    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.poll_event().map(|event| self.tell(event))).collect()
    }

    fn tell(&mut self, event: Event) -> String {
        match event {
            Event::Connect => "connect".to_owned(),
            Event::Live => "live".to_owned(),
            Event::Deliver(batch) => {
                let mut batch: Batch = *batch;
                let names: Vec<_> = batch.by_ref().map(|one| one.name.unwrap_or("?".to_owned())).collect();
                let (kind, version) = (batch.kind, batch.version.clone());
                let ticket = batch.into_ticket();
                let line = format!("deliver {} {names:?} {version} {}", short(kind.type_url()), ticket.nonce());
                self.tickets.insert(ticket.nonce().to_owned(), ticket);
                line.replace(['"', ','], "")
            }
            Event::Absent { kind, name, reason } => {
                let how = match reason {
                    AbsenceReason::NotFoundTimer => "not found",
                    AbsenceReason::Removed => "removed",
                    AbsenceReason::Unknown => "unknown",
                    AbsenceReason::Expired => "expired",
                };
                format!("absent {} {name}: {how}", short(kind.type_url()))
            }
            Event::Denied { kind, name, code, message } => {
                format!("denied {} {name}: {code:?} {message}", short(kind.type_url()))
            }
            Event::Lost { cause, was_live, .. } => format!("lost {cause}, live {was_live}"),
            Event::Ignored { type_url } => format!("ignored {type_url}"),
        }
    }

    fn accept(&mut self, nonce: &str, names: &[&str]) {
        self.answer(nonce, names, Vec::new());
    }

    fn reject(&mut self, nonce: &str, accepted: &[&str], rejected: &[&str]) {
        let rejected = rejected.iter().map(|name| ResourceError {
            name: Some((*name).to_owned()),
            field: Some("lb_policy".to_owned()),
            message: "unknown value 9".to_owned(),
        });
        self.answer(nonce, accepted, rejected.collect());
    }

    fn answer(&mut self, nonce: &str, accepted: &[&str], rejected: Vec<ResourceError>) {
        let ticket = self.tickets.remove(nonce).expect("a batch with that nonce was delivered");
        let accepted = accepted.iter().map(|name| Arc::from(*name)).collect();
        self.session.answer(ticket, Verdict { accepted, rejected }, self.now);
    }

    /// A response that is delivered, accepted whole and answered.
    fn exchange(&mut self, kind: ResourceKind, version: &str, nonce: &str, names: &[&str]) {
        self.respond(kind, version, nonce, names);
        self.events();
        self.accept(nonce, names);
        self.requests();
    }

    /// As [`exchange`](Self::exchange), leaving what follows from the verdict to be looked at.
    fn exchange_quietly(&mut self, kind: ResourceKind, version: &str, nonce: &str, names: &[&str]) {
        self.respond(kind, version, nonce, names);
        self.events();
        self.accept(nonce, names);
    }

    fn take_requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.session.poll_request(self.now)).collect()
    }

    /// The requests sent now: kind, names, version and nonce (`-` when empty), and `NACK`.
    fn requests(&mut self) -> Vec<String> {
        self.take_requests().iter().map(line).collect()
    }

    fn advance(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.session.timeout(self.now);
    }

    /// Ends the stream and waits until the session wants the next.
    fn lose_stream(&mut self) {
        self.session.stream_ended("reset", self.now);
        self.now = self.session.next_timeout().expect("a reconnect is due");
        self.session.timeout(self.now);
        self.events();
    }

    /// Loses the stream and opens the next; what is asked for on it.
    fn reopen(&mut self) -> Vec<String> {
        self.lose_stream();
        self.session.stream_opened();
        self.requests()
    }
}

fn line(request: &Request) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut line = short(request.type_url()).to_owned();
    let error = match request {
        Request::StateOfTheWorld(request) => {
            let (version, nonce) = (or_dash(&request.version_info), or_dash(&request.response_nonce));
            line += &format!(" [{}] {version} {nonce}", request.resource_names.join(" "));
            &request.error_detail
        }
        Request::Delta(request) => {
            let mut versions: Vec<_> =
                request.initial_resource_versions.iter().map(|(name, version)| format!("{name}={version}")).collect();
            versions.sort_unstable();
            let parts = [
                ("+[", request.resource_names_subscribe.join(" "), "]"),
                ("-[", request.resource_names_unsubscribe.join(" "), "]"),
                ("{", versions.join(" "), "}"),
                ("", request.response_nonce.clone(), ""),
            ];
            for (open, part, close) in parts.into_iter().filter(|(_, part, _)| !part.is_empty()) {
                line += &format!(" {open}{part}{close}");
            }
            &request.error_detail
        }
    };
    if error.is_some() { line + " NACK" } else { line }
}

/// The code and text of a refusal.
fn complaint(request: &Request) -> (i32, &str) {
    let error = match request {
        Request::StateOfTheWorld(request) => &request.error_detail,
        Request::Delta(request) => &request.error_detail,
    };
    let error = error.as_ref().expect("a refusal says why");
    (error.code, &error.message)
}

fn short(type_url: &str) -> &'static str {
    match ResourceKind::from_type_url(type_url).expect("a known type") {
        Cluster => "CDS",
        ClusterLoadAssignment => "EDS",
        Listener => "LDS",
        RouteConfiguration => "RDS",
    }
}

fn response(type_url: &str, version: &str, nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: nonce.to_owned(),
        type_url: type_url.to_owned(),
        resources,
        ..Default::default()
    }
}

fn delta(kind: ResourceKind, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "s1".to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        nonce: nonce.to_owned(),
        ..Default::default()
    }
}

fn versioned(kind: ResourceKind, name: &str, version: &str) -> Resource {
    let body = Any { type_url: kind.type_url().to_owned(), value: name.as_bytes().to_vec() };
    Resource { name: name.to_owned(), version: version.to_owned(), resource: Some(body), ..Default::default() }
}

fn wrapped(name: &str, type_url: &str) -> Any {
    let body = Any { type_url: type_url.to_owned(), value: name.as_bytes().to_vec() };
    wrapper(Resource { name: name.to_owned(), resource: Some(body), ..Default::default() })
}

fn wrapper(resource: Resource) -> Any {
    Any { type_url: Resource::type_url(), value: resource.encode_to_vec() }
}
