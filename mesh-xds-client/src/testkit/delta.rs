//! Delta, as a server speaks it.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

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
    /// Whether everything is wanted because the first request had no names, and none came since.
    is_everything_implied: bool,
    /// Whether anything was sent. Who asks for everything is told even if there is nothing.
    is_greeted: bool,
    /// `*` among them.
    names: BTreeSet<String>,
    unanswered: Unanswered,
    /// What the client has, by name and version: as it says itself at first, then as it was sent.
    sent: BTreeMap<String, String>,
    /// Names that the client was told there is nothing for.
    denied: BTreeSet<String>,
}

// === impl Watch ===

impl stream::Watch for Watch {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn record(request: &DeltaDiscoveryRequest) -> Request {
        Request {
            has_node: request.node.is_some(),
            kind: ResourceKind::from_type_url(&request.type_url),
            type_url: request.type_url.clone(),
            nonce: request.response_nonce.clone(),
            error: request.error_detail.as_ref().map(|status| status.message.clone()),
            is_delta: true,
            subscribes: request.resource_names_subscribe.clone(),
            unsubscribes: request.resource_names_unsubscribe.clone(),
            holds: request.initial_resource_versions.clone().into_iter().collect(),
            ..Request::default()
        }
    }

    fn node_id(request: &DeltaDiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| &*node.id)
    }

    fn spoken(response: Response) -> Option<DeltaDiscoveryResponse> {
        if let Response::Delta(response) = response { Some(response) } else { None }
    }

    fn type_url(response: &DeltaDiscoveryResponse) -> &str {
        &response.type_url
    }

    fn settle(&mut self, nonce: &str) -> Option<String> {
        let place = self.unanswered.place(nonce)?;
        self.unanswered.0.remove(place).map(|(_, version)| version)
    }

    /// What is subscribed to again is sent again. What is dropped while everything is wanted is sent again too, or called gone.
    fn ask(&mut self, _: ResourceKind, request: DeltaDiscoveryRequest) -> bool {
        let (subscribe, unsubscribe) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        if !std::mem::replace(&mut self.is_asked, true) {
            self.is_everything_implied = subscribe.is_empty();
            self.sent = request.initial_resource_versions.into_iter().collect();
            self.names = subscribe.into_iter().collect();
            return true;
        }
        self.is_everything_implied &= subscribe.is_empty() && unsubscribe.is_empty();
        for name in unsubscribe {
            self.names.remove(&name);
            self.forget(&name);
        }
        for name in subscribe {
            self.forget(&name);
            self.names.insert(name);
        }
        if !self.is_everything() {
            self.sent.retain(|name, _| self.names.contains(name));
        }
        true
    }

    fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    fn due(&mut self, kind: ResourceKind, state: &State, nonce: String) -> Option<DeltaDiscoveryResponse> {
        if !self.is_asked {
            return None;
        }
        let shelf = state.store.shelf(kind);
        let (resources, removed_resources) = (self.due_resources(shelf), self.due_removals(shelf));
        let is_first = self.is_everything() && !self.is_greeted;
        if resources.is_empty() && removed_resources.is_empty() && !is_first {
            return None;
        }
        Some(DeltaDiscoveryResponse {
            system_version_info: shelf.version.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            removed_resources,
            nonce,
            ..Default::default()
        })
    }

    fn note_sent(&mut self, response: &DeltaDiscoveryResponse) {
        self.is_greeted = true;
        self.unanswered.add(&response.nonce, &response.system_version_info);
    }

    fn unanswered(&self) -> &Unanswered {
        &self.unanswered
    }
}

impl Watch {
    fn is_everything(&self) -> bool {
        self.is_everything_implied || self.names.contains("*")
    }

    fn forget(&mut self, name: &str) {
        self.sent.remove(name);
        self.denied.remove(name);
    }

    /// What is wanted and is not what the client has.
    fn due_resources(&mut self, shelf: &Shelf) -> Vec<Resource> {
        let mut resources = Vec::new();
        let is_everything = self.is_everything();
        for (name, stored) in &shelf.resources {
            let version = stored.since.to_string();
            let is_wanted = is_everything || self.names.contains(name);
            if !is_wanted || self.sent.get(name) == Some(&version) {
                continue;
            }
            self.denied.remove(name);
            self.sent.insert(name.clone(), version.clone());
            let resource = Some(stored.body.clone());
            resources.push(Resource { name: name.clone(), version, resource, ..Default::default() });
        }
        resources
    }

    /// What the client has or asks for, is not there, and it was not told so.
    fn due_removals(&mut self, shelf: &Shelf) -> Vec<String> {
        let missing = self.names.iter().chain(self.sent.keys());
        let missing = missing.filter(|name| *name != "*" && !shelf.resources.contains_key(*name));
        let removed: BTreeSet<_> = missing.filter(|name| !self.denied.contains(*name)).cloned().collect();
        self.sent.retain(|name, _| !removed.contains(name));
        self.denied.extend(removed.iter().filter(|name| self.names.contains(*name)).cloned());
        removed.into_iter().collect()
    }
}
