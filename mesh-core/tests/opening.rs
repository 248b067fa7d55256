//! What a transport knows of an endpoint that changes while it is opened.
#![allow(missing_docs)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use mesh_core::{
    Dice,
    balance::Terms,
    cluster::{Cluster, EndpointInfo, Transport},
    config::{self, ClusterPolicy, Endpoint, Endpoints, Metadata, Semantics},
};
use tokio::time::{Duration, Instant};

/// Changes its cluster once, within `open`, as another thread might.
struct Racing {
    cluster: OnceLock<Weak<Cluster<Racing>>>,
    changes: Mutex<Vec<Change>>,
}

type Change = fn(&Cluster<Racing>);

/// What was last said: the timeout of connections, and whether there is metadata.
type Known = Mutex<(Option<Duration>, bool)>;

fn known(endpoint: &EndpointInfo<'_>) -> (Option<Duration>, bool) {
    (endpoint.policy.connect_timeout, endpoint.metadata.is_some())
}

impl Racing {
    fn race(&self) {
        let change = self.changes.lock().expect("no panic").pop();
        let cluster = self.cluster.get().and_then(Weak::upgrade).expect("it is there");
        change.into_iter().for_each(|change| change(&cluster));
    }
}

impl Transport for Racing {
    type Handle = Known;

    fn open(&self, endpoint: &EndpointInfo<'_>) -> Known {
        self.race();
        Mutex::new(known(endpoint))
    }

    fn update(&self, handle: &Known, endpoint: &EndpointInfo<'_>) {
        self.race();
        *handle.lock().expect("no panic") = known(endpoint);
    }

    fn retire(&self, _: &Known) {}
}

const PATIENT: Duration = Duration::from_secs(9);

fn be_patient(cluster: &Cluster<Racing>) {
    cluster.update_policy(ClusterPolicy { connect_timeout: Some(PATIENT), ..ClusterPolicy::default() });
}

fn be_known(cluster: &Cluster<Racing>) {
    let metadata = Arc::new(Metadata(BTreeMap::new()));
    cluster.update_endpoints(&Endpoints::flat(vec![endpoint().with_metadata(metadata)]).expect("one"));
}

fn endpoint() -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 1)))
}

/// What is known of an endpoint that was opened while `changes` came, one at each call of the transport; the last is first.
fn known_after(changes: &[Change], ahead: bool) -> (Option<Duration>, bool) {
    let transport = Racing { cluster: OnceLock::new(), changes: Mutex::new(changes.to_vec()) };
    let config = Arc::new(config::Cluster::new("test").expect("a name"));
    let cluster = Cluster::new(&config, ClusterPolicy::default(), Semantics::Envoy, transport, 7);
    assert!(cluster.transport().cluster.set(Arc::downgrade(&cluster)).is_ok());
    cluster.update_endpoints(&Endpoints::flat(vec![endpoint()]).expect("one"));
    if ahead {
        cluster.open_ahead(1, |_| {});
    }
    let picked = cluster.pick(&mut Terms::new(Dice::new(7), Instant::now())).expect("an endpoint");
    *picked.handle().lock().expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_changes_while_it_is_opened_is_told_so() {
    for ahead in [false, true] {
        assert_eq!(known_after(&[], ahead), (None, false));
        assert_eq!(known_after(&[be_patient], ahead), (Some(PATIENT), false));
        assert_eq!(known_after(&[be_known], ahead), (None, true));
        assert_eq!(known_after(&[be_known, be_patient], ahead), (Some(PATIENT), true));
        assert_eq!(known_after(&[be_patient, be_known], ahead), (Some(PATIENT), true));
    }
}
