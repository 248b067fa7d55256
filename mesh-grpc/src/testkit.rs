//! An echo client of raw bytes, for tests and benches of one's own (feature `testkit`).
//!
//! It stands where a generated client would and needs neither messages nor a build script: what it sends is what the peer
//! gets. Servers give [`Raw`] to [`tonic::server::Grpc`] to speak the same.

use std::error::Error as StdError;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use http_body::Body;
use tonic::{
    IntoRequest, IntoStreamingRequest, Response, Status, Streaming,
    client::{Grpc, GrpcService},
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// A client of the service `mesh.interop.Echo`, all four kinds of call, over whatever a generated client would take as its
/// channel.
#[derive(Clone, Debug)]
pub struct Echo<T> {
    grpc: Grpc<T>,
}

/// Messages that are their own encoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

// === impl Echo ===

impl<T> Echo<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<Box<dyn StdError + Send + Sync>>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    /// Calls through this channel.
    pub fn new(channel: T) -> Self {
        Grpc::new(channel).into()
    }

    /// One message there, one back: the method `Unary`.
    ///
    /// # Errors
    ///
    /// The status of a call that failed, as of every method here.
    pub async fn unary(&mut self, request: impl IntoRequest<Bytes>) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        self.grpc.unary(request.into_request(), PathAndQuery::from_static("/mesh.interop.Echo/Unary"), Raw).await
    }

    /// Many messages there, one back: the method `ClientStream`.
    ///
    /// # Errors
    ///
    /// See [`unary`](Self::unary).
    pub async fn client_stream(
        &mut self,
        request: impl IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/mesh.interop.Echo/ClientStream");
        self.grpc.client_streaming(request.into_streaming_request(), path, Raw).await
    }

    /// One message there, many back: the method `ServerStream`.
    ///
    /// # Errors
    ///
    /// See [`unary`](Self::unary).
    pub async fn server_stream(
        &mut self,
        request: impl IntoRequest<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.ready().await?;
        self.grpc
            .server_streaming(request.into_request(), PathAndQuery::from_static("/mesh.interop.Echo/ServerStream"), Raw)
            .await
    }

    /// Many messages there, many back: the method `Both`.
    ///
    /// # Errors
    ///
    /// See [`unary`](Self::unary).
    pub async fn both(
        &mut self,
        request: impl IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.ready().await?;
        self.grpc
            .streaming(request.into_streaming_request(), PathAndQuery::from_static("/mesh.interop.Echo/Both"), Raw)
            .await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

/// A client with settings of its own: an origin, compression, a limit of size.
impl<T> From<Grpc<T>> for Echo<T> {
    fn from(grpc: Grpc<T>) -> Self {
        Self { grpc }
    }
}

// === impl Raw ===

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
