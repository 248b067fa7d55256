//! Pipes between addresses, which are slow, refuse, swallow or break as they are told.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use mesh_http::connect::{Connecting, Stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex, split},
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};

use super::record::{Record, What};

/// Who listens where, and what becomes of those who connect. A handle.
#[derive(Clone)]
pub struct Network {
    record: Record,
    state: Arc<Mutex<State>>,
}

/// What becomes of those who connect to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// They reach whoever listens there, or are refused.
    #[default]
    Open,
    /// They are refused although somebody listens.
    Refuses,
    /// They hear nothing.
    BlackHole,
    /// They are connected, and reset with the first byte.
    Resets,
}

/// One end of a connection.
pub struct Wire {
    pipe: DuplexStream,
    link: Arc<Link>,
}

/// The connections to an address, as they come.
pub struct Listener {
    incoming: mpsc::UnboundedReceiver<Accepted>,
}

/// A connection that somebody made.
pub struct Accepted {
    /// Its end.
    pub stream: Wire,
    /// How many were accepted at this address before it.
    pub number: usize,
}

#[derive(Default)]
struct State {
    latency: Duration,
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<Accepted>>,
    reach: BTreeMap<SocketAddr, Reach>,
    dialled: BTreeMap<SocketAddr, usize>,
    accepted: BTreeMap<SocketAddr, usize>,
    links: BTreeMap<SocketAddr, Vec<Arc<Link>>>,
}

/// A connection between its ends.
#[derive(Default)]
struct Link {
    /// Set before the pipes break, so that the ends read a reset rather than an end.
    is_reset: AtomicBool,
    /// Nothing gets through any more, and nobody is told.
    is_silent: AtomicBool,
    changed: Notify,
    /// Both ends are gone, or it was broken.
    is_over: AtomicBool,
}

/// How much is on its way in one piece, and how many pieces: a writer whose peer does not read comes to a stop.
const PIECE: usize = 4 * 1024;
const PIECES: usize = 8;

// === impl Network ===

impl Network {
    pub(super) fn new(record: Record) -> Self {
        Self { record, state: Arc::default() }
    }

    /// Every byte takes this long from one end to the other, and a connection twice as long. Counts for connections that
    /// are made from now on. Default: none.
    pub fn latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Takes connections to `address`, instead of whoever did so before.
    pub fn listen(&self, address: SocketAddr) -> Listener {
        let (accept, incoming) = mpsc::unbounded_channel();
        self.state().listeners.insert(address, accept);
        Listener { incoming }
    }

    /// Nobody listens at `address` any more. Connections stay.
    pub fn close(&self, address: SocketAddr) {
        self.state().listeners.remove(&address);
    }

    /// What becomes of those who connect to `address` from now on.
    pub fn reach(&self, address: SocketAddr, reach: Reach) {
        self.state().reach.insert(address, reach);
    }

    /// Breaks every connection to `address`: both ends read a reset.
    pub fn reset(&self, address: SocketAddr) {
        for link in self.links(address) {
            link.reset();
        }
    }

    /// Swallows whatever is sent over the connections to `address` that there are, either way.
    pub fn silence(&self, address: SocketAddr) {
        for link in self.links(address) {
            link.is_silent.store(true, Ordering::Relaxed);
        }
    }

    /// How often somebody asked for a connection to `address`.
    pub fn dialled(&self, address: SocketAddr) -> usize {
        self.state().dialled.get(&address).copied().unwrap_or_default()
    }

    /// Connections to `address` that are open.
    pub fn open(&self, address: SocketAddr) -> usize {
        self.links(address).len()
    }

    pub(super) fn dial(&self, address: SocketAddr) -> Connecting {
        self.record.note(What::Dialled { to: address });
        *self.state().dialled.entry(address).or_default() += 1;
        let network = self.clone();
        Box::pin(async move {
            let (latency, reach) = {
                let state = network.state();
                (state.latency, state.reach.get(&address).copied().unwrap_or_default())
            };
            sleep(latency * 2).await;
            match reach {
                Reach::Open => network.join(address, latency, false),
                Reach::Resets => network.join(address, latency, true),
                Reach::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                Reach::BlackHole => std::future::pending().await,
            }
        })
    }

    fn join(&self, address: SocketAddr, latency: Duration, resets: bool) -> io::Result<Stream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let link = Arc::new(Link::default());
        let ((near, near_far), (far_near, far)) = (duplex(PIECE), duplex(PIECE));
        let mut state = self.state();
        let listener = state.listeners.get(&address).cloned().ok_or_else(refused)?;
        let number = state.accepted.entry(address).or_default();
        let accepted = Accepted { stream: Wire { pipe: far, link: link.clone() }, number: *number };
        *number += 1;
        state.links.entry(address).or_default().push(link.clone());
        drop(state);
        listener.send(accepted).map_err(|_| refused())?;
        tokio::spawn(carry(link.clone(), near_far, far_near, latency, resets));
        Ok(Box::new(Wire { pipe: near, link }))
    }

    fn links(&self, address: SocketAddr) -> Vec<Arc<Link>> {
        let mut state = self.state();
        let Some(links) = state.links.get_mut(&address) else { return Vec::new() };
        links.retain(|link| !link.is_over.load(Ordering::Relaxed));
        links.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// Carries bytes both ways until one end is gone or the link is broken.
async fn carry(link: Arc<Link>, near: DuplexStream, far: DuplexStream, latency: Duration, resets: bool) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    let there = pump(&link, near_read, far_write, latency, resets);
    let back = pump(&link, far_read, near_write, latency, false);
    tokio::select! {
        biased;
        // It is broken while somebody waits, or found broken by somebody who writes.
        () = link.broken() => {}
        _ = async { tokio::try_join!(biased; there, back) } => {}
    }
    link.is_over.store(true, Ordering::Relaxed);
}

async fn pump(
    link: &Link,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    latency: Duration,
    resets: bool,
) -> io::Result<()> {
    let (send, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let take = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<_, io::Error>(());
            }
            if resets {
                link.reset();
            }
            let piece = (Instant::now() + latency, Bytes::copy_from_slice(&buffer[..length]));
            if !link.is_silent.load(Ordering::Relaxed) && send.send(piece).await.is_err() {
                return Ok(());
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(biased; take, give).map(|_| ())
}

// === impl Link ===

impl Link {
    fn reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn broken(&self) {
        while !self.is_reset.load(Ordering::Relaxed) {
            self.changed.notified().await;
        }
    }
}

// === impl Listener ===

impl Listener {
    /// The next connection; none once somebody else listens, or nobody.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.incoming.recv().await
    }
}

// === impl Wire ===

impl Wire {
    /// Breaks the connection: the other end reads a reset.
    pub fn reset(&self) {
        self.link.reset();
    }

    fn or_reset<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if self.link.is_reset.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        result
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.pipe).poll_read(cx, buf);
        poll.map(|result| self.or_reset(result))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.pipe).poll_write(cx, buf);
        poll.map(|result| self.or_reset(result))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.pipe).poll_flush(cx);
        poll.map(|result| self.or_reset(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
