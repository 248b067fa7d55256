//! The hash of host names: fixed, fast, and blind to ASCII case.
//!
//! Without a seed, whoever knows this function can make texts that collide. That costs nothing here: the keys of the table are
//! the configuration's, a request only probes and is never kept, and a probe ends at the first free slot, so a client
//! can choose which slots it asks for and not how long it asks. A configuration that is hostile needs no collisions to do harm.
//!
//! Folding case inside the hash spares every request a lower-case copy of its authority.

/// Odd, with as many ones as zeros and no pattern; the multiplication spreads every bit of a word over 128.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of `text` in lower case, as a key of one `kind`.
#[inline]
pub(super) fn folded(kind: u64, text: &[u8]) -> u64 {
    let mut hash = absorb(kind ^ MULTIPLIER, text.len() as u64);
    let mut words = text.chunks_exact(8);
    for word in &mut words {
        hash = absorb(hash, lower(u64::from_le_bytes(word.try_into().expect("a chunk of eight"))));
    }
    let rest = words.remainder().iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    absorb(hash, lower(rest))
}

#[inline]
fn absorb(hash: u64, word: u64) -> u64 {
    let wide = u128::from(hash ^ word) * u128::from(MULTIPLIER);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Eight bytes in ASCII lower case at once: a byte between `A` and `Z` gets its bit 5 set.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Seven bits a byte plus what carries into the eighth from `A` on, or from past `Z` on; no byte disturbs the next.
    let low = word & !HIGH;
    let from_a = low + (0x80 - b'A' as u64) * ONES;
    let past_z = low + (0x7f - b'Z' as u64) * ONES;
    let upper = (from_a ^ past_z) & !word & HIGH;
    word | (upper >> 2)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_folds_as_the_standard_library_folds_it() {
        for byte in 0..=u8::MAX {
            for neighbour in [0x00, 0x41, 0x7f, 0x80, 0xff] {
                let mut bytes = [neighbour; 8];
                bytes[3] = byte;
                let expected = bytes.map(|byte| byte.to_ascii_lowercase());
                assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), expected);
            }
        }
    }

    #[test]
    fn names_of_a_fleet_do_not_share_hashes() {
        let names = (0..100_000).map(|n| format!("svc-{n}.shop.svc.cluster.local"));
        // The low half alone: it is what picks the slot.
        let hashes: HashSet<u64> = names.map(|name| folded(0, name.as_bytes())).collect();
        assert_eq!(hashes.len(), 100_000);
        let slots: HashSet<u64> = hashes.iter().map(|hash| hash % (1 << 18)).collect();
        // 100,000 balls in 2^18 urns leave 83,000 urns filled when they fall evenly.
        assert!(slots.len() > 82_000, "{} slots", slots.len());
    }

    #[test]
    fn kinds_of_key_are_apart() {
        assert_ne!(folded(0, b"a.com"), folded(1, b"a.com"));
    }

    proptest! {
        #[test]
        fn case_does_not_change_the_hash(text in "[ -~]{0,40}") {
            prop_assert_eq!(folded(0, text.as_bytes()), folded(0, text.to_ascii_uppercase().as_bytes()));
        }
    }
}
