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
    backoff::{Pace, Wait},
    govern::Governed,
    judge::{Judge, Tried, Verdict},
    keep::{Kept, Observe, Try},
    policy::AttemptPolicy,
};
use crate::{
    Dice,
    deadline::{BodyLimits, Expiry, Timer, later},
    hold::Hold,
    limit::{Breaker, Permit},
    outcome::{AtEndpoint, BoxError, Failed, Failure, FailureKind, Flags, Sent},
};

/// A call that may take several attempts.
///
/// Dropping it ends the attempt that is under way and gives back whatever the call holds.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, F, G, J, H> {
    #[pin]
    attempts: Attempts<F>,
    #[pin]
    timer: Timer,
    driver: Driver<S, G, J, H>,
}

/// What decides about the call.
#[derive(Debug)]
struct Driver<S, G, J, H> {
    service: S,
    governed: G,
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
    /// Once they were rolled.
    dice: Option<Dice>,
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

impl<S, F, G, J, H> ResponseFuture<S, F, G, J, H> {
    /// `service` is ready.
    #[inline]
    pub(super) const fn new(service: S, governed: G, judge: J, hold: H) -> Self {
        let account = Account {
            started: 0,
            retries: 0,
            unsent: 0,
            refused: false,
            severed: false,
            pace: Pace::new(),
            dice: None,
            permit: None,
        };
        Self {
            attempts: Attempts::new(),
            timer: Timer::new(),
            driver: Driver { service, governed, judge, hold, stage: Stage::Gathering, account },
        }
    }
}

impl<S, G, J, H> Future for ResponseFuture<S, S::Future, G, J, H>
where
    G: Governed,
    G::Kept: Observe<S::Response>,
    S: Service<<G::Kept as Kept>::Attempt>,
    S::Error: Into<BoxError>,
    J: Judge<S::Response>,
    H: Hold<S::Response, BodyLimits>,
{
    type Output = Result<H::Held, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut attempts, mut timer, driver) = (this.attempts, this.timer, this.driver);
        loop {
            if driver.is_starting() && driver.poll_ready(cx)?.is_ready() {
                let this = driver.next_try();
                let Some(request) = driver.governed.kept().attempt(this) else {
                    return Poll::Ready(Err(cannot_repeat()));
                };
                attempts.as_mut().start(this, driver.service.call(request));
                driver.stage = Stage::UnderWay;
            }
            if matches!(driver.stage, Stage::UnderWay) {
                let mut polled = attempts.as_mut().poll(cx);
                let this = attempts.latest();
                // Looked at where it is, since it is large, and moved but once.
                if let Poll::Ready(Ok(response)) = &mut polled {
                    attempts.as_mut().end(this);
                    let Some(flags) = driver.settle(this, Ok(response)) else { continue };
                    driver.commit(this, response, flags);
                }
                match polled {
                    Poll::Ready(Ok(response)) => {
                        let limits = driver.body_limits();
                        return Poll::Ready(Ok(driver.hold.hold(response, limits)));
                    }
                    Poll::Ready(Err(error)) => {
                        attempts.as_mut().end(this);
                        driver.fail(this, error.into())?;
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            let Some((at, limit)) = driver.nearest_limit(attempts.as_mut()) else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx, at));
            match limit {
                Limit::Deadline(expiry) => {
                    return Poll::Ready(Err(driver.give_up(&expiry, || attempts.as_mut().clear())));
                }
                Limit::Wait => driver.stage = Stage::Starting,
                Limit::Attempt(expiry) if expiry.bound().is_silence() && driver.was_read() => attempts.as_mut().moved(),
                Limit::Attempt(expiry) => {
                    let this = attempts.latest();
                    let error = cut_off(&expiry, || attempts.as_mut().end(this));
                    driver.fail(this, error)?;
                }
            }
        }
    }
}

fn cannot_repeat() -> BoxError {
    Failed::new(Failure::new(FailureKind::RequestBody, Sent::Maybe)).into()
}

/// Ends an attempt whose time is up, with `end`; what follows is as for any failure.
fn cut_off(expiry: &Expiry, end: impl FnOnce()) -> BoxError {
    AtEndpoint::wrap(expiry.give_up(Sent::Maybe, end), Failed::from(expiry.elapsed(Sent::Maybe)))
}

// === impl Driver ===

