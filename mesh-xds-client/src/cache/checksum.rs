//! CRC-64/XZ (ECMA-182, reflected): finds torn and rotten files. It is no seal, for whoever may write the file may
//! write a sum.

/// Eight tables, so that eight bytes take one step: a byte at a time would take longer than all else that a start does.
static TABLES: [[u64; 256]; 8] = tables();

/// The checksum of some bytes.
pub(super) fn of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(!0, |sum, word| {
        let mixed = (sum ^ u64::from_le_bytes(*word)).to_le_bytes();
        (0..8).fold(0, |next, place| next ^ TABLES[7 - place][usize::from(mixed[place])])
    });
    !rest.iter().fold(sum, |sum, byte| step(&TABLES[0], sum, *byte))
}

const fn step(table: &[u64; 256], sum: u64, byte: u8) -> u64 {
    table[((sum ^ byte as u64) & 0xff) as usize] ^ (sum >> 8)
}

const fn tables() -> [[u64; 256]; 8] {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    // What the table before says of a byte, with a byte of nothing after it.
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            tables[table][byte] = step(&tables[0], tables[table - 1][byte], 0);
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_is_that_of_the_catalogue() {
        assert_eq!(of(b"123456789"), 0x995d_c9bb_df19_39fa);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn eight_at_a_time_is_the_same_as_one_at_a_time() {
        let bytes: Vec<u8> = (0..1000_u32).map(|number| (number * number) as u8).collect();
        for end in (0..40).chain([999, 1000]) {
            let slow = !bytes[..end].iter().fold(!0, |sum, byte| step(&TABLES[0], sum, *byte));
            assert_eq!(of(&bytes[..end]), slow, "{end}");
        }
    }
}
