//! Clusters to pick from, of any size, with a transport that carries nothing.

use std::{net::SocketAddr, sync::Arc};

use mesh_core::{
    Dice,
    balance::{Picked, Terms},
    cluster::{Cluster, EndpointInfo, Transport},
    config::{self, ClusterPolicy, Endpoint, Endpoints, LoadBalancing, Semantics, Weight},
};
use tokio::time::Instant;

pub(crate) struct Nowhere;

impl Transport for Nowhere {
    type Handle = Arc<()>;

    fn open(&self, _: &EndpointInfo<'_>) -> Arc<()> {
        Arc::new(())
    }

    fn update(&self, _: &Arc<()>, _: &EndpointInfo<'_>) {}

    fn retire(&self, _: &Arc<()>) {}
}

/// A cluster under its policy, and what a request brings.
pub(crate) struct Scene {
    pub(crate) cluster: Arc<Cluster<Nowhere>>,
    pub(crate) terms: Terms,
}

impl Scene {
    /// `n` endpoints, all of which have been used; of weights 1 to 5 where `weighted`.
    pub(crate) fn new(policy: LoadBalancing, n: u32, weighted: bool) -> Self {
        let config = Arc::new(config::Cluster::new("bench").expect("a name"));
        let policy = ClusterPolicy { load_balancing: Some(policy), ..ClusterPolicy::default() };
        let cluster = Cluster::new(&config, policy, Semantics::Envoy, Nowhere, 1);
        cluster.update_endpoints(&endpoints(0..n, weighted));
        let mut scene = Self { cluster, terms: Terms::new(Dice::new(1), Instant::now()) };
        for _ in 0..20 * n {
            drop(scene.pick());
        }
        scene
    }

    #[inline]
    pub(crate) fn pick(&mut self) -> Picked<Arc<()>> {
        self.cluster.pick(&mut self.terms).expect("all endpoints are healthy")
    }
}

/// Endpoints by number.
pub(crate) fn endpoints(numbers: impl Iterator<Item = u32>, weighted: bool) -> Endpoints {
    Endpoints::flat(numbers.map(|i| endpoint(i, weighted)).collect()).expect("at least one")
}

fn endpoint(i: u32, weighted: bool) -> Endpoint {
    let address = SocketAddr::from(((0x0a00_0000 + i).to_be_bytes(), 80));
    let weight = if weighted { 1 + i % 5 } else { 1 };
    Endpoint::new(address).with_weight(Weight::new(weight).expect("not zero"))
}
