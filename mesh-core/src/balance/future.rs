//! One balanced call in flight.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;

use super::{Ask, AtEndpoint, NoEndpoint, Picked, Terms, TermsOf};
use crate::{
    cluster::{Available, Cluster, Dispatch, Transport, Undelivered},
    endpoint::Tried,
    hold::{Hold, Settle},
    outcome::{BoxError, Class, Failure, Outcome, Sent},
};

/// One balanced call in flight.
#[pin_project]
pub struct ResponseFuture<R, T, A, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
{
    #[pin]
    state: State<R, T>,
    call: Call<T, A, K>,
}

/// What stays the same from endpoint to endpoint.
struct Call<T: Transport, A, K> {
    cluster: Arc<Cluster<T>>,
    terms: Terms,
    asked: A,
    hold: K,
    /// Where this call itself was, and what happened at the last of them.
    moved: Tried,
    last_error: Option<BoxError>,
}

#[pin_project(project = StateProj)]
enum State<R, T>
where
    T: Transport,
    T::Handle: Dispatch<R>,
{
    /// The request is at an endpoint. The guard is there until there is a response or an error.
    Sent {
        picked: Option<Picked<T::Handle>>,
        #[pin]
        response: <T::Handle as Dispatch<R>>::Future,
    },
    /// There was no endpoint to pick. Boxed, as hardly any request waits and all would have to move that much more.
    Waiting(Pin<Box<Waiting<R, T>>>),
    /// There is none, and the request does not wait. The error is there until it is told.
    Refused(Option<BoxError>),
}

#[pin_project(project = WaitingProj)]
struct Waiting<R, T: Transport> {
    /// Taken when the waiting is over.
    request: Option<R>,
    #[pin]
    available: Available<T>,
}

impl<R, T, A, K> ResponseFuture<R, T, A, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
    A: TermsOf<R>,
{
    #[inline]
    pub(super) fn new(request: R, cluster: Arc<Cluster<T>>, terms: Terms, asked: A, hold: K) -> Self {
        let mut call = Call { cluster, terms, asked, hold, moved: Tried::new(), last_error: None };
        Self { state: call.send(request), call }
    }
}

impl<T: Transport, A, K> Call<T, A, K> {
    /// To `Sent`; to `Waiting` where there is nobody and the request would rather wait; or to `Refused`.
    #[inline]
    fn send<R>(&mut self, mut request: R) -> State<R, T>
    where
        T::Handle: Dispatch<R>,
        A: TermsOf<R>,
    {
        let Terms { dice, tried, now, wait_for_ready } = &mut self.terms;
        let mut ask = Ask { dice, tried, now: *now, wait_for_ready: *wait_for_ready };
        let picked = match self.cluster.pick(&mut ask) {
            Ok(picked) => picked,
            Err(_) if *wait_for_ready => {
                let available = self.cluster.available();
                return State::Waiting(Box::pin(Waiting { request: Some(request), available }));
            }
            Err(error) => return State::Refused(Some(self.give_up(error))),
        };
        if let Some(error) = self.come_round(&picked) {
            return State::Refused(Some(error));
        }
        self.asked.picked(&mut request, picked.id());
        let response = picked.handle().dispatch(request);
        State::Sent { picked: Some(picked), response }
    }

    /// The error that led here, if this call has failed at the picked endpoint already and would only repeat it.
    fn come_round(&mut self, picked: &Picked<T::Handle>) -> Option<BoxError> {
        let repeats = self.moved.contains(picked.id()) && !self.terms.wait_for_ready;
        if repeats { self.last_error.take() } else { None }
    }

    /// What happened at an endpoint says more than that there is no other.
    fn give_up(&mut self, error: NoEndpoint) -> BoxError {
        self.last_error.take().unwrap_or_else(|| error.into())
    }

    /// The request, if it never left and may go elsewhere.
    fn fail<R>(&mut self, undelivered: Undelivered<R>, mut picked: Picked<T::Handle>) -> Result<R, BoxError>
    where
        T::Handle: Dispatch<R>,
    {
        let Undelivered { request, error } = undelivered;
        let failure = Failure::of(&*error);
        let now = Instant::now();
        picked.settle(&Outcome::failed(failure, now));
        let error: BoxError = AtEndpoint::new(picked.id(), error).into();
        let has_moves = self.terms.wait_for_ready || self.moved.len() < Tried::CAPACITY;
        match request {
            // A refusal of our own would be repeated anywhere: limits are the cluster's.
            Some(request) if failure.sent == Sent::No && failure.class() != Class::Local && has_moves => {
                self.terms.tried.push(picked.id());
                self.moved.push(picked.id());
                self.terms.now = now;
                self.last_error = Some(error);
                Ok(request)
            }
            _ => Err(error),
        }
    }
}

impl<R, T, A, K> Future for ResponseFuture<R, T, A, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
    A: TermsOf<R>,
    K: Hold<<T::Handle as Dispatch<R>>::Response, Picked<T::Handle>>,
{
    type Output = Result<K::Held, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let request = match this.state.as_mut().project() {
                // Sent -> end, or the request came back.
                StateProj::Sent { picked, response } => {
                    let result = ready!(response.poll(cx));
                    let picked = picked.take().expect("a future is not polled after it has ended");
                    match result {
                        Ok(response) => {
                            picked.reached();
                            return Poll::Ready(Ok(this.call.hold.hold(response, picked)));
                        }
                        Err(undelivered) => this.call.fail(undelivered, picked)?,
                    }
                }
                // Somebody may be available. The latency counts from now.
                StateProj::Waiting(waiting) => {
                    let WaitingProj { request, available } = waiting.as_mut().project();
                    ready!(available.poll(cx));
                    this.call.terms.now = Instant::now();
                    request.take().expect("the request is there until the waiting is over")
                }
                StateProj::Refused(error) => {
                    let error = error.take().expect("a future is not polled after it has ended");
                    return Poll::Ready(Err(error));
                }
            };
            this.state.set(this.call.send(request));
        }
    }
}
