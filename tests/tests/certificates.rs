//! Certificates in files that a bootstrap names (gRFCs A29 and A65) are renewed while requests go on: those that clusters refer
//! to, and those of the connection to the control plane.
//!
//! In a world in memory under a paused clock, but for the files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use envoy_types::pb::{envoy::config::cluster::v3::Cluster, google::protobuf::UInt32Value};
use mesh_core::config::Address;
use mesh_http::{Mesh, connect::Connect as _};
use mesh_tests::{
    identity::{Authority, Identity},
    load::under_load,
    sim::{Accepted, Answer, Caller, PLANE, Speaks, World, address},
};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, CertificateFiles, CertificateProvider, ChannelCredentials, IdentityFiles, Node, Server},
    testkit::resource::{cluster, endpoints, listener, mutual_tls, route_config},
};
use tempfile::TempDir;
use tokio::{io::copy_bidirectional, time::sleep};
use tokio_rustls::TlsAcceptor;

const TARGET: &str = "shop.test:443";
const CALLERS: usize = 8;
/// How often the files are read, and how long until what they hold is in use for certain: it is read twice.
const REFRESH: Duration = Duration::from_secs(1);
const SETTLED: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
#[expect(deprecated, reason = "the shortest way to say it")]
async fn provider_of_a_bootstrap_is_renewed_to_another_authority_without_a_failed_call() {
    let (old, new) = (Authority::new(), Authority::new());
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Grpc] {
        let world = World::new();
        let _backend = world.backend(1, "one", speaks, Answer::after(Duration::from_millis(50)));
        let [old_server, new_server] = [&old, &new].map(|authority| authority.identify("server"));
        let protocol = if speaks == Speaks::Http1 { "http/1.1" } else { "h2" };
        // It believes both authorities, and is itself of the old one at first.
        let front = Front::new(&world, address(2), address(1), &old_server.clone().trusting_too(&new_server), protocol);
        world.plane.update(|tx| {
            let secured = mutual_tls(cluster("v1"), "default", ["spiffe://mesh.test/server"]);
            // Connections are short, so that there are handshakes all the time.
            tx.set(Cluster { max_requests_per_connection: Some(UInt32Value { value: 5 }), ..secured });
            tx.set(listener(TARGET, route_config("routes", [("v1", 1)]))).set(endpoints("v1", [address(2)]));
        });

        let files = Files::of(&old.identify("client"));
        let bootstrap = Bootstrap::builder()
            .server(PLANE.to_string(), ChannelCredentials::Insecure)
            .node(Node::new("renewed"))
            .certificate_provider("default", CertificateProvider::FileWatcher(files.named()))
            .build()
            .unwrap();
        let mesh = mesh(&world, bootstrap);
        let caller = Caller::of(&mesh, TARGET, speaks);
        caller.ready().await.unwrap();
        let mut shown = BTreeSet::from([files.shown()]);
        let ((), tally) = under_load(CALLERS, || caller.call(), async {
            // 1. Renewed by the same authority; then that of tomorrow is believed too.
            for identity in [old.identify("client"), old.identify("client").trusting_too(&new_server)] {
                files.hold(&identity);
                shown.insert(files.shown());
                sleep(SETTLED).await;
            }
            // 2. The server is of the new authority.
            front.show(&new_server.trusting_too(&old_server), protocol);
            sleep(SETTLED).await;
            // 3. So is the client, which believes nobody else any longer.
            files.hold(&new.identify("client"));
            shown.insert(files.shown());
            sleep(SETTLED).await;
        })
        .await;
        tally.assert_none_failed();
        assert!(tally.calls() > 500, "{speaks:?}: {tally:#?}");
        assert_eq!(front.seen(), shown, "{speaks:?}: each certificate had its time");
        assert!(mesh.shutdown(Duration::from_secs(5)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_shows_the_certificate_that_the_files_hold_when_it_begins() {
    let authority = Authority::new();
    let world = World::new();
    // A call takes time, or there would be no other: the clock moves when nothing else does.
    let _backend = world.backend(1, "one", Speaks::Http1, Answer::after(Duration::from_millis(10)));
    let front = Front::new(&world, address(2), PLANE, &authority.identify("istiod"), "h2");
    world.plane.update(|tx| {
        tx.set(listener(TARGET, route_config("routes", [("v1", 1)])));
        tx.set(cluster("v1")).set(endpoints("v1", [address(1)]));
    });

    let files = Files::of(&authority.identify("client"));
    let server = Server::builder(address(2).to_string(), ChannelCredentials::Tls(files.named())).tls_name("localhost");
    let mesh = mesh(&world, Bootstrap::builder().add_server(server).build().unwrap());
    let caller = Caller::of(&mesh, TARGET, Speaks::Http1);
    caller.ready().await.unwrap();
    let first = files.shown();
    assert_eq!(front.seen(), [first.clone()].into());

    files.hold(&authority.identify("client"));
    let second = files.shown();
    let ((), tally) = under_load(1, || caller.call(), async {
        sleep(SETTLED).await;
        assert_eq!(front.seen(), [first.clone()].into(), "the stream goes on");
        world.network.reset(address(2));
        // There is no answer but on a new stream.
        let version = world.plane.set(endpoints("v1", [(address(1), 7)]));
        world.plane.wait_acked(ResourceKind::ClusterLoadAssignment, &version).await.unwrap();
    })
    .await;
    tally.assert_none_failed();
    assert_eq!(front.seen(), [first, second].into());
}

fn mesh(world: &World, bootstrap: Bootstrap) -> Mesh {
    let source = XdsClient::builder(bootstrap).connector(world.network.clone()).seed(1);
    world.unsteered(1).source(source.build().unwrap()).build().unwrap()
}

/// An end of TLS in front of another address.
struct Front {
    acceptor: Arc<Mutex<TlsAcceptor>>,
    /// The certificates that clients have shown.
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

// === impl Front ===

impl Front {
    fn new(world: &World, at: SocketAddr, behind: SocketAddr, identity: &Identity, protocol: &str) -> Self {
        let acceptor = Arc::new(Mutex::new(identity.server_config(&[protocol]).into()));
        let front = Self { acceptor, seen: Arc::default() };
        let (mut listener, network) = (world.network.listen(at), world.network.clone());
        let (acceptor, seen) = (front.acceptor.clone(), front.seen.clone());
        tokio::spawn(async move {
            while let Some(Accepted { stream, .. }) = listener.accept().await {
                let (accepting, seen, network) =
                    (acceptor.lock().unwrap().accept(stream), seen.clone(), network.clone());
                tokio::spawn(async move {
                    let Ok(mut secured) = accepting.await else { return };
                    let shown = secured.get_ref().1.peer_certificates().unwrap_or_default();
                    seen.lock().unwrap().extend(shown.first().map(|leaf| leaf.to_vec()));
                    let mut plain = network.connect(&Address::Socket(behind)).await.unwrap();
                    // How a connection ends is told to both its ends.
                    let _ = copy_bidirectional(&mut secured, &mut plain).await;
                });
            }
        });
        front
    }

    /// Shows another identity from now on, and believes whom that believes.
    fn show(&self, identity: &Identity, protocol: &str) {
        *self.acceptor.lock().unwrap() = identity.server_config(&[protocol]).into();
    }

    fn seen(&self) -> BTreeSet<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }
}

/// Files of fixed names, for one identity after another.
struct Files {
    directory: TempDir,
    held: Mutex<Vec<u8>>,
}

// === impl Files ===

impl Files {
    fn of(identity: &Identity) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), held: Mutex::default() };
        files.hold(identity);
        files
    }

    /// One file after the other: between two of them they do not fit, and what was there before is in use.
    fn hold(&self, identity: &Identity) {
        for (file, name) in
            [(&identity.roots, "ca.pem"), (&identity.key, "key.pem"), (&identity.certificate, "cert.pem")]
        {
            fs::copy(file, self.path(name)).unwrap();
        }
        *self.held.lock().unwrap() = identity.shown().to_vec();
    }

    /// The certificate of the identity that they hold.
    fn shown(&self) -> Vec<u8> {
        self.held.lock().unwrap().clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn named(&self) -> CertificateFiles {
        let identity = IdentityFiles { certificate: self.path("cert.pem"), private_key: self.path("key.pem") };
        CertificateFiles { ca: Some(self.path("ca.pem")), identity: Some(identity), refresh_interval: REFRESH }
    }
}
