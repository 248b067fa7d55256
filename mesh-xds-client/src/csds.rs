//! How every resource of a process stands, for tools: xDS's Client Status Discovery Service (CSDS, gRFC A40), to be
//! added to a gRPC server of one's own.
//!
//! `grpcdebug HOST:PORT xds status` reads it, and so does whatever else asks gRPC's own clients. What it tells in
//! protobuf the program itself has from [`XdsClient::status`](mesh_core::source::ConfigSource::status).
//!
//! ```
//! use mesh_xds_client::XdsClient;
//! use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bootstrap = Bootstrap::builder().server("istiod.istio-system.svc:15010", ChannelCredentials::Insecure).build()?;
//! let client = XdsClient::builder(bootstrap).keep_contents().build()?;
//! let csds = mesh_xds_client::csds::service(&client);
//! let server = tonic::transport::Server::builder().add_service(csds).serve("127.0.0.1:0".parse()?);
//! # drop(server);
//! # Ok(())
//! # }
//! ```
//!
//! # What it tells
//!
//! Each client in the process is a `ClientConfig` with its node and its scope, each resource that it asks for a
//! `GenericXdsConfig`:
//!
//! | state | `client_status` | |
//! |---|---|---|
//! | requested | `REQUESTED` | with version and content where it is kept from an earlier run |
//! | synced | `ACKED` | |
//! | rejected | `NACKED` | version and content are the last good ones |
//! | absent | `DOES_NOT_EXIST` | with version and content where a removal does not count |
//! | timed out | `DOES_NOT_EXIST`, or `TIMEOUT` where silence of the server is trouble (gRFC A88) | as absent |
//! | absent or failed, and the server says so itself (xRFC TP3) | `RECEIVED_ERROR` (gRFC A88) | as absent |
//!
//! `error_state` says why the latest news does not serve, when it came, and the version that was refused. The refused
//! resource itself is not kept. `xds_config` is there where the client [keeps
//! it](crate::XdsClientBuilder::keep_contents), but never of a resource in which a private key may stand, which is any with
//! an extension that is not known here to hold none. It is left out where the request says `exclude_resource_contents`.
//!
//! A request with `node_matchers` is refused with `INVALID_ARGUMENT`, as gRPC's implementations do: they are for asking
//! a control plane about others, and this is about one process.
//!
//! Whoever reads it learns the addresses and the rules of the mesh: offer it where only operators come.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        admin::v3::{ClientResourceStatus, UpdateFailureState},
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse,
            client_config::GenericXdsConfig,
            client_status_discovery_service_server::{
                ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
            },
        },
    },
    google::protobuf::{Any, Timestamp},
};
use futures_core::Stream;
use http_body::Body;
use mesh_core::source::ResourceState;
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{BoxFuture, Service, StdError},
    server::NamedService,
};

use crate::{
    XdsClient,
    status::Shared,
    store::{Dump, DumpedGood, Failure},
};

/// The service of one client, in the scope of its first server's name.
///
/// See [`ClientStatus`] for several.
pub fn service(client: &XdsClient) -> ClientStatus {
    let scope = client.shared().held().servers[0].server.clone();
    ClientStatus::new().client(scope, client)
}

/// `envoy.service.status.v3.ClientStatusDiscoveryService`, unary and streaming, as a tower service that tonic's server
/// takes.
///
/// It has to be called within a tokio runtime, as tonic's server is: answers are made where that one allows blocking. It
/// keeps no client alive: one whose handles and work are gone is listed no longer.
#[derive(Clone)]
pub struct ClientStatus {
    clients: Clients,
    server: ClientStatusDiscoveryServiceServer<Clients>,
}

/// The clients of the process, by scope, in the order in which they are listed.
#[derive(Clone, Default)]
struct Clients(Arc<[(String, Weak<Shared>)]>);

/// Answers each request of a stream, until it ends.
struct Answers {
    requests: Streaming<ClientStatusRequest>,
    clients: Clients,
    /// The answer to the last request, while it is on its way.
    answering: Option<Answering>,
}

/// What all clients have to say.
type Answer = Result<ClientStatusResponse, Status>;

/// An answer on its way, where blocking is allowed.
struct Answering(JoinHandle<Answer>);

// === impl ClientStatus ===

impl ClientStatus {
    /// A service that lists nobody yet.
    pub fn new() -> Self {
        Self::of(Clients::default())
    }

