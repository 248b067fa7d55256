//! One request on its way through a pool.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use mesh_core::{
    cluster::Undelivered,
    config::RequestPriority,
    outcome::{BoxError, Failed},
};

use super::{
    body::PoolBody,
    connection::{Lease, Sender, lock},
    error::{self, ConnectError},
    lane::News,
    shared::{Acquired, Shared, Ticket},
    target::{self, Undo},
};
use crate::conn::{ErrorKind, SendError};

/// A request that waits for a connection or for its response.
///
/// Dropping it gives the request up: it leaves the queue, or its HTTP/2 stream is reset, or its HTTP/1 connection is closed.
/// Polling it after it has ended panics, as with any future of an `async fn`.
#[must_use = "futures do nothing unless polled"]
pub struct Sending<B> {
    shared: Arc<Shared<B>>,
    stage: Stage<B>,
    manner: Manner,
    /// How often the request came back from a connection that had closed.
    bounces: u8,
}

/// How a request is to be treated.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) priority: RequestPriority,
    /// Whether all of its body is at hand: then it has left before an answer comes, as good as always.
    pub(crate) is_whole: bool,
}

enum Stage<B> {
    /// Boxed, since most requests never are in it.
    Waiting(Box<Waiting<B>>),
    Calling(Call<B>),
    Failed(Box<Undelivered<Request<B>>>),
    Over,
}

struct Waiting<B> {
    request: Request<B>,
    ticket: Ticket<B>,
}

struct Call<B> {
    answer: Answer<B>,
    lease: Lease<B>,
    undo: Undo,
}

/// The one box of an attempt: hyper's future has no name.
type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<Incoming>, SendError<B>>> + Send>>;

/// More than any burst of closing connections should take. Each of them had carried requests before.
const MAX_BOUNCES: u8 = 8;

// === impl Sending ===

impl<B> Sending<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    pub(super) fn new(shared: &Arc<Shared<B>>, request: Request<B>, manner: Manner) -> Self {
        let stage = match shared.lease_stream(|| target::host_of(&request)) {
            Some(lease) => Call::start(lease, request, manner),
            None => Stage::acquire(shared, request, manner, None),
        };
        Self { shared: shared.clone(), stage, manner, bounces: 0 }
    }

    /// From calling: the call has failed, or the request came back and goes on elsewhere.
    #[cold]
    fn failed(&mut self, call: Call<B>, mut failed: SendError<B>) -> Option<Undelivered<Request<B>>> {
        let Call { lease, undo, .. } = call;
        let request = failed.take_request().map(|mut request| {
            undo.restore(&mut request);
            request
        });
        let is_first = lease.is_first();
        let is_stale = failed.kind() == ErrorKind::Closed && !is_first && self.bounces < MAX_BOUNCES;
        let connection = lease.connection().clone();
        if failed.kind() == ErrorKind::Closed {
            connection.retire_at_home();
        }
        drop(lease);
        match request {
            Some(request) if is_stale => {
                self.bounces += 1;
                self.stage = Stage::acquire(&self.shared, request, self.manner, None);
                None
            }
            request => {
                let sent = failed.sent();
                let error = match connection.tls_end.get() {
                    Some(tls) => error::tls_failed(tls, sent),
                    None if is_first => error::failed(failed.into_error(), sent),
                    None => error::severed(failed.into_error(), sent),
                };
                Some(Undelivered { request, error: error.into() })
            }
        }
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    type Output = Result<Response<PoolBody>, Undelivered<Request<B>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match &mut this.stage {
                // To calling, or failed, as the pool says.
                Stage::Waiting(waiting) => {
                    let news = ready!(Pin::new(&mut waiting.ticket.told).poll(cx));
                    let Stage::Waiting(waiting) = std::mem::replace(&mut this.stage, Stage::Over) else { continue };
                    this.stage = waiting.told(news.ok(), this.manner);
                }
                Stage::Calling(call) => match ready!(call.answer.as_mut().poll(cx)) {
                    Ok(response) => {
                        let occupied = call.lease.occupy();
                        this.stage = Stage::Over;
                        return Poll::Ready(Ok(response.map(|body| PoolBody::new(body, occupied))));
                    }
                    Err(failed) => {
                        let Stage::Calling(call) = std::mem::replace(&mut this.stage, Stage::Over) else { continue };
                        if let Some(failed) = this.failed(call, failed) {
                            return Poll::Ready(Err(failed));
                        }
                    }
                },
                Stage::Failed(_) => {
                    let Stage::Failed(failed) = std::mem::replace(&mut this.stage, Stage::Over) else { continue };
                    return Poll::Ready(Err(*failed));
                }
                Stage::Over => panic!("a request was polled after it had been answered"),
            }
        }
    }
}

impl<B> fmt::Debug for Sending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Waiting(_) => "waiting",
            Stage::Calling(_) => "calling",
            Stage::Failed(_) => "failed",
            Stage::Over => "over",
        };
        f.debug_struct("Sending").field("stage", &stage).finish_non_exhaustive()
    }
}

// === impl Stage ===

impl<B> Stage<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn acquire(shared: &Arc<Shared<B>>, request: Request<B>, manner: Manner, place: Option<u64>) -> Self {
        match shared.acquire(|| target::host_of(&request), manner.priority, place) {
            Ok(Acquired::Lease(lease)) => Call::start(lease, request, manner),
            Ok(Acquired::Wait(ticket)) => Self::Waiting(Box::new(Waiting { request, ticket })),
            Err(error) => Self::failed(request, error),
        }
    }

    fn failed(request: Request<B>, error: Failed) -> Self {
        Self::Failed(Box::new(Undelivered { request: Some(request), error: error.into() }))
    }
}

// === impl Waiting ===

impl<B> Waiting<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn told(self, news: Option<News<B>>, manner: Manner) -> Stage<B> {
        let Self { request, ticket } = self;
        match news {
            Some(News::Lease(lease)) => Call::start(lease, request, manner),
            Some(News::Again) => Stage::acquire(&ticket.shared, request, manner, Some(ticket.id)),
            Some(News::Failed(error)) => Stage::failed(request, error),
            None => Stage::failed(request, ConnectError::Cancelled.failed()),
        }
    }
}

// === impl Call ===

impl<B> Call<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    /// Hands the request to the connection.
    fn start(mut lease: Lease<B>, mut request: Request<B>, manner: Manner) -> Stage<B> {
        let undo = match lease.connection().shape(&mut request) {
            Ok(undo) => undo,
            // The lease was not used and goes back. Another endpoint would have to refuse the request too.
            Err(error) => return Stage::Failed(Box::new(Undelivered { request: None, error: error.into() })),
        };
        let (connection, claim) = lease.start();
        let may_outlast_answer = !manner.is_whole && !request.body().is_end_stream();
        let answer: Answer<B> = match (&connection.sender, claim) {
            (Sender::H1(sender), _) => Box::pin(lock(sender).send(request)),
            (Sender::H2(sender), Some(claim)) if may_outlast_answer => {
                Box::pin(sender.clone().send_claimed(request, claim))
            }
            (Sender::H2(sender), _) => Box::pin(sender.clone().send(request)),
        };
        Stage::Calling(Self { answer, lease, undo })
    }
}
