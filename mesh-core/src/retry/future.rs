//! The driver: one call, from its first attempt to the answer that is delivered.
//!
//! ```text
//!            gather            ready             ends
//! Gathering -------> Starting ------> Under way ------> deliver
//!                       ^                 |
//!                       |   wait is over  | another is worth while
//!                       +---- Waiting <---+
//! ```
//!
//! Whatever it waits for, it waits for the nearest limit too, with the one timer of the call: the deadline, the end of a
//! back-off, or the limit of an attempt. The deadline ends everything; the limit of an attempt is a failure like others.
//! What is cut off by either is dropped by [`give_up`](crate::hold::give_up), so that the endpoint is blamed for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempts::Attempts,
    backoff::Pace,
    keep::{Kept, Observe, Try},
    policy::AttemptPolicy,
    rules::{Judge, Tried, Verdict},
};
use crate::{
    Dice,
    balance::AtEndpoint,
    deadline::{BodyLimits, Bound, Expiry, Timer},
    hold::Hold,
    limit::Permit,
    outcome::{BoxError, Failed, Failure, FailureKind, Flags, Sent},
};

/// A call that may take several attempts.
///
/// Dropping it ends the attempt that is under way and gives back whatever the call holds.
#[pin_project(project = Driver)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, F, K, P, J, H> {
    service: S,
    #[pin]
    attempts: Attempts<F>,
    #[pin]
    timer: Timer,
    kept: K,
    policy: P,
    judge: J,
    hold: H,
    stage: Stage,
    account: Account,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing has happened.
    Gathering,
    /// The next attempt starts at this time.
    Waiting(Instant),
    /// The next attempt starts as soon as the service is ready.
    Starting,
    UnderWay,
}

/// What the call has used of what it may use.
#[derive(Debug)]
struct Account {
    /// Everything that was started.
    started: u32,
    /// Attempts beyond the first.
    retries: u32,
    /// Repetitions of what never left.
    unsent: u32,
    /// Whether a peer has refused it unprocessed before.
    refused: bool,
    /// Whether it has lost a connection that served others before it.
    severed: bool,
    pace: Pace,
    dice: Dice,
    /// Of the retry that waits or is under way.
    permit: Option<Permit>,
}

/// What follows an attempt.
enum Next {
    Deliver(Flags),
    After(Duration),
}

/// Which limit is the nearest.
enum Limit {
    Deadline(Expiry),
    Attempt(Expiry),
    Wait,
}

/// How often one call is repeated because it never left this process, as when one pooled connection after the other turns
/// out to be dead. Such repetitions cost a peer nothing, but a transport that fails this way always must not spin.
const MOST_UNSENT: u32 = 16;

impl<S, F, K, P: AttemptPolicy, J, H> ResponseFuture<S, F, K, P, J, H> {
    /// `service` is ready.
    #[inline]
    pub(super) fn new(service: S, kept: K, policy: P, judge: J, hold: H) -> Self {
        let account = Account {
            started: 0,
            retries: 0,
            unsent: 0,
            refused: false,
            severed: false,
            pace: Pace::default(),
            dice: policy.dice(),
            permit: None,
        };
        let (attempts, timer) = (Attempts::new(), Timer::new());
        Self { service, attempts, timer, kept, policy, judge, hold, stage: Stage::Gathering, account }
    }
}

impl<S, K, P, J, H> Future for ResponseFuture<S, S::Future, K, P, J, H>
where
    K: Kept + Observe<S::Response>,
    S: Service<K::Attempt>,
    S::Error: Into<BoxError>,
    P: AttemptPolicy,
    J: Judge<S::Response>,
    H: Hold<S::Response, BodyLimits>,
{
    type Output = Result<H::Held, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut driver = self.project();
        loop {
            match *driver.stage {
                Stage::Gathering => {
                    driver.kept.gather(cx);
                    // The service was ready before the call.
                    driver.start()?;
                    continue;
                }
                Stage::Starting => match driver.service.poll_ready(cx) {
                    Poll::Ready(ready) => {
                        ready.map_err(Into::into)?;
                        driver.start()?;
                        continue;
                    }
                    Poll::Pending => {}
                },
                Stage::UnderWay => {
                    if let Poll::Ready(result) = driver.attempts.as_mut().poll(cx) {
                        let this = driver.attempts.latest();
                        driver.attempts.as_mut().end(this);
                        let result = result.map_err(Into::into);
                        match driver.settle(this, &result) {
                            Some(flags) => return Poll::Ready(driver.deliver(this, result, flags)),
                            None => continue,
                        }
                    }
                }
                Stage::Waiting(_) => {}
            }
            match ready!(driver.poll_limits(cx)) {
                Limit::Deadline(expiry) => return Poll::Ready(Err(driver.give_up(expiry))),
                Limit::Wait => *driver.stage = Stage::Starting,
                Limit::Attempt(expiry) if driver.is_moving(&expiry) => {}
                Limit::Attempt(expiry) => {
                    let this = driver.attempts.latest();
                    let result = Err(driver.cut_off(this, &expiry));
                    if let Some(flags) = driver.settle(this, &result) {
                        return Poll::Ready(driver.deliver(this, result, flags));
                    }
                }
            }
        }
    }
}

