//! One balanced call in flight.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::{NoEndpoint, Picked, Terms};
use crate::{
    carry::PolicyOf,
    cluster::{Available, Cluster, Dispatch, Transport, Undelivered},
    config::RequestPriority,
    endpoint::Tried,
    hold::{Hold, Settle},
    limit::{Overloaded, Resource},
    outcome::{AtEndpoint, BoxError, Class, Failed, Failure, FailureKind, Outcome, Sent},
};

/// One balanced call in flight.
#[pin_project]
pub struct ResponseFuture<R, T, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
{
    #[pin]
    state: State<R, T>,
    call: Call<T, K>,
}

/// What stays the same from endpoint to endpoint.
struct Call<T: Transport, K> {
    cluster: Arc<Cluster<T>>,
    terms: Terms,
    /// The priority at which the request counts against the breaker; the guard of the endpoint has it while there is one.
    counted: Option<RequestPriority>,
    hold: K,
    /// Boxed, as hardly any request moves.
    moves: Option<Box<Moves>>,
}

/// Where a call itself was, and what happened at the last of these endpoints.
struct Moves {
    places: Tried,
    last_error: BoxError,
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
    /// What is waited for first, where endpoints are available and would not do.
    #[pin]
    pause: Option<Sleep>,
    #[pin]
    available: Available<T>,
}

/// Why a request goes nowhere now.
enum Halt {
    /// There is nobody, or nobody but those whom the request has just been to for want of an identity, which is worth a pause; and
    /// it would rather wait.
    // A variant of its own would make every pick's result larger.
    Wait {
        pauses: bool,
    },
    Refuse(BoxError),
}

/// How long a request that waits leaves everybody alone when it could reach nobody for want of an identity. Nothing speaks against
/// them, and nobody is told when an identity comes.
const IDENTITY_PAUSE: Duration = Duration::from_secs(1);

const ENDED: &str = "a future is not polled after it has ended";

impl<R, T, K> ResponseFuture<R, T, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
{
    /// To `Sent`, `Waiting` or `Refused`. All of it in one function, since each on the way from the service to the endpoint
    /// would move the request once more.
    #[inline(always)]
    pub(super) fn new<P, A>(mut request: R, clusters: &P, terms: &A, hold: &K) -> Self
    where
        P: PolicyOf<R, Arc<Cluster<T>>>,
        A: PolicyOf<R, Terms>,
        K: Clone,
    {
        let cluster = clusters.policy_of(&mut request);
        let terms = terms.policy_of(&mut request);
        let mut call = Call { cluster, terms, counted: None, hold: hold.clone(), moves: None };
        match call.enter().and_then(|()| call.pick()) {
            Ok(picked) => {
                let response = picked.handle().dispatch(request);
                Self { state: State::Sent { picked: Some(picked), response }, call }
            }
            Err(halt) => Self { state: call.halt(request, halt), call },
        }
    }
}

impl Halt {
    #[cold]
    fn overloaded(overloaded: Overloaded) -> Self {
        Self::Refuse(Failed::from(overloaded).into())
    }
}

impl<T: Transport, K> Call<T, K> {
    /// Asks the breaker, if it is to be asked.
    // Always in line, as what follows.
    #[inline(always)]
    fn enter(&mut self) -> Result<(), Halt> {
        if let Some(priority) = self.terms.breaker {
            let admitted = self.cluster.limits().enter(Resource::Requests, priority);
            admitted.map_err(Halt::overloaded)?;
            self.counted = Some(priority);
        }
        Ok(())
    }

    // Always in line: the second who picks hardly ever does.
    #[inline(always)]
    fn pick(&mut self) -> Result<Picked<T::Handle>, Halt> {
        match self.cluster.pick_counted(&mut self.terms, self.counted) {
            Ok(picked) => {
                self.counted = None;
                Ok(picked)
            }
            Err(_) if self.terms.wait_for_ready => Err(Halt::Wait { pauses: false }),
            Err(none) => Err(Halt::Refuse(self.give_up(none))),
        }
    }

    /// To `Waiting` or `Refused`.
    #[cold]
    fn halt<R>(&self, request: R, halt: Halt) -> State<R, T>
    where
        T::Handle: Dispatch<R>,
    {
        match halt {
            Halt::Wait { pauses } => self.wait(request, pauses.then(|| sleep(IDENTITY_PAUSE))),
            Halt::Refuse(error) => State::Refused(Some(error)),
        }
    }

    fn wait<R>(&self, request: R, pause: Option<Sleep>) -> State<R, T>
    where
        T::Handle: Dispatch<R>,
    {
        State::Waiting(Box::pin(Waiting { request: Some(request), pause, available: self.cluster.available() }))
    }

