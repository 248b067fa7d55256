//! How a client finds its control plane and says who it is: the bootstrap of gRPC, from the environment, a file or
//! code.
//!
//! A [`Bootstrap`] that exists is valid, whichever door it came through: code and JSON share one validation, and an
//! error names the same path in both.
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
//! The format is that of gRFC A27 with the additions of A29 (certificate providers), A36 (server listener), A47
//! (authorities and templates), A65 (`tls` credentials), A88 and A95 (features and fallback) and A97 (`call_creds`).
//! Unknown keys are ignored, as gRPC does. Known gaps: SPIFFE bundle maps (A87) are refused where they are given,
//! since leaving one out would trust more than was asked for; of channel credentials `insecure` and `tls` are known, so that a
//! server which offers `google_default` alone is refused; and a server has one address, not the list of `ipv4:` and `ipv6:`.
//!
//! # Authorities
//!
//! A name of the form `xdstp://authority/…` is asked for at the servers of that authority, which must be one of the
//! [`authorities`](Bootstrap::authorities); any other name at the servers of the bootstrap itself. A target
//! `xds://authority/service` is a listener of that authority, by its template; `xds:///service` and plain `service`
//! go by the bootstrap's template.
//!
//! ```
//! use mesh_xds_client::bootstrap::{Authority, Bootstrap, ChannelCredentials};
//!
//! let partner = Authority::builder().server("plane.partner.test:15010", ChannelCredentials::Insecure);
//! let bootstrap = Bootstrap::builder()
//!     .server("istiod.istio-system.svc:15010", ChannelCredentials::Insecure)
//!     .authority("partner.test", partner)
//!     .build()?;
//! assert_eq!(bootstrap.authority("partner.test").expect("just given").servers().len(), 1);
//! # Ok::<(), mesh_core::config::ConfigError>(())
//! ```

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::config::ConfigError;

use crate::name;

mod authority;
mod certificates;
mod json;
mod load;
mod node;
mod server;
mod uri;

pub(crate) use self::node::NO_OVERPROVISIONING;
pub use self::{
    authority::{Authority, AuthorityBuilder},
    certificates::{CertificateFiles, CertificateProvider, IdentityFiles},
    load::BootstrapError,
    node::Node,
    server::{CallCredentials, ChannelCredentials, Server, ServerBuilder, ServerFeature},
    uri::ServerUri,
};

/// A validated bootstrap. See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    servers: Vec<Server>,
    authorities: BTreeMap<String, Authority>,
    node: Node,
    certificate_providers: BTreeMap<String, CertificateProvider>,
    server_listener_template: Option<String>,
    client_listener_template: String,
}

/// Collects a [`Bootstrap`]. At least one server is needed; everything else has a default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct BootstrapBuilder {
    servers: Vec<ServerBuilder>,
    authorities: BTreeMap<String, AuthorityBuilder>,
    node: Node,
    certificate_providers: BTreeMap<String, CertificateProvider>,
    server_listener_template: Option<String>,
    client_listener_template: Option<String>,
}

// === impl Bootstrap ===

impl Bootstrap {
    /// A bootstrap from code.
    pub fn builder() -> BootstrapBuilder {
        BootstrapBuilder::default()
    }

    /// The control planes, the preferred one first. Never empty.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The authorities of `xdstp:` names, by name.
    pub fn authorities(&self) -> impl Iterator<Item = (&str, &Authority)> {
        self.authorities.iter().map(|(name, authority)| (&**name, authority))
    }

    /// The authority of this name.
    pub fn authority(&self, name: &str) -> Option<&Authority> {
        self.authorities.get(name)
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
        name::fill(&self.client_listener_template, service)
    }

    /// The listener of a target: of `host:port`, of what stands in `xds:///host:port` (gRFC A27), or of an authority in
    /// `xds://authority/host:port` (A47). The error says what to write.
    pub(crate) fn listener_of(&self, target: &str) -> Result<Arc<str>, Arc<str>> {
        let (authority, service) = match target.strip_prefix("xds:") {
            None => ("", target),
            Some(rest) => match rest.strip_prefix("//") {
                None => ("", rest),
                Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            },
        };
        if service.is_empty() {
            let reason =
                format!("target `{target}` names nothing: write `host:port`, `xds:///name` or `xds://authority/name`");
            return Err(reason.into());
        }
        if authority.is_empty() {
            return Ok(name::canonical(&self.client_listener_name(service)).into());
        }
        let known = self.authorities.get(authority).ok_or_else(|| {
            let known: Vec<_> = self.authorities.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("target `{target}` is of an authority that the bootstrap does not have (it has {known}): write `xds:///name`")
        })?;
        Ok(name::canonical(&name::fill(known.client_listener_template(), service)).into())
    }

    /// The listener that a server on `address` (`ip:port`) asks for, if the bootstrap says how it is called.
    pub fn server_listener_name(&self, address: &str) -> Option<String> {
        self.server_listener_template.as_deref().map(|template| name::fill(template, address))
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
        self,
        uri: impl Into<String>,
        credentials: ChannelCredentials,
        features: impl IntoIterator<Item = ServerFeature>,
    ) -> Self {
        self.add_server(Server::builder(uri, credentials).features(features))
    }

    /// As [`server`](Self::server), with all that can be said of it.
    pub fn add_server(mut self, server: ServerBuilder) -> Self {
        self.servers.push(server);
        self
    }

    /// Who has the resources whose names begin with `xdstp://<name>/`. Default: such resources are nobody's.
    pub fn authority(mut self, name: impl Into<String>, authority: AuthorityBuilder) -> Self {
        self.authorities.insert(name.into(), authority);
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
    /// When there is no server, an address cannot be read or contradicts its credentials, a token would be sent in
    /// plaintext, the template of an authority makes names that are not its own, a certificate provider has nothing
    /// to provide, or a refresh interval is zero. The field is a path in gRPC's JSON format.
    pub fn build(self) -> Result<Bootstrap, ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::new("xds_servers", "[]", "name at least one control plane"));
        }
        for (name, provider) in &self.certificate_providers {
            let CertificateProvider::FileWatcher(files) = provider else { continue };
            let path = format!("certificate_providers.{name}.config");
            files.check_provider().map_err(|error| error.within(path))?;
        }
        let servers = build_servers(self.servers)?;
        let authorities = self.authorities.into_iter().map(|(name, authority)| {
            let built = authority.build(&name, &servers);
            let built = built.map_err(|error| error.within(&name).within("authorities"))?;
            Ok((name, built))
        });
        Ok(Bootstrap {
            authorities: authorities.collect::<Result<_, ConfigError>>()?,
            servers,
            node: self.node,
            certificate_providers: self.certificate_providers,
            server_listener_template: self.server_listener_template,
            client_listener_template: self.client_listener_template.unwrap_or_else(|| "%s".to_owned()),
        })
    }
}

/// A list of `xds_servers`.
fn build_servers(servers: Vec<ServerBuilder>) -> Result<Vec<Server>, ConfigError> {
    let servers = servers.into_iter().enumerate();
    let built = |(index, server): (usize, ServerBuilder)| {
        server.build().map_err(|error| error.within(format!("xds_servers[{index}]")))
    };
    servers.map(built).collect()
}

#[cfg(test)]
mod tests;
