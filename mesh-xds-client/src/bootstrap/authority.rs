//! An authority of a bootstrap: which control planes have the resources that bear its name (gRFC A47).

use mesh_core::config::ConfigError;

use super::{ChannelCredentials, Server, ServerBuilder, build_servers};
use crate::ResourceKind;

/// Who has the resources whose names begin with `xdstp://<authority>/` (`authorities`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    servers: Vec<Server>,
    client_listener_template: String,
    falls_back_on_reachability_only: bool,
}

/// Describes an [`Authority`], which is checked when the bootstrap is built. Everything has a default.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it is given to a bootstrap"]
pub struct AuthorityBuilder {
    servers: Vec<ServerBuilder>,
    client_listener_template: Option<String>,
    falls_back_on_reachability_only: bool,
}

// === impl Authority ===

impl Authority {
    /// Describes an authority.
    pub fn builder() -> AuthorityBuilder {
        AuthorityBuilder::default()
    }

    /// Its control planes, the preferred one first. Never empty.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// What the listener of a target `xds://<authority>/…` is called, with `%s` for the rest of the target.
    pub fn client_listener_template(&self) -> &str {
        &self.client_listener_template
    }

    /// Whether the next control plane is asked as soon as one is lost, though nothing may be lacking.
    pub fn falls_back_on_reachability_only(&self) -> bool {
        self.falls_back_on_reachability_only
    }
}

// === impl AuthorityBuilder ===

impl AuthorityBuilder {
    /// Adds a control plane, to be used when those before it cannot. Default: those of the bootstrap itself.
    pub fn server(self, uri: impl Into<String>, credentials: ChannelCredentials) -> Self {
        self.add_server(Server::builder(uri, credentials))
    }

    /// As [`server`](Self::server), with all that can be said of it.
    pub fn add_server(mut self, server: ServerBuilder) -> Self {
        self.servers.push(server);
        self
    }

    /// What the listener of a target `xds://<authority>/…` is called, with `%s` for the rest of the target. Must
    /// begin with `xdstp://<authority>/`. Default: `xdstp://<authority>/envoy.config.listener.v3.Listener/%s`.
    pub fn client_listener_template(mut self, template: impl Into<String>) -> Self {
        self.client_listener_template = Some(template.into());
        self
    }

    /// Asks the next control plane as soon as one is lost (`fallback_on_reachability_only`, gRFC A95). Default: only
    /// while something is lacking.
    pub fn fallback_on_reachability_only(mut self, only: bool) -> Self {
        self.falls_back_on_reachability_only = only;
        self
    }

    /// `servers` are those of the bootstrap.
    pub(super) fn build(self, name: &str, servers: &[Server]) -> Result<Authority, ConfigError> {
        let prefix = format!("xdstp://{name}/");
        if name.contains(['/', '?', '#', '%']) {
            return Err(ConfigError::new("", name, "give a name without `/`, `?`, `#` and `%`"));
        }
        let default = || format!("{prefix}{}/%s", ResourceKind::Listener.message_name());
        let template = self.client_listener_template.unwrap_or_else(default);
        if !template.starts_with(&prefix) {
            let remedy = format!("begin with `{prefix}`");
            return Err(ConfigError::new("client_listener_resource_name_template", template, remedy));
        }
        let servers = if self.servers.is_empty() { servers.to_vec() } else { build_servers(self.servers)? };
        let falls_back_on_reachability_only = self.falls_back_on_reachability_only;
        Ok(Authority { servers, client_listener_template: template, falls_back_on_reachability_only })
    }
}
