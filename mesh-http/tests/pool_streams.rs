//! How the streams of an HTTP/2 connection end, and what their peer sees of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::{future::poll_fn, io};

use bytes::Bytes;
use futures_util::stream;
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::{
    config::ConnectionPolicy,
    outcome::{Failed, FailureKind, Sent},
};
use mesh_http::pool::PoolBody;
use pool_support::{Answer, Bench, Net, TestBody, all_is_quiet, get, post, whole};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};

/// A request as the peer has it, and its way to answer.
type Asked = (Request<RecvStream>, server::SendResponse<Bytes>);

/// A pool, and the requests that come out at the far end of its connections.
fn bench(change: impl Fn(&mut server::Builder) + Send + Sync + 'static) -> (Bench, mpsc::UnboundedReceiver<Asked>) {
    let (ask, asked) = mpsc::unbounded_channel();
    let net = Net::accept(move |_, stream: DuplexStream| {
        let mut builder = server::Builder::new();
        change(&mut builder);
        let ask = ask.clone();
        tokio::spawn(async move {
            let mut peer = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok(request)) = peer.accept().await {
                ask.send(request).unwrap();
            }
        });
    });
    (Bench::h2(&net), asked)
}

/// Sends from a task of its own, and gives what the peer sees.
async fn ask(
    bench: &Bench,
    asked: &mut mpsc::UnboundedReceiver<Asked>,
    request: Request<TestBody>,
) -> (JoinHandle<Answer>, Asked) {
    let answer = tokio::spawn(bench.send(request));
    (answer, asked.recv().await.unwrap())
}

/// A body that says nothing until it is told, and how to tell it; that fails once the body is gone.
fn slow() -> (mpsc::UnboundedSender<Bytes>, TestBody) {
    let (tell, told) = mpsc::unbounded_channel();
    let frames = stream::unfold(told, async |mut told: mpsc::UnboundedReceiver<Bytes>| {
        let bytes = told.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(bytes)), told))
    });
    (tell, StreamBody::new(frames).boxed_unsync())
}

/// A call whose response has begun while its request is still being sent, from both sides.
struct Call {
    upload: mpsc::UnboundedSender<Bytes>,
    body: PoolBody,
    request: Request<RecvStream>,
    stream: SendStream<Bytes>,
}

impl Call {
    async fn begin(bench: &Bench, asked: &mut mpsc::UnboundedReceiver<Asked>) -> Self {
        let (upload, body) = slow();
        let (answer, (request, mut respond)) = ask(bench, asked, post("/", body)).await;
        let stream = respond.send_response(head(), false).unwrap();
        Self { upload, body: begun(answer).await, request, stream }
    }
}

async fn begun(answer: JoinHandle<Answer>) -> PoolBody {
    answer.await.unwrap().unwrap().into_body()
}

async fn collected(body: PoolBody) -> Result<(Option<HeaderMap>, Bytes), Failed> {
    let body = body.collect().await?;
    Ok((body.trailers().cloned(), body.to_bytes()))
}

fn head() -> Response<()> {
    Response::new(())
}

