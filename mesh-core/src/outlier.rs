//! Leaves out endpoints whose answers are bad, for a while: the judge of Envoy's outlier detection, without clock or I/O.
//!
//! Failures in a row are counted by the requests' guards, in the endpoint itself ([`Detector`]); only a row that is long
//! enough comes here. [`Outlier`] decides whether the endpoint is ejected, for how long, and at each interval who may come
//! back. It holds a record of those endpoints only that were ejected of late.
//!
//! Follows `envoy.config.cluster.v3.OutlierDetection` (and gRFC A50, which has no such detector but whose rules of
//! ejection are the same): the `n`th ejection lasts `n` times the base time up to a maximum, plus a jitter; `n` falls by
//! one with each interval in which the endpoint was not ejected; ejections end at the intervals only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    Dice,
    config::OutlierDetection,
    deadline::later,
    endpoint::{Detector, EndpointId},
};

/// Decides who is ejected and when that ends.
#[derive(Debug)]
pub(crate) struct Outlier {
    policy: Arc<OutlierDetection>,
    /// Intervals are counted from here.
    start: Instant,
    seed: u64,
    records: BTreeMap<EndpointId, Record>,
}

/// What is remembered of an endpoint that was ejected.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// How often in a row, as far as not forgiven.
    times: u32,
    /// How often ever: numbers the dice.
    total: u64,
    /// When the present ejection may end.
    until: Option<Instant>,
}

/// What comes of an accusation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ejected for this long, and until the next interval after that.
    Ejected(Duration),
    /// It is ejected already.
    Already,
    /// Too many are.
    Overflow,
    /// The dice said no: counted only (`enforcing_*`).
    NotEnforced,
}

impl Outlier {
    /// A judge without records, who counts intervals from `start`.
    pub(crate) fn new(policy: Arc<OutlierDetection>, start: Instant, seed: u64) -> Self {
        Self { policy, start, seed, records: BTreeMap::new() }
    }

    /// Judges by `policy` from now on. Ejections that are under way keep their length.
    pub(crate) fn update(&mut self, policy: Arc<OutlierDetection>) {
        self.policy = policy;
    }

    /// How many are ejected.
    pub(crate) fn ejected(&self) -> usize {
        self.records.values().filter(|record| record.until.is_some()).count()
    }

    /// `endpoint`, one of `hosts` in all priorities, has failed too often in a row.
    pub(crate) fn accuse(&mut self, endpoint: EndpointId, detector: Detector, hosts: usize, now: Instant) -> Verdict {
        let ejected = self.ejected();
        let policy = &*self.policy;
        let record = self.records.entry(endpoint).or_insert(Record { times: 0, total: 0, until: None });
        if record.until.is_some() {
            return Verdict::Already;
        }
        let verdict = if !may_eject_one_more(policy, ejected, hosts) {
            Verdict::Overflow
        } else {
            record.total += 1;
            let mut dice = Dice::of_call(self.seed, endpoint.get(), record.total);
            record.judge(policy, detector, now, &mut dice)
        };
        self.forget_if_blank(endpoint);
        verdict
    }

    /// Reviews all ejections at an interval: who may come back, and who is forgiven. Gives those who come back.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<EndpointId> {
        let mut back = Vec::new();
        for (id, record) in &mut self.records {
            match record.until {
                Some(until) if until <= now => {
                    record.until = None;
                    back.push(*id);
                }
                Some(_) => {}
                None => record.times = record.times.saturating_sub(1),
            }
        }
        self.records.retain(|_, record| !record.is_blank());
        back
    }

    /// When the next interval ends; none while there is nothing to review.
    pub(crate) fn next_sweep(&self, now: Instant) -> Option<Instant> {
        if self.records.is_empty() {
            return None;
        }
        let interval = self.policy.interval.as_nanos().max(1);
        let past = now.saturating_duration_since(self.start).as_nanos() / interval;
        let next = u64::try_from((past + 1).saturating_mul(interval)).unwrap_or(u64::MAX);
        self.start.checked_add(Duration::from_nanos(next))
    }

    /// `endpoint` has left; it no longer counts among the ejected.
    pub(crate) fn forget(&mut self, endpoint: EndpointId) {
        self.records.remove(&endpoint);
    }

    fn forget_if_blank(&mut self, endpoint: EndpointId) {
        if self.records.get(&endpoint).is_some_and(Record::is_blank) {
            self.records.remove(&endpoint);
        }
    }
}

