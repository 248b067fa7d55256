//! What an inbound request hands on to the outbound requests that are made for it: its deadline.
//!
//! A server's layer runs the handler in a [`Scope`]; every client of this crate, and every gRPC channel, reads the scope of the
//! task that makes a request. So a handler's requests end with the call that they are made for, without a word in the
//! handler. mesh-grpc's server layer opens scopes by `grpc-timeout`; anything else that knows a deadline can do the same.
//!
//! The trace passes by opentelemetry's and tracing's own context, which follow a task likewise.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use std::time::Duration;
//!
//! use mesh_http::Scope;
//! use tokio::time::Instant;
//!
//! let until = Instant::now() + Duration::from_secs(2);
//! let handler = async { Scope::current().deadline() };
//! assert_eq!(Scope::new().until(until).run(handler).await, Some(until));
//! assert_eq!(Scope::current().deadline(), None);
//! # }
//! ```
//!
//! # Tasks
//!
//! A scope belongs to a future, wherever that is polled, and not to what it spawns. A task that should keep to the scope takes
//! it along: `tokio::spawn(Scope::current().run(work))`. A request that should outlive the scope says so, by
//! [`CallOptions::detached`](crate::CallOptions::detached).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::{task::futures::TaskLocalFuture, time::Instant};

tokio::task_local! {
    static CURRENT: Scope;
}

/// What holds for every request that a future makes. See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    deadline: Option<Instant>,
}

/// A future in a scope; see [`Scope::run`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scoped<F> {
    #[pin]
    inner: TaskLocalFuture<Scope, F>,
}

// === impl Scope ===

impl Scope {
    /// A scope that hands nothing on.
    pub const fn new() -> Self {
        Self { deadline: None }
    }

    /// The scope of the future that is being polled, or an empty one.
    pub fn current() -> Self {
        CURRENT.try_with(|scope| *scope).unwrap_or_default()
    }

    /// Ends requests at `deadline`, or earlier where the scope says so already.
    #[must_use]
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
        self
    }

    /// When requests end that are made in this scope.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Runs `future` in this scope, in place of the one around it: begin with [`current`](Self::current) to narrow that.
    pub fn run<F: Future>(self, future: F) -> Scoped<F> {
        Scoped { inner: CURRENT.scope(self, future) }
    }

    /// Calls `function` in this scope, for what is polled by hand.
    pub fn enter<T>(self, function: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, function)
    }
}

// === impl Scoped ===

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nearer_deadline_stays_whichever_is_said_last() {
        let (near, far) = (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(9));
        assert_eq!(Scope::new().until(near).until(far).deadline(), Some(near));
        assert_eq!(Scope::new().until(far).until(near).deadline(), Some(near));
    }

    #[tokio::test(start_paused = true)]
    async fn scope_holds_inside_and_nowhere_else() {
        let scope = Scope::new().until(Instant::now());
        let inside = scope.run(async {
            tokio::task::yield_now().await;
            let spawned = tokio::spawn(async { Scope::current() }).await.expect("it ends");
            (Scope::current(), spawned, Scope::new().enter(Scope::current))
        });
        assert_eq!(inside.await, (scope, Scope::new(), Scope::new()));
        assert_eq!(Scope::current(), Scope::new());
    }
}