#[tokio::test(start_paused = true)]
async fn body_that_is_reset_without_a_reason_before_its_end_is_a_failure() {
    let (bench, mut asked) = bench(|_| {});
    let (answer, (_request, mut respond)) = ask(&bench, &mut asked, get("/")).await;
    let announced = Response::builder().header("content-length", 1000).body(()).unwrap();
    let mut stream = respond.send_response(announced, false).unwrap();
    let mut body = begun(answer).await;
    stream.send_data(Bytes::from(vec![0; 400]), false).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 400);
    stream.send_reset(Reason::NO_ERROR);
    let failure = body.frame().await.unwrap().unwrap_err().failure();
    assert_eq!((failure.kind, failure.sent), (FailureKind::Reset, Sent::Yes));
    assert!(body.frame().await.is_none());
    assert_eq!(bench.figures().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn body_that_ends_before_its_stream_is_reset_is_whole() {
    for with_trailers in [false, true] {
        let (bench, mut asked) = bench(|_| {});
        let (answer, (_request, mut respond)) = ask(&bench, &mut asked, get("/")).await;
        let mut stream = respond.send_response(head(), false).unwrap();
        stream.send_data(Bytes::from_static(b"whole"), !with_trailers).unwrap();
        let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "yes".parse().unwrap())]);
        if with_trailers {
            stream.send_trailers(trailers.clone()).unwrap();
        }
        // What is still queued would go with the reset.
        all_is_quiet().await;
        stream.send_reset(Reason::NO_ERROR);
        all_is_quiet().await;
        let (seen, data) = collected(begun(answer).await).await.unwrap();
        assert_eq!((seen, &data[..]), (with_trailers.then_some(trailers), &b"whole"[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_response_cancels_a_request_that_is_still_sent() {
    let (bench, mut asked) = bench(|_| {});
    let mut call = Call::begin(&bench, &mut asked).await;
    assert_eq!(bench.figures().streams, 1);
    drop(call.body);
    assert_eq!(poll_fn(|cx| call.stream.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    call.upload.closed().await;
    assert_eq!(bench.figures().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_response_cancels_a_request_that_waits_for_the_peers_window() {
    let (bench, mut asked) = bench(|_| {});
    let (answer, (request, mut respond)) = ask(&bench, &mut asked, post("/", whole(vec![0; 1 << 20]))).await;
    let mut stream = respond.send_response(head(), false).unwrap();
    let body = begun(answer).await;
    all_is_quiet().await;
    drop(body);
    assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(bench.figures().streams, 0);
    drop(request);
}

#[tokio::test(start_paused = true)]
async fn call_dropped_with_its_response_untaken_is_cancelled() {
    let (bench, mut asked) = bench(|_| {});
    let (_upload, body) = slow();
    let mut call = tokio_test::task::spawn(bench.send(post("/", body)));
    assert!(call.poll().is_pending());
    let (_request, mut respond) = loop {
        all_is_quiet().await;
        match asked.try_recv() {
            Ok(asked) => break asked,
            Err(_) => assert!(call.poll().is_pending()),
        }
    };
    let mut stream = respond.send_response(head(), false).unwrap();
    all_is_quiet().await;
    assert!(call.is_woken());
    drop(call);
    assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
}

#[tokio::test(start_paused = true)]
async fn response_that_ends_ends_its_request() {
    let (bench, mut asked) = bench(|_| {});
    let mut call = Call::begin(&bench, &mut asked).await;
    call.stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])).unwrap();
    let mut body = call.body;
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    // The body is held still; that it has ended is enough.
    call.upload.closed().await;
    let reset = call.request.body_mut().data().await.unwrap().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL));
    assert_eq!(bench.figures().streams, 0);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn request_is_sent_while_its_response_is_read() {
    let (bench, mut asked) = bench(|_| {});
    let mut call = Call::begin(&bench, &mut asked).await;
    for part in ["one", "two"] {
        call.upload.send(part.into()).unwrap();
        assert_eq!(call.request.body_mut().data().await.unwrap().unwrap(), part);
        call.stream.send_data(part.into(), false).unwrap();
        assert_eq!(call.body.frame().await.unwrap().unwrap().into_data().unwrap(), part);
    }
    drop(call.upload);
    assert_eq!(call.request.body_mut().data().await.unwrap().unwrap(), "");
    assert!(call.request.body().is_end_stream());
    call.stream.send_data("three".into(), true).unwrap();
    assert_eq!(collected(call.body).await.unwrap().1, "three");
}

#[tokio::test(start_paused = true)]
async fn connection_serves_on_after_as_many_dropped_calls_as_it_has_streams() {
    const STREAMS: u32 = 4;
    let (bench, mut asked) = bench(|peer| _ = peer.max_concurrent_streams(STREAMS));
    // The uploads are never told to end.
    let mut held = Vec::new();
    for _ in 0..3 {
        for _ in 0..STREAMS {
            let call = Call::begin(&bench, &mut asked).await;
            held.push((call.upload, call.request, call.stream));
            drop(call.body);
        }
        all_is_quiet().await;
    }
    let (answer, (_request, mut respond)) = ask(&bench, &mut asked, get("/")).await;
    respond.send_response(head(), true).unwrap();
    begun(answer).await;
    assert_eq!((bench.net.connects(), bench.figures().streams), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_has_the_stream_of_a_dropped_call() {
    let (bench, mut asked) = bench(|peer| _ = peer.max_concurrent_streams(1));
    let one = ConnectionPolicy { max_per_endpoint: Some(1), ..pool_support::h2() };
    bench.pool.update(bench.context.clone().policy(&one).into());
    let call = Call::begin(&bench, &mut asked).await;
    let waits = tokio::spawn(bench.send(get("/")));
    all_is_quiet().await;
    assert_eq!(bench.figures().pending, 1);
    drop(call.body);
    let (_request, mut respond) = asked.recv().await.unwrap();
    respond.send_response(head(), true).unwrap();
    begun(waits).await;
    assert_eq!(bench.net.connects(), 1);
}
