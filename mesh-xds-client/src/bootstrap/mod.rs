//! How a client finds its control plane and says who it is: the bootstrap of gRPC, from the environment, a file or code.
//!
//! A [`Bootstrap`] that exists is valid, whichever door it came through: code and JSON share one validation, and an error names
//! the same path in both.
//!
//! ```
//! use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node};
//!
//! let bootstrap = Bootstrap::builder()
//!     .server("istiod.istio-system.svc:15010", ChannelCredentials::Insecure)
//!     .node(Node::new("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local").metadata("GENERATOR", "grpc"))
//!     .build()?;
//! assert_eq!(bootstrap.client_listener_name("reviews:9080"), "reviews:9080");
//! # Ok::<(), mesh_core::config::ConfigError>(())
//! ```
//!
//! The format is that of gRFC A27 with the additions of A29 (certificate providers), A36 (server listener), A47 (listener
//! template) and A65 (`tls` credentials). Unknown keys are ignored, as gRPC does. Known gaps: `authorities` (A47),
//! `call_creds` (A97) and SPIFFE bundle maps (A87); the last is refused where it is given, since leaving it out would trust
//! more than was asked for.

use std::collections::BTreeMap;
use std::env;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::ConfigError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::session::Variant;

mod json;
mod node;
mod uri;

pub use self::node::Node;
pub use self::uri::ServerUri;

/// A validated bootstrap. See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    servers: Vec<Server>,
    node: Node,
    certificate_providers: BTreeMap<String, CertificateProvider>,
    server_listener_template: Option<String>,
    client_listener_template: String,
}

/// Collects a [`Bootstrap`]. At least one server is needed; everything else has a default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct BootstrapBuilder {
    servers: Vec<(String, ChannelCredentials, Vec<ServerFeature>)>,
    node: Node,
    certificate_providers: BTreeMap<String, CertificateProvider>,
    server_listener_template: Option<String>,
    client_listener_template: Option<String>,
}

/// One control plane (`xds_servers[]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    uri: ServerUri,
    credentials: ChannelCredentials,
    features: Vec<ServerFeature>,
}

/// How the connection to a control plane is secured (`channel_creds[]`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelCredentials {
    /// Plaintext.
    Insecure,
    /// TLS. Without a CA file, the roots of the system are trusted.
    Tls(CertificateFiles),
}

/// What a control plane is trusted to do, or wants of its clients (`server_features[]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerFeature {
    /// `xds_v3`: speaks version 3, as all servers by now.
    XdsV3,
    /// `ignore_resource_deletion`: a listener or cluster missing from a response is kept (gRFC A53).
    IgnoreResourceDeletion,
    /// `trusted_xds_server`: may rewrite authorities (gRFC A81).
    TrustedXdsServer,
    /// `fail_on_data_errors`: a removed resource is dropped rather than kept (gRFC A88).
    FailOnDataErrors,
    /// `resource_timer_is_transient_error`: silence about a name is trouble, not absence (gRFC A88).
    ResourceTimerIsTransientError,
    /// `mesh.delta`: is spoken to in delta (incremental xDS) rather than in state of the world. The key is this crate's own;
    /// gRPC, which has no delta, passes over it.
    ///
    /// Delta suits large meshes: a change costs what has changed, on the wire and here. Not every server knows it. One that
    /// does not ends each stream with `UNIMPLEMENTED`, and the status says so; nothing falls back to state of the world by
    /// itself, since a proxy on the way may answer so too, and the choice would then depend on the moment. Who wants that
    /// names the server once more without the feature, as the next in the list. From istiod take it as a sidecar only: with the node's
    /// metadata `GENERATOR=grpc` a listener or cluster that is asked for later replaces the earlier ones, which then are not
    /// kept current, and nobody is told.
    Delta,
}

/// Where certificates come from, by the name that resources call it (`certificate_providers`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateProvider {
    /// `file_watcher`: files that are read again from time to time.
    FileWatcher(CertificateFiles),
    /// A plugin that this client does not have. It is in nobody's way until a resource refers to it.
    Unknown {
        /// The plugin's name.
        plugin: String,
    },
}

/// Certificates in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificates to trust.
    pub ca: Option<PathBuf>,
    /// What to present to the other side.
    pub identity: Option<IdentityFiles>,
    /// How often the files are read again. Default 600 s. A shorter time notices rotation sooner, at a read of each file.
    pub refresh_interval: Duration,
}

/// A certificate chain and its key, which are no use without each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub private_key: PathBuf,
}

/// A bootstrap cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Neither environment variable is set.
    NotSet,
    /// The inline variable is not text.
    NotUnicode,
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not JSON. The source has line and column.
    Syntax(serde_json::Error),
    /// A value is refused. Its field is the path in the JSON document.
    Invalid(ConfigError),
}

/// Names a file with the bootstrap, and wins over the other.
const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
/// Holds the bootstrap itself.
const INLINE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// gRFC A29's default for `file_watcher`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);

