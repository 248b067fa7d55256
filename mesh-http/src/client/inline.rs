//! The configuration that stands in code, as the snapshot that a source would have given.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::config::{
    Action, Aggregate, Cluster, ClusterChoice, ClusterEntry, ConfigError, Discovery, DnsEndpoints, Domain, Endpoints,
    Forward, Listener, Route, RouteConfig, RouteMatch, Snapshot, TargetState, VirtualHost,
};

use super::EndpointSpec;
use crate::Mesh;

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
    /// The configuration that stands in code; none where the source of `mesh` has it.
    pub(super) fn snapshot(
        self,
        mesh: &Mesh,
        name: &Arc<str>,
        authority: &str,
    ) -> Result<Option<Snapshot>, ConfigError> {
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
        let mut entries = BTreeMap::new();
        for (cluster, endpoints) in clusters {
            let known = cluster.name().clone();
            if entries.contains_key(&known) {
                return Err(ConfigError::new("clusters", known, "name each cluster once"));
            }
            let entry = entry(mesh, cluster, endpoints).map_err(|error| error.within(format!("clusters[{known}]")))?;
            entries.insert(known, entry);
        }
        if let Some(missing) = routes.clusters().into_iter().find(|name| !entries.contains_key(name)) {
            return Err(ConfigError::new("routes.cluster", missing, "add the cluster, by `cluster`"));
        }
        check_aggregates(&entries)?;
        let listener = Listener::new(name.clone(), Arc::new(routes));
        Ok(Some(Snapshot {
            generation: 1,
            targets: [(name.clone(), TargetState::Ready(Arc::new(listener)))].into(),
            clusters: entries,
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
            cluster.discovery = Discovery::Dns(Arc::new(DnsEndpoints::strict(Endpoints::by_name(names)?)));
            Ok((cluster, None))
        }
        _ => {
            Err(ConfigError::new("endpoints", "addresses and names mixed", "give one kind, or two clusters and routes"))
        }
    }
}

/// A cluster of code, which must be whole.
fn entry(mesh: &Mesh, mut cluster: Cluster, endpoints: Option<Endpoints>) -> Result<ClusterEntry, ConfigError> {
    let in_policy = |error: ConfigError| error.within("policy");
    cluster.policy = cluster.policy.validated().map_err(in_policy)?;
    mesh.check_identities(&cluster.policy).map_err(in_policy)?;
    check_discovery(&cluster.discovery, endpoints.as_ref())?;
    Ok(ClusterEntry { cluster: Arc::new(cluster), endpoints: endpoints.map(Arc::new) })
}

/// Refuses a cluster that has no endpoints, and one that is told of them twice.
fn check_discovery(discovery: &Discovery, given: Option<&Endpoints>) -> Result<(), ConfigError> {
    let known = match (discovery, given) {
        (Discovery::Endpoints(_), given) => given,
        (_, Some(_)) => {
            let remedy = "leave them out, or let the cluster take them (`Discovery::Endpoints`)";
            return Err(ConfigError::new("endpoints", "set beside a discovery that finds them", remedy));
        }
        (Discovery::Static(own), None) => Some(&**own),
        (Discovery::Dns(dns), None) if dns.hosts().is_empty() => None,
        (Discovery::Unsupported(why), None) => {
            return Err(ConfigError::new("discovery", why, "find the endpoints in another way"));
        }
        (Discovery::Dns(_) | Discovery::Aggregate(_), None) => return Ok(()),
    };
    match known {
        Some(known) if !known.is_empty() => Ok(()),
        _ => Err(ConfigError::new("endpoints", "none", "give at least one endpoint, or discover them by DNS")),
    }
}

/// Refuses a cluster made of others that are not there, or too many times over.
fn check_aggregates(entries: &BTreeMap<Arc<str>, ClusterEntry>) -> Result<(), ConfigError> {
    let made_of_others = entries.iter().filter_map(|(name, entry)| Some((name, entry.cluster.aggregate()?)));
    for (name, aggregate) in made_of_others {
        let refused = |value: &Arc<str>, remedy: String| {
            Err(ConfigError::new("discovery", value, remedy).within(format!("clusters[{name}]")))
        };
        if let Some(missing) = aggregate.clusters().iter().find(|part| !entries.contains_key(*part)) {
            return refused(missing, "add the cluster, by `cluster`".to_owned());
        }
        if let Err(error) = Aggregate::leaves(name, |part| entries.get(part).map(|entry| &entry.cluster)) {
            return refused(name, format!("make it of other clusters: {error}"));
        }
    }
    Ok(())
}
