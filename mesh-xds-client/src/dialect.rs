//! How a control plane is asked for the routes of a target: as gRPC's clients ask, or as Envoy's sidecars do.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3;
use mesh_core::config::{ConfigError, Semantics};

use crate::{
    assemble::Lead,
    bootstrap::{Bootstrap, NO_OVERPROVISIONING, Node},
    istio::names::{Names, Wish},
};

/// How a control plane is asked for the routes of a target, and whose rules what it answers follows.
///
/// Both lead to the same model, and to the same traffic. [`istio`](crate::istio) says which to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// gRPC's (gRFC A27): a listener by the target's name, whose `api_listener` names the routes; clusters and endpoints by
    /// name. Each kind of client reads what comes by its own rules.
    #[default]
    Grpc,
    /// That of Envoy's sidecars, as Istio speaks it: all clusters at once, routes by service and port without a listener,
    /// endpoints by name. What comes is meant for Envoy, so Envoy's rules hold for gRPC channels too. The node's
    /// id must have the four parts that Istio gives it.
    ///
    /// A target is one of
    ///
    /// | target | routes | holds |
    /// |---|---|---|
    /// | `reviews:9080`, `reviews.shop:9080`, ... | `reviews.shop.svc.cluster.local:9080` | one service |
    /// | `api.example.com:443` | `api.example.com:443` | one service from outside |
    /// | `*:9080` | `9080` | every service with that port; the request's authority decides |
    ///
    /// Short names are completed as they are in a pod, by the namespace and the DNS domain in the node's id: `reviews` in the
    /// namespace `shop` may be `reviews`, `reviews.shop.svc.cluster.local`, `reviews.svc.cluster.local` or
    /// `reviews.cluster.local`, and the first of these that the control plane has a cluster for is meant
    /// (`outbound|9080||<host>`). So the name of a `ServiceEntry` is meant as it is written. Where there is none, one that may
    /// be about to come is waited for as long as for any other
    /// [resource](crate::XdsClientBuilder::absence_timeout).
    ///
    /// New routes take the place of others when all their clusters have endpoints, however long those take to come, where a cluster
    /// says so as Istio's do (`initial_fetch_timeout` of 0). Which one they wait for is logged as a warning, and its endpoints
    /// are timed out in the status.
    ///
    /// Where a route says nothing of retries there are none, since Istio says so in this way where they are turned off
    /// (`attempts: 0`), and what it does by default is said in each route: the client's preset does not come in its
    /// place, nor what code says for silence. A [pin](mesh_core::config::Policy) in code holds.
    Sidecar,
}

// === impl Dialect ===

impl Dialect {
    /// What leads to the routes of `target`. The error says what to write.
    pub(crate) fn lead(self, bootstrap: &Bootstrap, target: &str) -> Result<Lead, Arc<str>> {
        match self {
            Self::Grpc => bootstrap.listener_of(target).map(Lead::Listener),
            Self::Sidecar => {
                let names = Names::of_node(&bootstrap.node().id).map_err(|error| Arc::from(error.to_string()))?;
                Ok(match Wish::parse(target)? {
                    Wish::Port(port) => Lead::port(target, port),
                    Wish::Service { host, port } => Lead::service(target, &names.candidates(host), port),
                })
            }
        }
    }

    /// Refuses a bootstrap that lacks what the dialect needs.
    pub(crate) fn check(self, bootstrap: &Bootstrap) -> Result<(), ConfigError> {
        match self {
            Self::Grpc => Ok(()),
            Self::Sidecar => is_of_a_sidecar(bootstrap.node()).map_err(|error| error.within("node")),
        }
    }

    /// How this client introduces itself.
    pub(crate) fn introduce(self, node: &Node) -> v3::Node {
        let mut message = node.to_proto();
        if self == Self::Sidecar {
            // By Envoy's rules it does overprovision.
            message.client_features.retain(|feature| feature != NO_OVERPROVISIONING);
        }
        message
    }

    /// Whose rules what comes follows, if it is not the reader's.
    pub(crate) fn semantics(self) -> Option<Semantics> {
        match self {
            Self::Grpc => None,
            Self::Sidecar => Some(Semantics::Envoy),
        }
    }
}

fn is_of_a_sidecar(node: &Node) -> Result<(), ConfigError> {
    Names::of_node(&node.id)?;
    // Istio answers by it, and a generator for others has nothing for sidecars.
    match node.metadata.get(GENERATOR) {
        None => Ok(()),
        Some(generator) => {
            let remedy = "leave it out (in the environment it is `ISTIO_META_GENERATOR`), or speak `Dialect::Grpc`";
            Err(ConfigError::new(format!("metadata.{GENERATOR}"), generator, remedy))
        }
    }
}

/// The entry of a node's metadata by which Istio is asked for another dialect than that of sidecars.
const GENERATOR: &str = "GENERATOR";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::ChannelCredentials;

    fn node() -> Node {
        Node::new("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local")
    }

    #[test]
    fn generator_for_others_is_refused_for_a_sidecar_by_its_name() {
        let of = |node| Bootstrap::builder().server("plane:80", ChannelCredentials::Insecure).node(node).build();
        let other = of(node().metadata("GENERATOR", "grpc")).expect("legal");
        let error = Dialect::Sidecar.check(&other).expect_err("it would be answered as gRPC is");
        assert_eq!(error.field(), "node.metadata.GENERATOR");
        assert!(error.remedy().contains("ISTIO_META_GENERATOR") && error.remedy().contains("Dialect::Grpc"), "{error}");
        Dialect::Grpc.check(&other).expect("it is for gRPC");
        Dialect::Sidecar.check(&of(node()).expect("legal")).expect("nothing is said");
    }

    #[test]
    fn sidecar_does_not_say_that_it_cannot_overprovision() {
        let says =
            |dialect: Dialect| dialect.introduce(&node()).client_features.contains(&NO_OVERPROVISIONING.to_owned());
        assert_eq!([Dialect::Grpc, Dialect::Sidecar].map(says), [true, false]);
    }
}
