//! A request in flight, as its caller sees it.
//!
//! ```text
//! Waiting (no configuration, or cluster, yet) --> Held back (injected delay) --> Under way --> response
//!         \________________________________________\____________________________\______--> error, or an answer made here
//! ```
//!
//! Every way out settles the record of the call, so that each call is told of once.

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
    deadline::{Expiry, TimedBody, later},
    hold::{Hold, JoinEnd, Settle},
    outcome::{BoxError, Classify, ClassifyEnd, Failed, Failure, FailureKind, Flags, Head, Outcome, Sent},
    retry::{HttpRules, Judge},
};
use tokio::time::{Instant, Sleep};
use tower_service::Service;
use tracing::Span;

use super::{
    Caller, Stack,
    caller::{Beginning, Known},
    faults::{InjectedFaults, aborted},
    route::{self, Forwarding, Routing},
    routed::Routed,
    stack,
};
use crate::{
    Error,
    body::{AttemptBody, Body},
    mesh::{Routes, on_demand::PATIENCE},
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
    /// Set when the request has a cluster, taken by its response.
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

/// For the configuration, or for a better one.
struct Waiting<B> {
    /// There until it comes.
    call: Option<Unrouted<B>>,
    caller: Arc<Caller>,
    known: Known,
}

/// By a fault, or because its time was over before it began.
struct HeldBack<B> {
    delay: Pin<Box<Sleep>>,
    /// What the request meets; there until the delay is over.
    met: Option<(Routed<B>, InjectedFaults)>,
}

/// A call that has no cluster yet.
struct Unrouted<B> {
    beginning: Beginning,
    request: Request<B>,
    span: Span,
    /// Opened when the call has to wait: most are counted at their cluster from the start.
    record: Option<CallRecord>,
}

/// What waits for the response.
struct After {
    record: CallRecord,
    changes: Vec<RenderedMutations>,
    /// What has happened already: [`Flags::DI`].
    flags: Flags,
}

// === impl ResponseFuture ===

impl<B, P: Protocol> ResponseFuture<B, P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(caller: &Arc<Caller>, mut request: Request<B>) -> Self {
        let mut this = Self { stage: Stage::Answered(None), after: None };
        let beginning = caller.begin(&mut request);
        let span = telemetry::span(&request);
        let call = Unrouted { beginning, request, span, record: None };
        let routes = caller.target().routes();
        this.stage = Self::begin(&mut this.after, caller, &routes, call);
        this
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { stage: Stage::answered(Err(error)), after: None }
    }

    /// The request is routed by `routes`; or it waits for others.
    fn begin(
        after: &mut Option<After>,
        caller: &Arc<Caller>,
        routes: &Arc<Routes>,
        mut call: Unrouted<B>,
    ) -> Stage<B, P> {
        let waits_for_ready = call.beginning.options.wait_for_ready;
        let compiled = match &**routes {
            Routes::Ready(compiled) => compiled,
            Routes::Waiting => return Self::wait_for_any(caller, routes, call),
            Routes::Unavailable(_) if waits_for_ready => return Self::wait_for_any(caller, routes, call),
            Routes::Unavailable(_) | Routes::Closed => {
                let reason = routes.lacking().unwrap_or_default();
                return Self::end(caller, call, Err(caller.unavailable(&reason)));
            }
        };
        telemetry::propagate(call.request.headers_mut(), &call.span);
        match route::route::<B, P>((caller.target(), compiled), &call.beginning, &mut call.request) {
            Ok(Routing::Forward(forwarding)) => Self::forward(after, call, forwarding),
            Ok(Routing::Answer(answer)) => Self::end(caller, call, Ok(*answer)),
            Ok(Routing::Missing { named: Some(name), error, deadline }) => match caller.ask(&name) {
                // Once its time is over it is as good as gone, but for those who wait whatever it takes.
                None if !waits_for_ready => Self::end(caller, call, Err(error)),
                until => {
                    // They ask again from time to time, lest what they wait for is let go of, or found no room.
                    let until = if waits_for_ready { Instant::now().checked_add(PATIENCE) } else { until };
                    Self::wait_for(caller, call, |caller| caller.reached((name, routes.clone()), until, deadline))
                }
            },
            Ok(Routing::Missing { deadline, .. }) if waits_for_ready => Self::wait(caller, routes, deadline, call),
            Ok(Routing::Missing { error, .. }) | Err(error) => Self::end(caller, call, Err(error)),
        }
    }

    /// To Waiting, with no limit known but the caller's own.
    fn wait_for_any(caller: &Arc<Caller>, seen: &Arc<Routes>, call: Unrouted<B>) -> Stage<B, P> {
        let own = call.beginning.expiry::<B, P>(&call.request);
        Self::wait(caller, seen, own, call)
    }

    /// To Waiting, until there are other routes than `seen` or the time of the call is up.
    fn wait(caller: &Arc<Caller>, seen: &Arc<Routes>, own: Option<Expiry>, call: Unrouted<B>) -> Stage<B, P> {
        let waits_for_ready = call.beginning.options.wait_for_ready;
        Self::wait_for(caller, call, |caller| caller.known(seen.clone(), own, waits_for_ready))
    }

    /// To Waiting.
    fn wait_for(caller: &Arc<Caller>, mut call: Unrouted<B>, known: impl FnOnce(Arc<Caller>) -> Known) -> Stage<B, P> {
        let Unrouted { beginning, span, record, .. } = &mut call;
        record.get_or_insert_with(|| CallRecord::open(caller.metrics(), span.clone(), beginning.start));
        let known = known(caller.clone());
        Stage::Waiting(Box::new(Waiting { call: Some(call), caller: caller.clone(), known }))
    }

    /// To Answered, without a cluster.
    fn end(caller: &Caller, call: Unrouted<B>, result: Result<Response<Body<P>>, Error>) -> Stage<B, P> {
        let Unrouted { beginning, span, record, .. } = call;
        let mut record = record.unwrap_or_else(|| CallRecord::open(caller.metrics(), span, beginning.start));
        record.settle(&match &result {
            Ok(answer) => made_here::<P>(answer),
            Err(error) => Outcome::failed(error.failure(), Instant::now()),
        });
        Stage::answered(result)
    }

    fn forward(after: &mut Option<After>, call: Unrouted<B>, forwarding: Forwarding) -> Stage<B, P> {
        let Unrouted { request, span, record, .. } = call;
        let Forwarding { facts, faults, response_changes } = forwarding;
        let (calls, name) = (facts.cluster.metrics().calls(), facts.cluster.name());
        let record = match record {
            Some(mut record) => {
                record.goes_to(calls, name);
                record
            }
            None => {
                telemetry::name_cluster(&span, name);
                CallRecord::open(calls, span, facts.start)
            }
        };
        let flags = if faults.delay.is_some() { Flags::DI } else { Flags::default() };
        *after = Some(After { record, changes: response_changes, flags });
        let (start, deadline) = (facts.start, facts.deadline);
        let routed = Routed { request, facts };
        if faults.is_none() && deadline.is_none_or(|deadline| deadline.at() > start) {
            return Self::send(after, routed);
        }
        let until = later(start, faults.delay.unwrap_or_default());
        let until = deadline.map_or(until, |deadline| deadline.at().min(until));
        let delay = Box::pin(tokio::time::sleep_until(until));
        Stage::HeldBack(Box::new(HeldBack { delay, met: Some((routed, faults)) }))
    }

    /// What follows a delay: the deadline, if that is over, else the abort, if one is due, else the endpoint.
    fn go_on(after: &mut Option<After>, routed: Routed<B>, met: &InjectedFaults) -> Stage<B, P> {
        if let Some(deadline) = routed.facts.deadline.filter(|deadline| deadline.at() <= Instant::now()) {
            return Self::refuse(after, deadline.elapsed(Sent::No));
        }
        match met.abort {
            None => Self::send(after, routed),
            Some(with) => {
                let after = after.take().expect("nothing was answered yet");
                Stage::answered(Ok(after.abort(aborted(with))))
            }
        }
    }

    /// To UnderWay, unless the source of the endpoints sheds load, and chance takes this request.
    fn send(after: &mut Option<After>, mut routed: Routed<B>) -> Stage<B, P> {
        match routed.facts.shed_load() {
            None => Stage::UnderWay(Box::pin(stack::<P>().call(routed))),
            Some(dropped) => Self::refuse(after, dropped),
        }
    }

    fn refuse(after: &mut Option<After>, why: impl Into<Failed>) -> Stage<B, P> {
        let after = after.take().expect("nothing was answered yet");
        Stage::answered(after.finish(Err(why.into().into())))
    }
}

