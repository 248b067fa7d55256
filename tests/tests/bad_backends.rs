//! Backends that misbehave, byte by byte: what the caller is told, and that nothing else suffers.
//!
//! Each row is what a backend does on every connection, and what a caller without retries gets to see. The breakers of every
//! client admit one request and one connection, so that whatever is not given back refuses the next call.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{error::Error as StdError, fmt, iter::successors, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_core::{
    config::{CircuitBreakers, HttpProtocol, Thresholds},
    outcome::{FailureKind, Flags, Sent},
};
use mesh_grpc::{Channel, testkit::Echo};
use mesh_http::{Client, Mesh};
use mesh_tests::sim::{Accepted, Answer, Speaks, Wire, World, address, failure_of};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};
use tonic::Code;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What a backend does, step by step; after the last it closes the connection.
#[derive(Clone)]
enum Step {
    /// As the first step of HTTP/2: does not begin with its settings.
    Mute,
    /// Reads until the head of a request is there.
    Request,
    /// Writes this.
    Say(Vec<u8>),
    /// Waits this long, and reads nothing.
    Pause(Duration),
    /// Resets the connection.
    Reset,
    /// Keeps the connection, and reads what comes.
    Read,
    /// Keeps the connection, and does nothing.
    Freeze,
}

use Step::{Freeze, Mute, Pause, Read, Request as Await, Reset, Say};

/// What a caller of HTTP gets to see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A whole answer.
    Answer(u16),
    /// No answer.
    NoHead(FailureKind, Sent),
    /// An answer whose body breaks off.
    NoEnd(FailureKind, Sent),
}

use FailureKind as Kind;
use Seen::{Answer as Whole, NoEnd, NoHead};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Get,
    /// With a body that fills every buffer on its way.
    Post,
}

use Asks::{Get, Post};

