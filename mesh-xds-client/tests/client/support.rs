//! A client and the control plane of the test kit, through memory, in one thread, under a paused clock.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_core::config::{Address, Listener, Snapshot, TargetState};
use mesh_core::source::{ConfigSource, ResourceState, ResourceStatus};
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::{ResourceKind, XdsClient, XdsClientBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Opens pipes to a control plane, unless told not to, and counts them.
#[derive(Clone)]
pub(crate) struct Pipes {
    plane: ControlPlane,
    is_cut: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
}

/// A client at work.
pub(crate) struct Running {
    pub(crate) client: XdsClient,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) work: JoinHandle<()>,
}

/// Longer than anything that a client waits for before it is content.
const PATIENCE: Duration = Duration::from_secs(300);

impl Pipes {
    pub(crate) fn to(plane: &ControlPlane) -> Self {
        Self { plane: plane.clone(), is_cut: Arc::default(), attempts: Arc::default() }
    }

    /// Refuses connections from now on, or takes them again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// How many connections were asked for.
    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl Connect for Pipes {
    fn connect(&self, _: &Address) -> Connecting {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.is_cut.load(Ordering::Relaxed) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.plane.serve_connection(theirs));
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

/// The control plane at each port.
pub(crate) struct Planes(pub(crate) Vec<(u16, Pipes)>);

impl Connect for Planes {
    fn connect(&self, address: &Address) -> Connecting {
        let Address::Socket(socket) = address else { panic!("a TCP address") };
        let (_, pipes) = self.0.iter().find(|(port, _)| *port == socket.port()).expect("a known port");
        pipes.connect(address)
    }
}

/// A client of `plane`, to be built.
pub(crate) fn builder(plane: &ControlPlane, features: impl IntoIterator<Item = ServerFeature>) -> XdsClientBuilder {
    plane.client_with(features).seed(7)
}

pub(crate) fn run(builder: XdsClientBuilder) -> Running {
    let client = builder.build().expect("a valid client");
    let work = tokio::spawn(client.work());
    Running { snapshots: client.snapshots(), client, work }
}

/// An address by number.
pub(crate) fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

/// Offers a target whose routes of the same name share requests among `clusters`, each with one endpoint.
pub(crate) fn offer(plane: &ControlPlane, target: &str, clusters: &[&str]) {
    plane.update(|tx| {
        tx.set(listener(target, target)).set(route_config(target, clusters.iter().map(|name| (*name, 1))));
        for name in clusters {
            tx.set(cluster(name)).set(endpoints(name, [address(1)]));
        }
    });
}

impl Running {
    /// Waits until a snapshot, the present one or a later, is as it should be.
    pub(crate) async fn until(&mut self, mut is_it: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = timeout(PATIENCE, self.snapshots.wait_for(|snapshot| is_it(snapshot))).await;
        found.unwrap_or_else(|_| panic!("{:#?}", self.client.status())).expect("the client lives").clone()
    }

    /// Waits until `target` is ready, and its routes name exactly these clusters.
    pub(crate) async fn until_routed(&mut self, target: &str, clusters: &[&str]) -> Arc<Snapshot> {
        self.until(|snapshot| routed(snapshot, target).is_some_and(|names| names == set(clusters))).await
    }

    /// Waits until `target` is unavailable, and returns why.
    pub(crate) async fn until_unavailable(&mut self, target: &str) -> Arc<str> {
        let snapshot = self.until(|snapshot| unavailable(snapshot, target).is_some()).await;
        unavailable(&snapshot, target).expect("just seen")
    }

    /// Waits until a stream or an attempt at one has failed, and returns how.
    pub(crate) async fn until_trouble(&self) -> String {
        let trouble = async {
            loop {
                match self.client.status().last_error {
                    Some(error) => return error,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let found = timeout(PATIENCE, trouble).await;
        found.unwrap_or_else(|_| panic!("{:#?}", self.client.status()))
    }

    /// Lets everything happen that is under way, for this long.
    pub(crate) async fn settle(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(crate) fn present(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    pub(crate) fn resource(&self, kind: ResourceKind, name: &str) -> Option<ResourceStatus> {
        let status = self.client.status();
        status.resources.into_iter().find(|one| one.kind == kind.name() && &*one.name == name)
    }

    pub(crate) fn state(&self, kind: ResourceKind, name: &str) -> Option<ResourceState> {
        self.resource(kind, name).map(|resource| resource.state)
    }
}

pub(crate) fn ready(snapshot: &Snapshot, target: &str) -> Option<Arc<Listener>> {
    match snapshot.targets.get(target)? {
        TargetState::Ready(listener) => Some(listener.clone()),
        _ => None,
    }
}

pub(crate) fn unavailable(snapshot: &Snapshot, target: &str) -> Option<Arc<str>> {
    match snapshot.targets.get(target)? {
        TargetState::Unavailable(reason) => Some(reason.clone()),
        _ => None,
    }
}

/// The clusters that the routes of a target name.
pub(crate) fn routed(snapshot: &Snapshot, target: &str) -> Option<BTreeSet<String>> {
    Some(ready(snapshot, target)?.routes.clusters().iter().map(|name| name.to_string()).collect())
}

pub(crate) fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The addresses of a cluster in a snapshot.
pub(crate) fn reached(snapshot: &Snapshot, cluster: &str) -> Vec<String> {
    let endpoints = snapshot.clusters.get(cluster).and_then(|entry| entry.endpoints.as_ref());
    let groups = endpoints.into_iter().flat_map(|endpoints| endpoints.groups());
    groups.flat_map(|group| &group.endpoints).map(|endpoint| endpoint.address().to_string()).collect()
}
