//! What is known of an endpoint at this moment, in three words that every thread may change.

#[cfg(not(mesh_loom))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[cfg(mesh_loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::time::Instant;

use super::Home;
use crate::dice::mix;

/// What is known of an endpoint at this moment.
///
/// The words are read one by one and need not agree: each is a hint to balancing, and none guards memory. So every access
/// is relaxed.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Latency average or penalty, as the policy has it; see [`Cost`].
    cost: Cost,
    /// Failures in a row: any in the lower half, gateway failures in the upper.
    failures: AtomicU64,
    /// Flags, connect failures in a row and the time until which it is left alone; see [`Standing`].
    standing: AtomicU64,
}

/// What an endpoint's [`Cost`] measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Measure {
    /// Nothing: the policy does not look.
    Nothing,
    /// Milliseconds to an answer, a failure counting as a slow one.
    Latency,
    /// Failures of late, in requests in flight that they count as.
    Penalty,
}

/// Whether an endpoint may be picked; the whole word is zero when nothing speaks against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing(u64);

/// Failures in a row after one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Streak {
    pub(crate) errors: u32,
    pub(crate) gateway: u32,
}

/// A number that fades with time, and when it was written: an `f32` over a millisecond stamp, in one word.
///
/// The stamp wraps after seven weeks. What was written longer ago than half of that reads as written just now, which
/// delays its fading and is harmless. Zero is "never written".
#[derive(Debug, Default)]
struct Cost(AtomicU64);

// === impl Live ===

impl Live {
    /// What a failure counts as under [`Measure::Latency`]: an endpoint that fails fast must not look fast.
    const FAILURE_LATENCY: f32 = 5_000.0;
    /// Latencies below this, in milliseconds, are alike. Without it the slightest traffic would keep a latency above one
    /// that has faded to nothing, and who was slow once would never be tried again.
    const LEAST_LATENCY: f32 = 0.01;
    /// What a failure adds under [`Measure::Penalty`]. One is noise and fades below 1 in 7 s; a row of them adds up.
    const FAILURE_PENALTY: f32 = 2.0;
    /// The most it adds up to, so that an endpoint that has recovered is found out within half a minute.
    const MOST_PENALTY: f32 = 16.0;

    /// Costs measure something else from now on. A latency starts at what the policy takes a new endpoint to have, and
    /// fades like any other.
    pub(crate) fn restart_cost(&self, home: &Home, now: Instant) {
        let cost = home.initial().map_or(0, |latency| Cost::word(latency, home.millis(now)));
        self.cost.0.store(cost, Relaxed);
    }

    /// The latency in milliseconds, faded; none before the first answer.
    #[inline]
    pub(crate) fn latency(&self, now: u64, rate: f32) -> Option<f32> {
        self.cost.read(now, rate).map(|latency| latency.max(Self::LEAST_LATENCY))
    }

    /// The requests in flight that its failures of late count as.
    #[inline]
    pub(crate) fn penalty(&self, now: impl FnOnce() -> u64, rate: f32) -> u32 {
        if self.cost.is_unwritten() {
            return 0;
        }
        self.cost.read(now(), rate).unwrap_or(0.0) as u32
    }

    /// Whether a good answer says anything new.
    #[inline]
    pub(crate) fn learns_from_success(&self, measure: Measure) -> bool {
        match measure {
            Measure::Nothing => false,
            Measure::Latency => true,
            Measure::Penalty => !self.cost.is_unwritten(),
        }
    }

    /// An answer came after `latency` milliseconds.
    #[inline]
    pub(crate) fn answered(&self, measure: Measure, latency: f32, now: u64, rate: f32) {
        match measure {
            Measure::Nothing => {}
            Measure::Latency => self.cost.observe_peak(latency, now, rate),
            Measure::Penalty => self.cost.update(now, rate, |penalty| penalty.unwrap_or(0.0) / 2.0),
        }
    }

