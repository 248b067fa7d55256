//! One client's stream: which names it asked for, what it was sent, and what it is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::record::{Event, Request};
use super::store::Shelf;
use super::{Shared, State};
use crate::ResourceKind;

/// What the control plane tells the task of a stream.
#[derive(Debug)]
pub(super) enum Command {
    /// Resources changed, or silence ended.
    Changed,
    /// Send this as it is.
    Send(Box<DiscoveryResponse>),
    /// End the stream.
    End(Status),
}

/// What the control plane keeps of a live stream.
#[derive(Debug)]
pub(super) struct StreamHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) names: BTreeMap<ResourceKind, BTreeSet<String>>,
}

/// The task of one stream.
struct Stream {
    id: u64,
    shared: Arc<Shared>,
    /// By [`ResourceKind::index`].
    watches: [Watch; ResourceKind::ALL.len()],
    node_id: String,
    nonces: u64,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

/// Where the stream stands with one kind.
#[derive(Debug, Default)]
struct Watch {
    is_asked: bool,
    /// Whether a name was ever wanted, after which no names means nothing and no longer everything.
    has_named: bool,
    /// Whether anything was sent. Listeners and clusters get an answer even if there are none.
    is_greeted: bool,
    names: BTreeSet<String>,
    /// The nonce last sent. A request with another one crossed a response on its way, and the client is about to
    /// answer that.
    nonce: String,
    /// Nonce and version of what was sent and not answered.
    unanswered: VecDeque<(String, String)>,
    /// What the client was sent: the version in which each resource was set.
    sent: BTreeMap<String, u64>,
}

/// The stream is over: the client left, or was sent away.
struct Over;

/// Serves one stream until either side ends it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut requests: Streaming<DiscoveryRequest>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let (commands, mut orders) = mpsc::unbounded_channel();
    let id = shared.open_stream(commands);
    let mut stream = Stream {
        id,
        shared,
        watches: Default::default(),
        node_id: String::new(),
        nonces: 0,
        responses: responses.clone(),
    };
    loop {
        let step = tokio::select! {
            biased;
            () = responses.closed() => Err(Over),
            Some(order) = orders.recv() => stream.obey(order).await,
            request = requests.message() => match request {
                Ok(Some(request)) => stream.hear(request).await,
                Ok(None) | Err(_) => Err(Over),
            },
        };
        if step.is_err() {
            return;
        }
    }
}

// === impl Stream ===

impl Stream {
    async fn obey(&mut self, command: Command) -> Result<(), Over> {
        match command {
            Command::Changed => {
                for kind in ResourceKind::ALL {
                    self.send_due(kind).await?;
                }
                Ok(())
            }
            Command::Send(response) => {
                if let Some(kind) = ResourceKind::from_type_url(&response.type_url) {
                    self.watches[kind.index()].note_sent(&response);
                }
                self.send(*response).await
            }
            Command::End(status) => {
                let _ = self.responses.send(Err(status)).await;
                Err(Over)
            }
        }
    }

    async fn hear(&mut self, request: DiscoveryRequest) -> Result<(), Over> {
        let kind = ResourceKind::from_type_url(&request.type_url);
        let answers = kind.and_then(|kind| self.watches[kind.index()].settle(&request.response_nonce));
        self.record(kind, answers, &request);
        let Some(kind) = kind else { return Ok(()) };

        let watch = &mut self.watches[kind.index()];
        if !request.response_nonce.is_empty() && request.response_nonce != watch.nonce {
            return Ok(());
        }
        watch.want(kind, request.resource_names);
        let names = watch.names.clone();
        self.shared.with(|state| {
            if let Some(handle) = state.streams.get_mut(&self.id) {
                handle.names.insert(kind, names);
            }
        });
        self.send_due(kind).await
    }

    fn record(&mut self, kind: Option<ResourceKind>, answers: Option<String>, request: &DiscoveryRequest) {
        if let Some(node) = &request.node {
            node.id.clone_into(&mut self.node_id);
        }
        let is_answer = answers.is_some();
        let recorded = Request {
            stream: self.id,
            node_id: self.node_id.clone(),
            has_node: request.node.is_some(),
            kind,
            type_url: request.type_url.clone(),
            version: request.version_info.clone(),
            nonce: request.response_nonce.clone(),
            answers,
            names: request.resource_names.clone(),
            error: request.error_detail.as_ref().map(|status| status.message.clone()),
        };
        self.shared.record(match (&recorded.error, is_answer) {
            (Some(_), _) => Event::Nacked(recorded),
            (None, true) => Event::Acked(recorded),
            (None, false) => Event::Asked(recorded),
        });
    }

