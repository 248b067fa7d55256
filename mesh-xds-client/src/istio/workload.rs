//! Who a workload is to istiod, and how it gets into the mesh.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_core::config::{ConfigError, Locality};
use serde_json::{Map, Value as Json};

use crate::{
    Dialect, XdsClient, XdsClientBuilder,
    bootstrap::{
        Bootstrap, CallCredentials, CertificateFiles, CertificateProvider, ChannelCredentials, IdentityFiles, Node,
        Server, ServerBuilder, ServerFeature,
    },
};

/// A workload of an Istio mesh: a pod, or a process on a machine. From it come the node that istiod wants to see, the bootstrap,
/// and a client.
///
/// ```no_run
/// use mesh_xds_client::istio::Workload;
///
/// // In a pod, or on a machine with Istio's environment. This is all.
/// let client = Workload::from_env()?.client()?.build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```
/// use mesh_xds_client::istio::Workload;
///
/// // The same from code.
/// let workload = Workload::new("web-1", "shop", "10.0.0.7".parse()?)
///     .service_account("web")
///     .label("app", "web")
///     .discovery("istiod.istio-system.svc:15010")
///     .plaintext();
/// assert_eq!(workload.node()?.id, "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is set by a method wins over what the environment said before.
#[derive(Debug, Clone)]
#[must_use = "a workload does nothing until it makes a node, a bootstrap or a client"]
pub struct Workload {
    name: String,
    namespace: String,
    ips: Vec<IpAddr>,
    dns_domain: String,
    cluster_id: String,
    service_account: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    locality: Option<Locality>,
    /// What has no method of its own, and what the environment said of the rest.
    metadata: Map<String, Json>,
    dialect: Dialect,
    discovery: String,
    access: Access,
    certificates: Option<CertificateFiles>,
}

/// How istiod is reached.
#[derive(Debug, Clone)]
struct Access {
    is_plaintext: bool,
    root: PathBuf,
    /// The name that its certificate has to bear, where that is not the host of its address.
    name: Option<String>,
    proof: Proof,
}

/// By what istiod knows the caller.
#[derive(Debug, Clone)]
enum Proof {
    Token(PathBuf),
    /// That of the workload.
    Certificate,
}

/// istiod's port for whoever is in the cluster's network.
const PLAINTEXT_PORT: &str = ":15010";
/// istiod where Istio installs it.
const DISCOVERY: &str = "istiod.istio-system.svc:15012";
/// Where Istio puts the root that vouches for istiod.
pub(super) const ROOT: &str = "/var/run/secrets/istio/root-cert.pem";
/// Where the injector puts the service account's token for istiod.
pub(super) const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// How often Istio's agent has gRPC read certificates again.
const REFRESH: Duration = Duration::from_secs(900);

// === impl Workload ===

