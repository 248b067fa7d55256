//! How long to wait before a stream is opened again: exponential, with full jitter, from a seed.

use std::time::Duration;

use mesh_core::Dice;

/// The wait before the next attempt to open a stream.
///
/// Full jitter (uniform between nothing and the ceiling) spreads the clients of a control plane that has restarted over
/// the whole interval, where gRPC's 20 % keeps them in waves.
#[derive(Debug)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    /// The ceiling of the next wait. Grows with each wait, falls back to `initial` on `reset`.
    ceiling: Duration,
    dice: Dice,
}

// === impl Backoff ===

impl Backoff {
    const FACTOR: f64 = 1.6;

    pub(super) fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Self { initial, max, ceiling: initial.min(max), dice: Dice::new(seed) }
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(self.dice.share());
        let grown = Duration::try_from_secs_f64(self.ceiling.as_secs_f64() * Self::FACTOR);
        self.ceiling = grown.map_or(self.max, |grown| grown.min(self.max));
        wait
    }

    pub(super) fn reset(&mut self) {
        self.ceiling = self.initial.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_stay_below_a_ceiling_that_grows_to_the_maximum() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(SECOND, 120 * SECOND, seed);
            let mut ceiling = SECOND;
            for _ in 0..20 {
                assert!(backoff.next_wait() <= ceiling);
                ceiling = ceiling.mul_f64(1.6).min(120 * SECOND);
            }
            assert_eq!(backoff.ceiling, 120 * SECOND);
        }
    }

    #[test]
    fn waits_use_the_whole_interval() {
        let waits: Vec<_> = (0..1000).map(|seed| Backoff::new(SECOND, SECOND, seed).next_wait()).collect();
        let below = |part: f64| waits.iter().filter(|wait| wait.as_secs_f64() < part).count();
        assert!((50..150).contains(&below(0.1)), "{}", below(0.1));
        assert!((400..600).contains(&below(0.5)), "{}", below(0.5));
        assert!((850..950).contains(&below(0.9)), "{}", below(0.9));
    }

    #[test]
    fn same_seed_gives_same_waits() {
        let waits = || {
            let mut backoff = Backoff::new(SECOND, 120 * SECOND, 7);
            [(); 8].map(|()| backoff.next_wait())
        };
        assert_eq!(waits(), waits());
    }

    #[test]
    fn reset_returns_to_the_first_interval() {
        let mut backoff = Backoff::new(SECOND, 120 * SECOND, 3);
        for _ in 0..10 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= SECOND);
    }

    #[test]
    fn largest_durations_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, 1);
        backoff.next_wait();
        backoff.next_wait();
    }
}
