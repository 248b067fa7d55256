//! From an address to a stream of bytes, as an injected part.
//!
//! The mesh opens every connection through one [`Connect`], endpoints and control plane alike, so that a test replaces the
//! network with pipes in memory, and a program tunnels, binds or counts as it likes. TLS comes after this.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use mesh_core::config::Address;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::sleep,
};

/// Opens streams of bytes.
///
/// A pending connection is given up by dropping its future. Time limits are the caller's.
pub trait Connect: Send + Sync + 'static {
    /// Opens a stream to `address`.
    fn connect(&self, address: &Address) -> Connecting;
}

/// A stream that is being opened.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// A stream of bytes.
pub type Stream = Box<dyn ByteStream>;

/// What a stream of bytes must be; implemented by every type that is.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for T {}

/// Connects over TCP and unix domain sockets; the default.
///
/// `TCP_NODELAY` is set: what a connection writes together leaves in one write already, and Nagle's algorithm would hold it
/// back.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketConnector;

/// How long the first address of an endpoint has before the next is tried beside it (RFC 8305, section 8; gRFC A61).
const HEAD_START: Duration = Duration::from_millis(250);

impl Connect for SocketConnector {
    fn connect(&self, address: &Address) -> Connecting {
        match address.clone() {
            Address::Socket(address) => Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Stream)
            }),
            Address::Unix(path) => Box::pin(async move { Ok(Box::new(UnixStream::connect(path).await?) as Stream) }),
        }
    }
}

/// Opens a stream to the first of `addresses` that answers: each has a head start of 250 ms over the next, or less when it
/// fails sooner (happy eyeballs, RFC 8305, gRFC A61). The first comes first; after it the families of addresses take turns, so
/// that one that leads nowhere costs one head start. The others are given up.
///
/// # Errors
///
/// The error of the last address, when none answers.
pub async fn connect_any(connector: &Arc<dyn Connect>, addresses: &[Address]) -> io::Result<Stream> {
    let mut racing: Vec<Connecting> = Vec::new();
    let mut waiting = in_turn(addresses);
    let mut last_error = None;
    loop {
        if let Some(address) = waiting.next() {
            racing.push(connector.connect(address));
        } else if racing.is_empty() {
            return Err(last_error.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)));
        }
        match first_of(&mut racing, waiting.len() > 0).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last_error = Some(error),
            None => {}
        }
    }
}

/// The addresses in the order in which they are tried (RFC 8305, section 4).
fn in_turn(addresses: &[Address]) -> impl ExactSizeIterator<Item = &Address> {
    let first = addresses.first().map(family);
    let (mut like, mut unlike) = (Vec::with_capacity(addresses.len()), Vec::new());
    for address in addresses {
        if Some(family(address)) == first { like.push(address) } else { unlike.push(address) }
    }
    let (mut like, mut unlike) = (like.into_iter(), unlike.into_iter());
    let mut ordered = Vec::with_capacity(addresses.len());
    while ordered.len() < addresses.len() {
        ordered.extend(like.next());
        ordered.extend(unlike.next());
    }
    ordered.into_iter()
}

/// What two addresses have in common that may be broken for all alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Other,
}

fn family(address: &Address) -> Family {
    match address {
        Address::Socket(SocketAddr::V4(_)) => Family::V4,
        Address::Socket(SocketAddr::V6(_)) => Family::V6,
        Address::Unix(_) => Family::Other,
    }
}

/// The first result of those that race, or none when the head start is over and somebody waits. An error removes its
/// attempt from the race.
async fn first_of(racing: &mut Vec<Connecting>, others_wait: bool) -> Option<io::Result<Stream>> {
    let result = std::future::poll_fn(|cx| {
        for index in 0..racing.len() {
            if let std::task::Poll::Ready(result) = racing[index].as_mut().poll(cx) {
                drop(racing.remove(index));
                return std::task::Poll::Ready(result);
            }
        }
        std::task::Poll::Pending
    });
    if !others_wait {
        return Some(result.await);
    }
    // Biased by order, not by chance: an answer that is there counts before the head start is over.
    tokio::select! {
        biased;
        result = result => Some(result),
        () = sleep(HEAD_START) => None,
    }
}

impl fmt::Debug for dyn Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    /// Port 1 never answers, port 2 refuses, the others answer at once.
    struct Scripted;

    impl Connect for Scripted {
        fn connect(&self, address: &Address) -> Connecting {
            match address {
                Address::Socket(address) if address.port() == 1 => Box::pin(pending()),
                Address::Socket(address) if address.port() == 2 => {
                    Box::pin(async { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) })
                }
                _ => Box::pin(async { Ok(Box::new(tokio::io::empty()) as Stream) }),
            }
        }
    }

    async fn connect(ports: &[u16]) -> io::Result<Duration> {
        let connector: Arc<dyn Connect> = Arc::new(Scripted);
        let addresses: Vec<_> =
            ports.iter().map(|port| Address::from(SocketAddr::from(([127, 0, 0, 1], *port)))).collect();
        let start = Instant::now();
        connect_any(&connector, &addresses).await.map(|_| start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn next_address_starts_when_the_head_start_is_over() {
        assert_eq!(connect(&[1, 3]).await.expect("port 3 answers"), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_address_hands_over_at_once() {
        assert_eq!(connect(&[2, 3]).await.expect("port 3 answers"), Duration::ZERO);
    }

    #[test]
    fn families_take_turns_after_the_first_address() {
        let addresses = ["[::1]:1", "[::1]:2", "[::1]:3", "10.0.0.1:1", "10.0.0.1:2"];
        let order = |addresses: &[&str]| -> Vec<String> {
            let addresses: Vec<_> = addresses
                .iter()
                .map(|address| Address::from(address.parse::<SocketAddr>().expect("an address")))
                .collect();
            in_turn(&addresses).map(ToString::to_string).collect()
        };
        assert_eq!(order(&addresses), ["[::1]:1", "10.0.0.1:1", "[::1]:2", "10.0.0.1:2", "[::1]:3"]);
        assert_eq!(order(&addresses[2..4]), &addresses[2..4]);
        assert_eq!(order(&["10.0.0.1:1", "10.0.0.1:2"]), ["10.0.0.1:1", "10.0.0.1:2"]);
        assert!(order(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn family_that_leads_nowhere_costs_one_head_start() {
        let address = |text: &str| Address::from(text.parse::<SocketAddr>().expect("an address"));
        // Those of port 1 never answer.
        let addresses: Vec<_> = ["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:3"].map(address).into();
        let (connector, start): (Arc<dyn Connect>, _) = (Arc::new(Scripted), Instant::now());
        connect_any(&connector, &addresses).await.expect("port 3 answers");
        assert_eq!(start.elapsed(), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn last_error_is_told_when_none_answers() {
        let error = connect(&[2, 2]).await.expect_err("all refuse");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(&[]).await.is_err());
    }
}