// === impl Driver ===

impl<S, F, K: Kept, P: AttemptPolicy, J, H> Driver<'_, S, F, K, P, J, H> {
    /// Ready when the nearest limit has passed; at the same instant, the deadline comes first.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        let (at, limit) = match *self.stage {
            Stage::Waiting(until) => (Some(until), Limit::Wait),
            _ => {
                let (per_try, silence) = (self.policy.per_try(), self.policy.silence());
                match self.attempts.as_mut().nearest(per_try, silence, || self.kept.progress()) {
                    Some(expiry) => (Some(expiry.at()), Limit::Attempt(expiry)),
                    None => (None, Limit::Wait),
                }
            }
        };
        let (at, limit) = match (self.policy.deadline(), at) {
            (Some(deadline), Some(at)) if at < deadline.at() => (at, limit),
            (Some(deadline), _) => (deadline.at(), Limit::Deadline(deadline)),
            (None, Some(at)) => (at, limit),
            (None, None) => return Poll::Pending,
        };
        self.timer.as_mut().poll(cx, at).map(|()| limit)
    }

    /// Whether a limit on silence has passed while the request was being read.
    fn is_moving(&mut self, expiry: &Expiry) -> bool {
        expiry.bound() != Bound::PerTry && self.attempts.as_mut().has_moved(self.kept.progress())
    }

    /// Ends an attempt whose time is up; what follows is as for any failure.
    fn cut_off(&mut self, this: Try, expiry: &Expiry) -> BoxError {
        let at = expiry.give_up(Sent::Maybe, || self.attempts.as_mut().end(this));
        AtEndpoint::wrap(at, expiry.elapsed(Sent::Maybe))
    }

    /// Ends everything.
    fn give_up(&mut self, expiry: Expiry) -> BoxError {
        let sent = if self.account.started == 0 { Sent::No } else { Sent::Maybe };
        let at = expiry.give_up(sent, || self.attempts.as_mut().clear());
        self.account.permit = None;
        AtEndpoint::wrap(at, expiry.elapsed(sent))
    }

    /// What may still be watched when there is a response.
    fn body_limits(&self) -> BodyLimits {
        BodyLimits { overall: self.policy.deadline(), silence: self.policy.silence() }
    }
}

