//! What holds a guard until a response has ended: a permit, an in-flight count, a latency sample.
//!
//! A permit lives as long as the work. For an HTTP response the work ends with its body, so a guard moves into the body
//! ([`UntilEnd`]) and is settled by whatever comes first of the last frame, the trailers, an error and a drop. For
//! responses that are complete when they are there, it ends at once ([`AtOnce`]).
//!
//! There is one watcher per response however many guards there are: a further layer joins its guard to those that the
//! response already holds ([`JoinEnd`]), and all of them are settled with the one [`Outcome`].

mod cause;
mod watched;

use http::Response;
use http_body::Body;
use tokio::time::Instant;

pub(crate) use self::cause::cause_at;
pub use self::{
    cause::give_up,
    watched::{ByBody, ByClassifier, Conclude, Concluded, End, Watched},
};
use crate::outcome::{BoxError, Class, Classify, HttpClassifier, Outcome};

/// A guard that wants to know how the work that it guards has ended.
///
/// A guard that is dropped unsettled takes it that the caller went away before there was a response, unless it is dropped
/// by [`give_up`].
pub trait Settle: Send + 'static {
    /// The work has ended; called at most once, and the guard is dropped right after.
    fn settle(&mut self, outcome: &Outcome);
}

/// Puts guards into responses.
pub trait Hold<Res, G> {
    /// A response that holds the guard.
    type Held;

    /// Moves `guard` into `response`.
    fn hold(&self, response: Res, guard: G) -> Self::Held;
}

/// Settles a guard as soon as there is a response, as a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

/// Settles a guard when the body of an HTTP response has ended, with the outcome that the classifier `C` finds.
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilEnd<C = HttpClassifier>(pub C);

/// Joins a guard to those that an HTTP response already holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinEnd;

// === impl AtOnce ===

impl<Res, G: Settle> Hold<Res, G> for AtOnce {
    type Held = Res;

    #[inline]
    fn hold(&self, response: Res, mut guard: G) -> Res {
        let at = Instant::now();
        guard.settle(&Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at });
        response
    }
}

// === impl UntilEnd ===

impl<B, G, C> Hold<Response<B>, G> for UntilEnd<C>
where
    B: Body,
    B::Error: Into<BoxError>,
    G: Settle,
    C: Classify,
{
    type Held = Response<Watched<B, ByClassifier<C::End>, G>>;

    #[inline]
    fn hold(&self, response: Response<B>, guard: G) -> Self::Held {
        let status = response.status();
        let head = self.0.head(status, response.headers());
        response.map(|body| Watched::new(body, ByClassifier { status, head }, guard))
    }
}

// === impl JoinEnd ===

impl<B, G> Hold<Response<B>, G> for JoinEnd
where
    B: Body + Concluded,
    B::Error: Into<BoxError>,
    G: Settle,
{
    type Held = Response<Watched<B, ByBody, G>>;

    #[inline]
    fn hold(&self, response: Response<B>, guard: G) -> Self::Held {
        response.map(|body| Watched::new(body, ByBody, guard))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{Arc, Mutex},
        task::{Context, Poll},
    };

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Class>>>);

    impl Settle for Seen {
        fn settle(&mut self, outcome: &Outcome) {
            self.0.lock().expect("no test panics while it holds this").push(outcome.class);
        }
    }

    impl Seen {
        fn classes(&self) -> Vec<Class> {
            self.0.lock().expect("no test panics while it holds this").clone()
        }
    }

    fn response<B>(status: u16, body: B) -> Response<B> {
        Response::builder().status(status).body(body).expect("a legal status")
    }

    #[tokio::test]
    async fn guard_is_settled_once_when_the_last_frame_is_read() {
        let seen = Seen::default();
        let held = UntilEnd(HttpClassifier).hold(response(200, Full::new(Bytes::from("x"))), seen.clone());
        assert_eq!(seen.classes(), []);
        held.into_body().collect().await.expect("a whole body");
        assert_eq!(seen.classes(), [Class::Success]);
    }

    #[tokio::test]
    async fn empty_body_ends_with_its_head() {
        let seen = Seen::default();
        let _held = UntilEnd(HttpClassifier).hold(response(503, Empty::<Bytes>::new()), seen.clone());
        assert_eq!(seen.classes(), [Class::GatewayError]);
    }

    #[tokio::test]
    async fn dropped_body_counts_by_what_its_head_said() {
        let seen = Seen::default();
        drop(UntilEnd(HttpClassifier).hold(response(500, Full::new(Bytes::from("x"))), seen.clone()));
        assert_eq!(seen.classes(), [Class::ServerError]);
    }

    #[tokio::test]
    async fn broken_body_overrules_a_good_head() {
        let seen = Seen::default();
        let broken = StreamBody::new(Broken);
        let held = UntilEnd(HttpClassifier).hold(response(200, broken), seen.clone());
        assert!(held.into_body().collect().await.is_err());
        assert_eq!(seen.classes(), [Class::GatewayError]);
    }

    #[tokio::test]
    async fn joined_guard_reads_the_outcome_of_the_first() {
        let (first, second) = (Seen::default(), Seen::default());
        let held = UntilEnd(HttpClassifier).hold(response(502, Full::new(Bytes::from("x"))), first.clone());
        let held = JoinEnd.hold(held, second.clone());
        held.into_body().collect().await.expect("a whole body");
        assert_eq!((first.classes(), second.classes()), (vec![Class::GatewayError], vec![Class::GatewayError]));
    }

    #[tokio::test]
    async fn joined_guard_of_a_dropped_body_reads_what_the_head_said() {
        let (first, second) = (Seen::default(), Seen::default());
        let held = UntilEnd(HttpClassifier).hold(response(502, Full::new(Bytes::from("x"))), first.clone());
        drop(JoinEnd.hold(held, second.clone()));
        assert_eq!((first.classes(), second.classes()), (vec![Class::GatewayError], vec![Class::GatewayError]));
    }

    struct Broken;

    impl futures_core::Stream for Broken {
        type Item = Result<Frame<Bytes>, std::io::Error>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(Some(Err(std::io::Error::other("reset"))))
        }
    }
}
