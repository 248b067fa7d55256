//! What the layer owes the service within: it is ready at each attempt, and shared between threads.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::Response;
use mesh_core::{
    carry::Fixed,
    config::RetryOn,
    deadline::{Bound, Elapsed},
    hold::AtOnce,
    outcome::{BoxError, Failed, Failure, FailureKind, Sent, find_cause},
    retry::{ByClone, FailureRules, RetryLayer, Under},
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use crate::support::{SECOND, policy};

/// Panics when it is called unready; ready only while `open`.
struct Strict {
    ready: bool,
    open: Arc<Mutex<u32>>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, open: self.open.clone() }
    }
}

impl Service<&'static str> for Strict {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut open = self.open.lock().expect("no test panics while it holds this");
        if *open == 0 {
            return Poll::Pending;
        }
        *open -= 1;
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called unready");
        std::future::ready(Err(Failed::new(Failure::new(FailureKind::Reset, Sent::Maybe)).into()))
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_finds_the_service_ready() {
    let open = Arc::new(Mutex::new(3));
    let service = RetryLayer::cloning(policy(RetryOn::RESET, 2)).layer(Strict { ready: false, open: open.clone() });
    assert!(service.oneshot("request").await.is_err());
    assert_eq!(*open.lock().expect("unlocked"), 0);
}

#[tokio::test(start_paused = true)]
async fn service_that_does_not_get_ready_again_is_waited_for_until_the_deadline() {
    let open = Arc::new(Mutex::new(1));
    let layer = RetryLayer::cloning(policy(RetryOn::RESET, 2)).timeout(SECOND);
    let service = layer.layer(Strict { ready: false, open });
    let start = Instant::now();
    let error = service.oneshot("request").await.expect_err("never ready again");
    assert_eq!((find_cause::<Elapsed>(&*error).map(Elapsed::bound), start.elapsed()), (Some(Bound::Request), SECOND));
}

#[test]
fn layer_and_service_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    struct NotSync(std::cell::Cell<()>);
    let layer = RetryLayer::with_parts(Under::<_, _, NotSync>::new(ByClone, Fixed(())), FailureRules, AtOnce);
    shared(&layer);
    shared(&layer.layer(()));
    let _ = NotSync(std::cell::Cell::new(()));
}