    async fn send_due(&mut self, kind: ResourceKind) -> Result<(), Over> {
        let watch = &mut self.watches[kind.index()];
        let nonce = format!("{}-{}", self.id, self.nonces + 1);
        let Some(response) = self.shared.with(|state| watch.due(kind, state, nonce)) else { return Ok(()) };
        self.nonces += 1;
        self.send(response).await
    }

    async fn send(&mut self, response: DiscoveryResponse) -> Result<(), Over> {
        let delay = self.shared.with(|state| state.faults.delay);
        if !delay.is_zero() {
            tokio::select! {
                biased;
                () = self.responses.closed() => return Err(Over),
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.responses.send(Ok(response)).await.map_err(|_| Over)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.close_stream(self.id);
    }
}

// === impl Watch ===

impl Watch {
    /// The version that a nonce answers. Earlier ones are settled with it.
    fn settle(&mut self, nonce: &str) -> Option<String> {
        let place = self.unanswered.iter().position(|(sent, _)| sent == nonce)?;
        self.unanswered.drain(..=place).next_back().map(|(_, version)| version)
    }

    /// Names are forgotten when they are no longer wanted, so that wanting them again sends them again.
    fn want(&mut self, kind: ResourceKind, names: Vec<String>) {
        self.is_asked = true;
        self.has_named |= !names.is_empty();
        self.names = names.into_iter().collect();
        if !self.is_wildcard(kind) {
            self.sent.retain(|name, _| self.names.contains(name));
        }
    }

    fn wants(&self, kind: ResourceKind, name: &str) -> bool {
        self.names.contains(name) || self.is_wildcard(kind)
    }

    /// Whether all resources are wanted: there is no such wish for kinds other than listeners and clusters.
    fn is_wildcard(&self, kind: ResourceKind) -> bool {
        kind.is_full_state() && (!self.has_named || self.names.contains("*"))
    }

    /// The response that brings the client up to date, if it is not.
    fn due(&mut self, kind: ResourceKind, state: &State, nonce: String) -> Option<DiscoveryResponse> {
        if !self.is_asked || state.faults.is_silent {
            return None;
        }
        let shelf = state.store.shelf(kind);
        let resources =
            if kind.is_full_state() { self.due_in_full(kind, shelf) } else { self.due_in_part(kind, shelf) }?;
        let response = DiscoveryResponse {
            version_info: shelf.version.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce,
            ..Default::default()
        };
        self.note_sent(&response);
        Some(response)
    }

    /// Everything that is wanted, if any of it differs from what was sent, or nothing was.
    fn due_in_full(&mut self, kind: ResourceKind, shelf: &Shelf) -> Option<Vec<Any>> {
        let wanted = || shelf.resources.iter().filter(|(name, _)| self.wants(kind, name));
        let now: BTreeMap<_, _> = wanted().map(|(name, stored)| (name.clone(), stored.since)).collect();
        if self.is_greeted && now == self.sent {
            return None;
        }
        let resources = wanted().map(|(_, stored)| stored.body.clone()).collect();
        self.sent = now;
        Some(resources)
    }

    /// What is wanted and was set since it was sent.
    fn due_in_part(&mut self, kind: ResourceKind, shelf: &Shelf) -> Option<Vec<Any>> {
        self.sent.retain(|name, _| shelf.resources.contains_key(name));
        let mut resources = Vec::new();
        for (name, stored) in &shelf.resources {
            if self.wants(kind, name) && self.sent.get(name) != Some(&stored.since) {
                self.sent.insert(name.clone(), stored.since);
                resources.push(stored.body.clone());
            }
        }
        (!resources.is_empty()).then_some(resources)
    }

    fn note_sent(&mut self, response: &DiscoveryResponse) {
        self.is_greeted = true;
        response.nonce.clone_into(&mut self.nonce);
        self.unanswered.push_back((response.nonce.clone(), response.version_info.clone()));
    }
}
