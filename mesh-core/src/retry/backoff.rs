//! How long is waited before a retry.

use std::time::Duration;

use crate::config::Backoff;

/// How a wait is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A random time below the next window of the policy's back-off.
    Backoff,
    /// As long as the peer asks, and up to half as long again, so that not all come at once (`retry-after`). The back-off
    /// goes on where it was.
    Asked(Duration),
    /// Exactly as long as the peer says, after which the back-off starts over (`grpc-retry-pushback-ms`, gRFC A6).
    Exactly(Duration),
}

/// Where a call is in its back-off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Windows used since the beginning, or since the peer last said exactly how long to wait.
    windows: u32,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self { windows: 0 }
    }

    /// The next wait, in whole milliseconds where chance has a part; `roll` is a uniform number.
    pub(super) fn next(&mut self, wait: Wait, backoff: Backoff, roll: impl FnOnce() -> u64) -> Duration {
        match wait {
            Wait::Backoff => {
                self.windows = self.windows.saturating_add(1);
                below(backoff.window(self.windows), roll())
            }
            Wait::Asked(asked) => asked.saturating_add(below(asked / 2, roll())),
            Wait::Exactly(told) => {
                self.windows = 0;
                told
            }
        }
    }
}

fn below(window: Duration, roll: u64) -> Duration {
    let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(roll % millis.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(base: u64, max: u64) -> Backoff {
        Backoff::new(Duration::from_millis(base), Duration::from_millis(max)).expect("legal")
    }

    fn waits(backoff: Backoff, rolls: &[u64]) -> Vec<u64> {
        let mut pace = Pace::new();
        rolls.iter().map(|roll| pace.next(Wait::Backoff, backoff, || *roll).as_millis() as u64).collect()
    }

    #[test]
    fn waits_are_those_of_envoy_for_the_same_rolls() {
        assert_eq!(waits(Backoff::default(), &[190; 4]), [15, 40, 90, 190]);
        assert_eq!(waits(backoff(100, 1200), &[149, 350, 751, 2399, 2399]), [49, 150, 351, 799, 1199]);
        assert_eq!(waits(backoff(100, 1000), &[149, 350, 751, 2999, 2999]), [49, 150, 351, 599, 999]);
        assert_eq!(waits(backoff(5, 100), &[9999; 7]), [4, 9, 19, 39, 79, 99, 99]);
    }

    #[test]
    fn asked_wait_is_prolonged_by_up_to_half_and_leaves_the_back_off_alone() {
        let mut pace = Pace::new();
        let mut next = |wait, roll| pace.next(wait, Backoff::default(), || roll).as_millis();
        assert_eq!(next(Wait::Asked(Duration::from_secs(2)), 190), 2190);
        assert_eq!(next(Wait::Asked(Duration::from_secs(5)), 2190), 7190);
        assert_eq!(next(Wait::Backoff, 190), 15);
    }

    #[test]
    fn told_wait_is_kept_to_the_letter_and_restarts_the_back_off() {
        let mut pace = Pace::new();
        let mut next = |wait| pace.next(wait, Backoff::default(), || 190).as_millis();
        assert_eq!((next(Wait::Backoff), next(Wait::Backoff)), (15, 40));
        assert_eq!(next(Wait::Exactly(Duration::from_millis(7))), 7);
        assert_eq!(next(Wait::Backoff), 15);
    }
}
