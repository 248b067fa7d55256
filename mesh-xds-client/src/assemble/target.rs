//! One target on its way from routes to routes: those that serve, and those that will when they are warm.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::config::{Listener, RouteConfig, TargetState};

use super::{
    Retired, Wanted,
    lead::{Found, Gone, Lead},
    reach,
};
use crate::{
    ResourceKind,
    pace::Pace,
    resource::{ListenerResource, RouteSource},
    status::Shared,
    store::Store,
};

/// A target that somebody watches.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) users: usize,
    /// What leads to its routes, or why nothing does.
    lead: Result<Lead, Arc<str>>,
    /// The routes that serve.
    serving: Option<Candidate>,
    /// The routes that will serve once they are warm.
    warming: Option<Candidate>,
    /// What is published. None until there is anything to say.
    state: Option<TargetState>,
}

/// A listener whose routes are known.
#[derive(Debug)]
struct Candidate {
    source: Arc<ListenerResource>,
    listener: Arc<Listener>,
    clusters: BTreeSet<Arc<str>>,
    /// Of which cluster it was said that its endpoints are waited for: nobody wants to read it with every change.
    waits_for: Option<Arc<str>>,
}

// === impl Target ===

impl Target {
    /// Nobody uses it yet.
    pub(super) fn new(lead: Result<Lead, Arc<str>>) -> Self {
        Self { users: 0, lead, serving: None, warming: None, state: None }
    }

    /// What is to be published of it.
    pub(super) fn state(&self) -> Option<&TargetState> {
        self.state.as_ref()
    }

    /// The clusters of the routes that serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Arc<str>> {
        self.serving.iter().flat_map(|candidate| &candidate.clusters)
    }

    /// The clusters of what serves and of what is to serve.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.serving().chain(self.warming.iter().flat_map(|candidate| &candidate.clusters))
    }

    /// Takes the step that the resources allow.
    pub(super) async fn advance(&mut self, shared: &Shared, node_id: &str, retired: &mut Retired, pace: &mut Pace) {
        let found = self.find(&shared.held().store, node_id, retired);
        if let Some((source, routes)) = found {
            self.follow(shared, &source, &routes, retired, pace).await;
        }
    }

    /// The routes that it should have. That there are none is settled here.
    fn find(
        &mut self,
        store: &Store,
        node_id: &str,
        retired: &mut Retired,
    ) -> Option<(Arc<ListenerResource>, Arc<RouteConfig>)> {
        let lead = match &self.lead {
            Ok(lead) => lead,
            Err(reason) => {
                self.state = Some(TargetState::Unavailable(reason.clone()));
                return None;
            }
        };
        match lead.find(store) {
            Found::Routes(source, routes) => return Some((source.clone(), routes.clone())),
            Found::Awaited => {}
            // Only a removal by the server takes away what leads to routes, and the routes go with it.
            Found::Gone(gone) => {
                let reason = gone.why(store, node_id);
                retired.take(self.serving.take());
                retired.take(self.warming.take());
                self.state = Some(TargetState::Unavailable(reason));
            }
            Found::NoRoutes(routes) => {
                let reason = Gone::Resource(ResourceKind::RouteConfiguration, routes).why(store, node_id);
                retired.take(self.warming.take());
                // Other routes that are missing leave those before them serving; these very routes were taken away.
                retired.take(self.serving.take_if(|serving| serving.is_by_name(routes)));
                if self.serving.is_none() {
                    self.state = Some(TargetState::Unavailable(reason));
                }
            }
        }
        None
    }

    /// Follows these routes, as soon as they are warm. A sidecar that has others waits for endpoints however long they take where
    /// their cluster says so.
    async fn follow(
        &mut self,
        shared: &Shared,
        source: &Arc<ListenerResource>,
        routes: &Arc<RouteConfig>,
        retired: &mut Retired,
        pace: &mut Pace,
    ) {
        let is_this = |candidate: &Candidate| candidate.is_of(source, routes);
        if self.serving.as_ref().is_some_and(is_this) {
            retired.take(self.warming.take());
            return;
        }
        if !self.warming.as_ref().is_some_and(is_this) {
            let candidate = Candidate::new(source, routes, pace).await;
            retired.take(self.warming.replace(candidate));
        }
        let is_patient = self.serving.is_some() && self.lead.as_ref().is_ok_and(Lead::is_of_sidecars);
        let mut silent = None;
        for cluster in self.warming.iter().flat_map(|candidate| &candidate.clusters) {
            if !reach::is_warm(&shared.held().store, cluster) {
                return;
            }
            if is_patient && reach::has_silent_endpoints(&shared.held().store, cluster) {
                silent = Some(cluster.clone());
                break;
            }
            pace.step().await;
        }
        if let (Some(cluster), Some(candidate)) = (silent, &mut self.warming) {
            return candidate.wait_for(cluster);
        }
        if let Some(candidate) = self.warming.take() {
            self.state = Some(TargetState::Ready(candidate.listener.clone()));
            retired.take(self.serving.replace(candidate));
        }
    }

    /// Marks what leads to the routes.
    pub(super) fn mark(&self, store: &Store, wanted: &mut Wanted) {
        if let Ok(lead) = &self.lead {
            lead.mark(store, |kind, name| wanted.add(kind, name));
        }
    }

    /// Nobody uses it any longer.
    pub(super) fn retire(self, retired: &mut Retired) {
        retired.take(self.serving);
        retired.take(self.warming);
    }
}

// === impl Candidate ===

impl Candidate {
    async fn new(source: &Arc<ListenerResource>, routes: &Arc<RouteConfig>, pace: &mut Pace) -> Self {
        let mut listener = Listener::new(source.name.clone(), routes.clone());
        listener.filters.clone_from(&source.filters);
        listener.policy = source.policy.clone();
        let mut clusters = BTreeSet::new();
        for route in routes.virtual_hosts().iter().flat_map(|host| &host.routes) {
            clusters.extend(route.action.clusters());
            pace.step().await;
        }
        Self { source: source.clone(), listener: Arc::new(listener), clusters, waits_for: None }
    }

    /// Says for whose endpoints it waits, once.
    fn wait_for(&mut self, cluster: Arc<str>) {
        if self.waits_for.as_ref() != Some(&cluster) {
            let target = &self.source.name;
            tracing::warn!(%target, %cluster, "new routes wait for the endpoints of a cluster; those before them serve");
            self.waits_for = Some(cluster);
        }
    }

    /// Whether its routes go by this name.
    fn is_by_name(&self, name: &str) -> bool {
        matches!(&self.source.routes, RouteSource::Named(routes) if **routes == *name)
    }

    fn is_of(&self, source: &Arc<ListenerResource>, routes: &Arc<RouteConfig>) -> bool {
        Arc::ptr_eq(&self.source, source) && Arc::ptr_eq(&self.listener.routes, routes)
    }
}

// === impl Retired ===

impl Retired {
    fn take(&mut self, candidate: Option<Candidate>) {
        let Some(Candidate { listener, clusters, .. }) = candidate else { return };
        self.listeners.push(listener);
        self.names.push(clusters);
    }
}
