//! The backends that configurations lead to: a handful of gRPC servers on loopback that answer with their names.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpSocket;

use super::Addresses;
use crate::sim::{Answer, Backend, Speaks};

/// Backends `a`, `b` and so on, running until this is dropped.
///
/// A call tells them by its headers what to do: `echo-delay-ms` to wait, and `echo-fail-attempts` to answer UNAVAILABLE as
/// long as `grpc-previous-rpc-attempts` is below that number.
pub struct Fleet {
    backends: Vec<(String, Backend)>,
    /// Bound and not listened on, so that connections to it are refused for as long as this lives.
    nobody: TcpSocket,
}

/// How many backends there are.
pub(super) const SIZE: usize = 12;

/// The name of an address where nobody listens.
pub(super) const NOBODY: &str = "nobody";

// === impl Fleet ===

impl Fleet {
    /// Starts them on free ports.
    ///
    /// # Panics
    ///
    /// When there are no ports.
    pub async fn start() -> Self {
        let mut backends = Vec::new();
        for letter in ('a'..).take(SIZE) {
            let name = letter.to_string();
            let backend = Backend::on_loopback(&name, Speaks::Grpc, answer).await;
            backends.push((name, backend.expect("loopback has a free port")));
        }
        let nobody = TcpSocket::new_v4().expect("there are sockets");
        nobody.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
        Self { backends, nobody }
    }

    /// Where the backends are, and, under the name `nobody`, an address that refuses connections.
    pub fn addresses(&self) -> Addresses {
        let mut addresses: Addresses =
            self.backends.iter().map(|(name, backend)| (name.clone(), backend.address())).collect();
        let nobody = self.nobody.local_addr().expect("a bound socket has an address");
        addresses.insert(NOBODY.to_owned(), nobody);
        addresses
    }
}

fn answer(request: &Request<Incoming>, _: usize) -> Answer {
    let headers = request.headers();
    let after = Duration::from_millis(number(headers, "echo-delay-ms"));
    let is_spared = number(headers, "grpc-previous-rpc-attempts") >= number(headers, "echo-fail-attempts");
    Answer { after, status: if is_spared { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default()
}
