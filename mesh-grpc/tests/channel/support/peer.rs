//! A peer that speaks HTTP/2 as a test tells it, gRPC or not.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};

/// Its response bodies: frames, or an error that resets the stream.
pub(crate) type RawBody = UnsyncBoxBody<Bytes, h2::Error>;

/// A peer that answers each request with the response that `respond` makes of it.
pub(crate) async fn http2_peer(
    respond: impl Fn(&Request<Incoming>) -> Response<RawBody> + Clone + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    moody_peer(move |request| Ok(respond(request))).await
}

/// The same, which resets the stream where there is an error.
pub(crate) async fn moody_peer(
    respond: impl Fn(&Request<Incoming>) -> Result<Response<RawBody>, h2::Error> + Clone + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| std::future::ready(respond(&request)));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, tasks)
}

/// A whole answer of gRPC.
pub(crate) fn whole() -> Response<RawBody> {
    grpc(frames(vec![Ok(framed("whole")), Ok(trailers("0"))]))
}

/// The beginning of an answer of gRPC.
pub(crate) fn grpc(body: RawBody) -> Response<RawBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer of something that does not speak gRPC.
pub(crate) fn page(status: u16) -> Response<RawBody> {
    let mut response = Response::new(frames(vec![Ok(Frame::data(Bytes::from_static(b"<html>sorry</html>")))]));
    *response.status_mut() = StatusCode::from_u16(status).expect("legal");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// A body of these frames.
pub(crate) fn frames(frames: Vec<Result<Frame<Bytes>, h2::Error>>) -> RawBody {
    UnsyncBoxBody::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// One message, as it is framed.
pub(crate) fn framed(text: &'static str) -> Frame<Bytes> {
    let mut frame = vec![0];
    frame.put_u32(text.len() as u32);
    frame.put_slice(text.as_bytes());
    Frame::data(frame.into())
}

pub(crate) fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    Frame::trailers(trailers)
}
