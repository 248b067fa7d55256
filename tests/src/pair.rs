//! A client of HTTP and one of gRPC in one mesh, steered together, and who answered each of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use mesh_http::Mesh;
use tokio::sync::Notify;

use crate::load::{Tally, under_load};
use crate::patience::{in_time, until};
use crate::sim::{Caller, Speaks};
use crate::wire::Error;

/// Callers of each client.
const CALLERS: usize = 4;
/// Answers of each client from which its shares are read.
const SAMPLE: u64 = 400;

/// Both clients, and the answers that each had in the present sample.
pub struct Pair {
    callers: [Caller; 2],
    /// Grows with every sample, so that what was sent before it is not counted.
    sample: Cell<u32>,
    answers: [RefCell<Shares>; 2],
    answered: Notify,
}

/// Answers by the name of the backend.
pub type Shares = BTreeMap<String, u64>;

// === impl Pair ===

impl Pair {
    /// Clients of `mesh`, as soon as their configuration is there.
    ///
    /// # Panics
    ///
    /// When it does not come within twenty seconds, or says that a target does not exist.
    pub async fn of(mesh: &Mesh, http: &str, grpc: &str) -> Self {
        let callers = [Caller::of(mesh, http, Speaks::Http1), Caller::of(mesh, grpc, Speaks::Grpc)];
        let ready = async {
            for caller in &callers {
                caller.ready().await.expect("the target exists");
            }
        };
        in_time("the first configuration", ready).await;
        Self { callers, sample: Cell::default(), answers: Default::default(), answered: Notify::new() }
    }

    /// The client of HTTP and that of gRPC.
    pub fn callers(&self) -> &[Caller; 2] {
        &self.callers
    }

    /// Runs the scenario with callers of both clients, and tallies the calls of both. None is marked idempotent.
    pub async fn under_load<T>(&self, scenario: impl AsyncFnOnce() -> T) -> (T, Tally) {
        let call = async |client: usize| self.call(client).await;
        let inner = under_load(CALLERS, || call(1), scenario());
        let ((result, grpc), mut tally) = under_load(CALLERS, || call(0), inner).await;
        tally.add(grpc);
        (result, tally)
    }

    async fn call(&self, client: usize) -> Result<String, Error> {
        let sample = self.sample.get();
        let result = self.callers[client].call_with(&[]).await;
        if let Ok(backend) = &result
            && sample == self.sample.get()
        {
            *self.answers[client].borrow_mut().entry(backend.clone()).or_default() += 1;
            self.answered.notify_one();
        }
        result
    }

    /// Who answers the next calls of either client; to be asked under load.
    ///
    /// # Panics
    ///
    /// When there are not enough of them within twenty seconds.
    pub async fn sample(&self) -> [Shares; 2] {
        self.sample.set(self.sample.get() + 1);
        self.answers.iter().for_each(|answers| answers.borrow_mut().clear());
        let sampling = async {
            while self.answers.iter().any(|answers| answers.borrow().values().sum::<u64>() < SAMPLE) {
                self.answered.notified().await;
            }
        };
        in_time("answers to all callers", sampling).await;
        self.answers.each_ref().map(|answers| answers.borrow().clone())
    }

    /// Waits until `is_so`, which is asked again and again.
    ///
    /// # Panics
    ///
    /// After twenty seconds.
    pub async fn until(&self, what: &str, is_so: impl Fn(&[Caller; 2]) -> bool) {
        until(what, || is_so(&self.callers)).await;
    }
}

/// Asserts that backends whose names end so have had `share` of the answers, to five times the deviation of chance.
///
/// # Panics
///
/// When they have not.
pub fn assert_by_chance(answers: &Shares, ending: &str, share: f64) {
    let all = answers.values().sum::<u64>() as f64;
    let theirs = answers.iter().filter(|(name, _)| name.ends_with(ending)).map(|(_, count)| count).sum::<u64>() as f64;
    let deviation = (all * share * (1.0 - share)).sqrt();
    assert!((theirs - all * share).abs() <= 5.0 * deviation, "{share} meant: {answers:?}");
}
