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

use super::attempt::{Attempt, AttemptParts};
use crate::{
    cluster::{EndpointBody, Handle},
    outgoing::Outgoing,
    pool::{Manner, Sending},
};

/// A request on its way to an endpoint.
#[pin_project]
pub(crate) struct Delivery {
    #[pin]
    sending: Sending<Outgoing>,
    endpoint: EndpointId,
    /// Taken when the request comes back.
    parts: Option<AttemptParts>,
}

// === impl Handle ===

impl Dispatch<Attempt> for Handle {
    type Response = Response<EndpointBody>;
    type Future = Delivery;

    fn dispatch(&self, mut attempt: Attempt) -> Delivery {
        attempt.meets(self.hostname());
        let (request, parts) = attempt.into_parts();
        let manner = Manner { priority: parts.priority(), is_whole: request.body().is_whole() };
        let sending = self.pool().send_as(request, manner);
        Delivery { sending, endpoint: self.id(), parts: Some(parts) }
    }
}

// === impl Delivery ===

impl Future for Delivery {
    type Output = Result<Response<EndpointBody>, Undelivered<Attempt>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.sending.poll(cx)) {
            Ok(response) => Ok(response.map(|body| EndpointBody::new(body, *this.endpoint))),
            Err(Undelivered { request, error }) => {
                let request = request.zip(this.parts.take());
                let request = request.map(|(request, parts)| Attempt::from_parts(request, parts));
                Err(Undelivered { request, error })
            }
        })
    }
}