    /// To wherever a request goes that has come back, or has waited.
    #[cold]
    fn send_again<R>(&mut self, request: R) -> State<R, T>
    where
        T::Handle: Dispatch<R>,
    {
        match self.pick().and_then(|picked| self.come_round(picked)) {
            Ok(picked) => {
                let response = picked.handle().dispatch(request);
                State::Sent { picked: Some(picked), response }
            }
            Err(halt) => self.halt(request, halt),
        }
    }

    /// What is to be done with an endpoint at which this call has failed already: another that was not tried is taken instead, of
    /// whatever priority. Where there is none the call ends with the error that led here, or waits.
    fn come_round(&mut self, mut picked: Picked<T::Handle>) -> Result<Picked<T::Handle>, Halt> {
        let Some(moves) = &mut self.moves else { return Ok(picked) };
        let is_pausing = self.terms.wait_for_ready && moves.is_for_want_of_an_identity();
        let is_full = moves.places.len() == Tried::CAPACITY;
        let is_round = moves.places.contains(picked.id()) || is_full && is_pausing;
        if !is_round {
            return Ok(picked);
        }
        if !is_full && let Some(mut untried) = self.cluster.pick_untried(&mut self.terms, &mut moves.places) {
            untried.count_as(&mut picked);
            return Ok(untried);
        }
        if is_pausing {
            // Then everybody is asked again.
            moves.places = Tried::new();
            self.counted = picked.take_counted();
            return Err(Halt::Wait { pauses: true });
        }
        match self.moves.take_if(|_| !self.terms.wait_for_ready) {
            Some(moves) => Err(Halt::Refuse(moves.last_error)),
            None => Ok(picked),
        }
    }

    /// What happened at an endpoint says more than that there is no other.
    fn give_up(&mut self, error: NoEndpoint) -> BoxError {
        self.moves.take().map_or_else(|| Failed::from(error).into(), |moves| moves.last_error)
    }

    /// To wherever the request goes, if it never left and may go elsewhere.
    #[cold]
    fn fail<R>(&mut self, undelivered: Undelivered<R>, mut picked: Picked<T::Handle>) -> Result<State<R, T>, BoxError>
    where
        T::Handle: Dispatch<R>,
    {
        let Undelivered { request, error } = undelivered;
        let failure = Failure::of(&*error);
        let now = Instant::now();
        picked.settle(&Outcome::failed(failure, now));
        self.counted = picked.take_counted();
        let error: BoxError = AtEndpoint::new(picked.id(), error).into();
        let mut places = self.moves.take().map_or_else(Tried::new, |moves| moves.places);
        let has_moves = self.terms.wait_for_ready || places.len() < Tried::CAPACITY;
        match request {
            Some(request) if failure.sent == Sent::No && may_move(&failure) && has_moves => {
                self.terms.tried.push(picked.id());
                places.push(picked.id());
                self.terms.now = now;
                self.moves = Some(Box::new(Moves { places, last_error: error }));
                Ok(self.send_again(request))
            }
            _ => Err(error),
        }
    }
}

impl Moves {
    fn is_for_want_of_an_identity(&self) -> bool {
        Failure::of(&*self.last_error).kind == FailureKind::Identity
    }
}

/// A refusal of our own would be repeated anywhere, as limits are the cluster's; but endpoints of one cluster may be reached in
/// different ways, and not all of them ask for an identity.
fn may_move(failure: &Failure) -> bool {
    failure.class() != Class::Local || failure.kind == FailureKind::Identity
}

impl<T: Transport, K> Drop for Call<T, K> {
    fn drop(&mut self) {
        if let Some(priority) = self.counted {
            self.cluster.limits().leave(Resource::Requests, priority);
        }
    }
}

impl<R, T, K> Future for ResponseFuture<R, T, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
    K: Hold<<T::Handle as Dispatch<R>>::Response, Picked<T::Handle>>,
{
    type Output = Result<K::Held, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                // Sent -> end, or the request came back.
                StateProj::Sent { picked, response } => match ready!(response.poll(cx)) {
                    Ok(response) => {
                        let picked = picked.take().expect(ENDED);
                        picked.reached();
                        return Poll::Ready(Ok(this.call.hold.hold(response, picked)));
                    }
                    Err(undelivered) => this.call.fail(undelivered, picked.take().expect(ENDED))?,
                },
                // Somebody may be available. The latency counts from now.
                StateProj::Waiting(waiting) => {
                    let WaitingProj { request, pause, available } = waiting.as_mut().project();
                    if let Some(pause) = pause.as_pin_mut() {
                        ready!(pause.poll(cx));
                    }
                    ready!(available.poll(cx));
                    this.call.terms.now = Instant::now();
                    this.call.send_again(request.take().expect("the request is there until the waiting is over"))
                }
                StateProj::Refused(error) => {
                    let error = error.take().expect(ENDED);
                    return Poll::Ready(Err(error));
                }
            };
            this.state.set(next);
        }
    }
}