    /// Lists this client too. `scope` tells readers what it is for (`client_scope`), such as the name of a mesh.
    #[must_use]
    pub fn client(self, scope: impl Into<String>, client: &XdsClient) -> Self {
        let others = self.clients.0.iter().cloned();
        Self::of(Clients(others.chain([(scope.into(), Arc::downgrade(client.shared()))]).collect()))
    }

    fn of(clients: Clients) -> Self {
        Self { server: ClientStatusDiscoveryServiceServer::new(clients.clone()), clients }
    }
}

impl Default for ClientStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ClientStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clients.0.iter().map(|(scope, _)| scope)).finish()
    }
}

impl NamedService for ClientStatus {
    const NAME: &'static str = <ClientStatusDiscoveryServiceServer<Clients> as NamedService>::NAME;
}

impl<B> Service<http::Request<B>> for ClientStatus
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<B>>::poll_ready(&mut self.server, cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.server.call(request)
    }
}

// === impl Clients ===

impl Clients {
    /// Contents are searched for secrets, which may take longer than a task should: requests are served by the same threads, and
    /// where there is one thread the worker is, too.
    fn answer(&self, request: ClientStatusRequest) -> Answering {
        let clients = self.clone();
        Answering(spawn_blocking(move || clients.tell(&request)))
    }

    fn tell(&self, request: &ClientStatusRequest) -> Answer {
        if !request.node_matchers.is_empty() {
            return Err(Status::invalid_argument("node_matchers are not supported: this is the status of one process"));
        }
        let with_contents = !request.exclude_resource_contents;
        let clients = self.0.iter().filter_map(|(scope, client)| Some((scope, client.upgrade()?)));
        let config = clients.map(|(scope, client)| client_config(scope, &client, with_contents)).collect();
        Ok(ClientStatusResponse { config })
    }
}

fn client_config(scope: &str, client: &Shared, with_contents: bool) -> ClientConfig {
    // Made into protobuf when the lock is no longer held.
    let dumps = client.held().store.dump();
    ClientConfig {
        node: Some(client.node.clone()),
        generic_xds_configs: dumps.into_iter().map(|dump| generic_config(dump, with_contents)).collect(),
        client_scope: scope.to_owned(),
        ..Default::default()
    }
}

fn generic_config(dump: Dump, with_contents: bool) -> GenericXdsConfig {
    let client_status = client_status(&dump);
    let Dump { kind, name, good, failure, .. } = dump;
    let type_url = kind.type_url();
    let any = |value: Bytes| Any { type_url: type_url.to_owned(), value: value.into() };
    let mut config = GenericXdsConfig {
        type_url: type_url.to_owned(),
        name: name.to_string(),
        client_status: client_status.into(),
        error_state: failure.map(failure_state),
        ..Default::default()
    };
    if let Some(DumpedGood { version, updated, contents, .. }) = good {
        config.version_info = version.to_string();
        config.last_updated = timestamp(updated);
        config.xds_config = contents.filter(|_| with_contents).and_then(|contents| contents.shown()).map(any);
    }
    config
}

/// As gRPC's clients say it (gRFC A40, A88).
fn client_status(dump: &Dump) -> ClientResourceStatus {
    match dump.state {
        _ if dump.failure.as_ref().is_some_and(|failure| failure.is_denial) => ClientResourceStatus::ReceivedError,
        ResourceState::Requested => ClientResourceStatus::Requested,
        ResourceState::Synced => ClientResourceStatus::Acked,
        ResourceState::Rejected => ClientResourceStatus::Nacked,
        ResourceState::Absent => ClientResourceStatus::DoesNotExist,
        // Silence is an answer, but of a server that is said not to answer in that way.
        ResourceState::TimedOut if dump.is_answered => ClientResourceStatus::DoesNotExist,
        ResourceState::TimedOut => ClientResourceStatus::Timeout,
        ResourceState::Failed => ClientResourceStatus::ReceivedError,
        _ => ClientResourceStatus::Unknown,
    }
}

fn failure_state(failure: Failure) -> UpdateFailureState {
    let Failure { details, at, version, .. } = failure;
    UpdateFailureState {
        last_update_attempt: timestamp(at),
        details,
        version_info: version.map(|version| version.to_string()).unwrap_or_default(),
        failed_configuration: None,
    }
}

/// None of a time before 1970, which no clock says that is right.
fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let nanos = i32::try_from(since.subsec_nanos()).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos })
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Clients {
    type StreamClientStatusStream = Answers;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(Answers { requests: request.into_inner(), clients: self.clone(), answering: None }))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.into_inner()).await.map(Response::new)
    }
}

