//! Where a control plane listens, as gRPC writes it in a bootstrap.

use std::{fmt, net::IpAddr, path::PathBuf};

use mesh_core::config::ConfigError;

/// The address of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerUri {
    /// A TCP port of a host.
    Tcp {
        /// A DNS name or an IP address, an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// What the scheme says of TLS: `Some(false)` for `http:`, `Some(true)` for `https:`, else nothing. Channel
        /// credentials that say otherwise are refused.
        tls: Option<bool>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

const ACCEPTED: &str = "write `host:port`, `dns:///host:port`, `ipv4:address:port`, `ipv6:[address]:port`, \
                        `http://host:port`, `https://host:port`, `unix:path` or `unix:///absolute/path`";

/// The schemes of gRPC that take addresses alone, and of which kind.
type Family = fn(&IpAddr) -> bool;
const FAMILIES: [(&str, Family); 2] = [("ipv4:", IpAddr::is_ipv4), ("ipv6:", IpAddr::is_ipv6)];

// === impl ServerUri ===

impl ServerUri {
    /// Reads `host:port`, `dns:host:port`, `dns:///host:port`, `ipv4:address:port`, `ipv6:[address]:port`, `http://host:port`,
    /// `https://host:port`, `unix:path` or `unix:///absolute/path`.
    ///
    /// # Errors
    ///
    /// When `uri` is none of these. The port must be there, no name server can be given to `dns:`, and one address only to
    /// `ipv4:` and `ipv6:`.
    pub fn parse(uri: &str) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::new("server_uri", uri, ACCEPTED);
        if let Some(path) = uri.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix).ok_or_else(refuse);
        }
        for (scheme, is_of_family) in FAMILIES {
            if let Some(address) = uri.strip_prefix(scheme) {
                let (host, port) = host_and_port(address).ok_or_else(refuse)?;
                if !host.parse().is_ok_and(|address| is_of_family(&address)) {
                    return Err(refuse());
                }
                return Ok(Self::Tcp { host: host.to_owned(), port, tls: None });
            }
        }
        let (address, tls) = match uri.split_once("://") {
            Some(("http", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some(false)),
            Some(("https", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some(true)),
            Some(("dns", rest)) => (rest.strip_prefix('/').ok_or_else(refuse)?, None),
            Some(_) => return Err(refuse()),
            None => (uri.strip_prefix("dns:").unwrap_or(uri), None),
        };
        let (host, port) = host_and_port(address).ok_or_else(refuse)?;
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }
}

/// `//` opens an authority, which a socket has none of: what follows must be an absolute path.
fn unix_path(path: &str) -> Option<PathBuf> {
    let path = match path.strip_prefix("//") {
        Some(absolute) => Some(absolute).filter(|path| path.starts_with('/'))?,
        None => path,
    };
    (!path.is_empty()).then(|| PathBuf::from(path))
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| is_host(host))?,
    };
    Some((host, port))
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// As it would be written in a bootstrap.
impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port, tls) = match self {
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, tls } => (host, port, tls),
        };
        f.write_str(match tls {
            Some(false) => "http://",
            Some(true) => "https://",
            None => "",
        })?;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: Option<bool>) -> ServerUri {
        ServerUri::Tcp { host: host.to_owned(), port, tls }
    }

    #[test]
    fn every_form_of_grpc_is_read() {
        let unix = |path: &str| ServerUri::Unix(PathBuf::from(path));
        for (text, expected) in [
            ("istiod.istio-system.svc:15010", tcp("istiod.istio-system.svc", 15010, None)),
            ("dns:///istiod:15010", tcp("istiod", 15010, None)),
            ("dns:istiod:15010", tcp("istiod", 15010, None)),
            ("127.0.0.1:80", tcp("127.0.0.1", 80, None)),
            ("[::1]:80", tcp("::1", 80, None)),
            ("ipv4:127.0.0.1:80", tcp("127.0.0.1", 80, None)),
            ("ipv6:[::1]:80", tcp("::1", 80, None)),
            ("http://plane:80", tcp("plane", 80, Some(false))),
            ("https://plane:443/", tcp("plane", 443, Some(true))),
            ("unix:///etc/istio/proxy/XDS", unix("/etc/istio/proxy/XDS")),
            ("unix:/run/xds", unix("/run/xds")),
            ("unix:run/xds", unix("run/xds")),
        ] {
            assert_eq!(ServerUri::parse(text).expect(text), expected);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["plane:80", "[::1]:80", "http://plane:80", "https://plane:443", "unix:/run/xds"] {
            assert_eq!(ServerUri::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_would_do() {
        for text in [
            "",
            "plane",
            "plane:",
            "plane:0",
            "plane:70000",
            ":80",
            "::1:80",
            "[plane]:80",
            "pl ane:80",
            "unix:",
            "unix://host/path",
            "dns://8.8.8.8/plane:80",
            "ipv4:plane:80",
            "ipv4:[::1]:80",
            "ipv4:10.0.0.1:80,10.0.0.2:80",
            "ipv6:10.0.0.1:80",
            "xds:///plane",
            "ftp://plane:80",
            "http://plane:80/path",
            "user@plane:80",
        ] {
            let error = ServerUri::parse(text).expect_err(text);
            assert_eq!((error.field(), error.value(), error.remedy()), ("server_uri", text, ACCEPTED));
        }
    }
}
