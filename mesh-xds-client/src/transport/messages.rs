//! The messages of a stream, whose memory is let go of when they are large.
//!
//! tonic collects a message in a buffer that stays as large as the largest one was, for as long as the stream lasts. A
//! control plane describes the whole mesh in its first responses and says little from then on, and its streams last for days:
//! that buffer would be the largest single thing that an idle client holds. So after a large message the reader is replaced,
//! and its buffer with it. This needs a moment at which nothing of the next message is in there: the body that it reads from
//! ends every frame, at the latest, where a message ends.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::StatusCode;
use http_body::Frame;
use prost::Message;
use tonic::{
    Response, Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
};

/// The messages of a response.
pub(super) struct Messages<M> {
    reader: Streaming<M>,
    body: Divided,
    /// Bytes of one message.
    limit: usize,
}

/// A response's body, divided so that no frame has bytes of two messages. Clones read on from where the others are.
#[derive(Clone)]
pub(super) struct Divided(Arc<Mutex<Divider>>);

struct Divider {
    body: Body,
    /// What has come and was not given out.
    rest: Bytes,
    /// How many bytes of a message's head were given out.
    head: usize,
    /// The last four bytes that were given out of a head: at its end, how long the message is.
    length: u32,
    /// How many bytes of a message are to come.
    left: usize,
    /// The length of the largest message since this was last asked.
    largest: usize,
}

/// Reads protobuf.
pub(super) struct Protobuf<M>(PhantomData<fn() -> M>);

/// Whether a message is compressed, and how long it is (gRPC over HTTP/2, Length-Prefixed-Message).
const HEAD: usize = 5;

// === impl Messages ===

impl<M: Message + Default + 'static> Messages<M> {
    /// The largest message after which the buffer is kept.
    const SMALL: usize = 64 * 1024;

    /// Those of `response`, whose body `body` is.
    pub(super) fn new(response: Response<Streaming<M>>, body: Divided, limit: usize) -> Self {
        Self { reader: response.into_inner(), body, limit }
    }

    fn let_go_of_large(&mut self) {
        if self.body.take_largest() > Self::SMALL {
            self.reader = reader(self.body.clone(), self.limit);
        }
    }
}

impl<M: Message + Default + 'static> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.reader).poll_next(cx));
        if let Some(Ok(_)) = &next {
            self.let_go_of_large();
        }
        Poll::Ready(next)
    }
}

fn reader<M: Message + Default + 'static>(body: Divided, limit: usize) -> Streaming<M> {
    // Who answers in messages has said 200. Compression is not offered to servers.
    Streaming::new_response(Protobuf::new(), body, StatusCode::OK, None, Some(limit))
}

// === impl Divided ===

impl Divided {
    pub(super) fn new(body: Body) -> Self {
        let divider = Divider { body, rest: Bytes::new(), head: 0, length: 0, left: 0, largest: 0 };
        Self(Arc::new(Mutex::new(divider)))
    }

    fn take_largest(&self) -> usize {
        std::mem::take(&mut self.divider().largest)
    }

    fn divider(&self) -> MutexGuard<'_, Divider> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Divided {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut divider = self.divider();
        if divider.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut divider.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => divider.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(divider.next_part()))))
    }
}

// === impl Divider ===

impl Divider {
    /// What has come of one head, or of one message.
    fn next_part(&mut self) -> Bytes {
        if self.left > 0 {
            let part = self.rest.split_to(self.left.min(self.rest.len()));
            self.left -= part.len();
            return part;
        }
        let part = self.rest.split_to((HEAD - self.head).min(self.rest.len()));
        self.head += part.len();
        self.length = part.iter().fold(self.length, |length, byte| length << 8 | u32::from(*byte));
        if self.head == HEAD {
            (self.head, self.left) = (0, self.length as usize);
            self.largest = self.largest.max(self.left);
        }
        part
    }
}

// === impl Protobuf ===

impl<M> Protobuf<M> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + Default> Decoder for Protobuf<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        // As a whole, of which each resource is a part then.
        let message = bytes.copy_to_bytes(bytes.remaining());
        M::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use envoy_types::pb::google::protobuf::Any;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use http_body_util::{BodyExt, StreamBody};
    use mesh_core::Dice;
    use tokio_stream::StreamExt;

    use super::*;

    const LIMIT: usize = 1024 * 1024;

    fn message(length: usize) -> Any {
        Any { type_url: length.to_string(), value: vec![7; length] }
    }

    fn framed(message: &Any) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        [&[0], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
    }

    /// All of `bytes`, in pieces of a size between one and `longest`, and that this was all.
    fn in_pieces(bytes: Vec<u8>, longest: u32, dice: &mut Dice) -> Body {
        let mut rest = Bytes::from(bytes);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let length = 1 + dice.below(longest) as usize;
            pieces.push(Ok::<_, Infallible>(Frame::data(rest.split_to(length.min(rest.len())))));
        }
        let good = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        pieces.push(Ok(Frame::trailers(good)));
        Body::new(StreamBody::new(tokio_stream::iter(pieces)))
    }

    fn messages(body: Body) -> Messages<Any> {
        let body = Divided::new(body);
        Messages::new(Response::new(reader(body.clone(), LIMIT)), body, LIMIT)
    }

    #[tokio::test]
    async fn nothing_is_lost_between_large_and_small_messages_however_they_arrive() {
        let said: Vec<_> = [0, 70_000, 3, 0, 200_000, 100_000, 1].map(message).into();
        let bytes: Vec<u8> = said.iter().flat_map(framed).collect();
        let mut dice = Dice::new(11);
        for longest in [4, 6, 1_000, 16_384, 1_000_000] {
            let body = in_pieces(bytes.clone(), longest, &mut dice);
            let heard: Result<Vec<_>, _> = messages(body).collect().await;
            assert_eq!(heard.expect("no trouble"), said, "in pieces of up to {longest}");
        }
    }

    #[tokio::test]
    async fn limit_holds_for_readers_that_come_later() {
        let bytes = [message(70_000), message(LIMIT)].iter().flat_map(framed).collect();
        let mut messages = messages(in_pieces(bytes, 20_000, &mut Dice::new(12)));
        assert!(messages.next().await.expect("the first").is_ok());
        let error = messages.next().await.expect("the second").expect_err("past the limit");
        assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
    }

    #[tokio::test]
    async fn no_frame_has_bytes_of_two_messages() {
        let said = [message(10), message(0), message(300)];
        let bytes: Vec<u8> = said.iter().flat_map(framed).collect();
        let mut body = Divided::new(in_pieces(bytes, 10_000, &mut Dice::new(13)));
        let mut lengths = Vec::new();
        while let Some(Ok(data)) = body.frame().await.map(|frame| frame.expect("no trouble").into_data()) {
            lengths.push(data.len());
        }
        let expected = said.iter().flat_map(|message| [HEAD, message.encoded_len()]);
        assert_eq!(lengths, expected.collect::<Vec<_>>());
        assert_eq!(body.take_largest(), said[2].encoded_len());
    }
}
