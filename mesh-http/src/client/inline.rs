//! The configuration that stands in code, as the snapshot that a source would have given.

use std::{collections::HashSet, sync::Arc};

use mesh_core::config::{
    Action, Cluster, ClusterChoice, ClusterEntry, ConfigError, Discovery, Domain, Endpoints, Forward, Listener, Route,
    RouteConfig, RouteMatch, Snapshot, TargetState, VirtualHost,
};

use super::EndpointSpec;

/// What a builder was told in place of a source.
#[derive(Debug, Default)]
pub(super) struct Inline {
    pub(super) endpoints: Vec<Result<EndpointSpec, ConfigError>>,
    pub(super) routes: Option<RouteConfig>,
    pub(super) clusters: Vec<(Cluster, Option<Endpoints>)>,
    pub(super) any_authority: bool,
}

// === impl Inline ===

impl Inline {
    /// The configuration that stands in code; none where the source of the mesh has it.
    pub(super) fn snapshot(self, name: &Arc<str>, authority: &str) -> Result<Option<Snapshot>, ConfigError> {
        let Self { endpoints, routes, mut clusters, any_authority } = self;
        let routes = match (routes, endpoints.is_empty()) {
            (Some(_), false) => {
                let remedy = "give the endpoints to a cluster of the routes, by `cluster`";
                return Err(ConfigError::new("endpoints", "set beside routes", remedy));
            }
            (None, true) if clusters.is_empty() => return Ok(None),
            (None, true) => {
                return Err(ConfigError::new(
                    "routes",
                    "unset beside clusters",
                    "say which requests go to which cluster",
                ));
            }
            (Some(routes), true) => routes,
            (None, false) => {
                clusters.push(discovered(name, endpoints)?);
                simple_routes(name, authority, any_authority)?
            }
        };
        check_clusters(&routes, &clusters)?;
        let listener = Listener::new(name.clone(), Arc::new(routes));
        let entries = clusters.into_iter().map(|(cluster, endpoints)| {
            let entry = ClusterEntry { cluster: Arc::new(cluster), endpoints: endpoints.map(Arc::new) };
            (entry.cluster.name().clone(), entry)
        });
        Ok(Some(Snapshot {
            generation: 1,
            targets: [(name.clone(), TargetState::Ready(Arc::new(listener)))].into(),
            clusters: entries.collect(),
        }))
    }
}

/// Every request of the target's own authority, with any port unless it names one, to the cluster of the same name.
fn simple_routes(name: &Arc<str>, authority: &str, any_authority: bool) -> Result<RouteConfig, ConfigError> {
    let forward = Forward::to(ClusterChoice::One(name.clone()));
    let route = Route::new(RouteMatch::any(), Action::Forward(forward)).named(name.clone());
    let domains = match (any_authority, authority.contains(':')) {
        (true, _) => vec![Domain::Any],
        (false, true) => vec![Domain::parse(authority)?],
        (false, false) => vec![Domain::parse(authority)?, Domain::parse(&format!("{authority}:*"))?],
    };
    RouteConfig::new(name.clone(), vec![VirtualHost::new(name.clone(), domains, vec![Arc::new(route)])?])
}

/// The cluster of endpoints given in code: all by address, or all by name.
fn discovered(
    name: &Arc<str>,
    endpoints: Vec<Result<EndpointSpec, ConfigError>>,
) -> Result<(Cluster, Option<Endpoints>), ConfigError> {
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        match endpoint.map_err(|error| error.within(format!("endpoints[{index}]")))? {
            EndpointSpec::Endpoint(endpoint) => addresses.push(endpoint),
            EndpointSpec::Name(name) => names.push(name),
        }
    }
    let mut cluster = Cluster::new(name.clone())?;
    match (addresses.is_empty(), names.is_empty()) {
        (false, true) => Ok((cluster, Some(Endpoints::flat(addresses)?))),
        (true, false) => {
            cluster.discovery = Discovery::StrictDns(names);
            Ok((cluster, None))
        }
        _ => {
            Err(ConfigError::new("endpoints", "addresses and names mixed", "give one kind, or two clusters and routes"))
        }
    }
}

fn check_clusters(routes: &RouteConfig, clusters: &[(Cluster, Option<Endpoints>)]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for (cluster, endpoints) in clusters {
        if !seen.insert(cluster.name()) {
            return Err(ConfigError::new("clusters", cluster.name(), "name each cluster once"));
        }
        if cluster.endpoints_name().is_some() && endpoints.as_ref().is_none_or(Endpoints::is_empty) {
            let field = format!("clusters[{}].endpoints", cluster.name());
            return Err(ConfigError::new(field, "none", "give at least one endpoint, or discover them by DNS"));
        }
    }
    match routes.clusters().into_iter().find(|name| !seen.contains(name)) {
        Some(missing) => Err(ConfigError::new("routes.cluster", missing, "add the cluster, by `cluster`")),
        None => Ok(()),
    }
}