// === impl Answers ===

impl Stream for Answers {
    type Item = Result<ClientStatusResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { requests, clients, answering } = &mut *self;
        let answer = match answering {
            Some(answer) => answer,
            None => match ready!(Pin::new(requests).poll_next(cx)).transpose()? {
                Some(request) => answering.insert(clients.answer(request)),
                None => return Poll::Ready(None),
            },
        };
        let answer = ready!(Pin::new(answer).poll(cx));
        *answering = None;
        Poll::Ready(Some(answer))
    }
}

// === impl Answering ===

impl Future for Answering {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|error| Err(Status::unavailable(error.to_string()))))
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Waker, time::Duration};

    use envoy_types::pb::envoy::config::core::v3::Node;

    use super::*;
    use crate::{ResourceKind, store::Contents};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const CLUSTER: &[u8] = b"\x0a\x01c";

    fn told(state: ResourceState, is_answered: bool, failure: Option<Failure>) -> GenericXdsConfig {
        told_of(CLUSTER, state, is_answered, failure)
    }

    fn told_of(
        contents: &'static [u8],
        state: ResourceState,
        is_answered: bool,
        failure: Option<Failure>,
    ) -> GenericXdsConfig {
        let (version, contents) = ("7".into(), Some(Contents::new(Bytes::from_static(contents))));
        let good = DumpedGood { version, updated: at(7), contents, is_mortal: false };
        let (kind, name) = (ResourceKind::Cluster, "shop".into());
        generic_config(Dump { kind, name, state, is_answered, good: Some(good), failure }, true)
    }

    fn failure(version: Option<&str>, is_denial: bool) -> Option<Failure> {
        Some(Failure { details: "why".to_owned(), at: at(8), version: version.map(Into::into), is_denial })
    }

    #[test]
    fn each_state_is_told_as_grpcs_own_clients_tell_it() {
        use ClientResourceStatus as Status;
        for (state, is_answered, failure, expected) in [
            (ResourceState::Requested, false, None, Status::Requested),
            (ResourceState::Synced, true, None, Status::Acked),
            (ResourceState::Rejected, true, failure(Some("8"), false), Status::Nacked),
            (ResourceState::Absent, true, failure(None, false), Status::DoesNotExist),
            (ResourceState::TimedOut, true, failure(None, false), Status::DoesNotExist),
            (ResourceState::TimedOut, false, failure(None, false), Status::Timeout),
            (ResourceState::Absent, true, failure(None, true), Status::ReceivedError),
            (ResourceState::Failed, true, failure(None, true), Status::ReceivedError),
        ] {
            let is_failure = failure.is_some();
            let config = told(state, is_answered, failure);
            assert_eq!(config.client_status(), expected, "{state:?}");
            assert_eq!(config.error_state.is_some(), is_failure, "{state:?}");
            assert_eq!((&*config.name, &*config.version_info), ("shop", "7"));
            assert_eq!(config.type_url, ResourceKind::Cluster.type_url());
            assert_eq!(config.last_updated, Some(Timestamp { seconds: 7, nanos: 0 }));
            assert_eq!(
                config.xds_config.map(|any| (any.type_url, any.value)),
                Some((config.type_url, CLUSTER.to_vec()))
            );
        }
    }

    #[test]
    fn resource_in_which_a_key_may_stand_is_told_without_its_contents() {
        let key = b"\x0a\x1b-----BEGIN PRIVATE KEY-----";
        let config = told_of(key, ResourceState::Synced, true, None);
        assert_eq!((&*config.version_info, config.xds_config), ("7", None));
    }

    #[tokio::test]
    async fn task_that_asks_waits_while_others_do_the_reading() {
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        let clients = Clients([("orders".to_owned(), Arc::downgrade(&shared))].into());
        let mut answer = pin!(clients.fetch_client_status(Request::new(ClientStatusRequest::default())));
        {
            let _held = shared.held();
            assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(answer.await.expect("answered").get_ref().config[0].client_scope, "orders");
    }

    #[test]
    fn refusal_has_its_reason_version_and_time() {
        let error = told(ResourceState::Rejected, true, failure(Some("8"), false)).error_state.expect("refused");
        let expected = UpdateFailureState {
            failed_configuration: None,
            last_update_attempt: Some(Timestamp { seconds: 8, nanos: 0 }),
            details: "why".to_owned(),
            version_info: "8".to_owned(),
        };
        assert_eq!(error, expected);
    }
}
