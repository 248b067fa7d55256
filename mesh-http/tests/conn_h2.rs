//! What a caller of one HTTP/2 connection may rely on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::outcome::Sent;
use mesh_http::conn::{Error, ErrorKind, Http2Options, KeepAlive, h2};
use pool_support::{TestBody, all_is_quiet, whole};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

type Peer = ::h2::server::Connection<DuplexStream, Bytes>;

const PIPE: usize = 16 * 1024;

fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn channel() -> (mpsc::UnboundedSender<Bytes>, TestBody) {
    let (tx, rx) = mpsc::unbounded_channel();
    let frames = stream::unfold(rx, async |mut rx: mpsc::UnboundedReceiver<Bytes>| {
        let bytes = rx.recv().await?;
        Some((Ok(Frame::data(bytes)), rx))
    });
    (tx, StreamBody::new(frames).boxed_unsync())
}

fn post(body: TestBody) -> Request<TestBody> {
    Request::post("http://peer/path").body(body).unwrap()
}

async fn connect(options: &Http2Options) -> (h2::Sender<TestBody>, JoinHandle<Result<(), Error>>, DuplexStream) {
    let (ours, theirs) = duplex(PIPE);
    let (sender, driver) = h2::handshake(ours, options).await.unwrap();
    (sender, tokio::spawn(driver), theirs)
}

/// A connection to a peer that the test plays frame by frame.
async fn scripted() -> (h2::Sender<TestBody>, JoinHandle<Result<(), Error>>, Peer) {
    let (sender, driver, theirs) = connect(&Http2Options::default()).await;
    let peer = ::h2::server::handshake(theirs).await.unwrap();
    (sender, driver, peer)
}

/// A connection to a hyper server that echoes bodies, frame by frame, with a trailer.
async fn echoing() -> (h2::Sender<TestBody>, JoinHandle<Result<(), Error>>) {
    let (sender, driver, theirs) = connect(&Http2Options::default()).await;
    tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(theirs), service_fn(echo)),
    );
    (sender, driver)
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = hyper::Error>>, Infallible> {
    let trailers = async { Some(Ok(HeaderMap::from_iter([("x-end".parse().unwrap(), "yes".parse().unwrap())]))) };
    Ok(Response::new(request.into_body().with_trailers(trailers)))
}

/// Keeps the peer reading and writing while the test waits for something else.
fn run(mut peer: Peer) -> JoinHandle<Option<Result<(), ::h2::Error>>> {
    tokio::spawn(async move { peer.accept().await.map(|accepted| accepted.map(drop)) })
}

