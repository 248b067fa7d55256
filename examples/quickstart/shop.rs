//! The shop: six backends in two versions, and a control plane that knows them.

use std::{error::Error, sync::Arc, time::Duration};

use mesh_examples::{
    backend::{Backend, Protocol},
    certificates::Authority,
};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, CertificateFiles, CertificateProvider, ChannelCredentials, IdentityFiles, Node},
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener, mutual_tls, route_config},
    },
};
use tempfile::TempDir;
use tokio_rustls::rustls::ServerConfig;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The SPIFFE id of every backend.
pub(crate) const BACKEND_ID: &str = "spiffe://shop.example/ns/shop/sa/backend";

/// The target of the HTTP client, and that of the gRPC client.
pub(crate) const TARGETS: [&str; 2] = ["pages.shop:8080", "echo.shop:7070"];

/// Everything that the clients talk to.
pub(crate) struct Shop {
    /// Two of version 1 and one of version 2, for each target.
    pub(crate) backends: [Vec<Backend>; 2],
    plane: ControlPlane,
    plane_address: String,
    tls: Arc<ServerConfig>,
    /// The clients' certificate, key and roots.
    identity: mesh_examples::certificates::Files,
    _folder: TempDir,
}

impl Shop {
    /// Starts everything on loopback.
    pub(crate) async fn open() -> Result<Self> {
        let authority = Authority::new()?;
        let tls = authority.sign(BACKEND_ID, None)?.server_config(&[b"h2", b"http/1.1"])?;
        let folder = tempfile::tempdir()?;
        let identity = authority.sign("spiffe://shop.example/ns/shop/sa/web", None)?.write_to(folder.path())?;

        let mut backends = [Vec::new(), Vec::new()];
        for (of_target, protocol) in backends.iter_mut().zip([Protocol::Http, Protocol::Grpc]) {
            for (name, version) in [("v1-a", "v1"), ("v1-b", "v1"), ("v2-a", "v2")] {
                of_target.push(Backend::start(name, version, protocol, Some(tls.clone())).await?);
            }
        }
        let plane = ControlPlane::new();
        let plane_address = plane.listen("127.0.0.1:0").await?.to_string();
        let shop = Self { backends, plane, plane_address, tls, identity, _folder: folder };
        shop.publish_all();
        Ok(shop)
    }

    /// A source of configuration that follows the shop's control plane, with the clients' certificate.
    pub(crate) fn source(&self) -> Result<XdsClient> {
        let files = CertificateFiles {
            ca: Some(self.identity.authority.clone()),
            identity: Some(IdentityFiles {
                certificate: self.identity.certificate.clone(),
                private_key: self.identity.key.clone(),
            }),
            ..CertificateFiles::default()
        };
        let bootstrap = Bootstrap::builder()
            .server(&self.plane_address, ChannelCredentials::Insecure)
            .node(Node::new("quickstart"))
            .certificate_provider("default", CertificateProvider::FileWatcher(files))
            .build()?;
        let fast = Duration::from_millis(100);
        Ok(XdsClient::builder(bootstrap).reconnect(fast, fast * 4).build()?)
    }

    fn publish_all(&self) {
        self.plane.update(|tx| {
            for (target, backends) in TARGETS.iter().zip(&self.backends) {
                tx.set(listener(target, *target)).set(route_config(target, shares(target, 50)));
                for version in ["v1", "v2"] {
                    let name = format!("{target}/{version}");
                    let addresses = backends.iter().filter(|backend| backend.name().starts_with(version));
                    tx.set(mutual_tls(cluster(&name), "default", [BACKEND_ID]))
                        .set(endpoints(&name, addresses.map(Backend::address)));
                }
            }
        });
    }

    /// Shifts traffic: this share of all requests goes to version 2.
    pub(crate) async fn shift(&self, to_v2: u32) -> Result<()> {
        self.plane.update(|tx| {
            for target in TARGETS {
                tx.set(route_config(target, shares(target, to_v2)));
            }
        });
        let version = self.plane.version(ResourceKind::RouteConfiguration);
        self.plane.wait_acked(ResourceKind::RouteConfiguration, &version).await?;
        // The acknowledgement says that it was understood; the mesh takes it up a moment later.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    /// Kills the first backend of version 1 of each target, connections and all. Nobody tells the clients.
    pub(crate) fn kill_first(&mut self) {
        for backends in &mut self.backends {
            backends.remove(0);
        }
    }

    /// Replaces the killed backends by new ones, which the control plane makes known.
    pub(crate) async fn replace_first(&mut self) -> Result<()> {
        for (backends, protocol) in self.backends.iter_mut().zip([Protocol::Http, Protocol::Grpc]) {
            backends.insert(0, Backend::start("v1-c", "v1", protocol, Some(self.tls.clone())).await?);
        }
        self.plane.update(|tx| {
            for (target, backends) in TARGETS.iter().zip(&self.backends) {
                let v1 = backends.iter().filter(|backend| backend.name().starts_with("v1"));
                tx.set(endpoints(&format!("{target}/v1"), v1.map(Backend::address)));
            }
        });
        let version = self.plane.version(ResourceKind::ClusterLoadAssignment);
        self.plane.wait_acked(ResourceKind::ClusterLoadAssignment, &version).await?;
        Ok(())
    }

    /// Takes the control plane away.
    pub(crate) async fn stop_control_plane(&self) {
        self.plane.stop().await;
    }

    /// Brings it back where it was.
    pub(crate) async fn start_control_plane(&self) -> Result<()> {
        self.plane.listen(self.plane_address.as_str()).await?;
        self.plane.wait_streams(1).await;
        Ok(())
    }
}

fn shares(target: &str, to_v2: u32) -> [(String, u32); 2] {
    [(format!("{target}/v1"), 100 - to_v2), (format!("{target}/v2"), to_v2)]
}
