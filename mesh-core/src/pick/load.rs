//! How traffic is shared among priorities and localities: Envoy's arithmetic, in integers, rounding included.
//!
//! [`PriorityLoads`] follows `envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.overprovisioning_factor` and
//! `CommonLbConfig.healthy_panic_threshold`; gRPC knows neither (A27, A56), and there the first priority that has anything
//! to offer takes it all.

/// How many endpoints of a priority are fit. Those that drain are not counted at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) total: u32,
    pub(crate) healthy: u32,
    pub(crate) degraded: u32,
}

/// How a hundred requests are shared; index is the priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PriorityLoads {
    /// Of a hundred, to the healthy endpoints; to all of them in panic.
    pub(crate) healthy: Vec<u32>,
    /// Of a hundred, to the degraded endpoints.
    pub(crate) degraded: Vec<u32>,
    /// Whether health is ignored, since too few are healthy.
    pub(crate) panic: Vec<bool>,
}

impl PriorityLoads {
    /// Envoy's rule; `overprovisioning` and `panic_threshold` in percent.
    pub(crate) fn spread(levels: &[Level], overprovisioning: u32, panic_threshold: f64) -> Self {
        let available = |fit: u32, total: u32| available(fit, total, overprovisioning);
        let healthy: Vec<_> = levels.iter().map(|level| available(level.healthy, level.total)).collect();
        let degraded: Vec<_> = levels.iter().map(|level| available(level.degraded, level.total)).collect();
        let sum = healthy.iter().chain(&degraded).sum::<u32>().min(100);

        let panic: Vec<_> = levels.iter().map(|level| sum < 100 && level.share_fit() < panic_threshold).collect();
        if !panic.is_empty() && panic.iter().all(|panic| *panic) {
            return Self::by_size(levels);
        }
        if sum == 0 {
            // Somebody may be healthy still, of so many that it rounds to nothing.
            let first = levels.iter().position(|level| level.healthy > 0).unwrap_or(0);
            return Self::first(levels, first, panic);
        }
        let mut rest = 100;
        let mut take = |available: &u32| {
            let load = (available * 100 / sum).min(rest);
            rest -= load;
            load
        };
        let mut loads = Self {
            healthy: healthy.iter().map(&mut take).collect(),
            degraded: degraded.iter().map(&mut take).collect(),
            panic,
        };
        if let Some(first) = healthy.iter().position(|available| *available > 0) {
            loads.healthy[first] += rest;
        } else if let Some(first) = degraded.iter().position(|available| *available > 0) {
            loads.degraded[first] += rest;
        }
        loads
    }

    /// gRPC's rule: everything to the first priority that has a healthy endpoint.
    pub(crate) fn first_fit(levels: &[Level]) -> Self {
        let first = levels.iter().position(|level| level.healthy > 0).unwrap_or(0);
        Self::first(levels, first, vec![false; levels.len()])
    }

    /// All priorities panic: by size, whatever their health.
    fn by_size(levels: &[Level]) -> Self {
        let total: u64 = levels.iter().map(|level| u64::from(level.total)).sum();
        if total == 0 {
            return Self::first(levels, 0, vec![true; levels.len()]);
        }
        let mut healthy: Vec<_> = levels.iter().map(|level| (100 * u64::from(level.total) / total) as u32).collect();
        let rest = 100 - healthy.iter().sum::<u32>();
        if let Some(first) = levels.iter().position(|level| level.total > 0) {
            healthy[first] += rest;
        }
        Self { healthy, degraded: vec![0; levels.len()], panic: vec![true; levels.len()] }
    }

    fn first(levels: &[Level], first: usize, panic: Vec<bool>) -> Self {
        let mut healthy = vec![0; levels.len()];
        if let Some(load) = healthy.get_mut(first) {
            *load = 100;
        }
        Self { healthy, degraded: vec![0; levels.len()], panic }
    }
}

impl Level {
    /// The share that is healthy or degraded, in percent.
    fn share_fit(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => 100.0 * f64::from(self.healthy + self.degraded) / f64::from(total),
        }
    }
}

/// Of a hundred requests, how many `fit` of `total` endpoints can take.
pub(crate) fn available(fit: u32, total: u32, overprovisioning: u32) -> u32 {
    match total {
        0 => 0,
        _ => (u64::from(overprovisioning) * u64::from(fit) / u64::from(total)).min(100) as u32,
    }
}

