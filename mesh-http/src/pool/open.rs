//! Opening a connection: the first part of its task, from nothing to ready.

use std::{future::poll_fn, io, sync::Arc, task::Poll};

use bytes::Bytes;
use http_body::Body;
use mesh_core::{config::HttpProtocol, outcome::BoxError};
use tokio::time::timeout;

use super::{
    connection::{Connection, Sender},
    drive::{Driver, Watch},
    error::ConnectError,
    overhear::{Overheard, TlsEnd},
    shared::{Opening, SocketPermit},
    version::Version,
};
use crate::{
    conn::{self, h1, h2},
    connect::{Stream, connect_any},
    tls::TlsError,
};

/// Makes the connection that `opening` asks for, on a task of its own.
pub(super) fn launch<B>(opening: Opening<B>)
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let spawn = opening.context.spawn.clone();
    spawn.spawn(Box::pin(opening.run()));
}

// === impl Opening ===

impl<B> Opening<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    async fn run(mut self) {
        let tls_end = TlsEnd::default();
        let limit = self.context.connect_timeout;
        let connected = timeout(limit, self.connect(&tls_end)).await.unwrap_or(Err(ConnectError::Elapsed(limit)));
        let (sender, driver) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let error = tls_end.get().cloned().map_or(error, ConnectError::Tls);
                tracing::debug!(endpoint.addr = ?self.shared.addresses.first(), %error, "no connection");
                return self.fail(&error);
            }
        };
        let (watch, socket) = self.open(sender, tls_end);
        watch.drive(driver).await;
        drop(socket);
    }

    async fn connect(&self, tls_end: &TlsEnd) -> Result<(Sender<B>, Driver<B>), ConnectError> {
        let Self { context, shared, .. } = self;
        if let Some(Ok(tls)) = &context.tls {
            // Peers are spared connections that come to nothing for want of an identity.
            tls.check().await.map_err(ConnectError::Tls)?;
        }
        let io = connect_any(&context.connector, &shared.addresses).await;
        let io = io.map_err(|error| ConnectError::Io(Arc::new(error)))?;
        let (io, version) = self.encrypt(io, tls_end).await?;
        match version {
            Version::H1 => {
                let (sender, driver) = h1::handshake(io, &context.http1).await.map_err(http)?;
                let mut driver = Driver::H1(Box::new(driver));
                begin(&mut driver, |_| sender.is_ready()).await?;
                Ok((Sender::H1(sender.into()), driver))
            }
            Version::H2 => {
                let (sender, driver) = h2::handshake(io, &context.http2).await.map_err(http)?;
                let mut driver = Driver::H2(Box::new(driver));
                begin(&mut driver, Driver::has_heard).await?;
                Ok((Sender::H2(sender), driver))
            }
        }
    }

    /// Shakes hands where TLS is configured, and finds out what to speak.
    async fn encrypt(&self, io: Stream, tls_end: &TlsEnd) -> Result<(Stream, Version), ConnectError> {
        let Self { context, name, .. } = self;
        let protocol = context.protocol;
        let Some(tls) = &context.tls else {
            let version = if protocol == HttpProtocol::Http2 { Version::H2 } else { Version::H1 };
            return Ok((io, version));
        };
        let tls = tls.as_ref().map_err(|error| ConnectError::Tls(error.clone()))?;
        let name = name.as_ref().ok_or_else(|| ConnectError::Tls(nameless()))?;
        let stream = tls.connect(io, name).await.map_err(ConnectError::Tls)?;
        let version = choose(protocol, stream.alpn())?;
        Ok((Box::new(Overheard::new(stream, tls_end.clone())), version))
    }

    /// Makes the connection known. It counts as a socket until the permit is dropped.
    fn open(self, sender: Sender<B>, tls_end: TlsEnd) -> (Watch<B>, Option<SocketPermit<B>>) {
        let (shared, span) = (self.shared.clone(), self.context.span(self.id));
        let place = (self.id, self.lane);
        let connection = Arc::new(Connection::new(place, shared.clone(), sender, tls_end, &self.context));
        let socket = self.succeed(&connection);
        (Watch::new(shared, &connection, span), socket)
    }
}

/// The context asks for TLS since a time when the connections of this lane had none.
fn nameless() -> TlsError {
    TlsError::Unavailable { reason: "the pool has plaintext connections: TLS needs another generation".into() }
}

fn http(error: conn::Error) -> ConnectError {
    ConnectError::Http(Arc::new(error))
}

/// Which HTTP to speak with a peer that chose `alpn`. One that ignores ALPN, or chose a name that says nothing of HTTP, is
/// taken to speak what is configured.
fn choose(protocol: HttpProtocol, alpn: Option<&[u8]>) -> Result<Version, ConnectError> {
    let chosen = alpn.and_then(Version::of_alpn);
    match (protocol, chosen) {
        (HttpProtocol::Http2, Some(Version::H1)) | (HttpProtocol::Http1, Some(Version::H2)) => {
            Err(ConnectError::Alpn(String::from_utf8_lossy(alpn.unwrap_or_default()).into()))
        }
        (HttpProtocol::Http2, _) | (HttpProtocol::Auto, Some(Version::H2)) => Ok(Version::H2),
        _ => Ok(Version::H1),
    }
}

/// Drives a new connection until it takes requests. One of HTTP/1 does at once. One of HTTP/2 is given time for the peer's
/// first frame: only then is it certain that somebody is there who speaks HTTP/2, and known how many streams it permits.
async fn begin<B>(driver: &mut Driver<B>, is_ready: impl Fn(&Driver<B>) -> bool) -> Result<(), ConnectError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    poll_fn(|cx| match driver.poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(http(error))),
        Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::Io(Arc::new(io::ErrorKind::UnexpectedEof.into())))),
        Poll::Pending if is_ready(driver) => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}
