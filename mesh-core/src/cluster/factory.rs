//! A transport made of tower services: one service per endpoint, from a factory.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_service::Service;

use super::{Dispatch, EndpointInfo, Transport, Undelivered};
use crate::outcome::{BoxError, Failed, Failure, FailureKind, Sent};

/// Makes the service of an endpoint at its first use, by a function of the endpoint.
///
/// A service is made once: it does not see later changes of policy or metadata. It is dropped with the last request that
/// uses it after the endpoint has left.
#[derive(Clone, Debug)]
pub struct FromFactory<F>(F);

/// A service that is cloned for each request.
#[derive(Clone, Debug)]
pub struct PerRequest<S>(S);

/// Waits until the service is ready, then calls it. A request whose service fails before is handed back.
#[pin_project]
pub struct ServiceFuture<S: Service<R>, R> {
    #[pin]
    state: State<S, R>,
}

#[pin_project(project = StateProj)]
enum State<S: Service<R>, R> {
    /// Waiting for the service. The request is there until it is called.
    Readying(S, Option<R>),
    /// The service has the request.
    Called(#[pin] S::Future),
}

// === impl FromFactory ===

impl<F> FromFactory<F> {
    /// A transport of the services that `factory` makes.
    pub const fn new(factory: F) -> Self {
        Self(factory)
    }
}

impl<F, S> Transport for FromFactory<F>
where
    F: Fn(&EndpointInfo<'_>) -> S + Send + Sync + 'static,
    S: Send + Sync + 'static,
{
    type Handle = PerRequest<S>;

    fn open(&self, endpoint: &EndpointInfo<'_>) -> PerRequest<S> {
        PerRequest((self.0)(endpoint))
    }

    fn update(&self, _: &PerRequest<S>, _: &EndpointInfo<'_>) {}

    fn retire(&self, _: &PerRequest<S>) {}
}

// === impl PerRequest ===

impl<S, R> Dispatch<R> for PerRequest<S>
where
    S: Service<R> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Future = ServiceFuture<S, R>;

    fn dispatch(&self, request: R) -> ServiceFuture<S, R> {
        ServiceFuture { state: State::Readying(self.0.clone(), Some(request)) }
    }
}

// === impl ServiceFuture ===

impl<S, R> Future for ServiceFuture<S, R>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Undelivered<R>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let called = match this.state.as_mut().project() {
                StateProj::Readying(service, request) => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        let error = never_left(error.into());
                        return Poll::Ready(Err(Undelivered { request: request.take(), error }));
                    }
                    let request = request.take().expect("a future is not polled after it has ended");
                    service.call(request)
                }
                StateProj::Called(response) => {
                    let failed = |error: S::Error| Undelivered { request: None, error: error.into() };
                    return response.poll(cx).map_err(failed);
                }
            };
            this.state.set(State::Called(called));
        }
    }
}

/// A service that is not ready has nothing of the request, whatever its error is. Unless the error says more, a service
/// that fails to become ready is one that cannot connect.
fn never_left(error: BoxError) -> BoxError {
    let kind = match Failure::of(&*error).kind {
        FailureKind::Other => FailureKind::Connect,
        known => known,
    };
    Failed::because(Failure::new(kind, Sent::No), error).into()
}
