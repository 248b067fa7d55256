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
};
use pin_project::pin_project;

use super::{Attempt, AttemptRest};
use crate::{
    body::Outgoing,
    cluster::{EndpointBody, Handle},
    pool::{Ask, SendFailed, Sending},
};

/// A request on its way to an endpoint.
#[pin_project(project = DeliveryProject)]
pub(crate) enum Delivery {
    Sent {
        #[pin]
        sending: Sending<Outgoing>,
        endpoint: EndpointId,
        rejoin: Option<AttemptRest>,
    },
    Refused(Option<(Attempt, Failed)>),
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
                return Delivery::Refused(Some((attempt, failed)));
            }
        };
        let (request, rest) = attempt.split();
        let ask = Ask::new(rest.priority());
        Delivery::Sent { sending: pool.send(request, ask), endpoint: self.id(), rejoin: Some(rest) }
    }
}

// === impl Delivery ===

impl Future for Delivery {
    type Output = Result<Response<EndpointBody>, Undelivered<Attempt>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DeliveryProject::Sent { sending, endpoint, rejoin } => {
                let result = ready!(sending.poll(cx));
                Poll::Ready(match result {
                    Ok(response) => Ok(response.map(|body| EndpointBody::new(body, *endpoint))),
                    Err(SendFailed { request, error }) => {
                        let rest = rejoin.take();
                        let request = request.and_then(|request| Some(rest?.join(request)));
                        Err(Undelivered { request, error: error.into() })
                    }
                })
            }
            DeliveryProject::Refused(refused) => {
                let (attempt, failed) = refused.take().expect("polled after completion");
                Poll::Ready(Err(Undelivered { request: Some(attempt), error: failed.into() }))
            }
        }
    }
}
