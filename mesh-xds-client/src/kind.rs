//! The kinds of resource an xDS server hands out, and what the protocol says of each.

use std::fmt;

/// A kind of xDS resource that this client asks for.
///
/// The order of the variants is the order in which a client asks for them on a new stream: clusters before what refers
/// to them, so that a server which answers in order lets new clusters warm before routes use them ("make before break" in
/// the xDS protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ResourceKind {
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
    ClusterLoadAssignment,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    RouteConfiguration,
}

impl ResourceKind {
    /// Every kind, in the order in which they are asked for.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::ClusterLoadAssignment, Self::Listener, Self::RouteConfiguration];

    /// The type URL that names this kind in requests, responses and `google.protobuf.Any`.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::ClusterLoadAssignment => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The message's full name, as in names of `xdstp:`.
    pub(crate) fn message_name(self) -> &'static str {
        let url = self.type_url();
        url.rsplit_once('/').map_or(url, |(_, name)| name)
    }

    /// The kind that `type_url` names, or `None` when this client does not know it.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether a state-of-the-world response holds all resources of this kind, so that a name missing from it was removed.
    ///
    /// True for listeners and clusters only. A response of another kind may hold just the resources that changed.
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }

    /// The message's short name, as in `RouteConfiguration`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::ClusterLoadAssignment => "ClusterLoadAssignment",
            Self::Listener => "Listener",
            Self::RouteConfiguration => "RouteConfiguration",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The message's short [name](ResourceKind::name).
impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    };
    use prost::Name;

    use super::ResourceKind;

    #[test]
    fn type_urls_are_those_of_the_messages() {
        assert_eq!(ResourceKind::from_type_url(&Cluster::type_url()), Some(ResourceKind::Cluster));
        assert_eq!(ResourceKind::from_type_url(&Listener::type_url()), Some(ResourceKind::Listener));
        assert_eq!(
            ResourceKind::from_type_url(&RouteConfiguration::type_url()),
            Some(ResourceKind::RouteConfiguration)
        );
        assert_eq!(
            ResourceKind::from_type_url(&ClusterLoadAssignment::type_url()),
            Some(ResourceKind::ClusterLoadAssignment)
        );
        assert_eq!(ResourceKind::from_type_url("type.googleapis.com/envoy.service.runtime.v3.Runtime"), None);
    }

    #[test]
    fn index_is_the_place_in_all() {
        for (place, kind) in ResourceKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place);
        }
    }
}
