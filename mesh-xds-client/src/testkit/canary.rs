//! A client of the control plane through memory, and traffic that is shifted among what it offers: the least that a test of
//! one's own needs.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use mesh_core::config::Address;
use mesh_http::connect::{Connect, Connecting};

use super::{ControlPlane, Nacked, Shared, resource, serve};
use crate::{
    ResourceKind, XdsClient, XdsClientBuilder,
    bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature},
};

/// Opens pipes to a control plane while that is there.
#[derive(Debug, Clone)]
struct InMemory(Weak<Shared>);

/// How much a pipe holds, in bytes.
const PIPE: usize = 64 * 1024;

// === impl ControlPlane ===

/// A canary.
impl ControlPlane {
    /// A client of this control plane, through memory, to be built: it needs no address and no bootstrap. It speaks state of the
    /// world, its node is `test`, and what it leaves to chance is the same in each run.
    pub fn client(&self) -> XdsClientBuilder {
        self.client_with([])
    }

    /// As [`client`](Self::client), of a server with these features: [`ServerFeature::Delta`] has it speak delta.
    pub fn client_with(&self, features: impl IntoIterator<Item = ServerFeature>) -> XdsClientBuilder {
        let bootstrap = Bootstrap::builder()
            .server_with_features("127.0.0.1:15010", ChannelCredentials::Insecure, features)
            .node(Node::new("test"))
            .build()
            .expect("an address and a name make a bootstrap");
        XdsClient::builder(bootstrap).connector(InMemory(Arc::downgrade(&self.shared))).seed(1)
    }

    /// Offers a target, and clusters with an endpoint each, of which the first gets everything. Its routes are named like it.
    pub fn offer<N: Into<String>>(&self, target: &str, clusters: impl IntoIterator<Item = (N, SocketAddr)>) {
        let clusters: Vec<_> = clusters.into_iter().map(|(name, address)| (name.into(), address)).collect();
        let weights = clusters.iter().enumerate().map(|(place, (name, _))| (name.clone(), u32::from(place == 0)));
        self.update(|tx| {
            tx.set(resource::listener(target, target)).set(resource::route_config(target, weights));
            for (name, address) in &clusters {
                tx.set(resource::cluster(name)).set(resource::endpoints(name, [*address]));
            }
        });
    }

    /// Shares the requests of an [offered](Self::offer) target among clusters by weight, and waits until a client takes that.
    ///
    /// # Errors
    ///
    /// When a client refuses it.
    pub async fn shift<N: Into<String>>(
        &self,
        target: &str,
        weights: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<(), Nacked> {
        let version = self.set(resource::route_config(target, weights));
        self.wait_acked(ResourceKind::RouteConfiguration, &version).await.map(drop)
    }
}

// === impl InMemory ===

impl Connect for InMemory {
    fn connect(&self, _: &Address) -> Connecting {
        let Some(shared) = self.0.upgrade() else {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(serve::connection(shared, theirs));
        Box::pin(async move { Ok(Box::new(ours) as mesh_http::connect::Stream) })
    }
}