    /// An answer was bad.
    pub(crate) fn failed(&self, measure: Measure, latency: f32, now: u64, rate: f32) {
        match measure {
            Measure::Nothing => {}
            Measure::Latency => self.cost.observe_peak(latency.max(Self::FAILURE_LATENCY), now, rate),
            Measure::Penalty => self
                .cost
                .update(now, rate, |penalty| (penalty.unwrap_or(0.0) + Self::FAILURE_PENALTY).min(Self::MOST_PENALTY)),
        }
    }

    /// Nobody waited for the answer; it would have taken at least `latency` milliseconds.
    pub(crate) fn abandoned(&self, measure: Measure, latency: f32, now: u64, rate: f32) {
        if measure == Measure::Latency && self.cost.read(now, rate).is_some_and(|known| known < latency) {
            self.cost.observe_peak(latency, now, rate);
        }
    }

    /// Whether nothing speaks against it, now or of late.
    #[inline]
    pub(crate) fn is_spotless(&self) -> bool {
        self.failures.load(Relaxed) == 0 && self.standing().is_clear()
    }

    /// A success ends every row of failures.
    #[inline]
    pub(crate) fn reset_failures(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// One more failure; one that is not the gateway's ends the row of those.
    pub(crate) fn count_failure(&self, is_gateway: bool) -> Streak {
        let more = |word: u64| {
            let before = Streak::of(word);
            let gateway = if is_gateway { before.gateway.saturating_add(1) } else { 0 };
            Streak { errors: before.errors.saturating_add(1), gateway }
        };
        let before = self.failures.fetch_update(Relaxed, Relaxed, |word| Some(more(word).word()));
        more(before.unwrap_or_else(|word| word))
    }

    /// A row has reached its threshold and starts again.
    pub(crate) fn restart_streak(&self, errors: bool, gateway: bool) {
        let keep = |word: u64| {
            let now = Streak::of(word);
            let errors = if errors { 0 } else { now.errors };
            Streak { errors, gateway: if gateway { 0 } else { now.gateway } }.word()
        };
        let _ = self.failures.fetch_update(Relaxed, Relaxed, |word| Some(keep(word)));
    }

    #[inline]
    pub(crate) fn standing(&self) -> Standing {
        Standing(self.standing.load(Relaxed))
    }

    pub(crate) fn set_ejected(&self, ejected: bool) {
        if ejected {
            self.standing.fetch_or(Standing::EJECTED, Relaxed);
        } else {
            self.standing.fetch_and(!Standing::EJECTED, Relaxed);
        }
    }

    /// Has left its cluster. Whoever says so first has to tell the transport.
    pub(crate) fn is_first_to_retire(&self) -> bool {
        self.standing.fetch_or(Standing::RETIRED, Relaxed) & Standing::RETIRED == 0
    }

    /// No connection could be made: leaves it alone for a while, longer each time. Says whether this is news.
    ///
    /// Requests that fail together count once: what comes before the time is over changes nothing.
    pub(crate) fn mark_unreachable(&self, id: u64, now: u64) -> bool {
        let after = |word: u64| {
            let before = Standing(word);
            let tries = before.tries().saturating_add(1);
            let until = now + Standing::pause(tries, id).as_millis() as u64;
            (before.tries() == 0 || before.until() <= now || before.is_probed()).then(|| before.closed(tries, until))
        };
        self.standing.fetch_update(Relaxed, Relaxed, after).is_ok()
    }

    /// A connection is there. Says whether this is news.
    #[inline]
    pub(crate) fn mark_reachable(&self) -> bool {
        if self.standing.load(Relaxed) & !Standing::FLAGS == 0 {
            return false;
        }
        self.standing.fetch_and(Standing::FLAGS, Relaxed);
        true
    }

    /// Takes the one probe that is due, so that others keep away. False when somebody else was faster.
    pub(crate) fn claim_probe(&self, seen: Standing, now: u64) -> bool {
        let claimed = seen.probed(now + Standing::PROBE.as_millis() as u64);
        self.standing.compare_exchange(seen.0, claimed, Relaxed, Relaxed).is_ok()
    }
}

// === impl Standing ===

impl Standing {
    const EJECTED: u64 = 1;
    const RETIRED: u64 = 1 << 1;
    const PROBED: u64 = 1 << 2;
    /// What stays when a connection is there.
    const FLAGS: u64 = Self::EJECTED | Self::RETIRED;
    const TRIES: u32 = 8;
    const UNTIL: u32 = 16;

