//! Small numbers with rules: percentages, fractions, time limits, weights.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::ConfigError;

/// A share of one hundred, 0 to 100 inclusive (`envoy.type.v3.Percent`).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

/// A share with Envoy's exact denominators (`envoy.type.v3.FractionalPercent`): a roll of `value % denominator` is inside
/// while it is below the numerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

/// A time limit that is set: off, or a duration above zero.
///
/// Unset is `Option::None` around it. Control planes write zero for "off"; in code that is [`TimeLimit::OFF`], so that a
/// zero computed by mistake is refused rather than taken for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit(Option<Duration>);

/// A load-balancing weight, 1 to 2^32-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU32);

// === impl Percent ===

impl Percent {
    /// None of it.
    pub const ZERO: Self = Self(0.0);
    /// All of it.
    pub const ALL: Self = Self(100.0);

    /// `value` hundredths.
    ///
    /// # Errors
    ///
    /// Refuses what is not between 0 and 100.
    pub fn new(value: f64) -> Result<Self, ConfigError> {
        if (0.0..=100.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(ConfigError::new("percent", value, "give a number between 0 and 100"))
    }

    /// The number, 0 to 100.
    pub fn value(self) -> f64 {
        self.0
    }

    /// The number as a share of one, 0 to 1.
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

// === impl Fraction ===

impl Fraction {
    /// Everything.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// `numerator` of `denominator`, which is 100, 10,000 or 1,000,000.
    ///
    /// # Errors
    ///
    /// Refuses another denominator. A numerator above the denominator means always, as in Envoy.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, ConfigError> {
        match denominator {
            100 | 10_000 | 1_000_000 => Ok(Self { numerator, denominator }),
            other => Err(ConfigError::new("denominator", other, "use 100, 10000 or 1000000")),
        }
    }

    /// Whether a roll is inside.
    pub fn contains(self, roll: u64) -> bool {
        roll % u64::from(self.denominator) < u64::from(self.numerator)
    }

    /// The share of one, capped at one.
    pub fn share(self) -> f64 {
        (f64::from(self.numerator) / f64::from(self.denominator)).min(1.0)
    }
}

impl From<Percent> for Fraction {
    fn from(percent: Percent) -> Self {
        // At most 1,000,000, so the cast is exact.
        Self { numerator: (percent.0 * 10_000.0).round() as u32, denominator: 1_000_000 }
    }
}

// === impl TimeLimit ===

impl TimeLimit {
    /// No limit, said on purpose.
    pub const OFF: Self = Self(None);

    /// A limit of `duration`.
    ///
    /// # Errors
    ///
    /// Refuses zero.
    pub fn after(duration: Duration) -> Result<Self, ConfigError> {
        if duration.is_zero() {
            return Err(ConfigError::new("time limit", "0s", "give a duration above zero, or TimeLimit::OFF for none"));
        }
        Ok(Self(Some(duration)))
    }

    /// A limit as Envoy writes it, where zero is off.
    pub fn zero_is_off(duration: Duration) -> Self {
        Self((!duration.is_zero()).then_some(duration))
    }

    /// The duration, or none when off.
    pub fn duration(self) -> Option<Duration> {
        self.0
    }
}

// === impl Weight ===

impl Weight {
    /// The weight of what names none.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// `value` shares.
    ///
    /// # Errors
    ///
    /// Refuses zero.
    pub fn new(value: u32) -> Result<Self, ConfigError> {
        NonZeroU32::new(value)
            .map(Self)
            .ok_or_else(|| ConfigError::new("weight", 0, "give a weight of at least 1, or leave the entry out"))
    }

    /// The number, at least 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_refuses_what_is_outside_and_not_a_number() {
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Percent::new(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn fraction_includes_exactly_its_share_of_rolls() {
        let quarter = Fraction::new(2_500, 10_000).expect("a legal denominator");
        assert_eq!((0..10_000).filter(|roll| quarter.contains(*roll)).count(), 2_500);
        assert_eq!(Fraction::from(Percent::new(0.01).expect("legal")).share(), 0.0001);
    }

    #[test]
    fn zero_is_a_mistake_in_code_and_off_on_the_wire() {
        assert!(TimeLimit::after(Duration::ZERO).is_err());
        assert_eq!(TimeLimit::zero_is_off(Duration::ZERO), TimeLimit::OFF);
    }
}
