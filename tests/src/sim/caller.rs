//! Clients of either protocol behind one face, so that a claim is tried with each.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mesh_core::{
    config::HttpProtocol,
    outcome::{FailureKind, Flags, Sent},
};
use mesh_grpc::{Channel, testkit::Echo};
use mesh_http::{CallOptions, Client, ClientBuilder, Mesh, protocol::Http};

use super::{Speaks, text};
use crate::wire::Error;

/// A client, of HTTP or of gRPC.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Of HTTP.
    Http(Client),
    /// Of gRPC.
    Grpc(Channel),
}

// === impl Caller ===

impl Caller {
    /// A client of `target` that belongs to `mesh`.
    pub fn of(mesh: &Mesh, target: &str, speaks: Speaks) -> Self {
        let built = match speaks {
            Speaks::Http1 => Client::builder(target).mesh(mesh).build().map(Self::Http),
            Speaks::Http2 => h2(Client::builder(target)).mesh(mesh).build().map(Self::Http),
            Speaks::Grpc => Channel::builder(target).mesh(mesh).build().map(Self::Grpc),
        };
        built.expect("a target is all that a steered client needs")
    }

    /// Waits until there is a configuration.
    ///
    /// # Errors
    ///
    /// When there is none to be had.
    pub async fn ready(&self) -> Result<(), Error> {
        match self {
            Self::Http(client) => Ok(client.ready().await?),
            Self::Grpc(channel) => Ok(channel.ready().await?),
        }
    }

    /// One call, which may be repeated; who answered it.
    ///
    /// # Errors
    ///
    /// When there was no good answer.
    pub async fn call(&self) -> Result<String, Error> {
        self.call_at("/mesh.interop.Echo/Unary").await
    }

    /// As [`call`](Self::call), at another path; gRPC's is fixed.
    ///
    /// # Errors
    ///
    /// When there was no good answer.
    pub async fn call_at(&self, path: &str) -> Result<String, Error> {
        match self {
            Self::Http(client) => {
                let uri = format!("http://{}{path}", client.target());
                let response = client.request(Request::get(uri).body(Full::<Bytes>::default())?).await?;
                match response.status().is_success() {
                    true => Ok(text(response).await),
                    false => Err(format!("status {}", response.status()).into()),
                }
            }
            Self::Grpc(channel) => {
                let mut request = tonic::Request::new(Bytes::from_static(b"hello"));
                // gRPC methods do not tell, so the caller does.
                request.extensions_mut().insert(CallOptions::new().idempotent());
                let reply = Echo::new(channel.clone()).unary(request).await?;
                Ok(String::from_utf8(reply.into_inner().to_vec())?)
            }
        }
    }
}

fn h2(builder: ClientBuilder<Http>) -> ClientBuilder<Http> {
    builder.protocol(HttpProtocol::Http2)
}

/// What the mesh says of a failed call, whichever client made it; nothing of an answer.
pub fn failure_of(error: &Error) -> Option<(FailureKind, Sent, Flags)> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<mesh_http::Error>() {
            return Some((error.kind(), error.sent(), error.flags()));
        }
        next = error.source();
    }
    None
}
