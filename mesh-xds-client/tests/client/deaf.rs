//! A control plane that speaks, and reads nothing of what it is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::config::Address;
use mesh_core::source::ConfigSource;
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials};
use mesh_xds_client::{ResourceKind, XdsClient};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Running, run};

const SECOND: Duration = Duration::from_secs(1);

/// How many responses it has to send.
const RESPONSES: usize = 3000;

/// Sends one response after the other on each stream, as fast as they are taken.
#[derive(Clone)]
struct Deaf {
    is_listening: watch::Sender<bool>,
    /// How many responses were taken.
    sent: Arc<AtomicUsize>,
    /// How many requests were read that answer one.
    answered: Arc<AtomicUsize>,
    connections: mpsc::UnboundedSender<AbortHandle>,
}

impl Deaf {
    fn new() -> (Self, mpsc::UnboundedReceiver<AbortHandle>) {
        let (connections, opened) = mpsc::unbounded_channel();
        let (sent, answered) = Default::default();
        (Self { is_listening: watch::Sender::new(false), sent, answered, connections }, opened)
    }

    fn running(&self) -> Running {
        let bootstrap = Bootstrap::builder().server("10.0.0.1:15010", ChannelCredentials::Insecure).build();
        run(XdsClient::builder(bootstrap.expect("a valid bootstrap")).connector(self.clone()).seed(7))
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    async fn speak(self, frames: mpsc::Sender<Result<Frame<Bytes>, Infallible>>) {
        for number in 0..RESPONSES {
            let response = DiscoveryResponse {
                // It is said again in the answer, which is therefore as long.
                version_info: "v".repeat(8 * 1024),
                nonce: number.to_string(),
                type_url: ResourceKind::Listener.type_url().to_owned(),
                ..Default::default()
            };
            if frames.send(Ok(Frame::data(framed(&response)))).await.is_err() {
                return;
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        // The stream stays open.
        frames.closed().await;
    }

    async fn listen(self, mut requests: Incoming) {
        let _ = self.is_listening.subscribe().wait_for(|is_listening| *is_listening).await;
        let mut read = BytesMut::new();
        while let Some(Ok(frame)) = requests.frame().await {
            read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(length) = read.get(1..5).map(|length| u32::from_be_bytes(length.try_into().expect("four"))) {
                let end = 5 + length as usize;
                if read.len() < end {
                    break;
                }
                let request = DiscoveryRequest::decode(&read.split_to(end)[5..]).expect("a request");
                self.answered.fetch_add(usize::from(!request.response_nonce.is_empty()), Ordering::Relaxed);
            }
        }
    }
}

/// A message as gRPC sends it.
fn framed(message: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.encoded_len() as u32);
    message.encode(&mut framed).expect("there is room");
    framed.freeze()
}

impl Connect for Deaf {
    fn connect(&self, _: &Address) -> Connecting {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let this = self.clone();
        let serve = move |request: Request<Incoming>| {
            let (sender, frames) = mpsc::channel(1);
            tokio::spawn(this.clone().listen(request.into_body()));
            tokio::spawn(this.clone().speak(sender));
            let response = Response::builder().header("content-type", "application/grpc");
            let response = response.body(StreamBody::new(ReceiverStream::new(frames))).expect("valid headers");
            async { Ok::<_, Infallible>(response) }
        };
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service_fn(serve));
        let task = tokio::spawn(async { drop(connection.await) });
        let _ = self.connections.send(task.abort_handle());
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

#[tokio::test(start_paused = true)]
async fn control_plane_that_reads_no_answers_is_not_read_from_until_it_does() {
    let (plane, mut connections) = Deaf::new();
    let running = plane.running();
    let _interest = running.client.watch("echo");
    running.settle(10 * SECOND).await;
    let sent = plane.sent();
    assert!((100..RESPONSES / 2).contains(&sent), "what windows and buffers hold: {sent}");
    running.settle(60 * SECOND).await;
    assert_eq!(plane.sent(), sent);

    plane.is_listening.send_replace(true);
    running.settle(10 * SECOND).await;
    assert_eq!((plane.sent(), plane.answered.load(Ordering::Relaxed)), (RESPONSES, RESPONSES));
    assert!(connections.try_recv().is_ok() && connections.try_recv().is_err(), "all on one stream");
}

#[tokio::test(start_paused = true)]
async fn end_of_a_connection_is_heard_though_its_answers_were_never_read() {
    let (plane, mut connections) = Deaf::new();
    let running = plane.running();
    let _interest = running.client.watch("echo");
    running.settle(10 * SECOND).await;
    let sent = plane.sent();
    connections.try_recv().expect("a connection").abort();
    running.settle(10 * SECOND).await;
    assert!(connections.try_recv().is_ok(), "another is opened");
    assert!(plane.sent() >= 2 * sent);
}
