//! From bytes to streams: listeners, connections, and the gRPC service on them.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::drip::Drip;
use super::stream::Watch;
use super::{Shared, State, delta, state_of_the_world, stream};

/// What connections come from: a TCP or a Unix listener.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: a dropped future has accepted nothing.
    ///
    /// # Errors
    ///
    /// When this connection cannot be had. The next may be.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The gRPC service.
#[derive(Debug)]
struct Discovery(Arc<Shared>);

/// What serves at present, in the list of those who serve. Leaves it on drop.
struct Serving {
    shared: Arc<Shared>,
    role: Role,
    id: u64,
    /// Told when it should end.
    end: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Listener,
    Connection,
}

/// How many responses wait for a client that does not read before its stream stops working.
const RESPONSES_AHEAD: usize = 16;

/// The wait after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// The largest request taken. A client that asks for a hundred thousand names sends more than tonic's 4 MiB.
const MAX_REQUEST: usize = 64 * 1024 * 1024;

pub(super) fn listener<L: Accept>(
    shared: Arc<Shared>,
    mut listener: L,
) -> impl Future<Output = ()> + Send + 'static + use<L> {
    let serving = Serving::begin(&shared, Role::Listener);
    async move {
        loop {
            tokio::select! {
                biased;
                () = serving.end.notified() => break,
                accepted = listener.accept() => match accepted {
                    Ok(io) => drop(tokio::spawn(connection(Arc::clone(&shared), io))),
                    // One connection that is gone already, or too many open files, which a busy loop would not mend.
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                },
            }
        }
        // The port is free before `stop` hears of it.
        drop(listener);
        drop(serving);
    }
}

pub(super) fn connection<I>(shared: Arc<Shared>, io: I) -> impl Future<Output = ()> + Send + 'static + use<I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = Serving::begin(&shared, Role::Connection);
    async move {
        let answering = async {
            unpaused(&shared).await;
            let service = AggregatedDiscoveryServiceServer::new(Discovery(Arc::clone(&shared)))
                .max_decoding_message_size(MAX_REQUEST);
            let io = TokioIo::new(Drip::new(io, Arc::clone(&shared)));
            // How a connection ends is for its client to say; the record has the end of its streams.
            let _ = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(io, TowerToHyperService::new(service))
                .await;
        };
        tokio::select! {
            biased;
            () = serving.end.notified() => {}
            () = answering => {}
        }
    }
}

async fn unpaused(shared: &Shared) {
    loop {
        let mut resumed = pin!(shared.resumed.notified());
        resumed.as_mut().enable();
        if !shared.with(|state| state.faults.is_paused) {
            return;
        }
        resumed.await;
    }
}

// === impl Accept ===

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (io, _) = TcpListener::accept(self).await?;
        io.set_nodelay(true)?;
        Ok(io)
    }
}

#[cfg(unix)]
impl Accept for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (io, _) = tokio::net::UnixListener::accept(self).await?;
        Ok(io)
    }
}

// === impl Discovery ===

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        requests: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<state_of_the_world::Watch>(requests)))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<delta::Watch>(requests)))
    }
}

impl Discovery {
    fn serve<W: Watch>(
        &self,
        requests: tonic::Request<Streaming<W::Request>>,
    ) -> ReceiverStream<Result<W::Response, Status>> {
        let (sender, responses) = mpsc::channel(RESPONSES_AHEAD);
        let (metadata, _, requests) = requests.into_parts();
        tokio::spawn(stream::serve::<W>(Arc::clone(&self.0), metadata, requests, sender));
        ReceiverStream::new(responses)
    }
}

// === impl Serving ===

impl Serving {
    fn begin(shared: &Arc<Shared>, role: Role) -> Self {
        let end = Arc::new(Notify::new());
        let id = shared.with(|state| {
            let id = state.next_id();
            role.list(state).insert(id, Arc::clone(&end));
            id
        });
        Self { shared: Arc::clone(shared), role, id, end }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.with(|state| self.role.list(state).remove(&self.id));
        self.shared.ended.notify_waiters();
    }
}

// === impl Role ===

impl Role {
    fn list(self, state: &mut State) -> &mut BTreeMap<u64, Arc<Notify>> {
        match self {
            Self::Listener => &mut state.listeners,
            Self::Connection => &mut state.connections,
        }
    }
}