/// Reads the connection preface and returns the frames that came with it.
async fn read_preface(peer: &mut DuplexStream) -> Vec<u8> {
    let mut preface = [0; 24];
    peer.read_exact(&mut preface).await.unwrap();
    let mut frames = vec![0; PIPE];
    let count = peer.read(&mut frames).await.unwrap();
    frames.truncate(count);
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// A pipe that counts the writes that it is asked for.
struct CountWrites(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for CountWrites {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountWrites {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn unary_call_returns_body_and_trailers() {
    let (mut sender, _driver) = echoing().await;
    let response = sender.send(post(whole("hello"))).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "yes");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn empty_body_ends_with_the_headers() {
    let (mut sender, _driver, mut peer) = scripted().await;
    let response = tokio::spawn(sender.send(post(empty())));
    let (request, mut respond) = peer.accept().await.unwrap().unwrap();
    assert!(request.body().is_end_stream());
    respond.send_response(Response::new(()), true).unwrap();
    run(peer);
    response.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn both_directions_stream_at_once() {
    let (mut sender, _driver) = echoing().await;
    let (tx, body) = channel();
    let mut echoed = sender.send(post(body)).await.unwrap().into_body();
    for turn in 0..50u8 {
        tx.send(Bytes::copy_from_slice(&[turn])).unwrap();
        let frame = echoed.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), &[turn][..]);
    }
    drop(tx);
    assert!(echoed.frame().await.unwrap().unwrap().is_trailers());
}

#[tokio::test(start_paused = true)]
async fn bodies_larger_than_every_window_pass_both_ways() {
    let (mut sender, _driver) = echoing().await;
    let calls = (0..4u8).map(|fill| {
        let sent = Bytes::from(vec![fill; 3 * 1024 * 1024]);
        let response = sender.send(post(whole(sent.clone())));
        async move {
            let body = response.await.unwrap().into_body().collect().await.unwrap();
            assert!(body.to_bytes() == sent);
        }
    });
    join_all(calls).await;
}

#[tokio::test(start_paused = true)]
async fn transport_with_a_buffer_of_its_own_is_flushed() {
    let (ours, theirs) = duplex(PIPE);
    let buffering = BufWriter::with_capacity(64 * 1024, ours);
    let (mut sender, driver) = h2::handshake(buffering, &Http2Options::default()).await.unwrap();
    tokio::spawn(driver);
    tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(theirs), service_fn(echo)),
    );
    for size in [1, 3 * 1024 * 1024] {
        let response = sender.send(post(whole(vec![b'x'; size]))).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), size);
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_streams_share_the_connection() {
    let (sender, _driver) = echoing().await;
    for _ in 0..3 {
        let calls = (0..500u32).map(|n| {
            let mut sender = sender.clone();
            async move {
                let sent = n.to_string();
                let response = sender.send(post(whole(sent.clone()))).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), sent);
            }
        });
        join_all(calls).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_call_reaches_the_peer_as_cancel() {
    let (mut sender, _driver, mut peer) = scripted().await;
    let (_tx, body) = channel();
    for body in [empty(), body] {
        let response = tokio::spawn(sender.send(post(body)));
        let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
        response.abort();
        let reset = tokio::select! {
            biased;
            reset = std::future::poll_fn(|cx| respond.poll_reset(cx)) => reset.unwrap(),
            _ = peer.accept() => panic!("connection ended"),
        };
        assert_eq!(reset, ::h2::Reason::CANCEL);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_response_body_reaches_the_peer_as_cancel() {
    let (mut sender, _driver, mut peer) = scripted().await;
    let response = tokio::spawn(sender.send(post(empty())));
    let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let watch = tokio::spawn(async move {
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        reset.unwrap()
    });
    run(peer);
    drop(response.await.unwrap().unwrap());
    assert_eq!(watch.await.unwrap(), ::h2::Reason::CANCEL);
}

#[tokio::test(start_paused = true)]
async fn goaway_drains_what_is_in_flight_and_returns_what_comes_later() {
    let (mut sender, driver, mut peer) = scripted().await;
    let response = tokio::spawn(sender.send(post(empty())));
    let (_request, mut respond) = peer.accept().await.unwrap().unwrap();

    // 1. The peer says goodbye; the sender learns of it without sending anything.
    peer.graceful_shutdown();
    run(peer);
    all_is_quiet().await;
    assert!(sender.is_draining() && !sender.is_open() && !sender.is_closed());
    assert!(sender.claim().is_none());

    // 2. A new request comes back whole.
    let mut error = sender.send(post(whole("again"))).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, Sent::No));
    let returned = error.take_request().unwrap().into_body().collect().await.unwrap();
    assert_eq!(returned.to_bytes(), "again");

    // 3. The call in flight ends well, and then the driver.
    respond.send_response(Response::new(()), true).unwrap();
    response.await.unwrap().unwrap();
    driver.await.unwrap().unwrap();
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn goaway_vouches_only_for_streams_above_its_last() {
    for (last, kind, sent) in [(0, ErrorKind::Refused, Sent::No), (1, ErrorKind::Lost, Sent::Maybe)] {
        let (mut sender, _driver, mut peer) = connect(&Http2Options::default()).await;
        let response = tokio::spawn(sender.send(post(empty())));
        read_preface(&mut peer).await;
        peer.write_all(&settings()).await.unwrap();
        peer.write_all(&frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0xb])).await.unwrap();
        if kind == ErrorKind::Lost {
            drop(peer);
        }
        let error = response.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.sent()), (kind, sent));
        assert!(!sender.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn lone_goaway_is_noticed_after_a_body_was_sent() {
    let (mut sender, _driver, mut peer) = connect(&Http2Options::default()).await;
    peer.write_all(&settings()).await.unwrap();
    let first = sender.send(post(whole("body")));
    read_preface(&mut peer).await;
    let _second = sender.send(post(whole("body")));
    let _ = peer.read(&mut [0; 1024]).await.unwrap();
    assert!(sender.is_open());
    peer.write_all(&frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])).await.unwrap();
    all_is_quiet().await;
    assert!(!sender.is_open());
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn options_reach_the_peer() {
    let mut options = Http2Options::default();
    options.stream_window = u32::MAX;
    options.connection_window = 0x4_0000;
    options.max_header_list = 0x1234;
    let (_sender, _driver, mut peer) = connect(&options).await;
    let sent = read_preface(&mut peer).await;
    let has = |setting: &[u8]| sent.windows(setting.len()).any(|part| part == setting);
    assert!(has(&[0, 4, 0x7f, 0xff, 0xff, 0xff]), "SETTINGS_INITIAL_WINDOW_SIZE");
    assert!(has(&[0, 6, 0, 0, 0x12, 0x34]), "SETTINGS_MAX_HEADER_LIST_SIZE");
    assert!(has(&frame(8, 0, 0, &[0, 3, 0, 1])), "WINDOW_UPDATE beyond the initial 65,535");
}

