//! A service that does what a script says.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use mesh_core::outcome::{BoxError, Failed, Failure, FailureKind, Sent};
use tokio::time::{Instant, sleep};
use tower::Service;

use Step::{Answer, AnswerAfter, AskToWait, Fail, FailAfter, Never};

/// What the service does with one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Answer(u16),
    AnswerAfter(Duration, u16),
    Fail(FailureKind, Sent),
    FailAfter(Duration, FailureKind, Sent),
    /// Answers 503, and asks to wait for so many seconds.
    AskToWait(&'static str),
    Never,
}

/// A service that follows a script, and its last step for ever.
#[derive(Clone)]
pub(crate) struct Script(Arc<Mutex<State>>);

struct State {
    steps: VecDeque<Step>,
    started: Vec<Instant>,
    /// Its count is one more than requests under way.
    under_way: Arc<()>,
    most_under_way: usize,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let steps = steps.into_iter().collect();
        Self(Arc::new(Mutex::new(State { steps, started: Vec::new(), under_way: Arc::new(()), most_under_way: 0 })))
    }

    pub(crate) fn started(&self) -> usize {
        self.state().started.len()
    }

    /// The times between the starts of attempts.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.state().started.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    pub(crate) fn under_way(&self) -> usize {
        Arc::strong_count(&self.state().under_way) - 1
    }

    /// The most that were ever under way at the same time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.state().most_under_way
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }
}

impl<R> Service<R> for Script {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        let mut state = self.state();
        let step = if state.steps.len() > 1 { state.steps.pop_front() } else { state.steps.front().copied() };
        state.started.push(Instant::now());
        let guard = state.under_way.clone();
        state.most_under_way = state.most_under_way.max(Arc::strong_count(&guard) - 1);
        drop(state);
        Box::pin(async move {
            let _guard = guard;
            follow(step.expect("a script has a step")).await
        })
    }
}

async fn follow(step: Step) -> Result<Response<Empty<Bytes>>, BoxError> {
    let answer = |status: u16| Response::builder().status(status);
    match step {
        Answer(status) => Ok(answer(status).body(Empty::new())?),
        AnswerAfter(wait, status) => {
            sleep(wait).await;
            Ok(answer(status).body(Empty::new())?)
        }
        Fail(kind, sent) => Err(Failed::new(Failure::new(kind, sent)).into()),
        FailAfter(wait, kind, sent) => {
            sleep(wait).await;
            Err(Failed::new(Failure::new(kind, sent)).into())
        }
        AskToWait(value) => Ok(answer(503).header("retry-after", value).body(Empty::new())?),
        Never => std::future::pending().await,
    }
}
