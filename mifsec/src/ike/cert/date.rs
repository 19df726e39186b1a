//! Times of certificates (RFC 5280 4.1.2.5): seconds since 1970, and how they print.

use crate::wire::der::{BadDer, Der, Element};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Reads one time; before 1970 is 1970.
pub(super) fn read(der: &mut Der<'_>) -> Result<u64, BadDer> {
    let Element { tag, contents, .. } = der.any()?;
    let digits = contents.strip_suffix(b"Z").ok_or(BadDer)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadDer);
    }
    let pairs: Vec<i64> = digits
        .chunks(2)
        .map(|pair| {
            pair.iter()
                .fold(0, |n, digit| n * 10 + i64::from(digit - b'0'))
        })
        .collect();
    let (year, [month, day, hour, minute, second]) = match (tag, pairs.as_slice()) {
        (UTC_TIME, [year, rest @ ..]) => {
            let century = if *year < 50 { 2000 } else { 1900 };
            (century + year, five(rest)?)
        }
        (GENERALIZED_TIME, [century, year, rest @ ..]) => (century * 100 + year, five(rest)?),
        _ => return Err(BadDer),
    };
    if digits.len() % 2 != 0
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return Err(BadDer);
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Ok(u64::try_from(seconds).unwrap_or(0))
}

fn five(rest: &[i64]) -> Result<[i64; 5], BadDer> {
    <[i64; 5]>::try_from(rest).map_err(|_| BadDer)
}

/// Days since 1970-01-01; years begin in March so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

/// `2026-11-23 16:00 UTC`.
pub(super) fn print(seconds: u64) -> String {
    let minutes = seconds / 60;
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    let mut year = 1970;
    let mut left = i64::try_from(minutes / 1440).unwrap_or(i64::MAX / 2);
    // By the average year first, then exactly.
    year += left / 366;
    while days(year + 1, 1, 1) <= left {
        year += 1;
    }
    left -= days(year, 1, 1);
    let mut month = 1;
    while month < 12 && days(year, month + 1, 1) - days(year, 1, 1) <= left {
        month += 1;
    }
    let day = left - (days(year, month, 1) - days(year, 1, 1)) + 1;
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use crate::wire::der::element;

    use super::*;

    fn time(tag: u8, text: &str) -> Option<u64> {
        read(&mut Der::new(&element(tag, &[text.as_bytes()]))).ok()
    }

    /// Against `date -u -d ... +%s`.
    #[test]
    fn times_are_seconds_since_1970_and_print_as_dates() {
        for (tag, text, seconds, printed) in [
            (UTC_TIME, "700101000000Z", 0, "1970-01-01 00:00 UTC"),
            (
                UTC_TIME,
                "261123160000Z",
                1_795_449_600,
                "2026-11-23 16:00 UTC",
            ),
            (
                UTC_TIME,
                "491231235959Z",
                2_524_607_999,
                "2049-12-31 23:59 UTC",
            ),
            (
                GENERALIZED_TIME,
                "20000229120000Z",
                951_825_600,
                "2000-02-29 12:00 UTC",
            ),
            (
                GENERALIZED_TIME,
                "99991231235959Z",
                253_402_300_799,
                "9999-12-31 23:59 UTC",
            ),
        ] {
            assert_eq!(time(tag, text), Some(seconds));
            assert_eq!(print(seconds), printed);
        }
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some(0), "1950");
        for bad in [
            "261323160000Z",
            "2611231600Z",
            "261123160000",
            "26112316000xZ",
            "Z",
            "",
        ] {
            assert_eq!(time(UTC_TIME, bad), None, "{bad}");
        }
    }
}