    /// The first pause and the longest; each is twice the one before, give or take a fifth (gRPC's connection back-off).
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(120);
    /// How long a probe has before the next one is sent. A probe that is cancelled leaves this as the pause.
    const PROBE: Duration = Duration::from_secs(5);

    /// Nothing speaks against it.
    #[inline]
    pub(crate) const fn is_clear(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn is_ejected(self) -> bool {
        self.0 & Self::EJECTED != 0
    }

    pub(crate) const fn is_retired(self) -> bool {
        self.0 & Self::RETIRED != 0
    }

    /// Left alone because no connection could be made, and not due for a probe.
    pub(crate) const fn is_unreachable(self, now: u64) -> bool {
        self.tries() > 0 && self.until() > now
    }

    /// When it is due for a probe, in the home's milliseconds.
    pub(crate) const fn until(self) -> u64 {
        self.0 >> Self::UNTIL
    }

    pub(crate) const fn tries(self) -> u8 {
        (self.0 >> Self::TRIES) as u8
    }

    const fn is_probed(self) -> bool {
        self.0 & Self::PROBED != 0
    }

    const fn closed(self, tries: u8, until: u64) -> u64 {
        (self.0 & Self::FLAGS) | ((tries as u64) << Self::TRIES) | (until << Self::UNTIL)
    }

    const fn probed(self, until: u64) -> u64 {
        self.closed(self.tries(), until) | Self::PROBED
    }

    fn pause(tries: u8, id: u64) -> Duration {
        let doublings = u32::from(tries - 1).min(7);
        let pause = (Self::FIRST * (1 << doublings)).min(Self::LONGEST);
        let jitter = 0.8 + 0.4 * (mix(id ^ (u64::from(tries) << 56)) >> 32) as f64 / f64::from(u32::MAX);
        pause.mul_f64(jitter)
    }
}

// === impl Streak ===

impl Streak {
    const fn of(word: u64) -> Self {
        Self { errors: word as u32, gateway: (word >> 32) as u32 }
    }

    const fn word(self) -> u64 {
        (self.gateway as u64) << 32 | self.errors as u64
    }
}

// === impl Cost ===

impl Cost {
    fn is_unwritten(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    #[inline]
    fn read(&self, now: u64, rate: f32) -> Option<f32> {
        Self::faded(self.0.load(Relaxed), now, rate)
    }

    /// Rises to `sample` at once where that is more, else moves towards it as far as the time since says.
    #[inline]
    fn observe_peak(&self, sample: f32, now: u64, rate: f32) {
        self.update_word(|word| {
            let Some(known) = Self::faded(word, now, 0.0) else { return Self::word(sample, now) };
            if sample >= known {
                return Self::word(sample, now);
            }
            let keep = fade(Self::age(word, now), rate);
            Self::word(known * keep + sample * (1.0 - keep), now)
        });
    }

    fn update(&self, now: u64, rate: f32, change: impl Fn(Option<f32>) -> f32) {
        self.update_word(|word| Self::word(change(Self::faded(word, now, rate)), now));
    }

    fn update_word(&self, change: impl Fn(u64) -> u64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| Some(change(word)).filter(|changed| *changed != word));
    }

    #[inline]
    fn faded(word: u64, now: u64, rate: f32) -> Option<f32> {
        (word != 0).then(|| f32::from_bits((word >> 32) as u32) * fade(Self::age(word, now), rate))
    }

    /// Milliseconds since the word was written; threads may be a little behind each other.
    fn age(word: u64, now: u64) -> u32 {
        (now as u32).wrapping_sub(word as u32).cast_signed().max(0).cast_unsigned()
    }

