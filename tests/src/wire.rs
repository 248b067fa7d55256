//! One HTTP connection by hand, on hyper's own connection API: what a peer says, seen without any client of ours.

use std::error::Error as StdError;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;

/// Whatever went wrong.
pub type Error = Box<dyn StdError + Send + Sync>;

/// An error and its sources in one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// HTTP/1.1 in plain text.
///
/// # Errors
///
/// When nobody listens there.
pub async fn http1(addr: SocketAddr) -> Result<http1::SendRequest<Full<Bytes>>, Error> {
    http1_over(TcpStream::connect(addr).await?).await
}

/// HTTP/1.1 over TLS, as this identity.
///
/// # Errors
///
/// When nobody listens there, or the handshake fails.
pub async fn https1(addr: SocketAddr, identity: &Identity) -> Result<http1::SendRequest<Full<Bytes>>, Error> {
    http1_over(tls(addr, identity, "http/1.1").await?).await
}

/// HTTP/2 by prior knowledge.
///
/// # Errors
///
/// When nobody listens there.
pub async fn http2(addr: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>, Error> {
    http2_over(TcpStream::connect(addr).await?).await
}

/// HTTP/2 over TLS, as this identity.
///
/// # Errors
///
/// When nobody listens there, or the handshake fails.
pub async fn https2(addr: SocketAddr, identity: &Identity) -> Result<http2::SendRequest<Full<Bytes>>, Error> {
    http2_over(tls(addr, identity, "h2").await?).await
}

/// A request with a body, empty or not.
pub fn request(method: Method, addr: SocketAddr, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(format!("http://{addr}/")).header("host", addr.to_string());
    request.body(Full::from(body)).expect("the parts are valid")
}

/// The whole body as text.
///
/// # Errors
///
/// When the body ends early or is not text.
pub async fn text(response: Response<Incoming>) -> Result<String, Error> {
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into())?)
}

async fn tls(addr: SocketAddr, identity: &Identity, alpn: &str) -> Result<TlsStream<TcpStream>, Error> {
    let connector = TlsConnector::from(identity.client_config(&[alpn]));
    let name = ServerName::from(addr.ip());
    Ok(connector.connect(name, TcpStream::connect(addr).await?).await?)
}

async fn http1_over<I>(io: I) -> Result<http1::SendRequest<Full<Bytes>>, Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Its errors reach the requests.
    tokio::spawn(connection);
    Ok(sender)
}

async fn http2_over<I>(io: I) -> Result<http2::SendRequest<Full<Bytes>>, Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
