//! What a builder takes for an endpoint, and how it is written.

use std::{net::SocketAddr, path::Path};

use mesh_core::config::{Address, ConfigError, DnsName, Endpoint};

/// Where a client of one's own code finds a service: an address, or a name to be resolved.
#[derive(Clone, Debug)]
pub enum EndpointSpec {
    /// An endpoint with its address.
    Endpoint(Endpoint),
    /// Every address of this name is an endpoint; looked up again by its time to live.
    Name(DnsName),
}

/// What [`ClientBuilder::endpoints`](super::ClientBuilder::endpoints) takes.
pub trait IntoEndpoint {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is neither an address, nor a name with a port, nor the path of a socket.
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError>;
}

impl IntoEndpoint for &str {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return address.into_endpoint();
        }
        if let Some(path) = self.strip_prefix("unix:") {
            return socket_path(path).map(EndpointSpec::Endpoint);
        }
        let refuse = || ConfigError::new("address", self, "give `ip:port`, `name:port` or `unix:/path`");
        let (host, port) = self.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        DnsName::new(host, port).map(EndpointSpec::Name)
    }
}

/// As gRPC's names have it: `unix:path`, or `unix:///absolute/path`.
fn socket_path(path: &str) -> Result<Endpoint, ConfigError> {
    let plain = match path.strip_prefix("//") {
        Some(absolute) if !absolute.starts_with('/') => "",
        Some(absolute) => absolute,
        None => path,
    };
    if plain.is_empty() || plain.contains('\0') {
        return Err(ConfigError::new("address", format!("unix:{path}"), "give `unix:/path` or `unix:///path`"));
    }
    Ok(Endpoint::new(Address::Unix(Path::new(plain).into())))
}

impl IntoEndpoint for String {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        self.as_str().into_endpoint()
    }
}

impl IntoEndpoint for SocketAddr {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        Endpoint::new(self).into_endpoint()
    }
}

impl IntoEndpoint for Endpoint {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        match self.address() {
            Address::Socket(address) if address.port() == 0 => {
                Err(ConfigError::new("port", 0, "give a port between 1 and 65535"))
            }
            _ => Ok(EndpointSpec::Endpoint(self)),
        }
    }
}

impl IntoEndpoint for EndpointSpec {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        Ok(self)
    }
}
