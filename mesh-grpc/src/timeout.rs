//! The `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::wire::GRPC_TIMEOUT;

/// The most that eight digits hold.
const MOST: u128 = 99_999_999;

const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3_600 * 1_000_000_000),
];

/// The time that a request asks for, if any.
pub(crate) fn asked(headers: &HeaderMap) -> Option<Duration> {
    headers.get(GRPC_TIMEOUT).and_then(parse)
}

/// Reads a timeout; what is malformed is no timeout.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    let nanos = u128::from(amount) * nanos;
    Some(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
}

/// Writes a timeout in the finest unit that holds it, rounded down: the peer never has longer than is left.
pub(crate) fn format(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let (unit, amount) = UNITS
        .iter()
        .map(|(unit, size)| (*unit, nanos / size))
        .find(|(_, amount)| *amount <= MOST)
        .unwrap_or((b'H', MOST));
    // Eight digits and a unit, filled from the end: no formatting machinery on the way of a call.
    let mut text = [0; 9];
    let (mut at, mut rest) = (text.len() - 1, amount);
    text[at] = unit;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[at..]).expect("digits and a letter are legal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_never_longer() {
        for nanos in [0, 1, 99_999_999, 100_000_000, 1_234_567_890, 99_999_999_999_999, u64::MAX] {
            let timeout = Duration::from_nanos(nanos);
            let back = parse(&format(timeout)).expect("legal");
            assert!(back <= timeout && timeout - back <= timeout / 1_000_000 + Duration::from_nanos(1), "{timeout:?}");
        }
    }

    #[test]
    fn malformed_values_are_no_timeout() {
        for bad in ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5x", " 5S"] {
            assert_eq!(parse(&HeaderValue::from_str(bad).expect("visible")), None, "{bad}");
        }
    }

    #[test]
    fn every_unit_is_read() {
        let second = Duration::from_secs(1);
        for (text, expected) in [("1S", second), ("1000m", second), ("1M", second * 60), ("1H", second * 3_600)] {
            assert_eq!(parse(&HeaderValue::from_static(text)), Some(expected));
        }
    }
}