    fn word(value: f32, now: u64) -> u64 {
        u64::from(value.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(now as u32)
    }
}

#[inline]
fn fade(age: u32, rate: f32) -> f32 {
    if age == 0 { 1.0 } else { (-(age as f32) * rate).exp() }
}

/// Every interleaving of two or three threads: `RUSTFLAGS="--cfg mesh_loom" cargo test -p mesh-core --lib live::model`.
#[cfg(all(test, mesh_loom))]
mod model {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Runs `one` and `other` on threads of their own, in every order, on what `start` makes of a new endpoint; then `end`.
    fn race<A, B>(
        start: fn(&Live),
        one: fn(&Live) -> A,
        other: fn(&Live) -> B,
        end: impl Fn(&Live, A, B) + Send + Sync + 'static,
    ) where
        A: 'static,
        B: 'static,
    {
        loom::model(move || {
            let live = Arc::new(Live::default());
            start(&live);
            let second = thread::spawn({
                let live = live.clone();
                move || other(&live)
            });
            let first = one(&live);
            let second = second.join().expect("no panic");
            end(&live, first, second);
        });
    }

    /// Out of reach since the start, and due for a probe at [`DUE`].
    fn out_of_reach(live: &Live) {
        live.mark_unreachable(1, 0);
    }

    const DUE: u64 = 10_000;

    fn claim(live: &Live) -> bool {
        let seen = live.standing();
        seen.tries() > 0 && !seen.is_unreachable(DUE) && live.claim_probe(seen, DUE)
    }

    #[test]
    fn one_of_two_who_see_a_probe_due_sends_it() {
        race(out_of_reach, claim, claim, |live, first, second| {
            assert!(first != second);
            assert!(live.standing().is_unreachable(DUE), "others keep away meanwhile");
        });
    }

    #[test]
    fn ejection_and_claim_do_not_undo_each_other() {
        race(
            out_of_reach,
            |live| live.set_ejected(true),
            claim,
            |live, (), claimed| {
                assert!(live.standing().is_ejected());
                assert_eq!(live.standing().is_unreachable(DUE), claimed);
            },
        );
    }

    #[test]
    fn connection_clears_the_way_whoever_claims() {
        race(out_of_reach, Live::mark_reachable, claim, |live, is_news, _| {
            assert!(is_news && live.standing().is_clear());
        });
    }

    #[test]
    fn failures_together_make_one_pause() {
        let fail = |live: &Live| live.mark_unreachable(1, 0);
        race(
            |_| {},
            fail,
            fail,
            |live, first, second| {
                assert!(first != second);
                assert_eq!(live.standing().tries(), 1);
            },
        );
    }

    #[test]
    fn row_of_failures_reaches_its_threshold_once() {
        let fail = |live: &Live| live.count_failure(true);
        race(
            |_| {},
            fail,
            fail,
            |_, first, second| {
                assert_eq!([first, second].iter().filter(|streak| streak.errors == 2).count(), 1);
            },
        );
    }

    #[test]
    fn retirement_is_told_once() {
        race(|_| {}, Live::is_first_to_retire, Live::is_first_to_retire, |_, first, second| assert!(first != second));
    }
}

#[cfg(all(test, not(mesh_loom)))]
mod tests {
    use super::*;

    const TEN_SECONDS: f32 = 1.0 / 10_000.0;

    #[test]
    fn latency_rises_at_once_and_fades_slowly() {
        let live = Live::default();
        assert_eq!(live.latency(0, TEN_SECONDS), None);
        live.answered(Measure::Latency, 10.0, 0, TEN_SECONDS);
        live.answered(Measure::Latency, 200.0, 1_000, TEN_SECONDS);
        assert_eq!(live.latency(1_000, TEN_SECONDS), Some(200.0));
        let later = live.latency(11_000, TEN_SECONDS).expect("a history");
        assert!((later - 200.0 / std::f32::consts::E).abs() < 0.1, "{later}");
        live.answered(Measure::Latency, 10.0, 11_000, TEN_SECONDS);
        let mixed = live.latency(11_000, TEN_SECONDS).expect("a history");
        assert!((mixed - (200.0 * 0.3679 + 10.0 * 0.6321)).abs() < 0.1, "{mixed}");
    }