impl<S, K, P, J, H> Driver<'_, S, S::Future, K, P, J, H>
where
    K: Kept,
    S: Service<K::Attempt>,
    P: AttemptPolicy,
{
    /// Starts an attempt with the service, which is ready.
    #[inline]
    fn start(&mut self) -> Result<(), BoxError> {
        let this = Try { id: self.account.started, number: self.account.retries + 1 };
        let Some(request) = self.kept.attempt(this) else {
            return Err(Failed::new(Failure::new(FailureKind::RequestBody, Sent::Maybe)).into());
        };
        self.account.started += 1;
        self.attempts.as_mut().start(this, self.service.call(request));
        *self.stage = Stage::UnderWay;
        Ok(())
    }

    /// Looks at the result of attempt `this`, which has ended: the flags to deliver it with, or none when another attempt
    /// follows.
    #[inline]
    fn settle<Res>(&mut self, this: Try, result: &Result<Res, BoxError>) -> Option<Flags>
    where
        K: Observe<Res>,
        J: Judge<Res>,
    {
        self.kept.observe(this, result);
        *self.stage = match self.next(this, result) {
            Next::Deliver(flags) => return Some(flags),
            Next::After(Duration::ZERO) => Stage::Starting,
            Next::After(wait) => Stage::Waiting(Instant::now() + wait),
        };
        None
    }

    /// What follows attempt `this`.
    #[inline]
    fn next<Res>(&mut self, this: Try, result: &Result<Res, BoxError>) -> Next
    where
        J: Judge<Res>,
    {
        let failure = result.as_ref().err().map(|error| Failure::of(&**error));
        if failure.is_some_and(|failure| self.account.may_repeat(&failure)) && self.kept.retire(this) {
            return Next::After(Duration::ZERO);
        }
        let next = self.retry(result, failure);
        if matches!(next, Next::After(_)) && !self.kept.retire(this) {
            return Next::Deliver(Flags::default());
        }
        next
    }

    /// What the policy makes of a result.
    #[inline]
    fn retry<Res>(&mut self, result: &Result<Res, BoxError>, failure: Option<Failure>) -> Next
    where
        J: Judge<Res>,
    {
        // The retry that has just ended makes room for the next.
        self.account.permit = None;
        let Some(policy) = self.policy.retry().filter(|policy| policy.retries() > 0) else {
            return Next::Deliver(Flags::default());
        };
        let idempotent = self.policy.is_idempotent() || self.kept.is_idempotent();
        let Verdict::Retry(wait) = self.judge.judge(Tried { result: result.as_ref(), failure, policy, idempotent })
        else {
            return Next::Deliver(Flags::default());
        };
        if self.account.retries >= policy.retries() {
            return Next::Deliver(Flags::URX);
        }
        let wait = self.account.pace.next(wait, policy.wait(), || self.account.dice.roll());
        // An answer now is worth more than a timeout later.
        if self.policy.deadline().is_some_and(|deadline| deadline.at() <= Instant::now() + wait) {
            return Next::Deliver(Flags::URX);
        }
        if !failure.is_some_and(|failure| self.account.may_retry_freely(&failure))
            && let Some(breaker) = self.policy.budget()
        {
            match breaker.limits.retry(breaker.priority) {
                Ok(permit) => self.account.permit = Some(permit),
                Err(_) => return Next::Deliver(Flags::UO),
            }
        }
        self.account.retries += 1;
        Next::After(wait)
    }

    /// Delivers the result of attempt `this`; `flags` say why there is no other.
    #[inline]
    fn deliver<Res>(&mut self, this: Try, result: Result<Res, BoxError>, flags: Flags) -> Result<H::Held, BoxError>
    where
        J: Judge<Res>,
        H: Hold<Res, BodyLimits>,
    {
        self.account.permit = None;
        match result {
            Ok(mut response) => {
                self.kept.commit(this);
                if !flags.is_empty() {
                    self.judge.note(&mut response, flags);
                }
                Ok(self.hold.hold(response, self.body_limits()))
            }
            Err(error) if flags.is_empty() => Err(error),
            Err(error) => Err(Failed::noting(flags, error).into()),
        }
    }
}

/// A peer that was never reached bears no load from being tried.
fn is_connect_failure(failure: &Failure) -> bool {
    failure.sent == Sent::No
        && matches!(failure.kind, FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls)
}

// === impl Account ===

impl Account {
    /// Whether a retry after `failure` says nothing of the peer's load, so that the budget, which limits load, does not count
    /// it: the peer was never reached; or a connection has ended that many requests shared, or that was idle a moment ago.
    /// Restarts and reloads take all of those at once, which no budget would cover. Only the first time, so that a peer that
    /// dies of a request is not fed with it.
    fn may_retry_freely(&mut self, failure: &Failure) -> bool {
        is_connect_failure(failure)
            || (failure.kind == FailureKind::Severed && !std::mem::replace(&mut self.severed, true))
    }

    /// Whether the request was not processed by anyone, and may be repeated at once, without policy or budget, as no attempt
    /// (gRFC A6, transparent retries): once when a peer has refused it, and whenever it never left, within reason.
    fn may_repeat(&mut self, failure: &Failure) -> bool {
        if failure.sent != Sent::No {
            return false;
        }
        match failure.kind {
            FailureKind::Refused | FailureKind::Reset => !std::mem::replace(&mut self.refused, true),
            FailureKind::Disconnected | FailureKind::Severed => {
                self.unsent += 1;
                self.unsent <= MOST_UNSENT
            }
            _ => false,
        }
    }
}
