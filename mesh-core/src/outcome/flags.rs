//! Envoy's response flags: in a few letters, what went wrong on the way.

use std::{fmt, ops::BitOr};

/// Envoy's response flags, as a set; prints as `UF,URX`, or `-` when empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

// === impl Flags ===

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            const NAMES: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

flags! {
    /// No healthy endpoint.
    UH = 0,
    /// The request's time was up.
    UT = 1,
    /// Ended on this side.
    LR = 2,
    /// Reset by the peer.
    UR = 3,
    /// No connection could be made.
    UF = 4,
    /// The connection ended.
    UC = 5,
    /// A circuit breaker was open.
    UO = 6,
    /// The retries, or the time for them, were used up.
    URX = 7,
    /// No route.
    NR = 8,
    /// No such cluster.
    NC = 9,
    /// A delay was injected.
    DI = 10,
    /// An abort was injected.
    FI = 11,
    /// Rate limited.
    RL = 12,
    /// Nothing moved for too long.
    SI = 13,
    /// The peer broke the protocol.
    UPE = 14,
    /// The stream lasted too long.
    DT = 15,
    /// Refused by chance, as the source of the endpoints sheds load.
    DO = 16,
    /// Refused for certain, as that source sheds all load.
    UDO = 17,
    /// The caller's side ended: its request broke off.
    DC = 18,
    /// The caller's request is none that can be sent.
    DPE = 19,
}

impl Flags {
    pub(super) const NONE: Self = Self(0);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (name, _) in Self::NAMES.iter().filter(|(_, flag)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_envoys_words() {
        assert_eq!((Flags::UF | Flags::URX).to_string(), "UF,URX");
        assert_eq!(Flags::default().to_string(), "-");
    }
}
