//! Dates of HTTP, as far as `retry-after` needs them.

/// Seconds since 1970 of a date like `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be sent (RFC 9110 5.6.7).
pub(super) fn parse(text: &str) -> Option<u64> {
    let rest = text.trim().split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (day, month, year) = (number(day, 31)?, self::month(month)?, number(year, 9999)?);
    let mut parts = time.splitn(3, ':');
    let (hour, minute) = (number(parts.next()?, 23)?, number(parts.next()?, 59)?);
    // A leap second is the last that a minute can have.
    let second = number(parts.next()?, 60)?;
    Some(days_since_1970(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(text: &str, most: u64) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= most)
}

fn month(name: &str) -> Option<u64> {
    const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    NAMES.iter().position(|known| *known == name).map(|index| index as u64 + 1)
}

/// In the Gregorian calendar, with years that begin in March, so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    const TO_1970: u64 = 719_468;
    let year = if month < 3 { year.checked_sub(1)? } else { year };
    let days_before_month = (153 * ((month + 9) % 12) + 2) / 5;
    let days_before_year = year * 365 + year / 4 - year / 100 + year / 400;
    (days_before_year + days_before_month + day.checked_sub(1)?).checked_sub(TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
    }

    #[test]
    fn nonsense_is_no_date() {
        for bad in [
            "",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1894 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
