//! From a JSON document to a [`BootstrapBuilder`], with the path of whatever is wrong.
//!
//! Read by hand rather than derived: gRPC ignores what it does not know at every level, picks the first credentials that it
//! supports, and an operator needs the path and the value of a mistake, which serde does not give.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mesh_core::config::{ConfigError, Locality};
use serde_json::{Map, Value};

use super::{
    Authority, AuthorityBuilder, BootstrapBuilder, CallCredentials, CertificateFiles, CertificateProvider,
    ChannelCredentials, IdentityFiles, Node, Server, ServerBuilder, ServerFeature, certificates::REFRESH_INTERVAL,
};

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn read(document: &Value) -> Result<BootstrapBuilder> {
    let document = Object::of("", document).map_err(|error| error.within("$"))?;
    let mut builder = BootstrapBuilder::default();
    builder = read_servers(&document)?.into_iter().fold(builder, BootstrapBuilder::add_server);
    if let Some(authorities) = document.object("authorities")? {
        for (name, authority) in authorities.0 {
            let read = read_authority(authority);
            let read = read.map_err(|error| error.within(name).within("authorities"))?;
            builder = builder.authority(name, read);
        }
    }
    if let Some(node) = document.object("node")? {
        builder = builder.node(read_node(&node).map_err(|error| error.within("node"))?);
    }
    if let Some(providers) = document.object("certificate_providers")? {
        for (name, provider) in providers.0 {
            let read = read_provider(provider);
            let read = read.map_err(|error| error.within(name).within("certificate_providers"))?;
            builder = builder.certificate_provider(name, read);
        }
    }
    if let Some(template) = document.string("server_listener_resource_name_template")? {
        builder = builder.server_listener_template(template);
    }
    if let Some(template) = document.string("client_default_listener_resource_name_template")? {
        builder = builder.client_listener_template(template);
    }
    Ok(builder)
}

fn read_servers(parent: &Object<'_>) -> Result<Vec<ServerBuilder>> {
    let servers = parent.array("xds_servers")?;
    servers.map(|(path, server)| read_server(server).map_err(|error| error.within(path))).collect()
}

fn read_server(server: &Value) -> Result<ServerBuilder> {
    let server = Object::of("", server)?;
    let uri = server.string("server_uri")?;
    let uri = uri.ok_or_else(|| ConfigError::new("server_uri", "unset", "name the control plane's address"))?;
    let mut builder = Server::builder(uri, read_credentials(&server)?);
    for (path, credentials) in server.array("call_creds")? {
        let read = read_call_credentials(credentials).map_err(|error| error.within(path))?;
        builder = read.into_iter().fold(builder, ServerBuilder::call_credentials);
    }
    for (path, feature) in server.array("server_features")? {
        let feature = feature.as_str().ok_or_else(|| ConfigError::new(path, feature, "give a string"))?;
        builder = builder.features(read_feature(feature));
    }
    Ok(builder)
}

fn read_authority(authority: &Value) -> Result<AuthorityBuilder> {
    let authority = Object::of("", authority)?;
    let mut builder = read_servers(&authority)?.into_iter().fold(Authority::builder(), AuthorityBuilder::add_server);
    if let Some(template) = authority.string("client_listener_resource_name_template")? {
        builder = builder.client_listener_template(template);
    }
    Ok(builder.fallback_on_reachability_only(authority.boolean("fallback_on_reachability_only")?.unwrap_or(false)))
}

/// All that are supported are used, and the others need not make sense.
fn read_call_credentials(credentials: &Value) -> Result<Option<CallCredentials>> {
    let credentials = Object::of("", credentials)?;
    if credentials.string("type")? != Some("jwt_token_file") {
        return Ok(None);
    }
    let config = credentials.object("config")?;
    let file =
        config.map(|config| config.string("jwt_token_file").map_err(|error| error.within("config"))).transpose()?;
    let unset = || ConfigError::new("config.jwt_token_file", "unset", "name the file that holds the token");
    let file = file.flatten().filter(|file| !file.is_empty()).ok_or_else(unset)?;
    Ok(Some(CallCredentials::JwtTokenFile(PathBuf::from(file))))
}

/// The first that is supported wins, and the others need not make sense.
fn read_credentials(server: &Object<'_>) -> Result<ChannelCredentials> {
    let mut offered = Vec::new();
    for (path, credentials) in server.array("channel_creds")? {
        let read = || {
            let credentials = Object::of("", credentials)?;
            let kind = credentials.string("type")?.unwrap_or_default();
            let supported = match kind {
                "insecure" => Some(ChannelCredentials::Insecure),
                "tls" => Some(ChannelCredentials::Tls(read_files(credentials.object("config")?.as_ref())?)),
                _ => None,
            };
            Ok((kind, supported))
        };
        match read().map_err(|error: ConfigError| error.within(path))? {
            (_, Some(credentials)) => return Ok(credentials),
            (kind, None) => offered.push(kind),
        }
    }
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    Err(ConfigError::new("channel_creds", offered, "offer one of type `insecure` or `tls`"))
}

