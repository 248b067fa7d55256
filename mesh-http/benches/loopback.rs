//! What an HTTP request costs the client, beside hyper-util's own client: CPU, instructions, allocations, system calls.
//!
//! The flow is a GET whose answer is 1 KiB, over connections that are open, in HTTP/1.1 and in HTTP/2. It runs valgrind and
//! strace on itself where they are installed.
#![allow(missing_docs)]

use std::{fmt::Debug, net::SocketAddr, pin::pin};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use mesh_core::config::HttpProtocol;
use mesh_http::{Client, ClientBuilder, protocol::Http};

mod support;
use support::{Stack, backend::Speaks};

fn main() {
    support::main(Speaks::Http, stacks);
}

fn stacks(backend: &[SocketAddr]) -> Vec<Vec<Stack>> {
    let (http1, http2) = ([backend[0], backend[2]], [backend[1], backend[3]]);
    let over_http2 = |builder: ClientBuilder<Http>| builder.protocol(HttpProtocol::Http2);
    vec![
        vec![
            hyper("hyper-http1", http1[0], legacy::Client::builder(TokioExecutor::new()).build_http()),
            mesh("mesh-http1", &http1[..1], |builder| builder),
            mesh("mesh-http1-without-retries", &http1[..1], ClientBuilder::no_retries),
        ],
        vec![
            hyper("hyper-http2", http2[0], legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http()),
            mesh("mesh-http2", &http2[..1], over_http2),
            mesh("mesh-http2-without-retries", &http2[..1], |builder| over_http2(builder).no_retries()),
        ],
    ]
}

type Hyper = legacy::Client<legacy::connect::HttpConnector, Empty<Bytes>>;

fn hyper(name: &'static str, backend: SocketAddr, client: Hyper) -> Stack {
    let uri: Uri = format!("http://{backend}/v1/7").parse().expect("a legal target");
    Stack::new(name, move || {
        let answer = client.request(request(&uri));
        async move { read(answer.await.expect("an answer").into_body()).await }
    })
}

fn mesh(name: &'static str, backend: &[SocketAddr], say: impl Fn(ClientBuilder<Http>) -> ClientBuilder<Http>) -> Stack {
    let builder = Client::builder("reviews.bench:80").endpoints(backend.iter().copied());
    let client = say(builder).build().expect("a legal configuration");
    let uri = Uri::from_static("http://reviews.bench:80/v1/7");
    Stack::new(name, move || {
        let answer = client.request(request(&uri));
        async move { read(answer.await.expect("an answer").into_body()).await }
    })
}

fn request(uri: &Uri) -> Request<Empty<Bytes>> {
    Request::get(uri.clone()).body(Empty::new()).expect("legal")
}

async fn read<B>(body: B)
where
    B: http_body::Body<Data = Bytes, Error: Debug>,
{
    let (mut body, mut length) = (pin!(body), 0);
    while let Some(frame) = body.frame().await {
        length += frame.expect("a whole body").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, 1024);
}
