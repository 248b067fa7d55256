//! TLS to services outside the mesh, as a `DestinationRule` says: whose certificates are believed, and for which name.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use mesh_core::outcome::FailureKind;
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_http::Mesh;
use mesh_http::tls::{FileIdentity, Provider};
use mesh_tests::identity::{Authority, Identity};
use mesh_tests::kubernetes::{destination_rule, object};
use mesh_tests::sim::{Caller, Speaks, failure_of};
use mesh_tests::wire::{Error, chain};
use mesh_xds_client::Dialect;

use crate::shop::{Shop, accepted};

/// A host that is no service of the cluster, called without TLS and reached with it.
const HOST: &str = "api.example.com";
const PORT: u16 = 80;

/// A service that anybody may call over TLS, with this certificate.
struct Outside {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

// === impl Outside ===

impl Outside {
    async fn start(identity: &Identity) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(identity.public_config(&["http/1.1"]));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(|_: Request<Incoming>| async {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("outside"))))
                    });
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                });
            }
        });
        Self { address, _serving: serving }
    }

    fn entry(&self) -> Value {
        let spec = json!({
            "hosts": [HOST],
            "resolution": "STATIC",
            "location": "MESH_EXTERNAL",
            "ports": [{ "number": PORT, "name": "http", "protocol": "HTTP" }],
            "endpoints": [{ "address": self.address.ip(), "ports": { "http": self.address.port() } }],
        });
        object("networking.istio.io/v1", "ServiceEntry", HOST, spec)
    }
}

fn simple(more: Value) -> Value {
    let mut tls = more;
    tls["mode"] = json!("SIMPLE");
    destination_rule(HOST, &[], json!({ "tls": tls }))
}

/// Waits until calls end so, which is when the last rule is in use.
async fn comes_to(caller: &Caller, is_it: impl Fn(&Result<String, Error>) -> bool) {
    let mut last = caller.call().await;
    let calling = async {
        while !is_it(&last) {
            last = caller.call().await;
        }
    };
    if timeout(Duration::from_secs(20), calling).await.is_err() {
        panic!("{:?}", last.map_err(|error| chain(&*error)));
    }
}

/// Whether the certificate was refused, and the reason says this.
fn is_refused(answer: &Result<String, Error>, reason: &str) -> bool {
    let Err(error) = answer else { return false };
    failure_of(error).is_some_and(|failure| failure.0 == FailureKind::Tls) && chain(&**error).contains(reason)
}

/// The certificate is good for `localhost`, so that this name is sent where it is to be accepted.
#[tokio::test]
async fn roots_of_a_file_are_believed_for_the_name_that_is_sent() {
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    let identity = Authority::new().identify("outside");
    let outside = Outside::start(&identity).await;
    let roots = identity.roots.display().to_string();
    shop.istiod.apply(&outside.entry()).await;
    shop.istiod.apply(&simple(json!({ "caCertificates": roots, "sni": "localhost" }))).await;

    let source = shop.caller().client().unwrap().secret(format!("file-root:{roots}"), "public").build().unwrap();
    let public = FileIdentity::roots(&identity.roots).build(&Provider::aws_lc()).unwrap();
    let mesh = Mesh::builder().identity("public", public).source(source.clone()).build().unwrap();
    let caller = Caller::of(&mesh, &format!("{HOST}:{PORT}"), Speaks::Http1);
    caller.ready().await.unwrap();
    comes_to(&caller, |answer| matches!(answer.as_deref(), Ok("outside"))).await;

    // Envoy would believe it still, since it asks for no name where no rule names one.
    shop.istiod.apply(&simple(json!({ "caCertificates": roots, "sni": "other.example.com" }))).await;
    comes_to(&caller, |answer| is_refused(answer, "other.example.com")).await;
    accepted(&shop.istiod).await;
}

/// Nobody of whom the system knows has signed the certificate.
#[tokio::test]
async fn without_a_file_the_roots_of_the_system_decide() {
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    let outside = Outside::start(&Authority::new().identify("outside")).await;
    shop.istiod.apply(&outside.entry()).await;
    shop.istiod.apply(&simple(json!({ "sni": "localhost" }))).await;

    let source = shop.caller().client().unwrap().build().unwrap();
    let mesh = Mesh::builder().source(source.clone()).build().unwrap();
    let caller = Caller::of(&mesh, &format!("{HOST}:{PORT}"), Speaks::Http1);
    caller.ready().await.unwrap();
    comes_to(&caller, |answer| is_refused(answer, "no trusted root")).await;
    accepted(&shop.istiod).await;
    let resources = source.status().resources;
    assert!(resources.iter().all(|resource| resource.state == ResourceState::Synced), "{resources:?}");
}
