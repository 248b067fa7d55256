//! No bytes make a decoder panic, and none make it allocate without bound.

use proptest::prelude::*;

use super::*;

fn read_all_ways(bytes: &[u8]) {
    let context = samples::context();
    for kind in ResourceKind::ALL {
        let any = Any { type_url: kind.type_url().to_owned(), value: bytes.to_vec() };
        match decode(&any, &context) {
            Ok(decoded) => assert!(decoded.warnings.len() <= 65),
            Err(bad) => assert!(!bad.message.ends_with(": "), "the remedy is told"),
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_all_ways(&bytes);
    }

    #[test]
    fn damaged_resources_do_not_panic(
        which in 0..4_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = samples::all()[which].value.clone();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all_ways(&bytes);
    }

    #[test]
    fn a_second_resource_merged_into_the_first_does_not_panic(first in 0..4_usize, second in 0..4_usize) {
        // Protobuf merges repeated fields, so this gives well-formed messages that nobody would write.
        let [first, second] = [first, second].map(|which| samples::all()[which].value.clone());
        read_all_ways(&[first, second].concat());
    }
}