impl Workload {
    /// A workload called `name` (a pod's name, or a machine's), in a namespace, with an address at which it is reached.
    ///
    /// The name has to be unique in the namespace: istiod tells its clients apart by it.
    pub fn new(name: impl Into<String>, namespace: impl Into<String>, ip: IpAddr) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            ips: vec![ip],
            dns_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            service_account: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            locality: None,
            metadata: Map::new(),
            dialect: Dialect::Sidecar,
            discovery: DISCOVERY.to_owned(),
            access: Access { is_plaintext: false, root: ROOT.into(), name: None, proof: Proof::Token(TOKEN.into()) },
            certificates: None,
        }
    }

    // --- who it is ---

    /// Another address at which it is reached. Policies and services are found by all of them.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ips.push(ip);
        self
    }

    /// The domain of the Kubernetes cluster. Default: `cluster.local`.
    pub fn dns_domain(mut self, domain: impl Into<String>) -> Self {
        self.dns_domain = domain.into();
        self
    }

    /// What the control plane calls the Kubernetes cluster (`CLUSTER_ID`). Default: `Kubernetes`, as istiod's.
    pub fn cluster_id(mut self, id: impl Into<String>) -> Self {
        self.cluster_id = id.into();
        self
    }

    /// The service account (`SERVICE_ACCOUNT`). On the secure port istiod compares it with the credentials.
    pub fn service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// A label (`LABELS`), by which policies and `Sidecar` resources select workloads.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// An annotation (`ANNOTATIONS`).
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Where it runs, for the preference of near endpoints. In Kubernetes istiod knows without being told.
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = Some(locality);
        self
    }

    /// What it is part of, such as a deployment (`WORKLOAD_NAME`).
    pub fn workload_name(self, name: impl Into<String>) -> Self {
        self.metadata("WORKLOAD_NAME", name.into())
    }

    /// What owns it, such as `kubernetes://apis/apps/v1/namespaces/shop/deployments/web` (`OWNER`).
    pub fn owner(self, owner: impl Into<String>) -> Self {
        self.metadata("OWNER", owner.into())
    }

    /// The network that it is in, where there are several (`NETWORK`).
    pub fn network(self, network: impl Into<String>) -> Self {
        self.metadata("NETWORK", network.into())
    }

    /// The mesh (`MESH_ID`).
    pub fn mesh_id(self, id: impl Into<String>) -> Self {
        self.metadata("MESH_ID", id.into())
    }

    /// The version of Istio whose configuration is understood (`ISTIO_VERSION`).
    pub fn istio_version(self, version: impl Into<String>) -> Self {
        self.metadata("ISTIO_VERSION", version.into())
    }

    /// The machine (`NODE_NAME`).
    pub fn node_name(self, name: impl Into<String>) -> Self {
        self.metadata("NODE_NAME", name.into())
    }

    /// Any other entry of the node's metadata. It wins over what the methods say under that key.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    // --- how it joins ---

    /// How istiod is asked for routes. Default: as a sidecar, in delta. In gRPC's dialect state of the world is spoken, since
    /// istiod's delta is not sound there. See the [module](super).
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Where istiod is, as `host:port`.
    pub fn discovery(mut self, address: impl Into<String>) -> Self {
        self.discovery = address.into();
        self
    }

    /// Speaks to istiod in plaintext, which it takes at port 15010. Neither side proves who it is.
    pub fn plaintext(mut self) -> Self {
        self.access.is_plaintext = true;
        self
    }

    /// Speaks to istiod over TLS, which it does at port 15012, and believes what this root vouches for. The default, with the
    /// root where Istio puts it. The file has to be there when the client is built, and is read again every 15 minutes.
    pub fn secure(mut self, root: impl Into<PathBuf>) -> Self {
        self.access.is_plaintext = false;
        self.access.root = root.into();
        self
    }

    /// The name that istiod's certificate has to bear (`ISTIOD_SAN`), where istiod is reached by another: by its address, or
    /// through `kubectl port-forward`. Over TLS only. Default: the host of its address.
    pub fn discovery_name(mut self, name: impl Into<String>) -> Self {
        self.access.name = Some(name.into());
        self
    }

    /// Shows istiod the token in this file, by which it knows the caller: one of the service account, for the audience
    /// `istio-ca`. Over TLS only. The default, with the file where the injector puts it.
    ///
    /// [`CallCredentials::JwtTokenFile`] says when the file is read.
    pub fn token(mut self, file: impl Into<PathBuf>) -> Self {
        self.access.proof = Proof::Token(file.into());
        self
    }

    /// Shows istiod the workload's [certificates](Self::certificates) in place of a token. Over TLS only.
    pub fn authenticate_by_certificate(mut self) -> Self {
        self.access.proof = Proof::Certificate;
        self
    }

    /// The certificates of the workload in a directory, as Istio's agent writes them (`cert-chain.pem`, `key.pem`,
    /// `root-cert.pem`): the identity `default`, which mutual TLS shows to other workloads. They are read again every 15
    /// minutes.
    pub fn certificates(mut self, directory: impl AsRef<Path>) -> Self {
        let file = |name| directory.as_ref().join(name);
        let identity = IdentityFiles { certificate: file("cert-chain.pem"), private_key: file("key.pem") };
        let (ca, identity) = (Some(file("root-cert.pem")), Some(identity));
        self.certificates = Some(CertificateFiles { ca, identity, refresh_interval: REFRESH });
        self
    }

    // --- what comes of it ---

    /// The node: Istio's id of four parts, and the metadata.
    ///
    /// # Errors
    ///
    /// When a name is empty, or has what would break the id.
    pub fn node(&self) -> Result<Node, ConfigError> {
        for (field, value) in [("name", &self.name), ("namespace", &self.namespace), ("dns_domain", &self.dns_domain)] {
            if value.is_empty() || value.contains(['~', '/', ' ']) {
                return Err(ConfigError::new(
                    field,
                    value,
                    "give a name as Kubernetes does, in letters, digits, `-` and `.`",
                ));
            }
        }
        let Self { name, namespace, dns_domain, .. } = self;
        let id = format!("sidecar~{}~{name}.{namespace}~{namespace}.svc.{dns_domain}", self.ips[0]);
        let mut node = Node::new(id);
        node.cluster = format!("{}.{namespace}", self.labels.get("app").unwrap_or(name));
        node.locality.clone_from(&self.locality);
        node.metadata = self.all_metadata();
        Ok(node)
    }

    fn all_metadata(&self) -> Map<String, Json> {
        let map = |entries: &BTreeMap<String, String>| {
            let entries = entries.iter().map(|(key, value)| (key.clone(), Json::from(value.as_str())));
            Json::Object(entries.collect())
        };
        let ips: Vec<_> = self.ips.iter().map(IpAddr::to_string).collect();
        let mut metadata = Map::new();
        let mut say = |key: &str, value: Json| drop(metadata.insert(key.to_owned(), value));
        say("NAME", self.name.clone().into());
        say("NAMESPACE", self.namespace.clone().into());
        say("CLUSTER_ID", self.cluster_id.clone().into());
        say("INSTANCE_IPS", ips.join(",").into());
        // Without it `istioctl proxy-status` does not list the process.
        say("PROXY_CONFIG", Json::Object(Map::new()));
        // Without it, or with another, a workload may be taken for one through which nothing comes in.
        say("INTERCEPTION_MODE", "REDIRECT".into());
        if let Some(account) = &self.service_account {
            say("SERVICE_ACCOUNT", account.clone().into());
        }
        for (key, entries) in [("LABELS", &self.labels), ("ANNOTATIONS", &self.annotations)] {
            if !entries.is_empty() {
                say(key, map(entries));
            }
        }
        if self.dialect == Dialect::Grpc {
            say("GENERATOR", "grpc".into());
        }
        metadata.extend(self.metadata.clone());
        metadata
    }

    /// The bootstrap: istiod as the one server, the node, and the certificates as the provider `default`.
    ///
    /// # Errors
    ///
    /// As [`node`](Self::node), when istiod's address is none, and when certificates are to be shown and there are none.
    pub fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        let mut bootstrap = Bootstrap::builder()
            .add_server(self.server()?)
            .node(self.node()?)
            .server_listener_template("xds.istio.io/grpc/lds/inbound/%s");
        if let Some(files) = &self.certificates {
            bootstrap = bootstrap.certificate_provider("default", CertificateProvider::FileWatcher(files.clone()));
        }
        bootstrap.build()
    }

    fn server(&self) -> Result<ServerBuilder, ConfigError> {
        let Access { is_plaintext, root, name, proof } = &self.access;
        let features = match self.dialect {
            Dialect::Grpc => vec![ServerFeature::XdsV3],
            Dialect::Sidecar => vec![ServerFeature::XdsV3, ServerFeature::Delta],
        };
        let server = |credentials| Server::builder(self.discovery.clone(), credentials).features(features);
        if *is_plaintext {
            return Ok(server(ChannelCredentials::Insecure));
        }
        let (identity, token) = match proof {
            Proof::Token(file) => (None, Some(CallCredentials::JwtTokenFile(file.clone()))),
            Proof::Certificate => (Some(self.identity()?), None),
        };
        let files = CertificateFiles { ca: Some(root.clone()), identity, refresh_interval: REFRESH };
        let server = token.into_iter().fold(server(ChannelCredentials::Tls(files)), ServerBuilder::call_credentials);
        Ok(name.iter().fold(server, ServerBuilder::tls_name))
    }

    fn identity(&self) -> Result<IdentityFiles, ConfigError> {
        let identity = self.certificates.as_ref().and_then(|files| files.identity.clone());
        identity.ok_or_else(|| {
            let remedy = "istiod is to be shown them: say where they are, or let it be shown a token";
            ConfigError::new("certificates", "unset", remedy)
        })
    }

    /// A client of istiod, to be built: the bootstrap, and the dialect.
    ///
    /// # Errors
    ///
    /// As [`bootstrap`](Self::bootstrap).
    pub fn client(&self) -> Result<XdsClientBuilder, ConfigError> {
        Ok(XdsClient::builder(self.bootstrap()?).dialect(self.dialect))
    }

    /// The address says which of istiod's ports it is for.
    pub(super) fn discovery_as_said(self, address: &str) -> Self {
        let workload = self.discovery(address);
        if address.ends_with(PLAINTEXT_PORT) { workload.plaintext() } else { workload }
    }
}
