//! How the streams of an HTTP/2 connection end, and what their peer sees of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use mesh_core::outcome::{Failed, FailureKind, Sent};
use mesh_http::pool::PoolBody;
use pool_support::{Answer, Bench, Net, TestBody, get};
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

async fn begun(answer: JoinHandle<Answer>) -> PoolBody {
    answer.await.unwrap().unwrap().into_body()
}

async fn collected(body: PoolBody) -> Result<(Option<HeaderMap>, Bytes), Failed> {
    let body = body.collect().await?;
    Ok((body.trailers().cloned(), body.to_bytes()))
}

/// Waits until every task waits: a paused clock moves on only then, so what can happen has happened.
async fn all_is_quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
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
