//! A cluster whose transport notes what it is told, and endpoints by a letter of their own.
#![allow(dead_code)] // Each test file uses its part.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use mesh_core::{
    Dice,
    balance::{NoEndpoint, Picked, Terms},
    cluster::{Cluster, EndpointInfo, Transport},
    config::{
        self, ClusterPolicy, Endpoint, Endpoints, HealthStatus, LoadBalancing, Locality, LocalityEndpoints, Semantics,
        Weight,
    },
    hold::Settle,
    outcome::{Class, Failure, FailureKind, Outcome, Sent},
};
use tokio::time::Instant;

/// Notes what it is told, by port.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, what: &str, port: u16) {
        self.0.lock().expect("no panic").push(format!("{what} {port}"));
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl Transport for Notes {
    type Handle = u16;

    fn open(&self, endpoint: &EndpointInfo<'_>) -> u16 {
        let port = port(&endpoint.addresses[0]);
        self.note("open", port);
        port
    }

    fn update(&self, handle: &u16, _: &EndpointInfo<'_>) {
        self.note("update", *handle);
    }

    fn retire(&self, handle: &u16) {
        self.note("retire", *handle);
    }
}

pub(crate) fn port(address: &config::Address) -> u16 {
    match address {
        config::Address::Socket(address) => address.port(),
        other => panic!("{other} has no port"),
    }
}

/// A cluster and one caller's dice.
pub(crate) struct Scene {
    pub(crate) cluster: Arc<Cluster<Notes>>,
    pub(crate) notes: Notes,
    pub(crate) terms: Terms,
}

impl Scene {
    pub(crate) fn new(balancing: LoadBalancing, endpoints: &Endpoints) -> Self {
        Self::with(
            ClusterPolicy { load_balancing: Some(balancing), ..ClusterPolicy::default() },
            Semantics::Envoy,
            endpoints,
        )
    }

    pub(crate) fn with(policy: ClusterPolicy, semantics: Semantics, endpoints: &Endpoints) -> Self {
        let config = Arc::new(config::Cluster::new("test").expect("a name"));
        let notes = Notes::default();
        let cluster = Cluster::new(&config, policy, semantics, notes.clone(), 7);
        cluster.update_endpoints(endpoints);
        Self { cluster, notes, terms: Terms::new(Dice::new(7), Instant::now()) }
    }

    pub(crate) fn try_pick(&mut self, wait_for_ready: bool) -> Result<Picked<u16>, NoEndpoint> {
        (self.terms.now, self.terms.wait_for_ready) = (Instant::now(), wait_for_ready);
        self.cluster.pick(&mut self.terms)
    }

    pub(crate) fn pick(&mut self) -> Picked<u16> {
        self.try_pick(false).expect("an endpoint")
    }

    /// How often each port comes up in `n` picks, each of which succeeds at once.
    pub(crate) fn shares<const N: usize>(&mut self, n: usize, ports: [u16; N]) -> [usize; N] {
        let mut hits = [0; N];
        for _ in 0..n {
            let mut picked = self.pick();
            let place = ports.iter().position(|port| port == picked.handle()).expect("one of the ports");
            picked.settle(&success());
            hits[place] += 1;
        }
        hits
    }
}

pub(crate) fn success() -> Outcome {
    Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at: Instant::now() }
}

pub(crate) fn server_error() -> Outcome {
    Outcome { class: Class::ServerError, ..success() }
}

pub(crate) fn failure(kind: FailureKind, sent: Sent) -> Outcome {
    Outcome::failed(Failure::new(kind, sent), Instant::now())
}

pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, 1], port)))
}

pub(crate) fn weighing(port: u16, weight: u32) -> Endpoint {
    endpoint(port).with_weight(Weight::new(weight).expect("not zero"))
}

pub(crate) fn ailing(port: u16, health: HealthStatus) -> Endpoint {
    endpoint(port).with_health(health)
}

pub(crate) fn flat(ports: impl IntoIterator<Item = u16>) -> Endpoints {
    Endpoints::flat(ports.into_iter().map(endpoint).collect()).expect("some ports")
}

/// A locality named for its zone; weight zero is none.
pub(crate) fn group(priority: u32, zone: &str, weight: u32, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
    let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
    LocalityEndpoints { locality, weight: Weight::new(weight).ok(), priority, endpoints }
}

pub(crate) fn groups(groups: Vec<LocalityEndpoints>) -> Endpoints {
    Endpoints::new(groups).expect("legal groups")
}
