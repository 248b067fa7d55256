//! What a caller of one HTTP/1.1 connection may rely on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_core::outcome::Sent;
use mesh_http::conn::{Error, ErrorKind, Http1Options, h1};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

type TestBody = UnsyncBoxBody<Bytes, io::Error>;

fn whole(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn post(body: TestBody) -> Request<TestBody> {
    Request::post("/path").header("host", "peer").body(body).unwrap()
}

async fn connect() -> (h1::Sender<TestBody>, JoinHandle<Result<(), Error>>, DuplexStream) {
    let (ours, theirs) = duplex(16 * 1024);
    let (sender, driver) = h1::handshake(ours, &Http1Options::default()).await.unwrap();
    (sender, tokio::spawn(driver), theirs)
}

/// Answers the first request with `answer`, and hangs up.
async fn answering(answer: &'static str) -> (h1::Sender<TestBody>, JoinHandle<Result<(), Error>>) {
    let (sender, driver, mut theirs) = connect().await;
    tokio::spawn(async move {
        let mut request = [0; 1024];
        let _ = theirs.read(&mut request).await.unwrap();
        theirs.write_all(answer.as_bytes()).await.unwrap();
    });
    (sender, driver)
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}

async fn ready(sender: &mut h1::Sender<TestBody>) -> Result<(), Error> {
    poll_fn(|cx| sender.poll_ready(cx)).await
}

#[tokio::test(start_paused = true)]
async fn calls_follow_each_other_once_the_body_is_read() {
    let (mut sender, _driver, theirs) = connect().await;
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service_fn(echo)));
    for size in [0, 5, 3 * 1024 * 1024] {
        ready(&mut sender).await.unwrap();
        let sent = Bytes::from(vec![b'x'; size]);
        let response = sender.send(post(whole(sent.clone()))).await.unwrap();
        // A body that came with its head is read already, as far as the connection is concerned.
        assert!(size < 1024 * 1024 || !sender.is_ready());
        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent);
    }
}

#[tokio::test(start_paused = true)]
async fn busy_connection_gives_the_request_back() {
    let (mut sender, _driver, _theirs) = connect().await;
    let _first = sender.send(post(whole("first")));
    let mut error = sender.send(post(whole("second"))).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, Sent::No));
    let body = error.take_request().unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "second");
}

#[tokio::test(start_paused = true)]
async fn peer_that_closed_before_the_request_gives_it_back() {
    let (mut sender, driver, theirs) = connect().await;
    ready(&mut sender).await.unwrap();
    drop(theirs);
    assert_eq!(driver.await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
    assert!(sender.is_closed() && ready(&mut sender).await.is_err());
    let mut error = sender.send(post(whole("kept"))).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, Sent::No));
    assert!(error.take_request().is_some());
}

#[tokio::test(start_paused = true)]
async fn peer_that_closes_without_an_answer_is_lost() {
    let (mut sender, _driver) = answering("").await;
    let mut error = sender.send(post(whole("body"))).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Lost, Sent::Maybe));
    assert!(error.take_request().is_none());
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_breach_of_protocol() {
    let (mut sender, _driver) = answering("\x16\x03\x01 not http\r\n\r\n").await;
    let error = sender.send(post(whole("body"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn socket_that_closes_within_a_body_ends_the_body_with_an_error() {
    let (mut sender, _driver) = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart").await;
    let mut body = sender.send(post(whole("body"))).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    let error = Error::from_body(body.frame().await.unwrap().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn too_many_headers_end_the_connection() {
    let (ours, mut theirs) = duplex(16 * 1024);
    let mut options = Http1Options::default();
    options.max_headers = 1;
    let (mut sender, driver) = h1::handshake(ours, &options).await.unwrap();
    tokio::spawn(driver);
    let response = tokio::spawn(sender.send(post(whole("body"))));
    let _ = theirs.read(&mut [0; 1024]).await.unwrap();
    theirs.write_all(b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(response.await.unwrap().unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn failing_request_body_is_the_requests_fault() {
    let (mut sender, _driver, _theirs) = connect().await;
    let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from("x"))), Err(io::Error::other("disk"))]);
    let error = sender.send(post(StreamBody::new(frames).boxed_unsync())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Request);
}

#[tokio::test(start_paused = true)]
async fn dropped_driver_fails_the_call_in_flight() {
    let (mut sender, driver, mut theirs) = connect().await;
    let response = tokio::spawn(sender.send(post(whole("body"))));
    let _ = theirs.read(&mut [0; 1024]).await.unwrap();
    driver.abort();
    let error = response.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Lost, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_closes_the_connection() {
    let (mut sender, driver, mut theirs) = connect().await;
    let response = tokio::spawn(sender.send(post(whole("body"))));
    let _ = theirs.read(&mut [0; 1024]).await.unwrap();
    response.abort();
    let _ = driver.await.unwrap();
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(sender.is_closed() && ready(&mut sender).await.is_err());
}