#[tokio::test(start_paused = true)]
async fn refused_stream_was_not_sent_and_other_resets_were() {
    let (mut sender, _driver, mut peer) = scripted().await;
    for (reason, kind, sent) in [
        (::h2::Reason::REFUSED_STREAM, ErrorKind::Refused, Sent::No),
        (::h2::Reason::INTERNAL_ERROR, ErrorKind::Reset, Sent::Yes),
    ] {
        let response = sender.send(post(whole("body")));
        let script = async {
            let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            drop(respond);
            let _ = tokio::time::timeout(Duration::from_millis(1), peer.accept()).await;
        };
        let (outcome, ()) = tokio::join!(response, script);
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (kind, sent));
        assert_eq!(error.into_error().code(), Some(u32::from(reason)));
    }
    assert!(sender.is_open());
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_speak_http2_is_named_so() {
    let (mut sender, driver, mut peer) = connect(&Http2Options::default()).await;
    let response = tokio::spawn(sender.send(post(whole("body"))));
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let error = response.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Protocol, Sent::Maybe));
    assert_eq!(driver.await.unwrap().unwrap_err().kind(), ErrorKind::Protocol);
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn socket_that_closes_under_a_call_is_lost() {
    let (mut sender, driver, mut peer) = scripted().await;
    let (_tx, body) = channel();
    let response = tokio::spawn(sender.send(post(body)));
    let accepted = peer.accept().await.unwrap().unwrap();
    drop((accepted, peer));
    let error = response.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Lost, Sent::Maybe));
    assert_eq!(driver.await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn socket_that_closes_within_a_body_ends_the_body_with_an_error() {
    let (mut sender, _driver, mut peer) = scripted().await;
    let response = tokio::spawn(sender.send(post(empty())));
    let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data("part".into(), false).unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(1), peer.accept()).await;
    let mut body = response.await.unwrap().unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    drop(peer);
    let error = Error::from_body(body.frame().await.unwrap().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn dropped_driver_fails_what_is_in_flight() {
    let (mut sender, driver, mut peer) = scripted().await;
    let response = tokio::spawn(sender.send(post(empty())));
    let accepted = peer.accept().await.unwrap().unwrap();
    driver.abort();
    let error = response.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Lost, Sent::Maybe));
    assert!(sender.is_closed());
    drop(accepted);
}

#[tokio::test(start_paused = true)]
async fn request_that_never_left_comes_back_when_the_driver_is_dropped() {
    let (ours, _theirs) = duplex(PIPE);
    let (mut sender, driver) = h2::handshake(ours, &Http2Options::default()).await.unwrap();
    let response = sender.send(post(whole("kept")));
    drop(driver);
    let mut error = response.await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, Sent::No));
    assert!(error.take_request().is_some());
}

