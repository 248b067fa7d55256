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
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<B, P: Protocol = Http>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    stage: Stage<B, P>,
    /// Set when the request is on its way, taken by its response.
    after: Option<After>,
}

/// All boxed, the usual one because it is a kilobyte: whoever calls moves this future about, twice for each `async` block that
/// awaits it.
enum Stage<B, P: Protocol>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    Waiting(Box<Waiting<B>>),
    HeldBack(Box<HeldBack<B>>),
    UnderWay(Pin<Box<<Stack<P> as Service<Routed<B>>>::Future>>),
    /// The answer is there until it is taken.
    Answered(Option<Box<Result<Response<Body<P>>, Error>>>),
}

/// For the configuration.
struct Waiting<B> {
    /// There until it comes.
    request: Option<(Beginning, Request<B>)>,
    caller: Arc<Caller>,
    known: Known,
}

/// By a fault, or because its time was over before it began.
struct HeldBack<B> {
    delay: Pin<Box<Sleep>>,
    /// What the request meets; there until the delay is over.
    met: Option<(Routed<B>, Met)>,
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
        Self { stage: Stage::answered(Err(error)), after: None }
    }

    /// There is no configuration yet.
    fn wait(caller: &Arc<Caller>, beginning: Beginning, request: Request<B>) -> Stage<B, P> {
        let options = request.extensions().get::<CallOptions>().copied().unwrap_or_default();
        let known = caller.clone().known(beginning.expiry::<B, P>(&request), options.waits_for_ready());
        Stage::Waiting(Box::new(Waiting { request: Some((beginning, request)), caller: caller.clone(), known }))
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
            State::Unavailable(reason) => return Stage::answered(Err(caller.unavailable(reason))),
            State::Waiting => unreachable!("nobody begins before something is known"),
        };
        let span = telemetry::span(&request);
        telemetry::propagate(request.headers_mut(), &span);
        match route::route(compiled, beginning, &mut request) {
            Ok(Routing::Answer(answer)) => Stage::answered(Ok(*answer)),
            Ok(Routing::Forward(forwarding)) => Self::forward(after, span, forwarding, request),
            Err(error) => Stage::answered(Err(error)),
        }
    }

    fn forward(after: &mut Option<After>, span: Span, forwarding: Forwarding, request: Request<B>) -> Stage<B, P> {
        let Forwarding { facts, faults, response_changes } = forwarding;
        let (start, deadline) = (facts.start, facts.deadline);
        let record = CallRecord::open(facts.cluster.metrics(), facts.cluster.name(), span, start);
        *after = Some(After { record, changes: response_changes });
        let routed = Routed { request, facts };
        if faults.is_none() && deadline.is_none_or(|deadline| deadline.at() > start) {
            return Stage::UnderWay(Box::pin(stack::<P>().call(routed)));
        }
        let until = start + faults.delay.unwrap_or_default();
        let until = deadline.map_or(until, |deadline| deadline.at().min(until));
        let delay = Box::pin(tokio::time::sleep_until(until));
        Stage::HeldBack(Box::new(HeldBack { delay, met: Some((routed, faults)) }))
    }

    /// What follows a delay: the deadline, if that is over, else the abort, if one is due, else the endpoint.
    fn go_on(after: &mut Option<After>, routed: Routed<B>, met: &Met) -> Stage<B, P> {
        if let Some(deadline) = routed.facts.deadline.filter(|deadline| deadline.at() <= Instant::now()) {
            let after = after.take().expect("nothing was answered yet");
            return Stage::answered(after.finish(Err(deadline.elapsed(Sent::No).into())));
        }
        match met.abort {
            None => Stage::UnderWay(Box::pin(stack::<P>().call(routed))),
            Some(with) => {
                let after = after.take().expect("nothing was answered yet");
                Stage::answered(Ok(after.abort(local::aborted(with))))
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
        let this = self.get_mut();
        loop {
            this.stage = match &mut this.stage {
                Stage::UnderWay(call) => {
                    let result = ready!(call.as_mut().poll(cx));
                    let after = this.after.take().expect("a response comes once");
                    return Poll::Ready(after.finish(result));
                }
                Stage::Answered(answer) => return Poll::Ready(*answer.take().expect("polled after completion")),
                // From Waiting, to wherever the route leads.
                Stage::Waiting(waiting) => match ready!(waiting.known.as_mut().poll(cx)) {
                    Ok(state) => {
                        let request = waiting.request.take();
                        let (beginning, request) = request.expect("it is there until the configuration comes");
                        Self::begin(&mut this.after, &waiting.caller, &state, beginning, request)
                    }
                    Err(error) => Stage::answered(Err(error)),
                },
                // From HeldBack, when the delay or the time of the request is over.
                Stage::HeldBack(held) => {
                    ready!(held.delay.as_mut().poll(cx));
                    let (routed, met) = held.met.take().expect("it is there until the delay is over");
                    Self::go_on(&mut this.after, routed, &met)
                }
            };
        }
    }
}

// === impl Stage ===

impl<B, P: Protocol> Stage<B, P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn answered(answer: Result<Response<Body<P>>, Error>) -> Self {
        Self::Answered(Some(Box::new(answer)))
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