/// What the path of an `xdstp:` URI may hold as it is (RFC 3986 `pchar`, and the slash).
const PATH_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/');

// === impl Bootstrap ===

impl Bootstrap {
    /// A bootstrap from code.
    pub fn builder() -> BootstrapBuilder {
        BootstrapBuilder::default()
    }

    /// The bootstrap that the environment gives: the file that `GRPC_XDS_BOOTSTRAP` names, or else the JSON in
    /// `GRPC_XDS_BOOTSTRAP_CONFIG`. Reads the file with blocking I/O, which suits the start of a program.
    ///
    /// # Errors
    ///
    /// When neither is set, the file cannot be read, or what is there is not a valid bootstrap.
    pub fn from_env() -> Result<Self, BootstrapError> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// The bootstrap in a file, read with blocking I/O.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is not a valid bootstrap.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BootstrapError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| BootstrapError::Read { path: path.to_owned(), source })?;
        Self::from_json(&bytes)
    }

    /// The bootstrap in a JSON document.
    ///
    /// # Errors
    ///
    /// When it is not JSON, or not a valid bootstrap.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, BootstrapError> {
        let document = serde_json::from_slice(json.as_ref()).map_err(BootstrapError::Syntax)?;
        let bootstrap = json::read(&document).and_then(BootstrapBuilder::build);
        bootstrap.map_err(BootstrapError::Invalid)
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, BootstrapError> {
        // gRPC takes an empty variable for one that is not set.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(path) = variable(FILE_VARIABLE) {
            return Self::from_file(PathBuf::from(path));
        }
        let json = variable(INLINE_VARIABLE).ok_or(BootstrapError::NotSet)?;
        let json = json.into_string().map_err(|_| BootstrapError::NotUnicode)?;
        Self::from_json(json)
    }

    /// The control planes, the preferred one first. Never empty.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Who this client is.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The certificate providers, by the names that resources call them.
    pub fn certificate_providers(&self) -> impl Iterator<Item = (&str, &CertificateProvider)> {
        self.certificate_providers.iter().map(|(name, provider)| (&**name, provider))
    }

    /// The certificate provider that resources call `name`.
    pub fn certificate_provider(&self, name: &str) -> Option<&CertificateProvider> {
        self.certificate_providers.get(name)
    }

    /// The listener that a client of `service` asks for: the template with `%s` replaced, by `%s` alone by default.
    ///
    /// The service is percent-encoded where the template is an `xdstp:` name (gRFC A47).
    pub fn client_listener_name(&self, service: &str) -> String {
        fill(&self.client_listener_template, service)
    }

    /// The listener of a target: of `host:port`, or of what stands in `xds:///host:port` (gRFC A27). The error says what to
    /// write.
    pub(crate) fn listener_of(&self, target: &str) -> Result<Arc<str>, Arc<str>> {
        let service = match target.strip_prefix("xds:") {
            None => target,
            Some(rest) => match rest.strip_prefix("//").map(|rest| rest.split_once('/')) {
                None => rest,
                Some(Some(("", service))) => service,
                Some(_) => {
                    let reason =
                        format!("target `{target}` names an authority, which is not supported: write `xds:///name`");
                    return Err(reason.into());
                }
            },
        };
        if service.is_empty() {
            return Err(format!("target `{target}` names nothing: write `host:port` or `xds:///name`").into());
        }
        Ok(self.client_listener_name(service).into())
    }

    /// The listener that a server on `address` (`ip:port`) asks for, if the bootstrap says how it is called.
    pub fn server_listener_name(&self, address: &str) -> Option<String> {
        self.server_listener_template.as_deref().map(|template| fill(template, address))
    }
}

fn fill(template: &str, name: &str) -> String {
    if template.starts_with("xdstp:") {
        template.replace("%s", &utf8_percent_encode(name, PATH_ESCAPED).to_string())
    } else {
        template.replace("%s", name)
    }
}

// === impl BootstrapBuilder ===

impl BootstrapBuilder {
    /// Adds a control plane, to be used when those before it cannot. See [`ServerUri::parse`] for what `uri` can be.
    pub fn server(self, uri: impl Into<String>, credentials: ChannelCredentials) -> Self {
        self.server_with_features(uri, credentials, [])
    }

    /// As [`server`](Self::server), with what is known of the server.
    pub fn server_with_features(
        mut self,
        uri: impl Into<String>,
        credentials: ChannelCredentials,
        features: impl IntoIterator<Item = ServerFeature>,
    ) -> Self {
        self.servers.push((uri.into(), credentials, features.into_iter().collect()));
        self
    }

    /// Who this client is. Default: nobody, which control planes that tell clients apart refuse.
    pub fn node(mut self, node: Node) -> Self {
        self.node = node;
        self
    }

    /// Certificates that resources call `name`.
    pub fn certificate_provider(mut self, name: impl Into<String>, provider: CertificateProvider) -> Self {
        self.certificate_providers.insert(name.into(), provider);
        self
    }