fn read_feature(feature: &str) -> Option<ServerFeature> {
    match feature {
        "xds_v3" => Some(ServerFeature::XdsV3),
        "ignore_resource_deletion" => Some(ServerFeature::IgnoreResourceDeletion),
        "trusted_xds_server" => Some(ServerFeature::TrustedXdsServer),
        "fail_on_data_errors" => Some(ServerFeature::FailOnDataErrors),
        "resource_timer_is_transient_error" => Some(ServerFeature::ResourceTimerIsTransientError),
        "mesh.delta" => Some(ServerFeature::Delta),
        _ => None,
    }
}

fn read_provider(provider: &Value) -> Result<CertificateProvider> {
    let provider = Object::of("", provider)?;
    let plugin = provider.string("plugin_name")?;
    let plugin =
        plugin.ok_or_else(|| ConfigError::new("plugin_name", "unset", "name the plugin, such as `file_watcher`"))?;
    if plugin != "file_watcher" {
        return Ok(CertificateProvider::Unknown { plugin: plugin.to_owned() });
    }
    let config = provider.object("config")?;
    Ok(CertificateProvider::FileWatcher(read_files(config.as_ref())?))
}

/// The `config` of `tls` credentials and of `file_watcher`, which are alike. None given is an empty one.
fn read_files(config: Option<&Object<'_>>) -> Result<CertificateFiles> {
    let Some(config) = config else { return Ok(CertificateFiles::default()) };
    let read = || {
        if let Some(file) = config.string("spiffe_trust_bundle_map_file")? {
            let remedy = "SPIFFE bundle maps are not supported: give ca_certificate_file instead";
            return Err(ConfigError::new("spiffe_trust_bundle_map_file", file, remedy));
        }
        Ok(CertificateFiles {
            ca: config.string("ca_certificate_file")?.map(PathBuf::from),
            identity: read_identity(config)?,
            refresh_interval: config.duration("refresh_interval")?.unwrap_or(REFRESH_INTERVAL),
        })
    };
    read().map_err(|error: ConfigError| error.within("config"))
}

fn read_identity(config: &Object<'_>) -> Result<Option<IdentityFiles>> {
    match (config.string("certificate_file")?, config.string("private_key_file")?) {
        (Some(certificate), Some(key)) => {
            Ok(Some(IdentityFiles { certificate: PathBuf::from(certificate), private_key: PathBuf::from(key) }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::new("private_key_file", "unset", "give the key of certificate_file")),
        (None, Some(_)) => {
            Err(ConfigError::new("certificate_file", "unset", "give the certificate of private_key_file"))
        }
    }
}

fn read_node(node: &Object<'_>) -> Result<Node> {
    let text = |object: &Object<'_>, key| Ok(object.string(key)?.unwrap_or_default().to_owned());
    let locality = node.object("locality")?.map(|locality| {
        let part = |key| Ok(Arc::from(locality.string(key)?.unwrap_or_default()));
        let read = || Ok(Locality { region: part("region")?, zone: part("zone")?, sub_zone: part("sub_zone")? });
        read().map_err(|error: ConfigError| error.within("locality"))
    });
    Ok(Node {
        id: text(node, "id")?,
        cluster: text(node, "cluster")?,
        locality: locality.transpose()?,
        metadata: node.object("metadata")?.map(|metadata| metadata.0.clone()).unwrap_or_default(),
    })
}

/// A JSON object, whose fields are asked for by type. `null` is as good as absent, as in protobuf's JSON.
struct Object<'a>(&'a Map<String, Value>);

// === impl Object ===

impl<'a> Object<'a> {
    fn of(field: &str, value: &'a Value) -> Result<Self> {
        value.as_object().map(Self).ok_or_else(|| ConfigError::new(field, value, "give an object"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn object(&self, key: &str) -> Result<Option<Self>> {
        self.get(key).map(|value| Self::of(key, value)).transpose()
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| ConfigError::new(key, value, "give a string"));
        self.get(key).map(read).transpose()
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let read = |value: &'a Value| value.as_bool().ok_or_else(|| ConfigError::new(key, value, "give true or false"));
        self.get(key).map(read).transpose()
    }

    /// The elements, with their paths.
    fn array(&self, key: &str) -> Result<impl Iterator<Item = (String, &'a Value)> + use<'a>> {
        let read = |value: &'a Value| value.as_array().ok_or_else(|| ConfigError::new(key, value, "give an array"));
        let values = self.get(key).map(read).transpose()?.map_or(&[][..], Vec::as_slice);
        let key = key.to_owned();
        Ok(values.iter().enumerate().map(move |(index, value)| (format!("{key}[{index}]"), value)))
    }

    /// A `google.protobuf.Duration` as JSON writes it: seconds and an `s`.
    fn duration(&self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let refuse = || ConfigError::new(key, text, "give seconds and an `s`, such as `600s` or `0.5s`");
        duration.ok_or_else(refuse).map(Some)
    }
}
