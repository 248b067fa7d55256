//! Clients of either protocol behind one face, so that a claim is tried with each.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mesh_core::{
    config::HttpProtocol,
    outcome::{FailureKind, Flags, Sent, find_cause},
};
use mesh_grpc::{Channel, testkit::Echo};
use mesh_http::{
    CallOptions, Client, ClientBuilder, Mesh,
    protocol::{Http, Protocol},
};

use super::{Speaks, text};
use crate::wire::Error;

/// Where gRPC calls go.
const PATH: &str = "/mesh.interop.Echo/Unary";

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

    /// What it is a client of.
    pub fn target(&self) -> &str {
        match self {
            Self::Http(client) => client.target(),
            Self::Grpc(channel) => channel.client().target(),
        }
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
        self.call_at(PATH).await
    }

    /// As [`call`](Self::call), at another path; gRPC's is fixed.
    ///
    /// # Errors
    ///
    /// When there was no good answer.
    pub async fn call_at(&self, path: &str) -> Result<String, Error> {
        // gRPC methods do not tell, so the caller does.
        self.send(path, &[], CallOptions::new().idempotent()).await
    }

    /// One call with these headers, of which nothing is said but what its method does: gRPC's may not be repeated once it
    /// was processed.
    ///
    /// # Errors
    ///
    /// When there was no good answer.
    pub async fn call_with(&self, headers: &[(&'static str, &str)]) -> Result<String, Error> {
        self.send(PATH, headers, CallOptions::new()).await
    }

    async fn send(&self, path: &str, headers: &[(&'static str, &str)], options: CallOptions) -> Result<String, Error> {
        match self {
            Self::Http(client) => {
                let mut request = request(client, path, headers)?;
                request.extensions_mut().insert(options);
                let response = client.request(request).await?;
                match response.status().is_success() {
                    true => Ok(text(response).await),
                    false => Err(format!("status {}", response.status()).into()),
                }
            }
            Self::Grpc(channel) => {
                let mut request = tonic::Request::new(Bytes::from_static(b"hello"));
                for (name, value) in headers {
                    request.metadata_mut().insert(*name, value.parse()?);
                }
                request.extensions_mut().insert(options);
                let reply = Echo::new(channel.clone()).unary(request).await?;
                // C-core's servers say their name here and echo the message; ours answer with their name.
                if let Some(name) = reply.metadata().get("echo-server") {
                    return Ok(name.to_str()?.to_owned());
                }
                Ok(String::from_utf8(reply.into_inner().to_vec())?)
            }
        }
    }

    /// The name of the route that a call with these headers would take now; none where there is no route.
    pub fn route_of(&self, headers: &[(&'static str, &str)]) -> Option<Arc<str>> {
        let explanation = match self {
            Self::Http(client) => client.explain(&request(client, PATH, headers).ok()?),
            Self::Grpc(channel) => channel.client().explain(&request(channel.client(), PATH, headers).ok()?),
        }?;
        explanation.outcome().ok()?;
        explanation.tried().last().map(|taken| taken.route.name.clone())
    }
}

fn request<P: Protocol>(
    client: &Client<P>,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Request<Full<Bytes>>, http::Error> {
    let request = Request::get(format!("http://{}{path}", client.target()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default())
}

fn h2(builder: ClientBuilder<Http>) -> ClientBuilder<Http> {
    builder.protocol(HttpProtocol::Http2)
}

/// What the mesh says of a failed call, whichever client made it; nothing of an answer.
pub fn failure_of(error: &Error) -> Option<(FailureKind, Sent, Flags)> {
    find_cause::<mesh_http::Error>(&**error).map(|error| (error.kind(), error.sent(), error.flags()))
}