    /// What the listener of a server is called, with `%s` for its `ip:port`. Default: servers have none.
    pub fn server_listener_template(mut self, template: impl Into<String>) -> Self {
        self.server_listener_template = Some(template.into());
        self
    }

    /// What the listener of a service is called, with `%s` for the service. Default: `%s`.
    pub fn client_listener_template(mut self, template: impl Into<String>) -> Self {
        self.client_listener_template = Some(template.into());
        self
    }

    /// Checks everything and makes the bootstrap.
    ///
    /// # Errors
    ///
    /// When there is no server, an address cannot be read or contradicts its credentials, a certificate provider has nothing
    /// to provide, or a refresh interval is zero. The field is a path in gRPC's JSON format.
    pub fn build(self) -> Result<Bootstrap, ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::new("xds_servers", "[]", "name at least one control plane"));
        }
        let servers = self.servers.into_iter().enumerate();
        let servers = servers.map(|(index, (uri, credentials, features))| {
            Server::new(&uri, credentials, features).map_err(|error| error.within(format!("xds_servers[{index}]")))
        });
        for (name, provider) in &self.certificate_providers {
            let CertificateProvider::FileWatcher(files) = provider else { continue };
            let path = format!("certificate_providers.{name}.config");
            files.check_provider().map_err(|error| error.within(path))?;
        }
        Ok(Bootstrap {
            servers: servers.collect::<Result<_, _>>()?,
            node: self.node,
            certificate_providers: self.certificate_providers,
            server_listener_template: self.server_listener_template,
            client_listener_template: self.client_listener_template.unwrap_or_else(|| "%s".to_owned()),
        })
    }
}

// === impl Server ===

impl Server {
    fn new(uri: &str, credentials: ChannelCredentials, features: Vec<ServerFeature>) -> Result<Self, ConfigError> {
        let parsed = ServerUri::parse(uri)?;
        let scheme_says_tls = if let ServerUri::Tcp { tls, .. } = parsed { tls } else { None };
        match (&credentials, scheme_says_tls) {
            (ChannelCredentials::Insecure, Some(true)) => Err(ConfigError::new(
                "server_uri",
                uri,
                "its channel_creds are `insecure`: use `tls`, or leave `https://` out",
            )),
            (ChannelCredentials::Tls(_), Some(false)) => Err(ConfigError::new(
                "server_uri",
                uri,
                "its channel_creds are `tls`: use `insecure`, or leave `http://` out",
            )),
            (ChannelCredentials::Tls(files), _) => {
                files.check_interval().map_err(|error| error.within("channel_creds.config"))
            }
            (ChannelCredentials::Insecure, _) => Ok(()),
        }?;
        Ok(Self { uri: parsed, credentials, features })
    }

    /// Where it listens.
    pub fn uri(&self) -> &ServerUri {
        &self.uri
    }

    /// How the connection to it is secured.
    pub fn credentials(&self) -> &ChannelCredentials {
        &self.credentials
    }

    /// How it is spoken to.
    pub fn variant(&self) -> Variant {
        if self.has_feature(ServerFeature::Delta) { Variant::Delta } else { Variant::StateOfTheWorld }
    }

    /// Whether the bootstrap says this of it.
    pub fn has_feature(&self, feature: ServerFeature) -> bool {
        self.features.contains(&feature)
    }
}

// === impl CertificateFiles ===

impl Default for CertificateFiles {
    fn default() -> Self {
        Self { ca: None, identity: None, refresh_interval: REFRESH_INTERVAL }
    }
}

impl CertificateFiles {
    fn check_interval(&self) -> Result<(), ConfigError> {
        if self.refresh_interval.is_zero() {
            return Err(ConfigError::new(
                "refresh_interval",
                "0s",
                "give a time longer than zero, or leave it out for 600s",
            ));
        }
        Ok(())
    }

    fn check_provider(&self) -> Result<(), ConfigError> {
        if self.ca.is_none() && self.identity.is_none() {
            let remedy = "give ca_certificate_file, or certificate_file and private_key_file, or all three";
            return Err(ConfigError::new("ca_certificate_file", "unset", remedy));
        }
        self.check_interval()
    }
}

// === impl BootstrapError ===

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSet => write!(
                f,
                "no xDS bootstrap: set {FILE_VARIABLE} to a file, or {INLINE_VARIABLE} to the JSON itself, or build one in code"
            ),
            Self::NotUnicode => write!(f, "the xDS bootstrap in {INLINE_VARIABLE} is not UTF-8 text"),
            Self::Read { path, .. } => write!(f, "the xDS bootstrap {} cannot be read", path.display()),
            Self::Syntax(_) => f.write_str("the xDS bootstrap is not JSON"),
            Self::Invalid(_) => f.write_str("the xDS bootstrap is not valid"),
        }
    }
}

impl StdError for BootstrapError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotSet | Self::NotUnicode => None,
            Self::Read { source, .. } => Some(source),
            Self::Syntax(source) => Some(source),
            Self::Invalid(source) => Some(source),
        }
    }
}

#[cfg(test)]
mod tests;
