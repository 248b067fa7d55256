//! One request under a limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::{Overloaded, Permit};
use crate::{
    hold::Hold,
    outcome::{BoxError, Failed},
};

/// A request that was admitted, or refused.
///
/// Dropping it gives its permit back.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, H> {
    #[pin]
    state: State<F, H>,
}

#[pin_project(project = StateProjection)]
#[derive(Debug)]
enum State<F, H> {
    /// The permit is taken when there is a response that can hold it.
    Admitted {
        #[pin]
        future: F,
        permit: Option<Permit>,
        hold: H,
    },
    Refused(Overloaded),
}

impl<F, H> ResponseFuture<F, H> {
    #[inline]
    pub(super) const fn admitted(future: F, permit: Permit, hold: H) -> Self {
        Self { state: State::Admitted { future, permit: Some(permit), hold } }
    }

    pub(super) const fn refused(overloaded: Overloaded) -> Self {
        Self { state: State::Refused(overloaded) }
    }
}

impl<F, H, Res, E> Future for ResponseFuture<F, H>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    H: Hold<Res, Permit>,
{
    type Output = Result<H::Held, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused(overloaded) => Poll::Ready(Err(Failed::from(*overloaded).into())),
            StateProjection::Admitted { future, permit, hold } => {
                let result = ready!(future.poll(cx));
                let permit = permit.take().expect("a finished future is not polled again");
                Poll::Ready(match result {
                    Ok(response) => Ok(hold.hold(response, permit)),
                    Err(error) => Err(error.into()),
                })
            }
        }
    }
}
