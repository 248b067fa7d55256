//! Where a client finds its service, as its code says it: an address, or a name to be resolved.

use std::net::SocketAddr;

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
    /// When it is neither an address nor a name with a port.
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError>;
}

impl IntoEndpoint for &str {
    fn into_endpoint(self) -> Result<EndpointSpec, ConfigError> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return address.into_endpoint();
        }
        let refuse = || ConfigError::new("address", self, "give `ip:port` or `name:port`");
        let (host, port) = self.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        DnsName::new(host, port).map(EndpointSpec::Name)
    }
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
