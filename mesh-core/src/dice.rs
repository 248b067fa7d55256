//! Chance, injected: every random decision of a call comes from one small seeded generator that the call carries.
//!
//! A call's dice are made from the mesh's seed, the client and the number of the call, never from what other tasks do, so
//! that a run under a paused clock decides the same twice. This is SplitMix64: one addition and two multiplications a roll,
//! which is all that balancing, jitter and sampling need. It is not for secrets.

use std::hash::{BuildHasher, RandomState};

/// A seeded generator of one call; copying it copies its future.
///
/// # Examples
///
/// ```
/// use mesh_core::Dice;
///
/// let mut dice = Dice::of_call(7, 1, 42);
/// assert_eq!(dice.roll(), Dice::of_call(7, 1, 42).roll());
/// assert!(dice.below(10) < 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice {
    state: u64,
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// A seed that nobody can foretell, for whoever has not been given one: processes that start together must not decide
    /// alike.
    pub fn random_seed() -> u64 {
        // The hasher's keys are the one source of chance that the standard library has.
        RandomState::new().hash_one(0_u8)
    }

    /// Dice that start at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The dice of call number `call` of `client` in a mesh seeded with `seed`.
    pub const fn of_call(seed: u64, client: u64, call: u64) -> Self {
        let mixed = mix(mix(seed ^ client.wrapping_mul(STEP)).wrapping_add(call.wrapping_mul(STEP)));
        Self { state: mixed }
    }

    /// A uniform number.
    #[inline]
    pub const fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A uniform number below `bound`; zero when the bound is zero.
    ///
    /// The bias of the multiplication is below 2^-32 a value, which no test of balance can see.
    #[inline]
    pub const fn below(&mut self, bound: u32) -> u32 {
        (((self.roll() >> 32) * bound as u64) >> 32) as u32
    }

    /// A uniform number of at least zero and less than one.
    #[inline]
    pub const fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The output function of SplitMix64; a bijection that spreads every input bit over all output bits.
#[inline]
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_its_published_sequence() {
        let mut dice = Dice::new(1_234_567);
        let rolls = [dice.roll(), dice.roll(), dice.roll()];
        assert_eq!(rolls, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn neighbouring_calls_do_not_roll_alike() {
        let first: Vec<_> = (0..1000).map(|call| Dice::of_call(1, 1, call).below(2)).collect();
        let ones = first.iter().filter(|roll| **roll == 1).count();
        assert!((400..600).contains(&ones), "{ones} of 1000");
        assert_ne!(Dice::of_call(1, 1, 2), Dice::of_call(1, 2, 1));
    }
}
