//! What leads from a target to its routes: a listener, in gRPC's dialect; in that of sidecars the service that its name stands
//! for, or a port.

use std::sync::Arc;

use mesh_core::{
    config::{FilterKind, HttpFilter, RetryPolicy, RouteConfig, RoutePolicy, TimeLimit, Timeouts},
    source::ResourceState,
};

use crate::{
    ResourceKind,
    resource::{ListenerResource, RouteSource},
    store::{Entry, Known, Store},
};

/// What leads to the routes of a target.
#[derive(Debug)]
pub(crate) enum Lead {
    /// The listener of this name.
    Listener(Arc<str>),
    /// The first of these services that there is.
    Services(Vec<Service>),
    /// The routes of a port, which need nothing else.
    Port(Arc<ListenerResource>),
}

/// A service that a target may stand for.
#[derive(Debug)]
pub(crate) struct Service {
    /// The cluster of all its endpoints, by which it is known to be there.
    cluster: Arc<str>,
    listener: Arc<ListenerResource>,
}

/// Where a target's configuration stands.
pub(super) enum Found<'a> {
    Routes(&'a Arc<ListenerResource>, &'a Arc<RouteConfig>),
    /// Not all of it has come.
    Awaited,
    /// What leads to routes is missing.
    Gone(Gone<'a>),
    /// What leads to routes is there, and the routes of this name are missing.
    NoRoutes(&'a Arc<str>),
}

/// What is missing.
pub(super) enum Gone<'a> {
    Resource(ResourceKind, &'a Arc<str>),
    /// None of these is there.
    Services(&'a [Service]),
}

// === impl Lead ===

impl Lead {
    /// To the service that is the first of these hosts that there are.
    pub(crate) fn service(target: &str, hosts: &[String], port: u16) -> Self {
        let service = |host: &String| Service {
            cluster: format!("outbound|{port}||{host}").into(),
            listener: Arc::new(outbound(target, format!("{host}:{port}"))),
        };
        Self::Services(hosts.iter().map(service).collect())
    }

    /// To everything on a port.
    pub(crate) fn port(target: &str, port: u16) -> Self {
        Self::Port(Arc::new(outbound(target, port.to_string())))
    }

    /// Whether it is read as Istio's sidecars are told.
    pub(super) fn is_of_sidecars(&self) -> bool {
        match self {
            Self::Services(_) | Self::Port(_) => true,
            Self::Listener(_) => false,
        }
    }

    /// Where it leads to.
    pub(super) fn find<'a>(&'a self, store: &'a Store) -> Found<'a> {
        let listener = match self.listener(store) {
            Known::Good(listener) => listener,
            Known::Awaited => return Found::Awaited,
            Known::Missing => return Found::Gone(self.gone()),
        };
        match &listener.routes {
            RouteSource::Inline(routes) => Found::Routes(listener, &routes.config),
            RouteSource::Named(name) => match store.routes(name) {
                Known::Good(routes) => Found::Routes(listener, routes),
                Known::Awaited => Found::Awaited,
                Known::Missing => Found::NoRoutes(name),
            },
        }
    }

    /// Marks what it needs.
    pub(super) fn mark(&self, store: &Store, mut want: impl FnMut(ResourceKind, &Arc<str>)) {
        if let Self::Listener(name) = self {
            want(ResourceKind::Listener, name);
        }
        let known = self.listener(store);
        if let Known::Good(listener) = known
            && let RouteSource::Named(routes) = &listener.routes
        {
            want(ResourceKind::RouteConfiguration, routes);
        }
        if let Self::Services(services) = self {
            // Whichever comes; and what serves from an earlier run, until the control plane has said whether it is there.
            let is_settled = matches!(known, Known::Good(_)) && services.iter().any(|service| service.is_told(store));
            if !is_settled {
                services.iter().for_each(|service| want(ResourceKind::Cluster, &service.cluster));
            }
        }
    }

    fn listener<'a>(&'a self, store: &'a Store) -> Known<&'a Arc<ListenerResource>> {
        match self {
            Self::Listener(name) => store.listener(name),
            Self::Port(listener) => Known::Good(listener),
            Self::Services(services) => choose(services, store),
        }
    }

    fn gone(&self) -> Gone<'_> {
        match self {
            Self::Listener(name) => Gone::Resource(ResourceKind::Listener, name),
            Self::Services(services) => Gone::Services(services),
            Self::Port(listener) => Gone::Resource(ResourceKind::Listener, &listener.name),
        }
    }
}

// === impl Service ===

impl Service {
    /// Whether the control plane has said that it is there. One whose cluster is refused is there, though it may fail what is
    /// routed to it.
    fn is_told(&self, store: &Store) -> bool {
        store.get(ResourceKind::Cluster, &self.cluster).is_some_and(Entry::is_there)
    }

    /// Whether an earlier run has known it, and the control plane has not said that there is none: silence, however long, takes
    /// nothing away.
    fn is_remembered(&self, store: &Store) -> bool {
        let entry = store.get(ResourceKind::Cluster, &self.cluster);
        entry.is_some_and(|entry| entry.is_cached() && entry.state() != ResourceState::Absent)
    }
}

/// The first of these services that is there, or else that was there in an earlier run. One that may be about to come is waited
/// for, unless one of them was there and the control plane has removed it.
fn choose<'a>(services: &'a [Service], store: &Store) -> Known<&'a Arc<ListenerResource>> {
    let state = |service: &Service| store.get(ResourceKind::Cluster, &service.cluster).map(Entry::state);
    let told = services.iter().find(|service| service.is_told(store));
    if let Some(service) = told.or_else(|| services.iter().find(|service| service.is_remembered(store))) {
        return Known::Good(&service.listener);
    }
    let is_removed = services.iter().any(|service| state(service) == Some(ResourceState::Absent));
    let may_come = |service| matches!(state(service), None | Some(ResourceState::Requested));
    if !is_removed && services.iter().any(may_come) { Known::Awaited } else { Known::Missing }
}

/// What a sidecar's listener says of requests on their way out, as far as it concerns a client: faults by route, no limit to
/// silence, and no retries where the route has none.
fn outbound(target: &str, routes: String) -> ListenerResource {
    let faults = HttpFilter { name: "envoy.filters.http.fault".into(), kind: FilterKind::Faults(Arc::default()) };
    let timeouts = Timeouts { idle: Some(TimeLimit::OFF), ..Timeouts::default() };
    ListenerResource {
        name: target.into(),
        filters: vec![faults],
        routes: RouteSource::Named(routes.into()),
        policy: RoutePolicy { timeouts, retry: Some(Arc::new(RetryPolicy::never())) },
    }
}

// === impl Gone ===

impl Gone<'_> {
    /// What to tell those who wait for it.
    pub(super) fn why(&self, store: &Store, node_id: &str) -> Arc<str> {
        match self {
            Self::Resource(kind, name) => {
                let error = store.get(*kind, name).and_then(|entry| entry.error()).unwrap_or("it is not there");
                format!("{kind} `{name}`: {error} (node id `{node_id}`)").into()
            }
            Self::Services(services) => {
                let names: Vec<_> = services.iter().map(|service| format!("`{}`", service.cluster)).collect();
                format!("the mesh has no such service; there is none of {} (node id `{node_id}`)", names.join(", "))
                    .into()
            }
        }
    }
}