#[tokio::test(start_paused = true)]
async fn failing_request_body_is_the_requests_fault() {
    let (mut sender, _driver, peer) = scripted().await;
    run(peer);
    let frames = stream::iter([Ok(Frame::data(Bytes::from("x"))), Err(io::Error::other("disk"))]);
    let error = sender.send(post(StreamBody::new(frames).boxed_unsync())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Request);
}

#[tokio::test(start_paused = true)]
async fn dropped_sender_lets_the_call_finish_and_then_the_driver() {
    let (mut sender, driver) = echoing().await;
    let (tx, body) = channel();
    let response = sender.send(post(body)).await.unwrap();
    drop(sender);
    tx.send("late".into()).unwrap();
    drop(tx);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "late");
    driver.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_found_by_keep_alive() {
    let mut options = Http2Options::default();
    options.keep_alive =
        Some(KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(5), while_idle: false });
    let (mut sender, driver, mut peer) = connect(&options).await;
    let response = tokio::spawn(sender.send(post(empty())));
    read_preface(&mut peer).await;
    peer.write_all(&settings()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = response.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Silent, Sent::Maybe));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(15) && waited < Duration::from_secs(16), "{waited:?}");
    assert_eq!(driver.await.unwrap().unwrap_err().kind(), ErrorKind::Silent);
}

#[tokio::test(start_paused = true)]
async fn claims_follow_the_limit_that_the_peer_announces() {
    let (sender, _driver, theirs) = connect(&Http2Options::default()).await;
    assert_eq!(sender.max_streams(), 100);
    let peer = ::h2::server::Builder::new().max_concurrent_streams(2).handshake::<_, Bytes>(theirs).await.unwrap();
    run(peer);
    all_is_quiet().await;
    assert_eq!(sender.max_streams(), 2);
    let first = sender.claim().unwrap();
    let _second = sender.claim().unwrap();
    assert!(sender.claim().is_none());
    drop(first);
    assert_eq!(sender.in_flight(), 1);
    assert!(sender.claim().is_some());
}

#[tokio::test(start_paused = true)]
async fn preface_headers_and_body_leave_in_one_write() {
    let (ours, mut theirs) = duplex(PIPE);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = CountWrites(ours, Arc::clone(&writes));
    let (mut sender, driver) = h2::handshake(counted, &Http2Options::default()).await.unwrap();
    let _response = sender.send(post(whole("body")));
    tokio::spawn(driver);
    let sent = read_preface(&mut theirs).await;
    assert!(sent.ends_with(b"body"));
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn calls_pass_over_a_real_socket_on_several_threads() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (done, finished) = oneshot::channel::<()>();
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (sender, driver) = h2::handshake(socket, &Http2Options::default()).await.unwrap();
            let driver = tokio::spawn(driver);
            let workers = (0..16usize).map(|worker| {
                let mut sender = sender.clone();
                tokio::spawn(async move {
                    for call in 0..100usize {
                        let sent = Bytes::from(vec![b'x'; worker * 1000 + call]);
                        let response = sender.send(post(whole(sent.clone()))).await.unwrap();
                        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent);
                    }
                })
            });
            for worker in join_all(workers).await {
                worker.unwrap();
            }
            drop(sender);
            driver.await.unwrap().unwrap();
        });
        drop(done);
    });
    let (socket, _) = listener.accept().await.unwrap();
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(socket), service_fn(echo));
    let _ = tokio::join!(server, finished);
    client.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_a_stream_is_lost_with_its_connection() {
    let (mut sender, driver, theirs) = connect(&Http2Options::default()).await;
    let mut peer = ::h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(theirs).await.unwrap();
    let first = tokio::spawn(sender.send(post(empty())));
    let accepted = peer.accept().await.unwrap().unwrap();
    let second = tokio::spawn(sender.send(post(empty())));
    all_is_quiet().await;
    drop((accepted, peer));
    for call in [first, second] {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
    }
    let _ = driver.await.unwrap();
    assert!(sender.is_closed());
}