/// What became of a request that was answered on this side.
fn made_here<P: Protocol>(answer: &Response<Body<P>>) -> Outcome {
    let judgement = match P::classifier().head(answer.status(), answer.headers()) {
        Head::Final(judgement) => judgement,
        Head::AtEnd(end) => end.end(answer.status(), None),
    };
    Outcome::responded(answer.status(), judgement, Instant::now())
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
                // From Waiting, to wherever the route leads, or to wait again.
                Stage::Waiting(waiting) => {
                    let result = ready!(waiting.known.as_mut().poll(cx));
                    let call = waiting.call.take().expect("it is there until the configuration comes");
                    match result {
                        Ok(routes) => Self::begin(&mut this.after, &waiting.caller, &routes, call),
                        Err(error) => Self::end(&waiting.caller, call, Err(error)),
                    }
                }
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
        result: Result<Response<TimedBody<AttemptBody<P>>>, BoxError>,
    ) -> Result<Response<Body<P>>, Error> {
        match result {
            Ok(response) => {
                let response = JoinEnd.hold(response, self.record).map(Body::upstream);
                Ok(dress(response, self.changes, self.flags))
            }
            Err(error) => {
                let error = Error::from_below(error).flagged(self.flags);
                self.record.settle(&Outcome::failed(error.failure(), Instant::now()));
                Err(error)
            }
        }
    }

    fn abort<P: Protocol>(mut self, answer: Response<Body<P>>) -> Response<Body<P>> {
        let failure = Failure::new(FailureKind::Fault, Sent::No);
        let failed = Outcome::failed(failure, Instant::now());
        self.record.settle(&Outcome { status: Some(answer.status()), ..failed });
        dress(answer, self.changes, self.flags | Flags::FI)
    }
}

/// The response with the header changes of its route, and a note of what happened on the way.
fn dress<B>(mut response: Response<B>, changes: Vec<RenderedMutations>, flags: Flags) -> Response<B> {
    if !flags.is_empty() {
        HttpRules.note(&mut response, flags);
    }
    changes.into_iter().for_each(|change| change.apply(response.headers_mut()));
    response
}