    #[test]
    fn stamp_that_is_ahead_reads_as_now() {
        let live = Live::default();
        live.answered(Measure::Latency, 10.0, 500, TEN_SECONDS);
        assert_eq!(live.latency(400, TEN_SECONDS), Some(10.0));
    }

    #[test]
    fn fast_failure_is_a_slow_answer() {
        let live = Live::default();
        live.failed(Measure::Latency, 0.1, 0, TEN_SECONDS);
        assert_eq!(live.latency(0, TEN_SECONDS), Some(5_000.0));
    }

    #[test]
    fn penalty_adds_up_to_its_limit_and_halves_with_a_success() {
        let live = Live::default();
        let penalty = |live: &Live, now: u64| live.penalty(|| now, TEN_SECONDS);
        assert_eq!(penalty(&live, 0), 0);
        live.failed(Measure::Penalty, 1.0, 0, TEN_SECONDS);
        assert_eq!((penalty(&live, 0), penalty(&live, 8_000)), (2, 0));
        (0..100).for_each(|_| live.failed(Measure::Penalty, 1.0, 0, TEN_SECONDS));
        assert_eq!((penalty(&live, 0), penalty(&live, 28_000)), (16, 0));
        live.answered(Measure::Penalty, 1.0, 0, TEN_SECONDS);
        assert_eq!(penalty(&live, 0), 8);
    }

    #[test]
    fn caller_who_gave_up_can_only_raise_the_latency() {
        let live = Live::default();
        live.answered(Measure::Latency, 100.0, 0, TEN_SECONDS);
        live.abandoned(Measure::Latency, 1.0, 0, TEN_SECONDS);
        assert_eq!(live.latency(0, TEN_SECONDS), Some(100.0));
        live.abandoned(Measure::Latency, 900.0, 0, TEN_SECONDS);
        assert_eq!(live.latency(0, TEN_SECONDS), Some(900.0));
    }

    #[test]
    fn other_failure_ends_the_row_of_gateway_failures_only() {
        let live = Live::default();
        live.count_failure(true);
        assert_eq!(live.count_failure(true), Streak { errors: 2, gateway: 2 });
        assert_eq!(live.count_failure(false), Streak { errors: 3, gateway: 0 });
        live.restart_streak(true, false);
        assert_eq!(live.count_failure(true), Streak { errors: 1, gateway: 1 });
        live.reset_failures();
        assert_eq!(live.count_failure(false), Streak { errors: 1, gateway: 0 });
    }

    #[test]
    fn pause_doubles_and_one_probe_is_claimed_when_it_is_over() {
        let live = Live::default();
        assert!(live.mark_unreachable(1, 1_000));
        assert!(!live.mark_unreachable(1, 1_001), "requests that fail together count once");
        let first = live.standing();
        assert!((1_800..=2_200).contains(&first.until()), "{first:?}");
        assert!(first.is_unreachable(1_799) && !first.is_unreachable(2_200));

        assert!(live.claim_probe(first, 2_200));
        assert!(!live.claim_probe(first, 2_200), "the probe is taken");
        assert!(live.standing().is_unreachable(2_300));

        assert!(live.mark_unreachable(1, 2_300));
        let second = live.standing().until() - 2_300;
        assert!((1_600..=2_400).contains(&second), "{second}");
        assert!(live.mark_reachable());
        assert!(live.standing().is_clear() && !live.mark_reachable());
    }

    #[test]
    fn reaching_an_endpoint_does_not_end_its_ejection() {
        let live = Live::default();
        live.set_ejected(true);
        live.mark_unreachable(1, 0);
        live.mark_reachable();
        assert!(live.standing().is_ejected());
        live.set_ejected(false);
        assert!(live.standing().is_clear());
    }
}
