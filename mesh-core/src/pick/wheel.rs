//! A wheel cut into weighted sectors: which sector a point of the rim is in, in constant time.
//!
//! The same wheel serves chance and turns. A uniform point makes a weighted draw. A point that moves by the golden section
//! of the rim each time ([`turn`]) makes a weighted round robin without a lock, which the usual scheduler (earliest
//! deadline first, a heap behind a mutex) cannot be: the points of such a sequence lie evenly on the rim at every length,
//! so that a sector of share `p` has been hit `p * n` times after `n` turns, give or take little, and the waits between two
//! hits take at most three values (the three-gap theorem).

/// Sectors of a rim of 2^64 points.
///
/// A guide divides the rim into equal arcs, four or more per sector, and knows the first sector of each. Three arcs in four
/// hold no border, so that the processor guesses right what follows; where one holds many, as when one weight dwarfs the
/// others, they are bisected.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Where each sector ends, in units of weight.
    ends: Box<[u64]>,
    /// The sector at the start of each arc, and the last one.
    guide: Box<[u32]>,
    /// An arc is 2^shift points.
    shift: u32,
}

impl Wheel {
    /// Arcs per sector. More than one in all, so that the shift stays below 64.
    const ARCS: usize = 4;

    /// A wheel of these weights; none when they add up to nothing or to more than 2^64.
    pub(crate) fn new(weights: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut total = 0_u64;
        let mut ends = Vec::new();
        for weight in weights {
            total = total.checked_add(weight)?;
            ends.push(total);
        }
        if total == 0 {
            return None;
        }
        let bits = (Self::ARCS * ends.len()).next_power_of_two().trailing_zeros();
        let shift = u64::BITS - bits;
        let mut sector = 0;
        let mut guide: Vec<u32> = (0..1_u64 << bits)
            .map(|arc| {
                let start = spread(arc << shift, total);
                while ends[sector] <= start {
                    sector += 1;
                }
                sector as u32
            })
            .collect();
        guide.push(ends.partition_point(|end| *end < total) as u32);
        Some(Self { ends: ends.into(), guide: guide.into(), shift })
    }

    /// The sector of a point. One without weight has none.
    #[inline]
    pub(crate) fn sector(&self, point: u64) -> usize {
        let weight = spread(point, self.total());
        let arc = (point >> self.shift) as usize;
        let (first, last) = (self.guide[arc] as usize, self.guide[arc + 1] as usize);
        if weight < self.ends[first] {
            return first;
        }
        first + 1 + self.ends[first + 1..=last].partition_point(|end| *end <= weight)
    }

    fn total(&self) -> u64 {
        self.ends[self.ends.len() - 1]
    }
}

/// The point of turn number `number`: 2^64 over the golden section, odd, so that no point repeats in 2^64 turns.
#[inline]
pub(crate) const fn turn(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline]
fn spread(point: u64, total: u64) -> u64 {
    ((u128::from(point) * u128::from(total)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Dice;

    #[test]
    fn wheel_without_weight_is_none() {
        assert!(Wheel::new([]).is_none());
        assert!(Wheel::new([0, 0]).is_none());
        assert!(Wheel::new([u64::MAX, 1]).is_none());
    }

    #[test]
    fn one_weight_that_dwarfs_the_rest_takes_its_share_and_no_more() {
        let wheel = Wheel::new(std::iter::once(1_000_000).chain(std::iter::repeat_n(1, 1_000))).expect("has weight");
        let mut dice = Dice::new(1);
        let light = (0..1_000_000).filter(|_| wheel.sector(dice.roll()) != 0).count();
        assert!((900..1_100).contains(&light), "{light}, expected about 999");
    }

    proptest! {
        #[test]
        fn sector_is_the_one_that_a_linear_search_finds(
            weights in prop::collection::vec(prop_oneof![Just(0_u64), 1..10_u64, Just(u64::from(u32::MAX))], 1..200),
            points in prop::collection::vec(any::<u64>(), 50),
        ) {
            let total: u64 = weights.iter().sum();
            prop_assume!(total > 0);
            let wheel = Wheel::new(weights.iter().copied()).expect("has weight");
            for point in points.into_iter().chain([0, u64::MAX]) {
                let mut left = spread(point, total);
                let naive = weights.iter().position(|weight| match left.checked_sub(*weight) {
                    Some(rest) => { left = rest; false }
                    None => true,
                });
                prop_assert_eq!(Some(wheel.sector(point)), naive);
            }
        }

        // Both claims of the module's doc, at every length up to 5,000 and for any start: proportion and smoothness.
        #[test]
        fn turns_are_proportional_at_every_length_and_smooth(
            weights in prop::collection::vec(1..100_u64, 2..12), start in any::<u64>(),
        ) {
            let total: u64 = weights.iter().sum();
            let wheel = Wheel::new(weights.iter().copied()).expect("has weight");
            let mut hits = vec![0_u64; weights.len()];
            let mut last = vec![None::<u64>; weights.len()];
            for n in 1..=5_000_u64 {
                let sector = wheel.sector(turn(start.wrapping_add(n)));
                hits[sector] += 1;
                let share = weights[sector] as f64 / total as f64;
                prop_assert!((hits[sector] as f64 - share * n as f64).abs() < 4.0, "{hits:?} after {n} of {weights:?}");
                if let Some(before) = last[sector].replace(n) {
                    let wait = (n - before) as f64 * share;
                    prop_assert!(wait < 2.7, "sector {sector} of {weights:?} waited {wait} times its turn");
                }
            }
        }
    }
}
