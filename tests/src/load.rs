//! Load that goes on while a scenario does something to the other end, and the tally that says whether anybody noticed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;

use crate::wire::{Error, chain};

/// Who answered how many calls, and how the others failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tally {
    /// Calls by the name of the backend.
    pub answers: BTreeMap<String, u64>,
    /// Calls by the error, its sources with it.
    pub failures: BTreeMap<String, u64>,
}

/// Makes calls until the scenario is over, so many at a time and each caller without a pause.
///
/// All of it is one task: a scenario that blocks its thread stops the load, and with it what the test is about.
pub async fn under_load<T, F, E>(callers: usize, call: impl Fn() -> F, scenario: impl Future<Output = T>) -> (T, Tally)
where
    F: Future<Output = Result<String, E>>,
    E: Into<Error>,
{
    let (over, tally) = (Cell::new(false), RefCell::new(Tally::default()));
    let caller = async || {
        while !over.get() {
            let result = call().await;
            let has_failed = result.is_err();
            tally.borrow_mut().count(result);
            // A call that fails without waiting for anything must starve neither the scenario nor a paused clock.
            if has_failed {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::task::yield_now().await;
        }
    };
    let scenario = async {
        let result = scenario.await;
        over.set(true);
        result
    };
    let (result, _) = tokio::join!(scenario, join_all((0..callers).map(|_| caller())));
    (result, tally.into_inner())
}

// === impl Tally ===

impl Tally {
    /// Calls made, answered or not.
    pub fn calls(&self) -> u64 {
        self.answers.values().chain(self.failures.values()).sum()
    }

    /// Asserts that there were calls, and that none has failed.
    ///
    /// # Panics
    ///
    /// When there were none, or one has failed.
    #[track_caller]
    pub fn assert_none_failed(&self) {
        assert!(self.calls() > 0, "nobody called");
        assert!(self.failures.is_empty(), "{self:#?}");
    }

    /// Counts the calls of another tally too.
    pub fn add(&mut self, other: Self) {
        for (whole, part) in [(&mut self.answers, other.answers), (&mut self.failures, other.failures)] {
            part.into_iter().for_each(|(name, calls)| *whole.entry(name).or_default() += calls);
        }
    }

    /// Counts one more call.
    pub fn count(&mut self, result: Result<String, impl Into<Error>>) {
        let calls = match result {
            Ok(backend) => self.answers.entry(backend).or_default(),
            Err(error) => self.failures.entry(chain(&*error.into())).or_default(),
        };
        *calls += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_go_on_until_the_scenario_is_over() {
        let call = async || {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, io::Error>("one".to_owned())
        };
        let (result, tally) = under_load(3, call, async {
            tokio::time::sleep(Duration::from_millis(95)).await;
            "over"
        })
        .await;
        assert_eq!(result, "over");
        // The call in flight at the end is finished and counted.
        assert_eq!(tally.answers["one"], 30);
        assert_eq!(tally.calls(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn failure_that_never_waits_leaves_the_scenario_its_turn() {
        let call = async || Err(io::Error::other(io::Error::other("nobody there")));
        let ((), tally) = under_load(1, call, tokio::time::sleep(Duration::from_millis(5))).await;
        assert!(tally.failures["nobody there"] > 0, "{tally:?}");
    }
}
