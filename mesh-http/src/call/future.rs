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
    outcome::{BoxError, Failure, Flags, Outcome, Sent},
};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;
use tracing::Span;

use super::{
    CallOptions, Caller, Routed, Stack,
    caller::{Beginning, Known},
    faults::Met,
    local,
    route::{self, Forwarding, Routing},
    stack,
};
use crate::{
    Error,
    body::Body,
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
        request: Option<(Beginning, Request<B>)>,
        caller: Arc<Caller>,
        known: Known,
    },
    /// By a fault, or because its time was over before it began. What it meets is there until the delay is over.
    HeldBack {
        #[pin]
        delay: Sleep,
        met: Option<(Routed<B>, Met)>,
    },
    UnderWay(#[pin] <Stack<P> as Service<Routed<B>>>::Future),
    /// The answer is there until it is taken.
    Answered(Option<Result<Response<Body<P>>, Error>>),
}

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
    pub(crate) fn new(caller: &Arc<Caller>, request: Request<B>) -> Self {
        let mut this = Self { stage: Stage::Answered(None), after: None };
        let beginning = caller.begin();
        let state = caller.target().state();
        this.stage = match &**state {
            State::Waiting => Self::wait(caller, beginning, request),
            known => Self::begin(&mut this.after, caller, known, beginning, request),
        };
        this
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { stage: Stage::Answered(Some(Err(error))), after: None }
    }

    /// There is no configuration yet.
    fn wait(caller: &Arc<Caller>, beginning: Beginning, request: Request<B>) -> Stage<B, P> {
        let options = request.extensions().get::<CallOptions>().copied().unwrap_or_default();
        let known = caller.clone().known(beginning.expiry::<B, P>(&request), options.waits_for_ready());
        Stage::Waiting { request: Some((beginning, request)), caller: caller.clone(), known }
    }

    /// The configuration is known: the request is routed.
    fn begin(
        after: &mut Option<After>,
        caller: &Caller,
        state: &State,
        beginning: Beginning,
        mut request: Request<B>,
    ) -> Stage<B, P> {
        let compiled = match state {
            State::Ready(compiled) => compiled,
            State::Unavailable(reason) => return Stage::Answered(Some(Err(caller.unavailable(reason)))),
            State::Waiting => unreachable!("nobody begins before something is known"),
        };
        let span = telemetry::span(&request);
        telemetry::propagate(request.headers_mut(), &span);
        match route::route(compiled, beginning, request) {
            Ok(Routing::Answer(answer)) => Stage::Answered(Some(Ok(*answer))),
            Ok(Routing::Forward(forwarding)) => Self::forward(after, span, forwarding),
            Err(error) => Stage::Answered(Some(Err(error))),
        }
    }

    fn forward(after: &mut Option<After>, span: Span, forwarding: Forwarding<B>) -> Stage<B, P> {
        let Forwarding { routed, faults, response_changes } = forwarding;
        let cluster = &routed.facts.cluster;
        let record = CallRecord::open(cluster.metrics(), cluster.name(), span, routed.facts.start);
        *after = Some(After { record, changes: response_changes });
        let start = routed.facts.start;
        if faults.is_none() && routed.facts.deadline.is_none_or(|deadline| deadline.at() > start) {
            return Stage::UnderWay(stack::<P>().call(routed));
        }
        let until = start + faults.delay.unwrap_or_default();
        let until = routed.facts.deadline.map_or(until, |deadline| deadline.at().min(until));
        Stage::HeldBack { delay: tokio::time::sleep_until(until), met: Some((routed, faults)) }
    }

    /// What follows a delay: the deadline, if that is over, else the abort, if one is due, else the endpoint.
    fn go_on(after: &mut Option<After>, routed: Routed<B>, met: &Met) -> Stage<B, P> {
        if let Some(deadline) = routed.facts.deadline.filter(|deadline| deadline.at() <= Instant::now()) {
            let after = after.take().expect("nothing was answered yet");
            return Stage::Answered(Some(after.finish(Err(deadline.elapsed(Sent::No).into()))));
        }
        match met.abort {
            None => Stage::UnderWay(stack::<P>().call(routed)),
            Some(with) => {
                let after = after.take().expect("nothing was answered yet");
                Stage::Answered(Some(Ok(after.abort(local::aborted(with)))))
            }
        }
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
                StageProject::Waiting { request, caller, known } => match ready!(known.as_mut().poll(cx)) {
                    Ok(state) => {
                        let (beginning, request) = request.take().expect("it is there until the configuration comes");
                        Self::begin(this.after, caller, &state, beginning, request)
                    }
                    Err(error) => Stage::Answered(Some(Err(error))),
                },
                // From HeldBack, when the delay or the time of the request is over.
                StageProject::HeldBack { delay, met } => {
                    ready!(delay.poll(cx));
                    let (routed, met) = met.take().expect("it is there until the delay is over");
                    Self::go_on(this.after, routed, &met)
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
        let failure = Failure::new(mesh_core::outcome::FailureKind::Fault, Sent::No);
        self.record.settle(&Outcome::failed(failure, Instant::now()));
        answer.extensions_mut().insert(Flags::FI);
        for change in self.changes {
            change.apply(answer.headers_mut());
        }
        answer
    }
}
