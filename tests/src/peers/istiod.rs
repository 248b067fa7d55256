//! istiod, unmodified, with a Kubernetes API of ours that holds what the test applies.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::StatusCode;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::process::{self, Conversation, Process};
use crate::patience::PATIENCE;

/// The name in istiod's certificate.
pub const ISTIOD: &str = "istiod.istio-system.svc";

/// istiod, built, with the Kubernetes API and istioctl.
pub struct Istiod {
    programs: PathBuf,
}

/// istiod, running. Its objects outlive it: [`kill`](Self::kill) leaves the Kubernetes API where it is.
pub struct RunningIstiod {
    pilot: Option<Process>,
    programs: PathBuf,
    kubernetes: Conversation,
    ports: [u16; 4],
    /// Holds the kubeconfig and the mesh configuration.
    directory: TempDir,
}

// === impl Istiod ===

impl Istiod {
    /// Nothing, after a line on standard error, where it was not built.
    pub fn find() -> Option<Self> {
        super::find("istiod", "MESH_INTEROP_ISTIOD").map(|programs| Self { programs })
    }

    /// Starts with the namespaces `istio-system` and `shop`, and with `mesh` as mesh configuration (`MeshConfig`).
    pub async fn start(&self, mesh: &Value) -> RunningIstiod {
        let directory = process::directory();
        let path = |name| directory.path().join(name);
        let mut command = Command::new(self.programs.join("kube"));
        command.arg("-kubeconfig").arg(path("kubeconfig"));
        let (kubernetes, _) = Conversation::start(command).await;
        std::fs::write(path("mesh.yaml"), mesh.to_string()).expect("the directory can be written to");
        let (programs, ports) = (self.programs.clone(), super::free_ports());
        let mut running = RunningIstiod { pilot: None, programs, kubernetes, ports, directory };
        for namespace in ["istio-system", "shop"] {
            running.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })).await;
        }
        running.restart().await;
        running
    }

    /// Has `istioctl validate` look at the objects in a file.
    ///
    /// # Panics
    ///
    /// When it does not accept them all.
    pub async fn validate(&self, file: &str) {
        let output = Command::new(self.programs.join("istioctl")).args(["validate", "-f", file]).output().await;
        let output = output.expect("istioctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

// === impl RunningIstiod ===

impl RunningIstiod {
    /// Where discovery is served in plain text.
    pub fn addr(&self) -> SocketAddr {
        self.socket(0)
    }

    /// Where discovery is served over TLS, to those who show a token or a certificate; istiod's certificate is for
    /// [`ISTIOD`]. A token is [`token`](crate::kubernetes::token).
    pub fn secure_addr(&self) -> SocketAddr {
        self.socket(1)
    }

    /// The root that vouches for istiod, in PEM, which istiod hands out to every namespace.
    ///
    /// # Panics
    ///
    /// After twenty seconds without one.
    pub async fn root(&mut self) -> String {
        let metadata = json!({ "name": "istio-ca-root-cert", "namespace": crate::kubernetes::NAMESPACE });
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
        let root = |map: &Value| map["data"]["root-cert.pem"].as_str().map(str::to_owned);
        root(&self.stands(&map, |map| root(map).is_some()).await).expect("it was there")
    }

    fn socket(&self, which: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[which]).into()
    }

    /// Adds or replaces an object.
    ///
    /// # Panics
    ///
    /// When istiod knows no such kind.
    pub async fn apply(&mut self, object: &Value) {
        self.kubernetes.ask(&json!({ "apply": object })).await;
    }

    /// Removes an object, of which kind and name are enough.
    pub async fn delete(&mut self, object: &Value) {
        self.kubernetes.ask(&json!({ "delete": object })).await;
    }

    /// Waits until the object as it stands, with the status that istiod gives it in its own time, satisfies `is_so`. Returns it.
    ///
    /// # Panics
    ///
    /// After twenty seconds.
    pub async fn stands(&mut self, object: &Value, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waiting = async {
            loop {
                last = self.kubernetes.ask(&json!({ "get": object })).await;
                if is_so(&last) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("it does not come to it: {last:#}");
        }
        last
    }

    /// Ends it without a farewell.
    pub async fn kill(&mut self) {
        if let Some(mut pilot) = self.pilot.take() {
            pilot.write("KILL").await;
            pilot.stop().await;
        }
    }

    /// Starts it again, on the ports that it had.
    pub async fn restart(&mut self) {
        self.kill().await;
        let path = |name| self.directory.path().join(name).display().to_string();
        let port = |which| self.socket(which).to_string();
        let arguments = [
            "ENABLE_LEADER_ELECTION=false",
            "ENABLE_DEBUG_ENDPOINT_AUTH=false",
            "POD_NAME=istiod",
            "POD_NAMESPACE=istio-system",
            &self.programs.join("pilot-discovery").display().to_string(),
            "discovery",
            &format!("--kubeconfig={}", path("kubeconfig")),
            &format!("--meshConfig={}", path("mesh.yaml")),
            &format!("--grpcAddr={}", port(0)),
            &format!("--secureGRPCAddr={}", port(1)),
            &format!("--httpAddr={}", port(2)),
            &format!("--monitoringAddr={}", port(3)),
            "--httpsAddr=",
            "--ctrlz_port=0",
            "--log_output_level=default:warn",
        ];
        let mut pilot = Process::leashed("env".as_ref(), &arguments, process::directory());
        let ready = format!("http://{}/ready", self.socket(2));
        pilot.until(async || get(&ready).await.is_some_and(|(status, _)| status == StatusCode::OK)).await;
        self.pilot = Some(pilot);
    }

    /// What istiod knows of its clients: `/debug/syncz`.
    pub async fn syncz(&self) -> Value {
        let (_, body) = get(&format!("http://{}/debug/syncz", self.socket(2))).await.expect("istiod answers");
        serde_json::from_slice(&body).expect("istiod speaks JSON")
    }

    /// Waits until `/debug/syncz` satisfies `is_so`.
    ///
    /// # Panics
    ///
    /// After twenty seconds.
    pub async fn synced(&self, is_so: impl Fn(&Value) -> bool) {
        let mut last = Value::Null;
        let waiting = async {
            loop {
                last = self.syncz().await;
                if is_so(&last) {
                    return;
                }
                // Another process's state, which it offers for asking only.
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("istiod does not come to it: {last:#}");
        }
    }

    /// What `istioctl proxy-status` prints: a line for each process, a column for each type.
    pub async fn proxy_status(&self) -> String {
        let mut command = Command::new(self.programs.join("istioctl"));
        command.arg("--kubeconfig").arg(self.directory.path().join("kubeconfig"));
        command.args(["proxy-status", "--verbosity", "1", "--plaintext", "--xds-address", &self.addr().to_string()]);
        let output = command.output().await.expect("istioctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

async fn get(uri: &str) -> Option<(StatusCode, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(uri.parse().ok()?).await.ok()?;
    let status = response.status();
    Some((status, response.into_body().collect().await.ok()?.to_bytes()))
}