/// What a locality of `weight` counts, of which `fit` of `total` endpoints are fit (`locality_weighted_lb_config`): its
/// weight while overprovisioning makes up for the others, less afterwards. In units of 2^-24.
pub(crate) fn effective_weight(weight: u32, fit: u32, total: u32, overprovisioning: u32) -> u64 {
    if total == 0 {
        return 0;
    }
    let full = 100 * u128::from(total);
    let available = (u128::from(overprovisioning) * u128::from(fit)).min(full);
    ((u128::from(weight) << 24) * available / full) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels<const N: usize>(healthy_of_total: [(u32, u32); N]) -> Vec<Level> {
        healthy_of_total.map(|(healthy, total)| Level { total, healthy, degraded: 0 }).to_vec()
    }

    fn spread(levels: &[Level]) -> PriorityLoads {
        PriorityLoads::spread(levels, 140, 50.0)
    }

    #[test]
    fn traffic_spills_once_overprovisioning_is_used_up() {
        assert_eq!(spread(&levels([(2, 4), (4, 4)])).healthy, [70, 30]);
        assert_eq!(spread(&levels([(1, 4), (4, 4)])).healthy, [35, 65]);
        assert_eq!(spread(&levels([(71, 100), (4, 4)])).healthy, [99, 1]);
        assert_eq!(spread(&levels([(4, 4), (4, 4)])).healthy, [100, 0]);
        assert_eq!(spread(&levels([(72, 100), (0, 4)])).healthy, [100, 0]);
    }

    #[test]
    fn factor_below_a_hundred_shares_what_is_in_full_health() {
        let spread = |levels: &[Level], factor| PriorityLoads::spread(levels, factor, 50.0);
        assert_eq!(spread(&levels([(4, 4)]), 50).healthy, [100]);
        assert_eq!(spread(&levels([(4, 4), (4, 4)]), 50).healthy, [50, 50]);
        assert_eq!(spread(&levels([(4, 4), (2, 4)]), 80).healthy, [80, 20]);
        assert_eq!(spread(&levels([(4, 4), (3, 4)]), 20).healthy, [58, 42]);
        let found = spread(&levels([(0, 2), (1, 2)]), 1);
        assert_eq!((found.healthy, found.panic), (vec![0, 100], vec![true, false]), "half of a hundredth is nothing");
    }

    #[test]
    fn when_all_priorities_panic_size_decides() {
        for (case, loads) in [
            (levels([(1, 4), (1, 4)]), vec![50, 50]),
            (levels([(1, 5), (1, 5), (1, 5)]), vec![34, 33, 33]),
            (levels([(0, 5), (0, 5), (2, 5)]), vec![34, 33, 33]),
            (levels([(0, 5), (2, 6), (1, 3)]), vec![37, 42, 21]),
        ] {
            let found = spread(&case);
            assert_eq!(found.healthy, loads, "{case:?}");
            assert!(found.panic.iter().all(|panic| *panic), "{case:?}");
        }
    }

    #[test]
    fn no_priority_panics_while_together_they_carry_everything() {
        let found = spread(&levels([(1, 4), (1, 4), (1, 4)]));
        assert_eq!(found.healthy, [35, 35, 30]);
        assert_eq!(found.panic, [false; 3]);
    }

    #[test]
    fn one_priority_may_panic_alone() {
        let found = spread(&levels([(1, 20), (13, 20)]));
        assert_eq!((found.healthy, found.panic), (vec![8, 92], vec![true, false]));
    }

    #[test]
    fn degraded_endpoints_come_after_all_healthy_ones() {
        let level = |healthy, degraded| Level { total: 5, healthy, degraded };
        let found = spread(&[level(0, 5), level(2, 2), level(2, 0)]);
        assert_eq!((found.healthy, found.degraded), (vec![0, 56, 44], vec![0, 0, 0]));
        let found = spread(&[level(0, 1), level(0, 5), level(1, 0)]);
        assert_eq!((found.healthy, found.degraded), (vec![0, 0, 28], vec![28, 44, 0]));
    }

    #[test]
    fn draining_endpoints_count_nowhere() {
        // Four endpoints, three of them draining.
        assert_eq!(spread(&levels([(1, 1), (1, 5)])).healthy, [100, 0]);
    }

    #[test]
    fn nothing_available_and_no_panic_falls_to_the_first() {
        let found = PriorityLoads::spread(&levels([(0, 4), (0, 4)]), 140, 0.0);
        assert_eq!((found.healthy, found.panic), (vec![100, 0], vec![false, false]));
        assert_eq!(PriorityLoads::spread(&[], 140, 50.0), PriorityLoads::default());
    }

    #[test]
    fn grpc_gives_everything_to_the_first_fit_priority() {
        assert_eq!(PriorityLoads::first_fit(&levels([(1, 100), (4, 4)])).healthy, [100, 0]);
        assert_eq!(PriorityLoads::first_fit(&levels([(0, 4), (1, 4)])).healthy, [0, 100]);
    }

    #[test]
    fn locality_keeps_its_weight_until_overprovisioning_is_used_up() {
        let share = |a: u64, b: u64| 100.0 * a as f64 / (a + b) as f64;
        // Weights 1 and 2, the second full; the first has `fit` of 5. What Envoy gives it of a hundred picks.
        for (fit, of_hundred) in [(5, 33.0), (4, 33.0), (3, 29.0), (2, 22.0), (1, 12.0), (0, 0.0)] {
            let share = share(effective_weight(1, fit, 5, 140), effective_weight(2, 5, 5, 140));
            assert!((share - of_hundred).abs() < 1.0, "{fit} of 5: {share}");
        }
        let half =
            |overprovisioning| share(effective_weight(1, 1, 2, overprovisioning), effective_weight(1, 2, 2, 140));
        assert!((half(100) - 33.3).abs() < 0.1 && (half(200) - 50.0).abs() < 0.1);
    }
}
