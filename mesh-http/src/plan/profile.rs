//! What a client's own code says, above and below the control plane, and which of them counts.

use mesh_core::config::{ClusterPolicy, ConfigError, Policy, RoutePolicy, Semantics};

/// What a client's builder fixed: whose rules count, and what code says above and below the control plane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    /// Of the kind of client.
    pub(crate) semantics: Semantics,
    /// Whose rules count for what is said of routes and clusters: Envoy's for code, else those of the source of the mesh, or
    /// of the kind of client where it has none of its own.
    pub(crate) rules: Semantics,
    /// What nothing overrides.
    pub(crate) pins: Policy,
    /// What counts where the control plane is silent.
    pub(crate) code: Policy,
    /// What counts where everything else is silent.
    pub(crate) preset: Policy,
}

// === impl Profile ===

impl Profile {
    /// Refuses what code says of clusters and gRPC never does with those of a control plane (gRFC A27).
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.rules != Semantics::Grpc {
            return Ok(());
        }
        let refuse = |whose: &str, field: &str, value: String| {
            let remedy = "leave it unset: it is not for gRPC channels that a control plane steers";
            Err(ConfigError::new(format!("{whose}.cluster.{field}"), value, remedy))
        };
        for (whose, policy) in [("pin", &self.pins), ("policy", &self.code)] {
            match (policy.cluster.panic_threshold, policy.cluster.locality_weighted) {
                (Some(threshold), _) => return refuse(whose, "panic_threshold", threshold.value().to_string()),
                (_, Some(false)) => return refuse(whose, "locality_weighted", false.to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The policy that holds where routes say `said`.
    pub(super) fn route_policy(&self, said: &RoutePolicy) -> RoutePolicy {
        self.pins.route.or(said).or(&self.code.route).or(&self.preset.route)
    }

    /// The policy of a cluster of which the control plane says `said`.
    pub(crate) fn cluster_policy(&self, said: &ClusterPolicy) -> ClusterPolicy {
        self.pins.cluster.or(said).or(&self.code.cluster).or(&self.preset.cluster)
    }
}
