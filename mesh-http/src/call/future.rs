//! A request in flight, as its caller sees it.
//!
//! ```text
//! Waiting (no configuration yet) --> Held back (injected delay) --> Under way --> response
//!         \________________________________\________________________\______--> error, or an answer made here
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use mesh_core::{
    config::RenderedMutations,
    hold::{Hold, JoinEnd, Settle},
    outcome::{BoxError, Failure, Flags, Outcome},
};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::{
    Routed, Stack,
    faults::Met,
    local,
    route::{self, Forwarding, Routing},
    stack,
};
use crate::{
    Error,
    body::Body,
    client::Shared,
    mesh::State,
    protocol::{Http, Protocol},
    telemetry::{self, CallRecord},
};

/// A request in flight.
///
/// Dropping it cancels the request, and the cancellation reaches the wire: the stream is reset, or the connection closed.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<B, P: Protocol = Http>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    #[pin]
    stage: Stage<B, P>,
    /// Set when the request is on its way, taken by its response.
    after: Option<After>,
}

#[pin_project(project = StageProject)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every call is under way, and a box would be one allocation a call"
)]
enum Stage<B, P: Protocol>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// For the configuration. The request is there until it comes.
    Waiting {
        request: Option<Request<B>>,
        shared: Arc<Shared>,
        known: Known,
    },
    /// By a fault. What it meets is there until the delay is over.
    HeldBack {
        #[pin]
        delay: Sleep,
        met: Option<(Routed<B>, Met)>,
    },
    UnderWay(#[pin] <Stack<P> as Service<Routed<B>>>::Future),
    /// The answer is there until it is taken.
    Answered(Option<Result<Response<Body<P>>, Error>>),
}

/// Waits for a target's configuration.
type Known = Pin<Box<dyn Future<Output = Result<Arc<State>, Error>> + Send>>;

/// What waits for the response.
struct After {
    record: CallRecord,
    changes: Vec<RenderedMutations>,
}

// === impl ResponseFuture ===

impl<B, P: Protocol> ResponseFuture<B, P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(shared: &Arc<Shared>, request: Request<B>) -> Self {
        let mut this = Self { stage: Stage::Answered(None), after: None };
        let state = shared.target().state();
        this.stage = match &**state {
            State::Waiting => {
                Stage::Waiting { request: Some(request), shared: shared.clone(), known: shared.clone().known() }
            }
            known => Self::begin(&mut this.after, shared, known, request),
        };
        this
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { stage: Stage::Answered(Some(Err(error))), after: None }
    }

    /// The configuration is known: the request is routed.
    fn begin(after: &mut Option<After>, shared: &Shared, state: &State, mut request: Request<B>) -> Stage<B, P> {
        let compiled = match state {
            State::Ready(compiled) => compiled,
            State::Unavailable(reason) => return Stage::Answered(Some(Err(shared.unavailable(reason)))),
            State::Waiting => unreachable!("nobody begins before something is known"),
        };
        telemetry::propagate(request.headers_mut());
        match route::route(compiled, shared.next_call(), request) {
            Ok(Routing::Answer(answer)) => Stage::Answered(Some(Ok(answer))),
            Ok(Routing::Forward(forwarding)) => Self::forward(after, forwarding),
            Err(error) => Stage::Answered(Some(Err(error))),
        }
    }

    fn forward(after: &mut Option<After>, forwarding: Forwarding<B>) -> Stage<B, P> {
        let Forwarding { routed, faults, response_changes } = forwarding;
        let record = CallRecord::open(&routed.facts.cluster, routed.facts.start);
        *after = Some(After { record, changes: response_changes });
        if faults.is_none() {
            return Stage::UnderWay(stack::<P>().call(routed));
        }
        let until = routed.facts.start + faults.delay.unwrap_or_default();
        Stage::HeldBack { delay: tokio::time::sleep_until(until), met: Some((routed, faults)) }
    }
}

impl<B, P: Protocol> Future for ResponseFuture<B, P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body<P>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                StageProject::UnderWay(call) => {
                    let result = ready!(call.poll(cx));
                    let after = this.after.take().expect("a response comes once");
                    return Poll::Ready(after.finish(result));
                }
                StageProject::Answered(answer) => return Poll::Ready(answer.take().expect("polled after completion")),
                // From Waiting, to wherever the route leads.
                StageProject::Waiting { request, shared, known } => match ready!(known.as_mut().poll(cx)) {
                    Ok(state) => {
                        let request = request.take().expect("it is there until the configuration comes");
                        Self::begin(this.after, shared, &state, request)
                    }
                    Err(error) => Stage::Answered(Some(Err(error))),
                },
                // From HeldBack, to the endpoint or to the abort that follows the delay.
                StageProject::HeldBack { delay, met } => {
                    ready!(delay.poll(cx));
                    let (routed, met) = met.take().expect("it is there until the delay is over");
                    match met.abort {
                        None => Stage::UnderWay(stack::<P>().call(routed)),
                        Some(with) => {
                            let after = this.after.take().expect("nothing was answered yet");
                            Stage::Answered(Some(Ok(after.abort(local::aborted(with)))))
                        }
                    }
                }
            };
            this.stage.set(next);
        }
    }
}

// === impl After ===

impl After {
    fn finish<P: Protocol>(
        mut self,
        result: Result<Response<mesh_core::deadline::TimedBody<crate::body::AttemptBody<P>>>, BoxError>,
    ) -> Result<Response<Body<P>>, Error> {
        match result {
            Ok(response) => {
                let mut response = JoinEnd.hold(response, self.record).map(Body::upstream);
                for change in self.changes {
                    change.apply(response.headers_mut());
                }
                Ok(response)
            }
            Err(error) => {
                self.record.settle(&Outcome::failed(Failure::of(&*error), Instant::now()));
                Err(Error::from_below(error))
            }
        }
    }

    fn abort<P: Protocol>(mut self, mut answer: Response<Body<P>>) -> Response<Body<P>> {
        let failure = Failure::new(mesh_core::outcome::FailureKind::Fault, mesh_core::outcome::Sent::No);
        self.record.settle(&Outcome::failed(failure, Instant::now()));
        answer.extensions_mut().insert(Flags::FI);
        for change in self.changes {
            change.apply(answer.headers_mut());
        }
        answer
    }
}
