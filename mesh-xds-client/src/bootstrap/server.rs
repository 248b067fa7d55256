//! One control plane of a bootstrap: where it listens, what secures the way to it, and what is known of it.

use std::path::PathBuf;

use mesh_core::config::ConfigError;

use super::{CertificateFiles, ServerUri};
use crate::session::Variant;

/// One control plane (`xds_servers[]`).
///
/// Two that are equal are one: authorities that name the same server share a stream to it (gRFC A47).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    uri: ServerUri,
    credentials: ChannelCredentials,
    tls_name: Option<String>,
    call_credentials: Vec<CallCredentials>,
    /// In order, each once.
    features: Vec<ServerFeature>,
}

/// Describes a [`Server`], which is checked when the bootstrap is built.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is given to a bootstrap"]
pub struct ServerBuilder {
    uri: String,
    credentials: ChannelCredentials,
    tls_name: Option<String>,
    call_credentials: Vec<CallCredentials>,
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

/// What each stream to a control plane shows of who opens it (`call_creds[]`, gRFC A97).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallCredentials {
    /// `jwt_token_file`: the token in this file, as `authorization: Bearer …`.
    ///
    /// A token is used until 30 s before it expires. From a minute before that on, each new stream reads the file
    /// again. A file that cannot be read, or holds no token with an `exp`, is tried again after a while only, ever
    /// longer up to 120 s; streams that are due meanwhile are not opened, and the status says why. After a stream that
    /// ends with `UNAUTHENTICATED` or `PERMISSION_DENIED` the next one reads the file anew.
    JwtTokenFile(PathBuf),
}

/// What a control plane is trusted to do, or wants of its clients (`server_features[]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ServerFeature {
    /// `xds_v3`: speaks version 3, as all servers by now.
    XdsV3,
    /// `ignore_resource_deletion`: a listener or cluster missing from a response is kept (gRFC A53).
    IgnoreResourceDeletion,
    /// `trusted_xds_server`: may have requests bear another authority than theirs (gRFC A81). Of other servers every
    /// `host_rewrite_specifier` of a route is passed over, with a warning, except in the
    /// [dialect of sidecars](crate::Dialect::Sidecar), since Envoy trusts whoever steers it. gRPC knows `auto_host_rewrite`
    /// alone; the others say the same in another way, and are not had without trust either.
    TrustedXdsServer,
    /// `fail_on_data_errors`: what was good before is dropped, and requests fail, when the server refuses, removes or
    /// never had a resource, or when this client refuses its new version (gRFC A88). For control planes that alert
    /// nobody by themselves.
    FailOnDataErrors,
    /// `resource_timer_is_transient_error`: silence about a name is trouble, not absence (gRFC A88). It lasts 30 s
    /// rather than 15 s, and where the server is lost as well, the next in the list is asked.
    ResourceTimerIsTransientError,
    /// `mesh.delta`: is spoken to in delta (incremental xDS) rather than in state of the world. The key is this
    /// crate's own; gRPC, which has no delta, passes over it.
    ///
    /// Delta suits large meshes: a change costs what has changed, on the wire and here. Not every server knows it.
    /// One that does not ends each stream with `UNIMPLEMENTED`, and the status says so; nothing falls back to state
    /// of the world by itself, since a proxy on the way may answer so too, and the choice would then depend on the
    /// moment. Who wants that names the server once more without the feature, as the next in the list. From istiod
    /// take it as a sidecar only: with the node's metadata `GENERATOR=grpc` a listener or cluster that is asked for
    /// later replaces the earlier ones, which then are not kept current, and nobody is told.
    Delta,
}

// === impl Server ===

impl Server {
    /// Describes a control plane. See [`ServerUri::parse`] for what `uri` can be.
    pub fn builder(uri: impl Into<String>, credentials: ChannelCredentials) -> ServerBuilder {
        ServerBuilder {
            uri: uri.into(),
            credentials,
            tls_name: None,
            call_credentials: Vec::new(),
            features: Vec::new(),
        }
    }

    /// Where it listens.
    pub fn uri(&self) -> &ServerUri {
        &self.uri
    }

    /// How the connection to it is secured.
    pub fn credentials(&self) -> &ChannelCredentials {
        &self.credentials
    }

    /// The name that its certificate has to bear, where that is not the host of its address.
    pub fn tls_name(&self) -> Option<&str> {
        self.tls_name.as_deref()
    }

    /// What each stream to it shows.
    pub fn call_credentials(&self) -> &[CallCredentials] {
        &self.call_credentials
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

// === impl ServerBuilder ===

impl ServerBuilder {
    /// The name that the server's certificate has to bear, a DNS name or an IP address, for servers that are reached at
    /// another: through a tunnel, or by address. Over TLS only. Default: the host of the address.
    ///
    /// gRPC's bootstrap has no key for it.
    pub fn tls_name(mut self, name: impl Into<String>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Adds call credentials. They are sent over TLS only.
    pub fn call_credentials(mut self, credentials: CallCredentials) -> Self {
        self.call_credentials.push(credentials);
        self
    }

    /// Adds something that is known of the server.
    pub fn feature(self, feature: ServerFeature) -> Self {
        self.features([feature])
    }

    /// As [`feature`](Self::feature), of several.
    pub fn features(mut self, features: impl IntoIterator<Item = ServerFeature>) -> Self {
        self.features.extend(features);
        self
    }

    pub(super) fn build(self) -> Result<Server, ConfigError> {
        let Self { uri, credentials, tls_name, call_credentials, mut features } = self;
        let parsed = ServerUri::parse(&uri)?;
        let scheme_says_tls = if let ServerUri::Tcp { tls, .. } = parsed { tls } else { None };
        let refuse = |remedy| Err(ConfigError::new("server_uri", &uri, remedy));
        match (&credentials, scheme_says_tls) {
            (ChannelCredentials::Insecure, Some(true)) => {
                refuse("its channel_creds are `insecure`: use `tls`, or leave `https://` out")
            }
            (ChannelCredentials::Tls(_), Some(false)) => {
                refuse("its channel_creds are `tls`: use `insecure`, or leave `http://` out")
            }
            (ChannelCredentials::Tls(files), _) => {
                files.check_interval().map_err(|error| error.within("channel_creds.config"))
            }
            (ChannelCredentials::Insecure, _) => Ok(()),
        }?;
        if let (ChannelCredentials::Insecure, [CallCredentials::JwtTokenFile(file), ..]) =
            (&credentials, &*call_credentials)
        {
            let remedy = "a token is sent over TLS only: give channel_creds of type `tls`, or leave call_creds out";
            return Err(ConfigError::new("call_creds", file.display(), remedy));
        }
        if let (ChannelCredentials::Insecure, Some(name)) = (&credentials, &tls_name) {
            let remedy = "only TLS checks a name: give channel_creds of type `tls`, or leave the name out";
            return Err(ConfigError::new("tls_name", name, remedy));
        }
        features.sort_unstable();
        features.dedup();
        Ok(Server { uri: parsed, credentials, tls_name, call_credentials, features })
    }
}