impl<S, G: Governed, J, H> Driver<S, G, J, H> {
    #[inline]
    const fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Gathering | Stage::Starting)
    }

    /// Ready when the next attempt can start.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
    where
        S: Service<<G::Kept as Kept>::Attempt>,
        S::Error: Into<BoxError>,
    {
        if let Stage::Gathering = self.stage {
            self.governed.kept().gather(cx);
            // The service was ready before the call.
            return Poll::Ready(Ok(()));
        }
        self.service.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    const fn next_try(&mut self) -> Try {
        let this = Try { id: self.account.started, number: self.account.retries + 1 };
        self.account.started += 1;
        this
    }

    /// The nearest limit; of two at the same instant, the deadline.
    fn nearest_limit<F>(&mut self, attempts: Pin<&mut Attempts<F>>) -> Option<(Instant, Limit)> {
        let nearest = match self.stage {
            Stage::Waiting(until) => Some((until, Limit::Wait)),
            _ => {
                let (per_try, silence) = (self.governed.policy().per_try(), self.governed.policy().silence());
                let nearest = attempts.nearest(per_try, silence, || self.was_read());
                nearest.map(|expiry| (expiry.at(), Limit::Attempt(expiry)))
            }
        };
        match (self.governed.policy().deadline(), nearest) {
            (Some(deadline), Some((at, limit))) if at < deadline.at() => Some((at, limit)),
            (Some(deadline), _) => Some((deadline.at(), Limit::Deadline(deadline))),
            (None, nearest) => nearest,
        }
    }

    /// Whether the request was read on since that was last asked.
    fn was_read(&mut self) -> bool {
        self.governed.kept().progress().is_some_and(|progress| progress.take())
    }

    /// Ends everything.
    fn give_up(&mut self, expiry: &Expiry, end: impl FnOnce()) -> BoxError {
        let sent = if self.account.started == 0 { Sent::No } else { Sent::Maybe };
        let at = expiry.give_up(sent, end);
        self.account.permit = None;
        AtEndpoint::wrap(at, Failed::from(expiry.elapsed(sent)))
    }

    /// What may still be watched when there is a response.
    fn body_limits(&mut self) -> BodyLimits {
        let (overall, silence) = (self.governed.policy().deadline(), self.governed.policy().silence());
        let progress = silence.and_then(|_| self.governed.kept().progress());
        BodyLimits { overall, silence, progress }
    }

    /// Looks at the result of attempt `this`, which has ended: the flags to deliver it with, or none when another follows.
    // Always in line, as `next`: of what looks at a response, nothing is left that deals with failures.
    #[inline(always)]
    fn settle<Res>(&mut self, this: Try, result: Result<&Res, &BoxError>) -> Option<Flags>
    where
        G::Kept: Observe<Res>,
        J: Judge<Res>,
    {
        self.governed.kept().observe(this, result);
        match self.next(this, result) {
            Next::Deliver(flags) => return Some(flags),
            Next::After(Duration::ZERO) => self.stage = Stage::Starting,
            Next::After(wait) => self.stage = Stage::Waiting(later(Instant::now(), wait)),
        }
        None
    }

    /// What follows attempt `this`.
    #[inline(always)]
    fn next<Res>(&mut self, this: Try, result: Result<&Res, &BoxError>) -> Next
    where
        J: Judge<Res>,
    {
        let failure = result.err().map(|error| Failure::of(&**error));
        if failure.is_some_and(|failure| self.goes_on(&failure)) && self.governed.kept().retire(this) {
            return Next::After(Duration::ZERO);
        }
        // The retry that has just ended makes room for the next.
        self.account.permit = None;
        let idempotent = self.governed.policy().is_idempotent() || self.governed.kept().is_idempotent();
        let Some(policy) = self.governed.policy().retry().filter(|policy| policy.retries() > 0) else {
            return Next::Deliver(Flags::default());
        };
        match self.judge.judge(Tried { result, failure, policy, idempotent }) {
            Verdict::Deliver => Next::Deliver(Flags::default()),
            Verdict::Retry(wait) => self.retry(this, wait, failure),
        }
    }

    /// Whether a request that has failed so is to be sent again at once, as no attempt.
    #[cold]
    fn goes_on(&mut self, failure: &Failure) -> bool {
        self.account.may_repeat(failure) || (failure.sent == Sent::No && self.governed.kept().moves_on(failure))
    }

    /// Whether there can be another attempt, which is worth while.
    #[cold]
    fn retry(&mut self, this: Try, wait: Wait, failure: Option<Failure>) -> Next {
        let policy = self.governed.policy();
        let Some(limits) = policy.retry().filter(|limits| self.account.retries < limits.retries()) else {
            return Next::Deliver(Flags::URX);
        };
        let dice = self.account.dice.get_or_insert_with(|| policy.dice());
        let wait = self.account.pace.next(wait, limits.wait(), || dice.roll());
        // An answer now is worth more than a timeout later.
        if policy.deadline().is_some_and(|deadline| deadline.at() <= later(Instant::now(), wait)) {
            return Next::Deliver(Flags::URX);
        }
        let is_free = failure.is_some_and(|failure| self.account.may_retry_freely(&failure));
        let permit = match policy.budget().filter(|_| !is_free) {
            Some(Breaker { limits, priority }) => match limits.retry(priority) {
                Ok(permit) => Some(permit),
                Err(_) => return Next::Deliver(Flags::UO),
            },
            None => None,
        };
        if !self.governed.kept().retire(this) {
            return Next::Deliver(Flags::default());
        }
        self.account.permit = permit;
        self.account.retries += 1;
        Next::After(wait)
    }

    /// The response of attempt `this` will be delivered; `flags` say why there is no other.
    #[inline]
    fn commit<Res>(&mut self, this: Try, response: &mut Res, flags: Flags)
    where
        J: Judge<Res>,
    {
        self.governed.kept().commit(this);
        if !flags.is_empty() {
            self.judge.note(response, flags);
        }
    }

    /// Attempt `this` has failed.
    ///
    /// # Errors
    ///
    /// The error, with a note why there is no other attempt, unless one follows.
    #[cold]
    fn fail<Res>(&mut self, this: Try, error: BoxError) -> Result<(), BoxError>
    where
        G::Kept: Observe<Res>,
        J: Judge<Res>,
    {
        match self.settle(this, Err(&error)) {
            None => Ok(()),
            Some(flags) if flags.is_empty() => Err(error),
            Some(flags) => Err(Failed::noting(flags, error).into()),
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
