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
};
use pin_project::pin_project;

use super::{Attempt, AttemptRest};
use crate::{
    body::Outgoing,
    cluster::{EndpointBody, Handle},
    pool::{Ask, SendFailed, Sending},
};

/// A request on its way to an endpoint.
#[pin_project]
pub(crate) struct Delivery {
    #[pin]
    sending: Sending<Outgoing>,
    endpoint: EndpointId,
    /// Taken when the request comes back.
    rejoin: Option<AttemptRest>,
}

// === impl Handle ===

impl Dispatch<Attempt> for Handle {
    type Response = Response<EndpointBody>;
    type Future = Delivery;

    fn dispatch(&self, mut attempt: Attempt) -> Delivery {
        attempt.meets(self.hostname());
        let (request, rest) = attempt.split();
        let ask = Ask::new(rest.priority());
        Delivery { sending: self.pool().send(request, ask), endpoint: self.id(), rejoin: Some(rest) }
    }
}

// === impl Delivery ===

impl Future for Delivery {
    type Output = Result<Response<EndpointBody>, Undelivered<Attempt>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.sending.poll(cx)) {
            Ok(response) => Ok(response.map(|body| EndpointBody::new(body, *this.endpoint))),
            Err(SendFailed { request, error }) => {
                let rest = this.rejoin.take();
                let request = request.and_then(|request| Some(rest?.join(request)));
                Err(Undelivered { request, error: error.into() })
            }
        })
    }
}
