//! A client of `mesh.interop.Echo`, raw bytes both ways, over whatever a generated client would take as its channel.
//!
//! `interop/grpc-core/server.py` tells which request metadata makes a server wait, fail or repeat itself.

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper::http::uri::PathAndQuery;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body, StdError};
use tonic::{IntoRequest, IntoStreamingRequest, Response, Status, Streaming};

/// A client of all four kinds of call.
#[derive(Clone, Debug)]
pub struct Echo<T> {
    grpc: Grpc<T>,
}

impl<T> Echo<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls through this channel.
    pub fn new(channel: T) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    /// One message there, the same back.
    pub async fn unary(&mut self, request: impl IntoRequest<Bytes>) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        self.grpc.unary(request.into_request(), path("Unary"), Raw).await
    }

    /// Many messages there, all of them joined back.
    pub async fn client_stream(
        &mut self,
        request: impl IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        self.grpc.client_streaming(request.into_streaming_request(), path("ClientStream"), Raw).await
    }

    /// One message there, the same back `echo-count` times.
    pub async fn server_stream(
        &mut self,
        request: impl IntoRequest<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.ready().await?;
        self.grpc.server_streaming(request.into_request(), path("ServerStream"), Raw).await
    }

    /// Many messages there, each back as it comes.
    pub async fn both(
        &mut self,
        request: impl IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.ready().await?;
        self.grpc.streaming(request.into_streaming_request(), path("Both"), Raw).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/mesh.interop.Echo/{method}").parse().expect("a method makes a valid path")
}

/// Messages that are their own encoding.
#[derive(Clone, Copy, Debug)]
struct Raw;

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