#[tokio::test(start_paused = true)]
async fn http1_backends() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let large = format!("{ok}x-large: {}\r\n\r\n", "a".repeat(1024 * 1024));
    let many = format!("{ok}{}\r\n", "x: y\r\n".repeat(2_000));
    let rows: Vec<(&str, Asks, Vec<Step>, Seen)> = vec![
        ("refuses to speak", Get, vec![], NoHead(Kind::Disconnected, Sent::No)),
        ("resets at once", Get, vec![Reset], NoHead(Kind::Disconnected, Sent::No)),
        ("closes after the request", Get, vec![Await], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("resets after the request", Get, vec![Await, Reset], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("garbage", Get, vec![Await, say("\0\u{1}\u{2} what?\r\n\r\n")], NoHead(Kind::Protocol, Sent::Maybe)),
        (
            "garbage before the request",
            Get,
            vec![say("\0\u{1}\u{2}\r\n\r\n"), Read],
            NoHead(Kind::Disconnected, Sent::No),
        ),
        ("half a head", Get, vec![Await, say("HTTP/1.1 200 OK\r\ncontent-")], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("half a head, then reset", Get, vec![Await, say(ok), Reset], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("a head of a megabyte", Get, vec![Await, say(&large), Read], NoHead(Kind::Protocol, Sent::Maybe)),
        ("two thousand headers", Get, vec![Await, say(&many), Read], NoHead(Kind::Protocol, Sent::Maybe)),
        ("no answer", Get, vec![Await, Read], NoHead(Kind::Timeout, Sent::Maybe)),
        ("never reads", Post, vec![Freeze], NoHead(Kind::Timeout, Sent::Maybe)),
        ("resets while the body is sent", Post, vec![Await, Reset], NoHead(Kind::Disconnected, Sent::Maybe)),
        (
            "a body cut short",
            Get,
            vec![Await, say(&format!("{ok}content-length: 9\r\n\r\nabc"))],
            NoEnd(Kind::Disconnected, Sent::Yes),
        ),
        (
            "a body cut short by a reset",
            Get,
            vec![Await, say(&format!("{ok}content-length: 9\r\n\r\nabc")), Pause(PAUSE), Reset],
            NoEnd(Kind::Disconnected, Sent::Yes),
        ),
        (
            "chunks cut short",
            Get,
            vec![Await, say(&format!("{ok}transfer-encoding: chunked\r\n\r\n5\r\nabc"))],
            NoEnd(Kind::Disconnected, Sent::Yes),
        ),
        (
            "chunks of garbage",
            Get,
            vec![Await, say(&format!("{ok}transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n")), Read],
            NoEnd(Kind::Protocol, Sent::Yes),
        ),
        (
            "a body that stops",
            Get,
            vec![Await, say(&format!("{ok}content-length: 9\r\n\r\nabc")), Read],
            NoEnd(Kind::Timeout, Sent::Yes),
        ),
        (
            "answers early, and reads no more",
            Post,
            vec![Await, say("HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n"), Freeze],
            Whole(413),
        ),
        (
            "answers early, and closes",
            Post,
            vec![Await, say("HTTP/1.1 413 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"), Pause(PAUSE)],
            Whole(413),
        ),
        ("answers twice", Get, vec![Await, say(&format!("{ok}content-length: 0\r\n\r\n").repeat(2)), Read], Whole(200)),
    ];
    check(Speaks::Http1, rows).await;
}

#[tokio::test(start_paused = true)]
async fn http2_backends() {
    let ok = || headers(0, &[0x88]).step();
    let large = headers(1, &[&[0x88][..], &literal("x-large", &"a".repeat(12_000)).repeat(8)].concat()).step();
    let rows: Vec<(&str, Asks, Vec<Step>, Seen)> = vec![
        ("refuses to speak", Get, vec![Mute], NoHead(Kind::Connect, Sent::No)),
        ("resets at once", Get, vec![Mute, Reset], NoHead(Kind::Connect, Sent::No)),
        (
            "speaks HTTP/1",
            Get,
            vec![Mute, say("HTTP/1.1 400 Bad Request\r\n\r\n"), Read],
            NoHead(Kind::Connect, Sent::No),
        ),
        ("closes after the request", Get, vec![Await], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("resets after the request", Get, vec![Await, Reset], NoHead(Kind::Disconnected, Sent::Maybe)),
        ("garbage after the request", Get, vec![Await, Say(vec![0xff; 64]), Read], NoHead(Kind::Protocol, Sent::Maybe)),
        (
            "a header block that is none",
            Get,
            vec![Await, headers(0, &[0xff; 16]).step(), Read],
            NoHead(Kind::Protocol, Sent::Maybe),
        ),
        ("headers of a hundred kilobytes", Get, vec![Await, large, Read], NoHead(Kind::Protocol, Sent::Maybe)),
        ("resets the stream", Get, vec![Await, rst(INTERNAL_ERROR).step(), Read], NoHead(Kind::Reset, Sent::Yes)),
        (
            "refuses the stream",
            Get,
            vec![Await, rst(REFUSED_STREAM).step(), Await, rst_of(3, REFUSED_STREAM).step(), Read],
            NoHead(Kind::Refused, Sent::No),
        ),
        (
            "goes away having processed nothing",
            Get,
            vec![Await, go_away(0, 0).step(), Read],
            NoHead(Kind::Refused, Sent::No),
        ),
        (
            "goes away, and finishes what it has",
            Get,
            vec![Await, go_away(1, 0).step(), Pause(PAUSE), headers(1, &[0x88]).step(), Read],
            Whole(200),
        ),
        (
            "goes away, and does not finish",
            Get,
            vec![Await, go_away(1, 0).step()],
            NoHead(Kind::Disconnected, Sent::Maybe),
        ),
        ("no answer", Get, vec![Await, Read], NoHead(Kind::Timeout, Sent::Maybe)),
        ("never reads", Post, vec![Freeze], NoHead(Kind::Timeout, Sent::Maybe)),
        ("says nothing", Get, vec![Mute, Read], NoHead(Kind::ConnectTimeout, Sent::No)),
        ("closes in the body", Get, vec![Await, ok(), Pause(PAUSE)], NoEnd(Kind::Disconnected, Sent::Yes)),
        ("resets in the body", Get, vec![Await, ok(), Pause(PAUSE), Reset], NoEnd(Kind::Disconnected, Sent::Yes)),
        (
            "resets the stream in the body",
            Get,
            vec![Await, ok(), Pause(PAUSE), rst(INTERNAL_ERROR).step(), Read],
            NoEnd(Kind::Reset, Sent::Yes),
        ),
        ("a body that stops", Get, vec![Await, ok(), Read], NoEnd(Kind::Timeout, Sent::Yes)),
        (
            "a body shorter than announced",
            Get,
            vec![
                Await,
                headers(0, &[&[0x88][..], &literal("content-length", "9")].concat()).step(),
                data(1, b"abc").step(),
                Read,
            ],
            NoEnd(Kind::Protocol, Sent::Yes),
        ),
        (
            "answers early, and resets without an error",
            Post,
            vec![Await, headers(1, &literal(":status", "413")).chain(rst(NO_ERROR)).step(), Read],
            Whole(413),
        ),
    ];
    check(Speaks::Http2, rows).await;
}

#[tokio::test(start_paused = true)]
async fn grpc_backends() {
    let grpc = || [&[0x88][..], &literal("content-type", "application/grpc")].concat();
    let head = || headers(0, &grpc());
    let message = || data(0, b"\0\0\0\0\x02hi");
    let trailers = |code: &str| headers(1, &literal("grpc-status", code));
    let status = |code: &str| headers(1, &[grpc(), literal("grpc-status", code)].concat());
    let plain = |code: &str| headers(1, &literal(":status", code));
    let rows: Vec<(&str, Vec<Step>, Code, Option<FailureKind>)> = vec![
        ("answers", vec![Await, head().chain(message()).chain(trailers("0")).step(), Read], Code::Ok, None),
        ("says no", vec![Await, status("7").step(), Read], Code::PermissionDenied, None),
        ("a status that is no number", vec![Await, status("x").step(), Read], Code::Unknown, None),
        ("an HTTP error", vec![Await, plain("503").step(), Read], Code::Unavailable, None),
        ("no such page", vec![Await, plain("404").step(), Read], Code::Unimplemented, None),
        ("no message", vec![Await, head().chain(trailers("0")).step(), Read], Code::Internal, None),
        ("no trailers", vec![Await, head().chain(data(1, b"\0\0\0\0\x02hi")).step(), Read], Code::Unknown, None),
        ("no trailers, no message", vec![Await, head().chain(data(1, b"")).step(), Read], Code::Unknown, None),
        (
            "half a message",
            vec![Await, head().chain(data(0, b"\0\0\0\0\x09hi")).chain(trailers("0")).step(), Read],
            Code::Internal,
            None,
        ),
        (
            "a message of two gigabytes",
            vec![Await, head().chain(data(0, b"\0\x7f\xff\xff\xff")).step(), Read],
            Code::OutOfRange,
            None,
        ),
        ("resets: internal error", vec![Await, rst(INTERNAL_ERROR).step(), Read], Code::Internal, Some(Kind::Reset)),
        ("resets: cancel", vec![Await, rst(CANCEL).step(), Read], Code::Cancelled, Some(Kind::Reset)),
        ("closes after the request", vec![Await], Code::Unavailable, Some(Kind::Disconnected)),
        (
            "goes away having processed nothing",
            vec![Await, go_away(0, 0).step(), Read],
            Code::Unavailable,
            Some(Kind::Refused),
        ),
        (
            "closes in the message",
            vec![Await, head().chain(data(0, b"\0\0\0\0\x09hi")).step(), Pause(PAUSE)],
            Code::Unavailable,
            Some(Kind::Disconnected),
        ),
        (
            "resets in the message",
            vec![
                Await,
                head().chain(data(0, b"\0\0\0\0\x09hi")).step(),
                Pause(PAUSE),
                rst(INTERNAL_ERROR).step(),
                Read,
            ],
            Code::Internal,
            Some(Kind::Reset),
        ),
        ("no answer", vec![Await, Read], Code::DeadlineExceeded, Some(Kind::Timeout)),
        ("never reads", vec![Freeze], Code::DeadlineExceeded, Some(Kind::Timeout)),
        (
            "speaks HTTP/1",
            vec![Mute, say("HTTP/1.1 400 Bad Request\r\n\r\n"), Read],
            Code::Unavailable,
            Some(Kind::Connect),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, steps, code, kind) in rows {
        let bench = Bench::open(with_settings(steps));
        let channel = Channel::builder("bad")
            .mesh(&bench.mesh)
            .endpoints([address(1)])
            .timeout(LIMIT)
            .connect_timeout(LIMIT / 2)
            .no_retries();
        let channel = channel.circuit_breakers(one_at_a_time()).build().unwrap();
        let message = Bytes::from(vec![b'x'; 256 * 1024]);
        let call = async { Echo::new(channel.clone()).unary(message).await };
        let seen = match bench.with_a_neighbour(call).await {
            Ok(_) => (Code::Ok, None),
            Err(status) => {
                let code = status.code();
                (code, failure_of(&status.into()).map(|(kind, ..)| kind))
            }
        };
        if seen != (code, kind) {
            wrong.push(format!("{name}: {seen:?} instead of {:?}", (code, kind)));
        }
        bench
            .mend(Speaks::Grpc, async || Echo::new(channel.clone()).unary(Bytes::from_static(b"x")).await.is_ok())
            .await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_reset_leaves_its_neighbour_on_the_connection_alone() {
    let second = Frames::of(1, 5, 3, &[0x88]);
    let bench = Bench::open(with_settings(vec![Await, Await, rst(INTERNAL_ERROR).step(), second.step(), Read]));
    let client = Client::builder("bad").mesh(&bench.mesh).endpoints([address(1)]).protocol(HttpProtocol::Http2);
    let client = client.no_retries().build().unwrap();
    let seen = futures_util::future::join(see(&client, Get), see(&client, Get)).await;
    assert_eq!(seen, (NoHead(Kind::Reset, Sent::Yes), Whole(200)));
    assert_eq!(bench.world.network.dialled(address(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn default_preset_hides_a_bad_endpoint_behind_a_good_one() {
    let http1 = [
        vec![],
        vec![Reset],
        vec![Await],
        vec![Await, Reset],
        vec![Await, say("HTTP/1.1 200 OK\r\ncontent-")],
        vec![Await, say("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"), Read],
    ];
    let http2 = [
        vec![Mute],
        vec![Mute, Reset],
        vec![Mute, say("HTTP/1.1 400 Bad Request\r\n\r\n"), Read],
        vec![Await],
        vec![Await, rst(REFUSED_STREAM).step(), Read],
        vec![Await, rst(INTERNAL_ERROR).step(), Read],
        vec![Await, go_away(0, 0).step(), Read],
    ];
    let http1 = http1.map(|steps| (HttpProtocol::Http1, Speaks::Http1, steps));
    let http2 = http2.map(|steps| (HttpProtocol::Http2, Speaks::Http2, with_settings(steps)));
    for (row, (protocol, speaks, steps)) in http1.into_iter().chain(http2).enumerate() {
        let bench = Bench::open(steps);
        let _good = bench.world.backend(3, "good too", speaks, Answer::OK);
        let client = Client::builder("bad").mesh(&bench.mesh).endpoints([address(1), address(3)]).protocol(protocol);
        let client = client.build().unwrap();
        for call in 0..30 {
            let seen = timeout(LIMIT, see(&client, Get)).await.unwrap();
            assert_eq!(seen, Whole(200), "{speaks:?}, row {row}, call {call}");
        }
        assert!(bench.world.network.dialled(address(1)) > 0, "{speaks:?}, row {row}: the bad one had its turn");
    }
}

// --- tables ---

const PAUSE: Duration = Duration::from_millis(50);

async fn check(speaks: Speaks, rows: Vec<(&str, Asks, Vec<Step>, Seen)>) {
    let mut wrong = Vec::new();
    for (name, asks, steps, expected) in rows {
        let is_http1 = speaks == Speaks::Http1;
        let bench = Bench::open(if is_http1 { steps } else { with_settings(steps) });
        let protocol = if is_http1 { HttpProtocol::Http1 } else { HttpProtocol::Http2 };
        let client = Client::builder("bad")
            .mesh(&bench.mesh)
            .endpoints([address(1)])
            .timeout(LIMIT)
            .connect_timeout(LIMIT / 2)
            .no_retries();
        let client = client.protocol(protocol).circuit_breakers(one_at_a_time()).build().unwrap();
        let seen = bench.with_a_neighbour(see(&client, asks)).await;
        if seen != expected {
            wrong.push(format!("{name}: {seen:?} instead of {expected:?}"));
        }
        bench.mend(speaks, async || see(&client, Get).await == Whole(200)).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One request, and what is seen of its answer.
async fn see(client: &Client, asks: Asks) -> Seen {
    let request = match asks {
        Get => Request::get("http://bad/").body(Full::default()),
        Post => Request::post("http://bad/").body(Full::from(vec![b'x'; 1024 * 1024])),
    };
    let response = match client.request(request.unwrap()).await {
        Ok(response) => response,
        Err(error) => {
            assert!(error.flags().contains(error.kind().flag()), "{error:?}");
            says_each_thing_once(&error);
            return NoHead(error.kind(), error.sent());
        }
    };
    let status = response.status().as_u16();
    match response.into_body().collect().await {
        Ok(_) => Whole(status),
        Err(error) => {
            assert_ne!(error.flags(), Flags::default(), "{error:?}");
            says_each_thing_once(&error);
            NoEnd(error.kind(), error.sent())
        }
    }
}

/// No level of the error's chain begins as another does.
fn says_each_thing_once(error: &dyn StdError) {
    let levels: Vec<String> = successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    for (at, level) in levels.iter().enumerate() {
        let repeats = levels[at + 1..].iter().any(|below| below.starts_with(&**level) || level.starts_with(&**below));
        assert!(!repeats, "{levels:#?}");
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whole(status) => write!(f, "a whole answer, {status}"),
            NoHead(kind, sent) => write!(f, "no answer: {kind:?}, sent {sent:?}"),
            NoEnd(kind, sent) => write!(f, "half an answer: {kind:?}, sent {sent:?}"),
        }
    }
}

/// A server of HTTP/2 begins with its settings, unless it is mute.
fn with_settings(steps: Vec<Step>) -> Vec<Step> {
    match steps.first() {
        Some(Mute) => steps,
        _ => [settings().step()].into_iter().chain(steps).collect(),
    }
}

fn one_at_a_time() -> CircuitBreakers {
    let one = Thresholds {
        max_requests: Some(1),
        max_connections: Some(1),
        max_pending: Some(1),
        max_retries: Some(0),
        ..Thresholds::default()
    };
    CircuitBreakers { default: one, high: one }
}

// --- the bench ---

/// A mesh with a bad backend, and a good one beside it.
struct Bench {
    world: World,
    mesh: Mesh,
    neighbour: Client,
    _good: mesh_tests::sim::Backend,
}

impl Bench {
    fn open(steps: Vec<Step>) -> Self {
        let world = World::new();
        let good = world.backend(2, "good", Speaks::Http1, Answer::after(Duration::from_millis(10)));
        let mesh = world.unsteered(3).build().unwrap();
        let neighbour = Client::builder("good").mesh(&mesh).endpoints([address(2)]).build().unwrap();
        let mut listener = world.network.listen(address(1));
        tokio::spawn(async move {
            while let Some(Accepted { stream, .. }) = listener.accept().await {
                let steps = steps.clone();
                tokio::spawn(async move { perform(stream, steps).await });
            }
        });
        Self { world, mesh, neighbour, _good: good }
    }

    /// Makes a call while somebody else has calls of their own, which must not suffer.
    async fn with_a_neighbour<T>(&self, call: impl Future<Output = T>) -> T {
        let others = async {
            loop {
                let answer = self.neighbour.get("http://good/").await.expect("the neighbour has done nothing wrong");
                answer.into_body().collect().await.expect("a whole answer");
            }
        };
        tokio::select! {
            biased;
            seen = timeout(LIMIT * 5, call) => seen.expect("nothing hangs"),
            () = others => unreachable!("they never end"),
        }
    }

    /// Nothing is in flight any more, and as soon as the backend is good, calls are too: every permit was given back.
    async fn mend(self, speaks: Speaks, call: impl AsyncFn() -> bool) {
        sleep(Duration::from_millis(1)).await;
        let status = self.mesh.status();
        let bad = status.clusters.iter().find(|cluster| &*cluster.name == "bad").unwrap();
        assert!(bad.endpoints.iter().all(|endpoint| endpoint.in_flight == 0), "{bad:#?}");

        let _good = self.world.backend(1, "mended", speaks, Answer::OK);
        self.world.network.reset(address(1));
        sleep(Duration::from_millis(1)).await;
        assert!(call().await, "the next call is refused");
        assert!(self.mesh.shutdown(LIMIT).await);
    }
}

async fn perform(mut stream: Wire, steps: Vec<Step>) {
    for step in steps {
        match step {
            Mute => {}
            Await => head(&mut stream).await,
            Say(bytes) => {
                // A client that has gone away need not hear it.
                let _ = stream.write_all(&bytes).await;
            }
            Pause(length) => sleep(length).await,
            Reset => stream.reset(),
            Read => while stream.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {},
            Freeze => std::future::pending().await,
        }
    }
}

/// Reads until the head of a request is there: of HTTP/1 an empty line, of HTTP/2 a frame of headers.
async fn head(stream: &mut Wire) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seen = Vec::new();
    let mut byte = [0];
    loop {
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        seen.push(byte[0]);
        let frames = seen.strip_prefix(PREFACE).unwrap_or(&seen);
        let is_http2 = frames.len() < seen.len() || !seen[0].is_ascii();
        if has_headers(frames) || (!is_http2 && !PREFACE.starts_with(&seen) && seen.ends_with(b"\r\n\r\n")) {
            return;
        }
    }
}

/// Whether these frames of HTTP/2 end with one of headers.
fn has_headers(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if rest.len() < length || length > 1 << 14 {
            return false;
        }
        frames = &rest[length..];
        if *kind == 1 && frames.is_empty() {
            return true;
        }
    }
    false
}

// --- bytes ---

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

fn say(text: &str) -> Step {
    Say(text.as_bytes().to_vec())
}

/// Frames of HTTP/2, on their way together.
#[derive(Clone)]
struct Frames(Vec<u8>);

impl Frames {
    fn of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let length = (payload.len() as u32).to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        Self(bytes)
    }

    fn chain(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    fn step(self) -> Step {
        Say(self.0)
    }
}

fn settings() -> Frames {
    Frames::of(4, 0, 0, &[])
}

/// Headers of stream 1, divided into frames of 16 kB where they are long; `end` is whether they are the last of the stream.
fn headers(end: u8, block: &[u8]) -> Frames {
    let mut parts = block.chunks(16_000).peekable();
    let mut frames = Frames(Vec::new());
    let (mut kind, mut flags) = (1, end);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= 4;
        }
        frames = frames.chain(Frames::of(kind, flags, 1, part));
        (kind, flags) = (9, 0);
    }
    frames
}

fn data(end: u8, bytes: &[u8]) -> Frames {
    Frames::of(0, end, 1, bytes)
}

fn rst(code: u32) -> Frames {
    rst_of(1, code)
}

fn rst_of(stream: u32, code: u32) -> Frames {
    Frames::of(3, 0, stream, &code.to_be_bytes())
}

fn go_away(last: u32, code: u32) -> Frames {
    Frames::of(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A header that is not indexed (RFC 7541, 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let length = text.len();
        if length < 127 {
            bytes.push(length as u8);
        } else {
            bytes.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}
