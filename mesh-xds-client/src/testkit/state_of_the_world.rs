//! State of the world, as a server speaks it.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;

use super::State;
use super::record::Request;
use super::store::Shelf;
use super::stream::{self, Unanswered};
use crate::ResourceKind;
use crate::session::Response;

/// Where the stream stands with one kind.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_asked: bool,
    /// Whether a name was ever wanted, after which no names means nothing and no longer everything.
    has_named: bool,
    /// Whether anything was sent. Listeners and clusters get an answer even if there are none.
    is_greeted: bool,
    names: BTreeSet<String>,
    /// The nonce last sent. A request with another one crossed a response on its way, and the client is about to
    /// answer that.
    nonce: String,
    unanswered: Unanswered,
    /// What the client was sent: the version in which each resource was set.
    sent: BTreeMap<String, u64>,
}

// === impl Watch ===

impl stream::Watch for Watch {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn record(request: &DiscoveryRequest) -> Request {
        Request {
            has_node: request.node.is_some(),
            kind: ResourceKind::from_type_url(&request.type_url),
            type_url: request.type_url.clone(),
            version: request.version_info.clone(),
            nonce: request.response_nonce.clone(),
            names: request.resource_names.clone(),
            error: request.error_detail.as_ref().map(|status| status.message.clone()),
            ..Request::default()
        }
    }

    fn node_id(request: &DiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| &*node.id)
    }

    fn spoken(response: Response) -> Option<DiscoveryResponse> {
        if let Response::StateOfTheWorld(response) = response { Some(response) } else { None }
    }

    fn type_url(response: &DiscoveryResponse) -> &str {
        &response.type_url
    }

    /// Earlier ones are settled with it.
    fn settle(&mut self, nonce: &str) -> Option<String> {
        let place = self.unanswered.place(nonce)?;
        self.unanswered.0.drain(..=place).next_back().map(|(_, version)| version)
    }

    fn ask(&mut self, kind: ResourceKind, request: DiscoveryRequest) -> bool {
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce {
            return false;
        }
        self.want(kind, request.resource_names);
        true
    }

    fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    fn due(&mut self, kind: ResourceKind, state: &State, nonce: String) -> Option<DiscoveryResponse> {
        if !self.is_asked {
            return None;
        }
        let shelf = state.store.shelf(kind);
        let resources =
            if kind.is_full_state() { self.due_in_full(kind, shelf) } else { self.due_in_part(kind, shelf) }?;
        Some(DiscoveryResponse {
            version_info: shelf.version.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce,
            ..Default::default()
        })
    }

    fn note_sent(&mut self, response: &DiscoveryResponse) {
        self.is_greeted = true;
        response.nonce.clone_into(&mut self.nonce);
        self.unanswered.add(&response.nonce, &response.version_info);
    }

    fn unanswered(&self) -> &Unanswered {
        &self.unanswered
    }
}

impl Watch {
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
}