fn may_eject_one_more(policy: &OutlierDetection, ejected: usize, hosts: usize) -> bool {
    let share = 100.0 * (ejected + 1) as f64 / hosts.max(1) as f64;
    share <= policy.max_ejected.value() || (ejected == 0 && policy.always_eject_one)
}

impl Record {
    fn is_blank(&self) -> bool {
        self.times == 0 && self.until.is_none()
    }

    fn judge(&mut self, policy: &OutlierDetection, detector: Detector, now: Instant, dice: &mut Dice) -> Verdict {
        let enforce = match detector {
            Detector::ConsecutiveErrors => policy.enforce_errors,
            Detector::ConsecutiveGatewayErrors => policy.enforce_gateway_errors,
        };
        if dice.share() >= enforce.share() {
            return Verdict::NotEnforced;
        }
        // Past the maximum the count stays, so that forgiveness starts at once.
        if policy.base_ejection.saturating_mul(self.times) < policy.max_ejection.saturating_add(policy.base_ejection) {
            self.times += 1;
        }
        let length = policy.base_ejection.saturating_mul(self.times).min(policy.max_ejection);
        let length = length.saturating_add(policy.ejection_jitter.mul_f64(dice.share()));
        self.until = Some(later(now, length));
        Verdict::Ejected(length)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::config::Percent;

    struct Scene {
        outlier: Outlier,
        start: Instant,
        hosts: usize,
    }

    impl Scene {
        fn new(hosts: usize, policy: OutlierDetection) -> Self {
            let start = Instant::now();
            Self { outlier: Outlier::new(Arc::new(policy), start, 1), start, hosts }
        }

        fn accuse(&mut self, endpoint: u64, second: u64) -> Verdict {
            self.outlier.accuse(id(endpoint), Detector::ConsecutiveErrors, self.hosts, self.at(second))
        }

        fn sweep(&mut self, second: u64) -> Vec<u64> {
            self.outlier.sweep(self.at(second)).into_iter().map(EndpointId::get).collect()
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }
    }

    fn id(number: u64) -> EndpointId {
        EndpointId::new(NonZeroU64::new(number).expect("not zero"))
    }

    fn at_most(percent: f64) -> OutlierDetection {
        OutlierDetection { max_ejected: Percent::new(percent).expect("legal"), ..OutlierDetection::default() }
    }

    fn seconds(seconds: u64) -> Verdict {
        Verdict::Ejected(Duration::from_secs(seconds))
    }

    #[test]
    fn no_more_than_the_maximum_share_is_ejected() {
        let mut scene = Scene::new(3, at_most(50.0));
        assert_eq!(scene.accuse(1, 0), seconds(30));
        assert_eq!(scene.accuse(1, 0), Verdict::Already);
        assert_eq!(scene.accuse(2, 0), Verdict::Overflow);
        assert_eq!(Scene::new(1, at_most(90.0)).accuse(1, 0), Verdict::Overflow);
        assert_eq!(Scene::new(9, OutlierDetection::default()).accuse(1, 0), Verdict::Overflow);
        assert_eq!(Scene::new(10, OutlierDetection::default()).accuse(1, 0), seconds(30));
    }

    #[test]
    fn one_may_be_ejected_whatever_the_share_where_the_policy_says_so() {
        let mut scene = Scene::new(3, OutlierDetection { always_eject_one: true, ..at_most(30.0) });
        assert_eq!(scene.accuse(1, 0), seconds(30));
        assert_eq!(scene.accuse(2, 0), Verdict::Overflow);
    }

    #[test]
    fn ejections_in_a_row_grow_longer_and_clean_intervals_forgive() {
        let base_ejection = Duration::from_secs(10);
        let mut scene = Scene::new(1, OutlierDetection { base_ejection, ..at_most(100.0) });
        assert_eq!(scene.accuse(1, 0), seconds(10));
        assert_eq!(scene.sweep(9), []);
        assert_eq!(scene.sweep(10), [1]);
        assert_eq!(scene.accuse(1, 11), seconds(20));
        assert_eq!(scene.sweep(30), [], "19 s of 20");
        assert_eq!(scene.sweep(40), [1]);
        assert_eq!(scene.accuse(1, 41), seconds(30));
        assert_eq!(scene.sweep(80), [1]);
        // Two clean intervals.
        assert_eq!((scene.sweep(90), scene.sweep(100)), (vec![], vec![]));
        assert_eq!(scene.accuse(1, 101), seconds(20));
        assert_eq!(scene.sweep(130), [1]);
        (14..20).for_each(|interval| assert_eq!(scene.sweep(interval * 10), []));
        assert_eq!(scene.accuse(1, 200), seconds(10));
    }

    #[test]
    fn ejection_is_never_longer_than_the_maximum_and_its_jitter() {
        let mut scene = Scene::new(1, OutlierDetection { ejection_jitter: Duration::from_secs(5), ..at_most(100.0) });
        for n in 0..30 {
            let Verdict::Ejected(length) = scene.accuse(1, n * 1_000) else { panic!("not ejected") };
            let bare = Duration::from_secs(30 * (n + 1)).min(Duration::from_secs(300));
            assert!(length >= bare && length < bare + Duration::from_secs(5), "{length:?} at {n}");
            assert_eq!(scene.sweep(n * 1_000 + 500), [1]);
        }
    }

    #[test]
    fn detector_that_is_not_enforced_only_counts() {
        let mut scene = Scene::new(1, at_most(100.0));
        let verdict = scene.outlier.accuse(id(1), Detector::ConsecutiveGatewayErrors, 1, scene.start);
        assert_eq!(verdict, Verdict::NotEnforced);
        assert_eq!(scene.outlier.next_sweep(scene.start), None, "nothing is remembered");
    }

    #[test]
    fn enforcement_is_a_share_of_the_accusations() {
        let enforce_errors = Percent::new(30.0).expect("legal");
        let mut scene = Scene::new(1_000, OutlierDetection { enforce_errors, ..at_most(100.0) });
        let ejected = (1..=1_000).filter(|n| matches!(scene.accuse(*n, 0), Verdict::Ejected(_))).count();
        assert!((250..350).contains(&ejected), "{ejected} of 1000");
        assert_eq!(scene.outlier.ejected(), ejected);
    }

    #[test]
    fn sweeps_stand_at_whole_intervals_while_there_is_something_to_review() {
        let mut scene = Scene::new(1, at_most(100.0));
        assert_eq!(scene.outlier.next_sweep(scene.at(3)), None);
        scene.accuse(1, 13);
        assert_eq!(scene.outlier.next_sweep(scene.at(13)), Some(scene.at(20)));
        assert_eq!(scene.outlier.next_sweep(scene.at(20)), Some(scene.at(30)));
        assert_eq!(scene.sweep(50), [1]);
        assert!(scene.outlier.next_sweep(scene.at(50)).is_some(), "there is something to forgive");
        assert_eq!(scene.sweep(60), []);
        assert_eq!(scene.outlier.next_sweep(scene.at(60)), None);
    }

    #[test]
    fn endpoint_that_left_makes_room_for_another_ejection() {
        let mut scene = Scene::new(2, at_most(50.0));
        assert_eq!((scene.accuse(1, 0), scene.accuse(2, 0)), (seconds(30), Verdict::Overflow));
        scene.outlier.forget(id(1));
        assert_eq!(scene.accuse(2, 0), seconds(30));
    }
}
