//! The last step of an attempt: from the endpoint that was picked to its pool, and the response back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use mesh_core::{
    cluster::{Dispatch, Undelivered},
    endpoint::EndpointId,
    outcome::{Failed, Failure, FailureKind, Sent},
    retry::ReplayBody,
};
use pin_project::pin_project;

use super::attempt::{Attempt, AttemptParts};
use crate::{
    cluster::{EndpointBody, Handle},
    pool::{Ask, SendFailed, Sending},
};

/// A request on its way to an endpoint.
#[pin_project(project = DeliveryProject)]
pub(crate) enum Delivery {
    Sent {
        #[pin]
        sending: Sending<ReplayBody>,
        endpoint: EndpointId,
        /// Taken when the request comes back.
        parts: Option<AttemptParts>,
    },
    /// Boxed, since most requests never are in it.
    Refused(Option<Box<(Attempt, Failed)>>),
}

// === impl Handle ===

impl Dispatch<Attempt> for Handle {
    type Response = Response<EndpointBody>;
    type Future = Delivery;

    fn dispatch(&self, mut attempt: Attempt) -> Delivery {
        attempt.meets(self.hostname());
        let pool = match self.pool() {
            Ok(pool) => pool,
            Err(error) => {
                let failed = Failed::because(Failure::new(FailureKind::Tls, Sent::No), error.clone());
                return Delivery::Refused(Some(Box::new((attempt, failed))));
            }
        };
        let (request, parts) = attempt.into_parts();
        let ask = Ask::new(parts.priority());
        Delivery::Sent { sending: pool.send(request, ask), endpoint: self.id(), parts: Some(parts) }
    }
}

// === impl Delivery ===

impl Future for Delivery {
    type Output = Result<Response<EndpointBody>, Undelivered<Attempt>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DeliveryProject::Sent { sending, endpoint, parts } => {
                let result = ready!(sending.poll(cx));
                Poll::Ready(match result {
                    Ok(response) => Ok(response.map(|body| EndpointBody::new(body, *endpoint))),
                    Err(SendFailed { request, error }) => {
                        let request = request.zip(parts.take());
                        let request = request.map(|(request, parts)| Attempt::from_parts(request, parts));
                        Err(Undelivered { request, error: error.into() })
                    }
                })
            }
            DeliveryProject::Refused(refused) => {
                let (attempt, failed) = *refused.take().expect("polled after completion");
                Poll::Ready(Err(Undelivered { request: Some(attempt), error: failed.into() }))
            }
        }
    }
}
